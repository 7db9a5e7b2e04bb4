//! A node's life: metadata, disks, network, actors and front ends, put together.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actix::{Actor, Addr};
use actors::client::ClientConfig;
use actors::disk::{DiskConfig, ScrubConfig};
use actors::heal::HealConfig;
use actors::runtime::{
    Inbound, MetaAnswer, ShutDown, Switchboard, SwitchboardConfig, ViewChanged, boottime,
};
use actors::segment::SegmentConfig;
use actors::volume::VolumeConfig;
use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use iscsi_frontend::server as iscsi;
use model::ids::{Boot, NodeId};
use model::meta::{MetaReply, MetaToken};
use model::placement::View;
use model::time::WallTime;
use model::wire;
use nbd_frontend::server::{self as nbd, Address, Listener as NbdListener};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use transport::class::Class;
use transport::net::ca::{Authority, Identity};
use transport::net::config::Config as NetConfig;
use transport::net::endpoint::{Handlers, Transport};

use super::admin::Admin;
use super::config::{NbdTls, NodeConfig, Routes};
use super::disks::{self, random};
use super::exports::VolumeExports;
use super::footing;
use super::identity::NodeIdentity;
use super::join::{AdmitJoiners, Admitter};
use super::membership;
use super::meta::{self, Listener, MetaHandle, SharedView};
use super::nbd_tls::{self, NbdAuthority};
use super::open_files;
use super::panics;
use super::peers::{IscsiLocal, IscsiQuestion, NodeMessage, Peers};
use super::previous;
use super::removal::Removal;
use super::repair_traffic::RepairTraffic;
use super::served::{Opener, Served};
use super::targets::{self, VolumeTargets};
use super::voter;
use crate::admin::server as admin_server;

/// What is asked to end has so long for it.
const GRACE: Duration = Duration::from_secs(5);

struct ToActors(Addr<Switchboard>);

impl Listener for ToActors {
    fn reply(&self, token: MetaToken, reply: MetaReply) {
        self.0.do_send(MetaAnswer { token, reply });
    }

    fn view(&self, view: Arc<View>) {
        self.0.do_send(ViewChanged(view));
    }
}

/// What the command line says over a node's configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// NBD's encryption.
    pub nbd_tls: Option<NbdTls>,
    /// Whether NBD's clients must show a certificate; `false` changes nothing.
    pub nbd_tls_verify_peer: bool,
    /// After how many seconds without a disk its data is made again elsewhere.
    pub heal_after_s: Option<u64>,
}

impl Overrides {
    fn apply(self, config: &mut NodeConfig) {
        config.heal_after_s = self.heal_after_s.or(config.heal_after_s);
        if let Some(tls) = self.nbd_tls {
            config.nbd_tls = tls;
            // Said without a word on clients, `off` means off.
            config.nbd_tls_verify_peer &= tls != NbdTls::Off;
        }
        config.nbd_tls_verify_peer |= self.nbd_tls_verify_peer;
    }
}

/// Runs the node in `directory` until SIGINT or SIGTERM.
///
/// # Errors
/// What keeps it from serving.
pub fn run(directory: &Path, overrides: &Overrides) -> Result<()> {
    let mut config = NodeConfig::load(directory)?;
    overrides.apply(&mut config);
    config.check()?;
    let identity = NodeIdentity::load(directory)?;
    panics::are_logged();
    let files_max = open_files::raise();
    previous::take_over(directory)?;
    let system = actix::System::new();
    system.block_on(async {
        let stop = stop_on_signals().context("signals")?;
        serve(directory.to_owned(), config, identity, files_max, stop).await
    })
}

async fn serve(
    directory: std::path::PathBuf,
    config: NodeConfig,
    mut identity: NodeIdentity,
    files_max: Option<u64>,
    mut stop: watch::Receiver<bool>,
) -> Result<()> {
    let node = NodeId(identity.node);
    let (boot, fabric) = (Boot(random()?), identity.fabric);
    let nbd_tls = nbd_tls::load(&directory, &config).context("NBD's certificate")?;
    let view: SharedView = Arc::new(RwLock::new(Arc::new(View::default())));
    let removal = Removal::default();
    let transport = bind(&directory, &config, &identity, &view, &removal)?;

    let (machine, log) = voter::start(&directory, &mut identity, &config, boot)?;
    footing::look_after(&directory).context("the node's directory")?;
    let handle = meta::start(machine, log, transport.clone(), Arc::clone(&view))?;

    let admitter = admitter(&directory, &identity, &config, &handle, &view)?;
    let peers = Peers::new(node, transport.clone());
    let (inbound, switchboard_ready) = Inlet::new();
    let repair = RepairTraffic::new(node, Arc::clone(&view));
    let mut handlers = inbound.handlers(&handle, &peers, &repair);
    if let Some(admitter) = &admitter {
        handlers = handlers.joining(Arc::new(AdmitJoiners(Arc::clone(admitter))));
    }
    transport.serve(handlers)?;

    let admin = Arc::new(Admin {
        name: config.name.clone(),
        node,
        quic: config.quic,
        meta: handle.clone(),
        peers: peers.clone(),
        admitter,
        disks: Arc::new(Mutex::new(BTreeMap::new())),
        removal: removal.clone(),
    });
    admin_server::serve(
        &directory,
        Arc::clone(&admin) as Arc<dyn admin_server::Handler>,
    )
    .context("the admin socket")?;

    actix::spawn(removal.clone().look_out(
        node,
        identity.contacts.clone(),
        Arc::clone(&view),
        transport.clone(),
    ));
    let opener = Arc::new(Opener {
        directory: directory.clone(),
        fabric: identity.fabric,
        node,
        meta: handle.clone(),
        served: Served::new(handle.clone()),
        names: Arc::clone(&admin.disks),
        configs: Mutex::default(),
        lives: Mutex::default(),
    });
    // What a disk that is new waits for, the others must not.
    let (new, known): (Vec<_>, Vec<_>) = config
        .disks
        .iter()
        .cloned()
        .partition(|disk| disks::is_new(&directory, disk));
    let (opened, unopened) = tokio::select! {
        tried = opener.open_all(known) => tried,
        _ = stop.wait_for(|stop| *stop) => {
            tracing::info!("stopping before all disks were opened");
            let _ = timeout(GRACE, transport.shutdown()).await;
            return Ok(());
        }
    };
    let is_first = opened.is_empty();
    let switchboard = start_actors(node, boot, &transport, &opener, config.scrub());
    opener.attach(opened, &switchboard);
    opener.keep_trying(unopened, &switchboard);
    switchboard_ready.set(switchboard.clone());
    handle.listen(Box::new(ToActors(switchboard.clone())));

    actix::spawn(membership::keep_contacts(
        directory,
        identity,
        Arc::clone(&view),
    ));
    let targets = VolumeTargets {
        meta: handle.clone(),
        switchboard: switchboard.clone(),
        removal: removal.clone(),
        peers: peers.clone(),
        node,
        fabric,
    };
    let meta = handle.clone();
    let exports = VolumeExports {
        meta: handle,
        switchboard: switchboard.clone(),
        removal,
    };
    let connections_max = connections(&config, files_max);
    let limits = nbd::Config {
        tls: nbd_tls,
        connections_max,
        ..nbd::Config::default()
    };
    let front_end = serve_nbd(&config, exports, limits, stop.clone()).await?;
    let (asks, asked) = mpsc::channel(1);
    let limits = iscsi::Config {
        connections_max,
        ..iscsi::Config::default()
    };
    let iscsi_end = serve_iscsi(&config, targets, asked, (limits, stop.clone()))?;
    let iscsi = IscsiLocal {
        address: config.iscsi,
        meta,
        front_end: asks,
    };
    let added = actix::spawn(Arc::clone(&opener).attach_each(new, switchboard.clone()));
    // A node without any disk yet says that it serves once it has some.
    if is_first {
        tokio::select! {
            _ = added => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }
    // From here on this node says that it serves: its port takes clients.
    peers.serve(switchboard.clone(), Arc::clone(&admin.disks), repair, iscsi);
    stop.wait_for(|stop| *stop)
        .await
        .context("the signal's channel")?;
    tracing::info!("stopping");
    let _ = timeout(GRACE, front_end).await;
    let _ = timeout(GRACE, iscsi_end).await;
    let _ = timeout(GRACE, switchboard.send(ShutDown)).await;
    let _ = timeout(GRACE, transport.shutdown()).await;
    Ok(())
}

fn bind(
    directory: &Path,
    config: &NodeConfig,
    identity: &NodeIdentity,
    view: &SharedView,
    removal: &Removal,
) -> Result<Transport> {
    let routes = Routes::load(directory)?;
    let resolve = membership::resolver(Arc::clone(view), identity.contacts.clone(), routes);
    let mut net = NetConfig::new(config.quic, resolve);
    net.admit = membership::admit(Arc::clone(view));
    net.refused = removal.listener();
    let transport = Transport::bind(net, &Identity::load(directory)?);
    // The error carries its cause in its own words.
    transport.map_err(|e| anyhow!("{e}: does this node run already?"))
}

async fn serve_nbd(
    config: &NodeConfig,
    exports: VolumeExports,
    limits: nbd::Config,
    stop: watch::Receiver<bool>,
) -> Result<JoinHandle<()>> {
    let listener = NbdListener::bind(&Address::Tcp(config.nbd))
        .await
        .with_context(|| format!("can't serve NBD on {}: is the port in use?", config.nbd))?;
    tracing::info!(node = %config.name, nbd = %config.nbd, tls = ?config.nbd_tls, "serving");
    Ok(actix::spawn(nbd::serve(
        listener,
        Rc::new(exports),
        limits,
        stop,
    )))
}

/// Connections of each front end: they share what disks leave.
fn connections(config: &NodeConfig, files_max: Option<u64>) -> usize {
    let each = nbd::Config::default().connections_max;
    let front_ends = 1 + usize::from(config.iscsi.is_some());
    let all = open_files::connections(files_max, &config.disks, front_ends * each);
    each.min(all / front_ends)
}

/// Serves iSCSI, if the node is to; ends with what it serves.
fn serve_iscsi(
    config: &NodeConfig,
    targets: VolumeTargets,
    asked: mpsc::Receiver<IscsiQuestion>,
    (limits, stop): (iscsi::Config, watch::Receiver<bool>),
) -> Result<JoinHandle<()>> {
    let hub = Rc::new(iscsi::Hub::default());
    let meta = targets.meta.clone();
    actix::spawn(targets::tell(meta, Rc::clone(&hub), asked));
    let Some(address) = config.iscsi else {
        return Ok(actix::spawn(async {}));
    };
    let listener = iscsi::Listener::bind(address)
        .with_context(|| format!("can't serve iSCSI on {address}: is the port in use?"))?;
    Ok(actix::spawn(iscsi::serve(
        listener,
        Rc::new(targets),
        hub,
        limits,
        stop,
    )))
}

fn admitter(
    directory: &Path,
    identity: &NodeIdentity,
    config: &NodeConfig,
    meta: &MetaHandle,
    view: &SharedView,
) -> Result<Option<Arc<Admitter>>> {
    // Not every node has the authority's key: see `daemon/join.rs`.
    let Some(nbd) = NbdAuthority::load(directory).context("the fabric's authority")? else {
        return Ok(None);
    };
    let authority = Authority::load(directory).context("the fabric's authority")?;
    Ok(Some(Arc::new(Admitter {
        authority,
        nbd,
        fabric: identity.fabric,
        me: (NodeId(identity.node), config.quic),
        meta: meta.clone(),
        view: Arc::clone(view),
        admitted: Mutex::new(BTreeMap::new()),
    })))
}

fn start_actors(
    node: NodeId,
    boot: Boot,
    transport: &Transport,
    opener: &Arc<Opener>,
    scrub: ScrubConfig,
) -> Addr<Switchboard> {
    let (port, to_site) = (opener.meta.clone(), opener.meta.clone());
    let (retired, room) = (opener.served.clone(), opener.served.clone());
    let health = opener.served.clone();
    let opener = Arc::clone(opener);
    Switchboard::new(SwitchboardConfig {
        node,
        boot,
        transport: transport.clone(),
        meta: Arc::new(move |token, request| port.ask(token, request)),
        retired: Arc::new(move |disk| retired.remove(disk)),
        reopen: Arc::new(move |disk, closing, switchboard| {
            Arc::clone(&opener).reopen(disk, closing, switchboard);
        }),
        room: Arc::new(move |disk, has_room| room.room(disk, has_room)),
        health: Arc::new(move |disk, told| health.health(disk, told)),
        volume: VolumeConfig {
            wall_at_zero: wall_at_zero(),
            ..VolumeConfig::default()
        },
        segment: SegmentConfig::default(),
        disk: DiskConfig {
            scrub,
            ..DiskConfig::default()
        },
        heal: HealConfig::default(),
        healed: Arc::new(move |moves| to_site.healed(moves)),
        client: ClientConfig::default(),
    })
    .start()
}

/// Where messages of the network go; those that come before the actors run are lost, as the
/// network may lose any.
#[derive(Clone)]
struct Inlet(Arc<std::sync::OnceLock<Addr<Switchboard>>>);

impl Inlet {
    fn new() -> (Self, Self) {
        let inlet = Self(Arc::new(std::sync::OnceLock::new()));
        (inlet.clone(), inlet)
    }

    fn set(&self, switchboard: Addr<Switchboard>) {
        let _ = self.0.set(switchboard);
    }

    fn handlers(&self, meta: &MetaHandle, peers: &Peers, repair: &RepairTraffic) -> Handlers {
        let (inlet, repair) = (self.clone(), repair.clone());
        let to_actors = move |from: NodeId, class: Class, header: Bytes, payload: Bytes| {
            repair.note(from, class, &header, &payload);
            if let Some(switchboard) = inlet.0.get() {
                switchboard.do_send(Inbound {
                    from,
                    header,
                    payload,
                });
            }
        };
        let (meta, peers) = (meta.clone(), peers.clone());
        let to_meta =
            move |from: NodeId, _class: Class, header: Bytes, _payload: Bytes| match wire::decode(
                &header,
            ) {
                Ok(NodeMessage::Meta(message)) => meta.message(from, message),
                Ok(NodeMessage::Ask { id, question }) => peers.asked(from, id, question),
                Ok(NodeMessage::Figures { id, figures }) => peers.answered(from, id, figures),
                Err(_) => tracing::warn!(%from, "a malformed metadata message"),
            };
        Handlers::all(Arc::new(to_actors)).with(Class::Meta, Arc::new(to_meta))
    }
}

/// Says when the process is told to stop: by SIGINT or SIGTERM.
fn stop_on_signals() -> std::io::Result<watch::Receiver<bool>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (tell, told) = watch::channel(false);
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    actix::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        let _ = tell.send(true);
        // The other half must see it: the sender lives until the process ends.
        std::future::pending::<()>().await;
    });
    Ok(told)
}

/// What a clock on the wall showed when this machine's clock began.
fn wall_at_zero() -> WallTime {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let wall = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    WallTime(wall.saturating_sub(boottime().0 / 1_000_000))
}
