//! A node's switchboard: delivers messages between its actors and the network, starts and
//! drops Volume actors as the [`Host`] says, hands out the placement.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use actix::{Actor, Addr, AsyncContext, Context, Handler, Message, ResponseFuture, SpawnHandle};
use bytes::Bytes;
use model::geometry::Pool;
use model::ids::{
    Actor as ActorId, Boot, ClientId, DiskId, DiskRef, Endpoint, NodeId, RequestId, Row, VolumeId,
};
use model::meta::{MetaReply, MetaRequest, MetaToken};
use model::payload::Payload;
use model::placement::View;
use model::spread::RowStamp;
use model::store::{ScannedEntry, ScrubMark};
use model::wire;
use tokio::sync::oneshot;
use transport::class::Class;
use transport::net::endpoint::Transport;

use super::client::{ClientActor, ClientClosed, ToClient};
use super::clock::boottime;
use super::disk::{
    DiskActor, DiskFigures, DiskStores, GetFigures, GetReplica, ReplicaSeen, ToDisk,
};
use super::heal::{GetHealing, HealActor, HealedPort, Healing, ToHealer};
use super::segment::{SegmentActor, ToSegment};
use super::volume::{Stats, VolumeActor};
use crate::client::{self, Client, ClientConfig};
use crate::disk::{Disk, DiskConfig, ScrubNews};
use crate::heal::{HealConfig, Healer};
use crate::host::{Host, Route};
use crate::messages::{DiskReply, DiskRequest, Envelope, Message as Wire, VolumeReply};
use crate::segment::{SegmentConfig, Segments};
use crate::volume::{Input as VolumeInput, StopReason, Volume, VolumeConfig, VolumeStats};

/// The way to the node's metadata machine, which has a thread of its own.
pub type MetaPort = Arc<dyn Fn(MetaToken, MetaRequest) + Send + Sync>;

/// What a switchboard is made of.
pub struct SwitchboardConfig {
    /// This node.
    pub node: NodeId,
    /// This life of it.
    pub boot: Boot,
    /// The network.
    pub transport: Transport,
    /// The metadata.
    pub meta: MetaPort,
    /// Told when a disk retires, so that the site group is.
    pub retired: Arc<dyn Fn(DiskId) + Send + Sync>,
    /// Told when it changes whether a disk has room, so that the groups are.
    pub room: Arc<dyn Fn(DiskId, bool) + Send + Sync>,
    /// The volumes' bounds and terms.
    pub volume: VolumeConfig,
    /// The Segment machines'.
    pub segment: SegmentConfig,
    /// The disks'.
    pub disk: DiskConfig,
    /// The Healer's.
    pub heal: HealConfig,
    /// Told which moves of slots are done.
    pub healed: HealedPort,
    /// The clients'.
    pub client: ClientConfig,
}

impl fmt::Debug for SwitchboardConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SwitchboardConfig")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Running {
    volume: Addr<VolumeActor>,
    segments: Addr<SegmentActor>,
}

/// The switchboard.
#[derive(Debug)]
pub struct Switchboard {
    config: SwitchboardConfig,
    host: Host,
    volumes: BTreeMap<VolumeId, Running>,
    disks: BTreeMap<DiskId, Addr<DiskActor>>,
    healer: Option<Addr<HealActor>>,
    clients: BTreeMap<ClientId, Addr<ClientActor>>,
    asked: BTreeMap<MetaToken, (ActorId, MetaToken)>,
    next_token: u64,
    next_client: u64,
    lives: u64,
    /// When the host looks again.
    host_timer: Option<SpawnHandle>,
    stopped: Option<oneshot::Sender<()>>,
}

/// A message from one of this node's actors, to one here or elsewhere.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Post {
    pub(super) from: Endpoint,
    pub(super) to: Endpoint,
    pub(super) id: RequestId,
    pub(super) message: Wire,
    pub(super) payload: Payload,
}

impl Post {
    /// To a disk, wherever it is.
    pub(super) fn to_disk(
        from: Endpoint,
        (node, disk): (NodeId, DiskId),
        id: RequestId,
        request: DiskRequest,
        payload: Payload,
    ) -> Self {
        let to = Endpoint {
            node,
            actor: ActorId::Disk(disk),
        };
        Self {
            from,
            to,
            id,
            message: Wire::DiskRequest(request),
            payload,
        }
    }
}

/// A request of one of this node's actors for the metadata.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct AskMeta {
    pub(super) from: ActorId,
    pub(super) token: MetaToken,
    pub(super) request: MetaRequest,
}

/// A Volume machine ended.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct VolumeEnded {
    pub(super) volume: VolumeId,
    pub(super) reason: StopReason,
}

/// A disk retired: nobody is to count on it in this life of the process.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct DiskRetired(pub(super) DiskId);

/// Whether a disk has room for fragments changed.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct DiskRoom {
    pub(super) disk: DiskId,
    pub(super) has_room: bool,
}

/// What the scrub of a disk found, for the Healer.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct ScrubTold {
    pub(super) at: DiskRef,
    pub(super) news: ScrubNews,
}

/// A Client machine ended.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct ClientEnded(pub(super) ClientId);

/// A message from the network. The sender is who its certificate says.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Inbound {
    /// The sending node.
    pub from: NodeId,
    /// An [`Envelope`].
    pub header: Bytes,
    /// The payload beside it.
    pub payload: Bytes,
}

/// The metadata's answer.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct MetaAnswer {
    /// The request.
    pub token: MetaToken,
    /// The answer.
    pub reply: MetaReply,
}

/// The placement changed.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ViewChanged(pub Arc<View>);

/// Serve a disk.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct AttachDisk {
    /// The disk in its life.
    pub at: DiskRef,
    /// Its stores.
    pub stores: DiskStores,
    /// What opening its journal found.
    pub scan: Vec<ScannedEntry>,
    /// How many entries come before the last damaged place, if there is one (R8).
    pub damage_before: Option<usize>,
    /// What the disk knows of rows' moves (R20).
    pub moves: BTreeMap<(Pool, Row), RowStamp>,
    /// How far its scrub had come.
    pub scrubbed: ScrubMark,
}

/// Open a client of a volume, by name. Answered once its session is open.
#[derive(Debug, Message)]
#[rtype(result = "Result<(Addr<ClientActor>, u64), OpenError>")]
pub struct OpenClient(pub String);

/// Why a client could not be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// No volume has that name.
    #[error("there is no such volume")]
    NoVolume,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

/// A front end's connection ended.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct CloseClient(pub Addr<ClientActor>);

/// Forget what is cached; answered with how many volumes were asked.
#[derive(Debug, Message)]
#[rtype(result = "usize")]
pub struct Dropped;

/// What `volume show`, `debug syncs` and `debug journal` tell of this node.
#[derive(Debug, Message)]
#[rtype(result = "(BTreeMap<VolumeId, VolumeStats>, BTreeMap<DiskId, DiskFigures>)")]
pub struct GetStats;

/// What the node's disks tell of a volume's replicas.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Vec<ReplicaSeen>")]
pub struct GetReplicas(pub VolumeId);

/// Begin a pass of the scrub on one of the node's disks, or on all; answered with how many.
#[derive(Debug, Message)]
#[rtype(result = "usize")]
pub struct StartScrub(pub Option<DiskId>);

/// End every Volume machine cleanly; answered when all have ended.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ShutDown;

impl Switchboard {
    /// A switchboard without disks or volumes.
    #[must_use]
    pub fn new(config: SwitchboardConfig) -> Self {
        let host = Host::new(config.node, Arc::new(View::default()));
        Self {
            config,
            host,
            volumes: BTreeMap::new(),
            disks: BTreeMap::new(),
            healer: None,
            clients: BTreeMap::new(),
            asked: BTreeMap::new(),
            next_token: 0,
            next_client: 0,
            lives: 0,
            host_timer: None,
            stopped: None,
        }
    }

    /// Request ids of one life of a machine start here, so that no answer to an earlier life,
    /// of this process or another, is taken for one to this.
    fn first_request(&mut self) -> u64 {
        self.lives += 1;
        (self.config.boot.0 & 0xffff) << 48 | (self.lives & 0xffff) << 32
    }

    fn start_volume(&mut self, id: VolumeId, ctx: &mut Context<Self>) {
        let node = self.config.node;
        let view = Arc::clone(self.host.current_view());
        let first = self.first_request();
        let segments = Segments::new(
            node,
            self.config.segment,
            Arc::clone(&view),
            RequestId(first),
        );
        let segments = SegmentActor::new(id, node, segments, ctx.address()).start();
        let machine = Volume::new(id, node, self.config.volume, view, first);
        let volume = VolumeActor::new(id, node, machine, ctx.address(), segments.clone()).start();
        segments.do_send(ToSegment::Volume(volume.clone()));
        self.volumes.insert(id, Running { volume, segments });
    }

    fn start_all(&mut self, start: Vec<VolumeId>, ctx: &mut Context<Self>) {
        for id in start {
            self.start_volume(id, ctx);
        }
        if let Some(due) = self.host.next_deadline() {
            let wait = due
                .since(boottime())
                .max(std::time::Duration::from_millis(1));
            let timer = ctx.run_later(wait, |this, ctx| {
                let mut start = Vec::new();
                this.host.due(boottime(), &mut start);
                this.start_all(start, ctx);
            });
            // One is enough: the next deadline is asked for each time.
            if let Some(before) = self.host_timer.replace(timer) {
                ctx.cancel_future(before);
            }
        }
    }

    fn send(&mut self, envelope: Envelope, payload: Payload) {
        let to = envelope.to.node;
        let heals = [envelope.from.actor, envelope.to.actor].contains(&ActorId::Healer);
        let class = match heals {
            true => Class::Bulk,
            false => class_of(&envelope.message, payload.len()),
        };
        // What the network can't take now is lost: whoever asked asks again.
        if let Err(error) = self
            .config
            .transport
            .send(to, class, wire::encode(&envelope), payload)
        {
            tracing::debug!(%to, ?class, %error, "not sent");
        }
    }

    fn deliver(&mut self, envelope: Envelope, payload: Bytes, ctx: &mut Context<Self>) {
        let Envelope {
            from,
            to,
            id,
            message,
        } = envelope;
        match (message, to.actor) {
            (Wire::DiskRequest(request), ActorId::Disk(disk)) => {
                if let Some(disk) = self.disks.get(&disk) {
                    disk.do_send(ToDisk::Request {
                        from,
                        id,
                        request,
                        payload,
                    });
                }
            }
            (Wire::DiskReply(reply), ActorId::Volume(volume)) => {
                let ActorId::Disk(disk) = from.actor else {
                    return;
                };
                if let Some(running) = self.volumes.get(&volume) {
                    running.volume.do_send(VolumeInput::Disk {
                        disk,
                        id,
                        reply,
                        payload,
                    });
                }
            }
            (Wire::DiskReply(reply), ActorId::Segment(volume)) => {
                let ActorId::Disk(disk) = from.actor else {
                    return;
                };
                if let Some(running) = self.volumes.get(&volume) {
                    running.segments.do_send(ToSegment::Disk {
                        disk,
                        id,
                        reply,
                        payload,
                    });
                }
            }
            (Wire::DiskReply(reply), ActorId::Healer) => {
                let ActorId::Disk(disk) = from.actor else {
                    return;
                };
                if let Some(healer) = &self.healer {
                    healer.do_send(ToHealer::Disk {
                        disk,
                        id,
                        reply,
                        payload,
                    });
                }
            }
            (Wire::VolumeReply(reply), ActorId::Client(client)) => {
                if let Some(client) = self.clients.get(&client) {
                    client.do_send(ToClient::Reply { id, reply, payload });
                }
            }
            (Wire::VolumeRequest(request), ActorId::Volume(volume)) => {
                match self.host.request(boottime(), volume) {
                    Route::Running => {}
                    Route::Start => self.start_volume(volume, ctx),
                    Route::Elsewhere(epoch) => {
                        let message = Wire::VolumeReply(VolumeReply::NotOwner { epoch });
                        let payload = Payload::empty();
                        let reply = Envelope::new(to, from, id, message);
                        self.post(reply, payload, ctx);
                        return;
                    }
                }
                if let Some(running) = self.volumes.get(&volume) {
                    running.volume.do_send(VolumeInput::Request {
                        from,
                        id,
                        request,
                        payload,
                    });
                }
            }
            (Wire::ClientsRequest(request), ActorId::Clients) => {
                let me = (self.config.node, self.config.boot);
                let lives = |client| self.clients.contains_key(&client);
                if let Some(reply) = client::answer(me, lives, request) {
                    let reply = Envelope::new(to, from, id, Wire::ClientsReply(reply));
                    self.post(reply, Payload::empty(), ctx);
                }
            }
            (Wire::ClientsReply(reply), ActorId::Volume(volume)) => {
                if let Some(running) = self.volumes.get(&volume) {
                    let node = from.node;
                    running.volume.do_send(VolumeInput::Clients { node, reply });
                }
            }
            (message, actor) => {
                tracing::debug!(?actor, ?message, "a message for nobody here");
            }
        }
    }

    fn post(&mut self, envelope: Envelope, payload: Payload, ctx: &mut Context<Self>) {
        if envelope.to.node == self.config.node {
            self.deliver(envelope, payload.into_bytes(), ctx);
        } else {
            self.send(envelope, payload);
        }
    }

    fn volume_gone(&mut self) {
        if self.volumes.is_empty()
            && let Some(stopped) = self.stopped.take()
        {
            let _ = stopped.send(());
        }
    }
}

/// Fragments travel apart from what a client's write waits for.
fn class_of(message: &Wire, payload_len: usize) -> Class {
    match message {
        Wire::DiskRequest(
            DiskRequest::Put(_)
            | DiskRequest::Delete { .. }
            | DiskRequest::List { .. }
            | DiskRequest::ListRow { .. },
        ) => Class::Bulk,
        Wire::DiskRequest(DiskRequest::Get { .. }) => Class::Client,
        Wire::DiskRequest(_) => Class::Journal,
        Wire::DiskReply(DiskReply::Data { .. }) => Class::Client,
        Wire::DiskReply(DiskReply::Fetched { .. }) if payload_len > 64 << 10 => Class::Bulk,
        Wire::DiskReply(DiskReply::Stored | DiskReply::Deleted | DiskReply::Keys(_)) => Class::Bulk,
        Wire::DiskReply(_) => Class::Journal,
        Wire::VolumeRequest(_)
        | Wire::VolumeReply(_)
        | Wire::ClientsRequest(_)
        | Wire::ClientsReply(_) => Class::Client,
    }
}

impl Actor for Switchboard {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let node = self.config.node;
        let first = RequestId(self.first_request());
        let healer = Healer::new(node, self.config.heal, first);
        let healed = Arc::clone(&self.config.healed);
        self.healer = Some(HealActor::new(node, healer, ctx.address(), healed).start());
    }
}

impl Handler<Post> for Switchboard {
    type Result = ();

    fn handle(&mut self, post: Post, ctx: &mut Self::Context) {
        let Post {
            from,
            to,
            id,
            message,
            payload,
        } = post;
        self.post(Envelope::new(from, to, id, message), payload, ctx);
    }
}

impl Handler<Inbound> for Switchboard {
    type Result = ();

    fn handle(&mut self, inbound: Inbound, ctx: &mut Self::Context) {
        let Ok(envelope) = wire::decode::<Envelope>(&inbound.header) else {
            tracing::warn!(from = %inbound.from, "a malformed envelope");
            return;
        };
        // A peer speaks for itself alone.
        if envelope.from.node != inbound.from || envelope.to.node != self.config.node {
            tracing::warn!(from = %inbound.from, "an envelope that is not the sender's to send");
            return;
        }
        self.deliver(envelope, inbound.payload, ctx);
    }
}

impl Handler<AskMeta> for Switchboard {
    type Result = ();

    fn handle(&mut self, ask: AskMeta, _ctx: &mut Self::Context) {
        self.next_token += 1;
        let token = MetaToken(self.next_token);
        self.asked.insert(token, (ask.from, ask.token));
        (self.config.meta)(token, ask.request);
    }
}

impl Handler<MetaAnswer> for Switchboard {
    type Result = ();

    fn handle(&mut self, answer: MetaAnswer, _ctx: &mut Self::Context) {
        let Some((actor, token)) = self.asked.remove(&answer.token) else {
            return;
        };
        let reply = answer.reply;
        match actor {
            ActorId::Volume(volume) => {
                if let Some(running) = self.volumes.get(&volume) {
                    running.volume.do_send(VolumeInput::Meta { token, reply });
                }
            }
            ActorId::Disk(disk) => {
                if let Some(disk) = self.disks.get(&disk) {
                    disk.do_send(ToDisk::Meta { token, reply });
                }
            }
            ActorId::Segment(_) | ActorId::Client(_) | ActorId::Clients | ActorId::Healer => {}
        }
    }
}

impl Handler<ViewChanged> for Switchboard {
    type Result = ();

    fn handle(&mut self, ViewChanged(view): ViewChanged, ctx: &mut Self::Context) {
        for running in self.volumes.values() {
            running.volume.do_send(VolumeInput::View(Arc::clone(&view)));
            running.segments.do_send(ToSegment::View(Arc::clone(&view)));
        }
        for disk in self.disks.values() {
            disk.do_send(ToDisk::View(Arc::clone(&view)));
        }
        for client in self.clients.values() {
            client.do_send(ToClient::View(Arc::clone(&view)));
        }
        if let Some(healer) = &self.healer {
            healer.do_send(ToHealer::View(Arc::clone(&view)));
        }
        let mut start = Vec::new();
        self.host.view(boottime(), view, &mut start);
        self.start_all(start, ctx);
    }
}

impl Handler<AttachDisk> for Switchboard {
    type Result = ();

    fn handle(&mut self, attach: AttachDisk, ctx: &mut Self::Context) {
        let AttachDisk {
            at,
            stores,
            scan,
            damage_before,
            moves,
            scrubbed,
        } = attach;
        let node = self.config.node;
        let machine =
            Disk::recover_from(self.config.disk, at, node, boottime(), scan, damage_before)
                .knowing(moves)
                .scrubbed_to(scrubbed);
        let disk = DiskActor::new(at.disk, node, machine, stores, ctx.address()).start();
        disk.do_send(ToDisk::View(Arc::clone(self.host.current_view())));
        self.disks.insert(at.disk, disk);
    }
}

impl Handler<VolumeEnded> for Switchboard {
    type Result = ();

    fn handle(&mut self, ended: VolumeEnded, ctx: &mut Self::Context) {
        tracing::info!(volume = %ended.volume, reason = ?ended.reason, "volume ended here");
        if let Some(running) = self.volumes.remove(&ended.volume) {
            running.segments.do_send(ToSegment::End);
        }
        self.host.ended(boottime(), ended.volume);
        self.volume_gone();
        self.start_all(Vec::new(), ctx);
    }
}

impl Handler<DiskRetired> for Switchboard {
    type Result = ();

    fn handle(&mut self, DiskRetired(disk): DiskRetired, _ctx: &mut Self::Context) {
        (self.config.retired)(disk);
    }
}

impl Handler<DiskRoom> for Switchboard {
    type Result = ();

    fn handle(&mut self, DiskRoom { disk, has_room }: DiskRoom, _ctx: &mut Self::Context) {
        (self.config.room)(disk, has_room);
    }
}

impl Handler<ScrubTold> for Switchboard {
    type Result = ();

    fn handle(&mut self, ScrubTold { at, news }: ScrubTold, _ctx: &mut Self::Context) {
        if let Some(healer) = &self.healer {
            healer.do_send(ToHealer::Scrub { at, news });
        }
    }
}

impl Handler<StartScrub> for Switchboard {
    type Result = usize;

    fn handle(&mut self, StartScrub(of): StartScrub, _ctx: &mut Self::Context) -> usize {
        let meant = |id: &DiskId| of.is_none_or(|of| of == *id);
        let disks = self.disks.iter().filter(|(id, _)| meant(id));
        let asked = disks.map(|(_, disk)| disk.do_send(ToDisk::ScrubNow));
        asked.count()
    }
}

impl Handler<ClientEnded> for Switchboard {
    type Result = ();

    fn handle(&mut self, ended: ClientEnded, _ctx: &mut Self::Context) {
        self.clients.remove(&ended.0);
    }
}

impl Handler<OpenClient> for Switchboard {
    type Result = ResponseFuture<Result<(Addr<ClientActor>, u64), OpenError>>;

    fn handle(&mut self, OpenClient(name): OpenClient, ctx: &mut Self::Context) -> Self::Result {
        let view = Arc::clone(self.host.current_view());
        let Some(volume) = view.volume_named(&name).map(|v| v.id) else {
            return Box::pin(async { Err(OpenError::NoVolume) });
        };
        self.next_client += 1;
        // The boot makes it unique over this node's lives: an answer to an earlier one's
        // client finds nobody.
        let id = ClientId((self.config.boot.0 & 0xffff_ffff) << 32 | self.next_client);
        let node = self.config.node;
        let machine = Client::new(volume, (node, self.config.boot), self.config.client, view);
        let (opened, opening) = oneshot::channel();
        let client = ClientActor::new(id, node, machine, ctx.address(), opened).start();
        self.clients.insert(id, client.clone());
        Box::pin(async move {
            let size = opening.await.unwrap_or(Err(OpenError::Stopping))?;
            Ok((client, size))
        })
    }
}

impl Handler<CloseClient> for Switchboard {
    type Result = ();

    fn handle(&mut self, CloseClient(client): CloseClient, _ctx: &mut Self::Context) {
        client.do_send(ClientClosed);
    }
}

impl Handler<Dropped> for Switchboard {
    type Result = usize;

    fn handle(&mut self, _: Dropped, _ctx: &mut Self::Context) -> usize {
        for running in self.volumes.values() {
            running.volume.do_send(VolumeInput::DropCache);
        }
        self.volumes.len()
    }
}

impl Handler<GetStats> for Switchboard {
    type Result = ResponseFuture<(
        BTreeMap<VolumeId, VolumeStats>,
        BTreeMap<DiskId, DiskFigures>,
    )>;

    fn handle(&mut self, _: GetStats, _ctx: &mut Self::Context) -> Self::Result {
        let volumes: Vec<_> = self
            .volumes
            .iter()
            .map(|(id, r)| (*id, r.volume.send(Stats)))
            .collect();
        let disks: Vec<_> = self
            .disks
            .iter()
            .map(|(id, d)| (*id, d.send(GetFigures)))
            .collect();
        Box::pin(async move {
            let (mut of_volumes, mut of_disks) = (BTreeMap::new(), BTreeMap::new());
            for (id, stats) in volumes {
                if let Ok(stats) = stats.await {
                    of_volumes.insert(id, stats);
                }
            }
            for (id, figures) in disks {
                if let Ok(Some(figures)) = figures.await {
                    of_disks.insert(id, figures);
                }
            }
            (of_volumes, of_disks)
        })
    }
}

impl Handler<GetReplicas> for Switchboard {
    type Result = ResponseFuture<Vec<ReplicaSeen>>;

    fn handle(&mut self, GetReplicas(volume): GetReplicas, _: &mut Self::Context) -> Self::Result {
        let disks = self.disks.values();
        let asked: Vec<_> = disks.map(|disk| disk.send(GetReplica(volume))).collect();
        Box::pin(async move {
            let mut seen = Vec::new();
            for told in asked {
                seen.extend(told.await.ok().flatten());
            }
            seen
        })
    }
}

impl Handler<GetHealing> for Switchboard {
    type Result = ResponseFuture<Healing>;

    fn handle(&mut self, ask: GetHealing, _ctx: &mut Self::Context) -> Self::Result {
        let asked = self.healer.as_ref().map(|healer| healer.send(ask));
        Box::pin(async move {
            match asked {
                Some(asked) => asked.await.unwrap_or_default(),
                None => Healing::default(),
            }
        })
    }
}

impl Handler<ShutDown> for Switchboard {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: ShutDown, _ctx: &mut Self::Context) -> Self::Result {
        self.host.stop();
        for running in self.volumes.values() {
            running.volume.do_send(VolumeInput::Stop);
        }
        let (stopped, done) = oneshot::channel();
        self.stopped = Some(stopped);
        self.volume_gone();
        Box::pin(async move {
            let _ = done.await;
        })
    }
}
