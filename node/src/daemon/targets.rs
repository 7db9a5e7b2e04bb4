//! Volumes as iSCSI targets: each session is a client of its volume, wherever its owner is, and
//! what initiators set of a unit is the global placement group's.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use actors::runtime::{ClientHandle, OpenError, Switchboard};
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use iscsi_frontend::scsi::facts::{AccessState, Facts, Identity, PortGroup};
use iscsi_frontend::server::{Changed, Client, Hub, IdentifyResult, OpenResult, Targets, Unit};
use iscsi_frontend::session::{Access, Credentials, Entropy, ListedTarget, LoginError, Names};
use model::block::{BlockError, Reply, Request};
use model::ids::{NodeId, SiteId, Version, VolumeId};
use model::iscsi::{Mapping, TARGET_PREFIX, UnitState, target_name};
use model::mix;
use model::placement::{Presence, View, VolumeRecord};
use raft_meta::node::{AdminCommand, AdminRefusal, AdminReply, Scope};
use tokio::sync::mpsc;

use super::disks::random;
use super::exports::{CREATION_MAX, SIZE_MAX, open_client};
use super::meta::MetaHandle;
use super::peers::{IscsiQuestion, IscsiSession, Peers, Question};
use super::removal::Removal;

/// So long a change waits for nodes that do not say that they know of it.
const TOLD_MAX: Duration = Duration::from_secs(2);
const TOLD_PAUSE: Duration = Duration::from_millis(5);

/// A fabric's mapped volumes.
pub struct VolumeTargets {
    /// The metadata.
    pub meta: MetaHandle,
    /// The node's switchboard.
    pub switchboard: Addr<Switchboard>,
    /// Whether the node was removed.
    pub removal: Removal,
    /// The other nodes.
    pub peers: Peers,
    /// This node.
    pub node: NodeId,
    /// The fabric's number.
    pub fabric: u64,
}

/// A mapped volume, by its target's name.
fn mapped<'a>(view: &'a View, target: &str) -> Option<(&'a VolumeRecord, &'a Mapping)> {
    let record = view.volume_named(target.strip_prefix(TARGET_PREFIX)?)?;
    Some((record, view.iscsi.get(&record.id)?))
}

fn may_log_in(mapping: &Mapping, initiator: &str) -> bool {
    mapping.initiators.is_empty() || mapping.initiators.iter().any(|name| name == initiator)
}

/// Where nodes that answer now serve iSCSI. Waits.
#[must_use]
pub fn portals(view: &View, peers: &Peers) -> BTreeMap<NodeId, SocketAddr> {
    let heard = peers.ask(&members(view), Question::Iscsi(None));
    let address = |figures: super::peers::Figures| figures.iscsi?.address;
    let heard = heard.into_iter();
    heard
        .filter_map(|(node, figures)| Some((node, address(figures)?)))
        .collect()
}

/// Nodes that take part: nobody waits for one that was found dead.
fn members(view: &View) -> BTreeSet<NodeId> {
    let there = view
        .nodes
        .iter()
        .filter(|(_, n)| n.presence == Presence::Up);
    there.map(|(id, _)| *id).collect()
}

impl VolumeTargets {
    /// Lets this node know what others were told a moment ago.
    fn catch_up(&self, target: &str) -> impl Future<Output = ()> + use<> {
        let known = mapped(&self.meta.view(), target).is_some();
        let within = if known { SIZE_MAX } else { CREATION_MAX };
        let caught_up = self.meta.catch_up(Scope::Global, within);
        async move {
            // Nobody answers only where the process is about to end.
            let _missed = caught_up.await;
        }
    }
}

impl Targets for VolumeTargets {
    fn identify(&self, _client: &Client, names: &Names) -> LocalBoxFuture<'static, IdentifyResult> {
        let Some(target) = names.target.clone() else {
            return async { Ok(Access::Open) }.boxed_local();
        };
        let (meta, initiator) = (self.meta.clone(), names.initiator.clone());
        let caught_up = self.catch_up(&target);
        async move {
            caught_up.await;
            let view = meta.view();
            let (_, mapping) = mapped(&view, &target).ok_or(LoginError::NotFound)?;
            if !may_log_in(mapping, &initiator) {
                return Err(LoginError::Forbidden);
            }
            Ok(match &mapping.chap {
                None => Access::Open,
                Some(secret) => Access::Proven(Credentials {
                    initiator: secret.clone(),
                    target: mapping.mutual.clone(),
                }),
            })
        }
        .boxed_local()
    }

    fn discover(
        &self,
        client: &Client,
        initiator: &str,
        which: Option<&str>,
    ) -> LocalBoxFuture<'static, Vec<ListedTarget>> {
        let (meta, peers) = (self.meta.clone(), self.peers.clone());
        let (initiator, which) = (initiator.to_owned(), which.map(str::to_owned));
        let caught_up = self.catch_up(which.as_deref().unwrap_or_default());
        let (node, own) = (self.node, client.portal);
        async move {
            caught_up.await;
            let view = meta.view();
            let asked = Arc::clone(&view);
            let heard = tokio::task::spawn_blocking(move || portals(&asked, &peers));
            let mut portals = heard.await.unwrap_or_default();
            // By the address that the initiator reached this node at, whatever it listens on.
            if let Some(own) = own {
                portals.insert(node, own);
            }
            listed(&view, &initiator, which.as_deref(), &portals)
        }
        .boxed_local()
    }

    fn open(&self, _client: &Client, names: &Names) -> LocalBoxFuture<'static, OpenResult> {
        let target = names.target.clone().unwrap_or_default();
        let view = self.meta.view();
        let Some((record, mapping)) = mapped(&view, &target) else {
            return async { Err(LoginError::NotFound) }.boxed_local();
        };
        let mapped = mapping.created;
        let (volume, name) = (record.id, record.name.clone());
        let (meta, peers) = (self.meta.clone(), self.peers.clone());
        let (switchboard, node, fabric) = (self.switchboard.clone(), self.node, self.fabric);
        let opened = async move {
            // Whoever gives this up, at whatever point, ends the client with it.
            match open_client(&switchboard, name).await {
                Ok((client, _)) => Ok(Rc::new(VolumeUnit {
                    volume,
                    mapped,
                    target,
                    client,
                    meta,
                    peers,
                    node,
                    fabric,
                    known: RefCell::default(),
                }) as Rc<dyn Unit>),
                Err(OpenError::NoVolume) => Err(LoginError::NotFound),
                Err(OpenError::Stopping) => Err(LoginError::Unavailable),
            }
        };
        let removal = self.removal.clone();
        async move {
            tokio::select! {
                biased;
                () = removal.known() => Err(LoginError::Unavailable),
                opened = opened => opened,
            }
        }
        .boxed_local()
    }

    fn entropy(&self) -> Entropy {
        // Without randomness nobody is challenged twice alike within this process; the device is
        // there, or the node would not have started.
        let drawn = [(); 3].map(|()| random().unwrap_or_else(|_| std::process::abort()));
        let mut challenge = [0; 16];
        challenge[..8].copy_from_slice(&drawn[0].to_le_bytes());
        challenge[8..].copy_from_slice(&drawn[1].to_le_bytes());
        Entropy {
            identifier: drawn[2].to_le_bytes()[0],
            challenge,
        }
    }
}

fn listed(
    view: &View,
    initiator: &str,
    which: Option<&str>,
    portals: &BTreeMap<NodeId, SocketAddr>,
) -> Vec<ListedTarget> {
    let shown = |(volume, mapping): (&VolumeId, &Mapping)| {
        let record = view.volumes.get(volume).filter(|v| !v.deleted)?;
        let name = target_name(&record.name)?;
        let is_shown = may_log_in(mapping, initiator) && which.is_none_or(|which| which == name);
        let reachable = portals.values().filter(|at| !at.ip().is_unspecified());
        let portals = reachable.map(SocketAddr::to_string).collect();
        is_shown.then_some(ListedTarget { name, portals })
    };
    view.iscsi.iter().filter_map(shown).collect()
}

/// Facts, unless the volume is no target; and the view that says so.
type Known = (Arc<View>, Option<Rc<Facts>>);

/// The client ends when its handle is dropped.
struct VolumeUnit {
    volume: VolumeId,
    /// The mapping that it was opened by: who logged in on its terms did not on another one's.
    mapped: Version,
    target: String,
    client: ClientHandle,
    meta: MetaHandle,
    peers: Peers,
    node: NodeId,
    fabric: u64,
    /// The last facts, and the view that they are of.
    known: RefCell<Option<Known>>,
}

impl VolumeUnit {
    fn facts_of(&self, view: &View) -> Option<Facts> {
        let record = view.volumes.get(&self.volume).filter(|v| !v.deleted)?;
        let mapping = view.iscsi.get(&self.volume);
        let mapping = mapping.filter(|mapping| mapping.created == self.mapped)?;
        Some(Facts {
            size_bytes: record.size_bytes,
            read_only: false,
            identity: Identity {
                naa: naa(self.fabric, self.volume),
                serial: serial(self.fabric, self.volume),
                target: self.target.clone(),
            },
            port: self.node.0,
            groups: groups(view, record),
            version: mapping.version,
            state: Arc::new(mapping.state.clone()),
        })
    }
}

/// Locally assigned: four bits say so, 28 are of the fabric, 32 are the volume's number.
fn naa(fabric: u64, volume: VolumeId) -> u64 {
    3 << 60 | (mix(fabric) & 0x0fff_ffff) << 32 | u64::from(volume.0)
}

fn serial(fabric: u64, volume: VolumeId) -> String {
    format!("{:016x}{:08x}", fabric, volume.0)
}

/// A target port group a site. The owner's is the best; of a volume that nobody serves now, its
/// home's, where the next owner will be.
fn groups(view: &View, record: &VolumeRecord) -> Vec<PortGroup> {
    let owner = record.owner.and_then(|o| view.nodes.get(&o.node));
    let best = owner.map_or(record.home, |node| node.site);
    let ports = |site: SiteId| {
        let there = view.nodes.iter();
        let there = there.filter(|(_, n)| n.site == site && n.presence != Presence::Gone);
        there.map(|(id, _)| id.0).collect()
    };
    let there = view
        .sites
        .iter()
        .filter(|(_, s)| s.presence != Presence::Gone);
    there
        .map(|(site, _)| PortGroup {
            // 0 is no group.
            id: u16::from(site.0) + 1,
            access: match *site == best {
                true => AccessState::Optimized,
                false => AccessState::NonOptimized,
            },
            ports: ports(*site),
        })
        .collect()
}

impl Unit for VolumeUnit {
    fn facts(&self) -> Option<Rc<Facts>> {
        let view = self.meta.view();
        let mut known = self.known.borrow_mut();
        match &*known {
            Some((of, facts)) if Arc::ptr_eq(of, &view) => facts.clone(),
            _ => {
                let facts = self.facts_of(&view).map(Rc::new);
                *known = Some((view, facts.clone()));
                facts
            }
        }
    }

    fn refresh(&self) -> LocalBoxFuture<'static, ()> {
        let caught_up = self.meta.catch_up(Scope::Global, CREATION_MAX);
        async move {
            let _missed = caught_up.await;
        }
        .boxed_local()
    }

    fn change(&self, expected: Version, state: UnitState) -> LocalBoxFuture<'static, Changed> {
        let volume = self.volume;
        let command = AdminCommand::SetUnitState {
            volume,
            expected,
            state: Box::new(state),
        };
        let changed = self.meta.admin(command);
        let (meta, peers) = (self.meta.clone(), self.peers.clone());
        async move {
            match changed.await {
                Ok(AdminReply::Done) => {}
                Ok(AdminReply::Refused(AdminRefusal::Stale | AdminRefusal::NotMapped)) => {
                    return Changed::Stale;
                }
                _ => return Changed::Unavailable,
            }
            let _missed = meta.catch_up(Scope::Global, TOLD_MAX).await;
            let told = move || all_know(&meta.view(), &peers, volume, expected);
            // It is committed, whoever knows of it.
            let _ = tokio::task::spawn_blocking(told).await;
            Changed::Done
        }
        .boxed_local()
    }

    fn submit(&self, request: Request) -> LocalBoxFuture<'static, Reply> {
        let submitted = self.client.submit(request);
        async move {
            match submitted.await {
                Ok(answered) => answered
                    .await
                    .unwrap_or(Reply::Error(BlockError::NoSession)),
                Err(_) => Reply::Error(BlockError::NoSession),
            }
        }
        .boxed_local()
    }
}

/// Waits until every portal that answers knows a mapping beyond that version, and nothing is under
/// way there that an older one let begin: who preempted another one may rely on it. What does not
/// answer, or has not ended, in time is not waited for.
fn all_know(view: &View, peers: &Peers, volume: VolumeId, beyond: Version) {
    let since = std::time::Instant::now();
    let mut left = members(view);
    while !left.is_empty() && since.elapsed() < TOLD_MAX {
        let heard = peers.ask(&left, Question::Iscsi(Some(volume)));
        let behind = |figures: &super::peers::Figures| {
            let known = figures.iscsi.as_ref().and_then(|of| of.version);
            known.is_some_and(|version| version <= beyond)
        };
        left.retain(|node| heard.get(node).is_some_and(behind));
        if !left.is_empty() {
            std::thread::sleep(TOLD_PAUSE);
        }
    }
}

/// Tells of the front end, for as long as anybody may ask. Who asked may have given up.
pub async fn tell(meta: MetaHandle, hub: Rc<Hub>, mut asked: mpsc::Receiver<IscsiQuestion>) {
    while let Some(question) = asked.recv().await {
        match question {
            IscsiQuestion::Sessions(answer) => {
                let seen = hub.sessions().into_iter().map(|session| IscsiSession {
                    initiator: session.names.port(),
                    target: session.names.target.unwrap_or_default(),
                    client: session.client,
                });
                let _ = answer.send(seen.collect());
            }
            IscsiQuestion::Oldest(volume, answer) => {
                let view = meta.view();
                let record = view.volumes.get(&volume);
                let target = record.and_then(|record| target_name(&record.name));
                let _ = answer.send(target.and_then(|target| hub.oldest_under_way(&target)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use model::ids::VolumeId;

    use super::{naa, serial};

    #[test]
    fn volumes_are_told_apart_in_and_between_fabrics() {
        let (a, b) = (VolumeId(1), VolumeId(2));
        assert_eq!(naa(7, a) >> 60, 3);
        assert_ne!(naa(7, a), naa(7, b));
        assert_ne!(naa(7, a), naa(8, a));
        assert_eq!(serial(0xab, a), "00000000000000ab00000001");
    }
}
