//! The daemon's side of the admin API: what a node knows and does when asked.

mod added;
mod create;
mod fence;
mod iscsi;
mod lifecycle;
mod recover;
mod repairs;
mod resize;
mod safety;
mod scrub;
mod shared;
mod show;
mod status;
mod votes;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use model::ids::{DiskId, NodeId, SiteId};
use model::meta::{MetaRequest, Refusal};
use model::placement::{Duty, Node, Presence, Site, View, VolumeRecord};
use raft_meta::GroupId;
use raft_meta::message::Members;
use raft_meta::node::Scope;
use tokio::sync::oneshot;

use self::show::{Heard, disk_name, site_name};
use super::join::{Admitter, make_token};
use super::meta::MetaHandle;
use super::nbd_tls::{NbdTlsError, Subject};
use super::peers::{DiskNames, Peers, Question, Stats};
use super::removal::Removal;
use crate::admin::ping::{Pong, WaitingFor};
use crate::admin::protocol::{
    Answer, CacheDropped, Deleted, DiskSyncs, Failure, FailureKind, Journal, JournalFile,
    NbdCertificate, NbdSubject, NodeCache, Reply, Request, Syncs, Token, VolumeState,
};
use crate::admin::server::Handler;

/// A volume that its new owner does not serve by then is shown as it is.
const MOVE_MAX: Duration = Duration::from_secs(10);
/// A site that shows no disk by then has none that is up.
const DISKS_MAX: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(50);

/// What can't be said of now by then is told as it is known: sooner while no leader is heard.
const CATCH_UP_MAX: Duration = Duration::from_secs(1);
const LEADERLESS_MAX: Duration = Duration::from_millis(250);

const BLOCK_BYTES: u64 = model::BLOCK_BYTES as u64;

/// What the handler needs of the running node.
pub struct Admin {
    /// The node's name.
    pub name: String,
    /// Its id.
    pub node: NodeId,
    /// Where it listens for nodes.
    pub quic: SocketAddr,
    /// The metadata.
    pub meta: MetaHandle,
    /// The other daemons, and this one's own figures once it serves.
    pub peers: Peers,
    /// The authority, where this node has it.
    pub admitter: Option<Arc<Admitter>>,
    /// Names and paths of this node's disks.
    pub disks: Arc<Mutex<DiskNames>>,
    /// Whether it was removed.
    pub removal: Removal,
}

fn fail(kind: FailureKind, message: impl Into<String>) -> Failure {
    Failure {
        kind,
        message: message.into(),
    }
}

fn no_volume(name: &str) -> Failure {
    fail(
        FailureKind::NotFound,
        format!("there is no volume '{name}': `atoll volume list` shows what there is"),
    )
}

fn not_now() -> Failure {
    fail(
        FailureKind::NotNow,
        "no node that answers serves yet: they are starting, try again in a moment",
    )
}

fn removed() -> Failure {
    let why = "this node was removed from the fabric: stop it, delete its directory and join anew; ask another node";
    fail(FailureKind::NotNow, why)
}

fn no_authority() -> Failure {
    let why = "this node does not hold the fabric's authority: ask on a site's first node (it has a ca.key)";
    fail(FailureKind::NotNow, why)
}

impl Handler for Admin {
    fn handle(&self, request: Request) -> Answer {
        match self.answer(request) {
            Ok(reply) => Answer::Ok(reply),
            Err(failure) => Answer::Error(failure),
        }
    }
}

impl Admin {
    fn answer(&self, request: Request) -> Result<Reply, Failure> {
        if tells_of_the_fabric(&request) {
            self.catch_up();
        }
        match request {
            Request::Ping => Ok(Reply::Pong(self.pong())),
            _ if self.removal.is_known() => Err(removed()),
            Request::Token { node, site } => self.token(&node, &site),
            Request::VolumeCreate {
                name,
                size_bytes,
                home,
                code,
            } => self.create(&name, size_bytes, home.as_deref(), &code),
            Request::VolumeList => {
                let view = self.meta.view();
                let owners = show::owners(view.volumes.values().filter(|v| !v.deleted));
                let heard = self.hear(&view, owners, Question::All)?;
                Ok(Reply::Volumes(show::volumes(&view, &heard)))
            }
            Request::VolumeShow { name } => self.shown(&self.named(&name)?),
            Request::VolumeResize { name, size_bytes } => self.resize(&name, size_bytes),
            Request::VolumeDelete { name } => {
                let volume = self.named(&name)?.id;
                let request = MetaRequest::DeleteVolume { volume };
                match self.ask_once(request)? {
                    // A tombstone is no volume any more, whoever was first.
                    Ok(_) | Err(Refusal::NoVolume) => {}
                    Err(reason) => return Err(refused(reason, &name, 0)),
                }
                Ok(Reply::Deleted(Deleted { deleted: name }))
            }
            Request::VolumeMove { name, to } => self.move_volume(&name, &to),
            Request::VolumeRecover { name, accept_loss } => {
                self.recover_volume(&name, accept_loss.as_deref())
            }
            Request::SiteList => {
                let (view, heard) = self.hear_all()?;
                Ok(Reply::Sites(show::sites(&view, &heard)))
            }
            Request::SiteWitness { name, one_left } => self.site_witness(&name, one_left),
            Request::SiteSafeToFence { name } => self.safe_to_fence(&name),
            Request::SiteFence {
                name,
                drill,
                left_ms,
            } => self.fence(&name, drill, left_ms),
            Request::SiteFenceRenew {
                name,
                drill,
                number,
                left_ms,
            } => self.renew_fence(&name, (drill, number), left_ms),
            Request::SiteFenceLift { drill } => self.lift_fence(drill),
            Request::NodeList => {
                let (view, heard) = self.hear_all()?;
                Ok(Reply::Nodes(show::nodes(&view, &heard)))
            }
            Request::NodeRemove { name } => self.remove_node(&name),
            Request::NodeDrain { name, undo } => self.node_duty(&name, duty(undo)),
            Request::NodeMaintenance { name, wait_s } => self.maintenance(&name, wait_s),
            Request::NodeSafeToStop { name } => self.safe_to_stop(&name),
            Request::DiskDrain { name, undo } => self.disk_duty(&name, duty(undo)),
            Request::DiskRemove { name, lost } => self.remove_disk(&name, lost),
            Request::DiskList => {
                let (view, heard) = self.hear_all()?;
                Ok(Reply::Disks(show::disks(&view, &heard)))
            }
            Request::ScrubStart { disk, node } => {
                self.scrub_start(disk.as_deref(), node.as_deref())
            }
            Request::ScrubStatus => self.scrub_status(),
            Request::IscsiMap {
                volume,
                initiators,
                chap,
                mutual_chap,
            } => self.iscsi_map(&volume, initiators, (chap, mutual_chap)),
            Request::IscsiUnmap { volume } => self.iscsi_unmap(&volume),
            Request::IscsiList => Ok(self.iscsi_list()),
            Request::IscsiSessions => self.iscsi_sessions(),
            Request::Status => {
                let (view, heard) = self.hear_all()?;
                let groups = self.groups()?;
                let status = status::status(&view, &heard, &groups, &self.name);
                Ok(Reply::Status(status))
            }
            Request::CacheDrop => self.drop_caches(),
            Request::NbdCertificate {
                subject,
                signing_request,
            } => self.nbd_certificate(subject, &signing_request),
            Request::DebugSyncs => Ok(Reply::Syncs(self.syncs()?)),
            Request::DebugJournal => Ok(Reply::Journal(self.journal()?)),
        }
    }

    fn hear(
        &self,
        view: &View,
        nodes: BTreeSet<NodeId>,
        question: Question,
    ) -> Result<Heard, Failure> {
        if self.peers.is_serving() {
            Ok(Heard::from(&self.peers, view, nodes, question))
        } else {
            Err(not_now())
        }
    }

    /// What all members tell, and the placement as of now: both are waited for at once, as silent
    /// nodes let wait for both.
    fn hear_all(&self) -> Result<(Arc<View>, Heard), Failure> {
        let catching_up = self.begin_catch_up();
        let known = self.meta.view();
        let asked = show::members(&known);
        let heard = self.hear(&known, asked.clone(), Question::All)?;
        // Nobody answers only where the process is about to end.
        let _missed = catching_up.blocking_recv();
        let view = self.meta.view();
        let members = show::members(&view);
        let heard = match members.is_subset(&asked) {
            true => heard,
            false => self.hear(&view, members, Question::All)?,
        };
        Ok((view, heard))
    }

    /// A volume with what its owner tells.
    fn shown(&self, record: &VolumeRecord) -> Result<Reply, Failure> {
        let view = self.meta.view();
        let owner = show::owners(std::iter::once(record));
        let heard = self.hear(&view, owner, Question::Volume(record.id))?;
        Ok(Reply::Volume(show::volume(&view, record, &heard)))
    }

    fn drop_caches(&self) -> Result<Reply, Failure> {
        let view = self.meta.view();
        let heard = self.hear(&view, show::members(&view), Question::DropCaches)?;
        let of_node = |(id, figures): (&NodeId, &super::peers::Figures)| NodeCache {
            node: show::node_name(&view, *id),
            dropped_bytes: figures.cache_bytes,
        };
        let mut nodes: Vec<NodeCache> = heard.figures.iter().map(of_node).collect();
        nodes.sort_by(|a, b| a.node.cmp(&b.node));
        Ok(Reply::CacheDropped(CacheDropped {
            dropped_bytes: nodes.iter().map(|n| n.dropped_bytes).sum(),
            nodes,
            unreachable: heard.unreachable(&view),
        }))
    }

    fn nbd_certificate(&self, subject: NbdSubject, request: &str) -> Result<Reply, Failure> {
        let authority = &self.admitter.as_ref().ok_or_else(no_authority)?.nbd;
        let subject = match subject {
            NbdSubject::Client(name) => Subject::Client(name),
            NbdSubject::Server(names) => Subject::Server(names),
        };
        let signed = authority.sign(&subject, request);
        let certificate =
            signed.map_err(|e: NbdTlsError| fail(FailureKind::Refused, e.to_string()))?;
        Ok(Reply::NbdCertificate(NbdCertificate {
            certificate,
            authority: authority.certificate().to_owned(),
        }))
    }

    fn stats(&self) -> Result<Stats, Failure> {
        self.peers.own_stats().ok_or_else(not_now)
    }

    fn pong(&self) -> Pong {
        let view = self.meta.view();
        let node = view.nodes.get(&self.node);
        let site = node.and_then(|n| view.sites.get(&n.site));
        let waiting_for = if self.removal.is_known() {
            Some(WaitingFor::Removed)
        } else if !self.peers.is_serving() {
            Some(WaitingFor::Disks)
        } else if node.is_some_and(|n| n.presence == Presence::Up) && self.meta.is_told() {
            None
        } else if site.is_some_and(|s| s.presence != Presence::Up) {
            Some(WaitingFor::GlobalGroup)
        } else {
            Some(WaitingFor::SiteGroup)
        };
        Pong {
            node: self.name.clone(),
            ready: waiting_for.is_none(),
            hears_quorum: self.meta.hears_quorum(),
            waiting_for,
        }
    }

    fn token(&self, node: &str, site: &str) -> Result<Reply, Failure> {
        let admitter = self.admitter.as_ref().ok_or_else(no_authority)?;
        let token = make_token(&admitter.authority, self.quic, (node, site), &self.meta)
            .map_err(|e| fail(FailureKind::NotNow, e.to_string()))?;
        Ok(Reply::Token(Token { token }))
    }

    /// Who votes in which group.
    fn groups(&self) -> Result<BTreeMap<GroupId, Members>, Failure> {
        let groups = self.meta.members().blocking_recv();
        groups.map_err(|_| unknown_outcome())
    }

    /// Lets this node know what others answered before it was asked, if there is a quorum.
    fn catch_up(&self) {
        let _missed = self.begin_catch_up().blocking_recv();
    }

    fn begin_catch_up(&self) -> oneshot::Receiver<BTreeSet<GroupId>> {
        let within = match self.meta.hears_quorum() {
            true => CATCH_UP_MAX,
            false => LEADERLESS_MAX,
        };
        self.meta.catch_up(Scope::All, within)
    }

    /// A volume by its name. One that is unknown is so only by a quorum's word, if there is one soon.
    fn named(&self, name: &str) -> Result<VolumeRecord, Failure> {
        let known = || self.meta.view().volume_named(name).cloned();
        let asked = || {
            let _missed = self
                .meta
                .catch_up(Scope::Global, CATCH_UP_MAX)
                .blocking_recv();
            known()
        };
        known().or_else(asked).ok_or_else(|| no_volume(name))
    }

    fn ask(
        &self,
        request: MetaRequest,
        refused: impl FnOnce(Refusal) -> Failure,
    ) -> Result<VolumeRecord, Failure> {
        self.ask_once(request)?.map_err(refused)
    }

    fn move_volume(&self, name: &str, to: &str) -> Result<Reply, Failure> {
        let record = self.named(name)?;
        let view = self.meta.view();
        let (to_id, node) = node_named(&view, to)?;
        if node.presence != Presence::Up {
            let why = format!(
                "node '{to}' is not up: `atoll status` says why, `atoll node list` shows others"
            );
            return Err(fail(FailureKind::Refused, why));
        }
        let request = MetaRequest::MoveVolume {
            volume: record.id,
            expected: record.epoch,
            to: to_id,
        };
        let moved = self.ask(request, |reason| refused(reason, name, 0))?;
        // Until the new owner serves, or time is up: then it is shown as it is. This node's view
        // may lag behind the answer: who serves by the record before is not the new owner.
        let deadline = Instant::now() + MOVE_MAX;
        loop {
            let seen = self.named(name)?;
            let reply = self.shown(&seen)?;
            let is_done = match &reply {
                Reply::Volume(v) => {
                    seen.epoch >= moved.epoch
                        && matches!(v.state, VolumeState::Idle | VolumeState::Serving)
                }
                _ => true,
            };
            if is_done || Instant::now() > deadline {
                return Ok(reply);
            }
            std::thread::sleep(POLL);
        }
    }

    fn here(&self, id: DiskId) -> (String, String, String) {
        let view = self.meta.view();
        (
            disk_name(&view, id),
            self.name.clone(),
            site_name(&view, view.site_of(id)),
        )
    }

    fn syncs(&self) -> Result<Syncs, Failure> {
        let figures = self.stats()?.1;
        let disks = figures
            .into_iter()
            .map(|(id, figures)| {
                let (disk, node, site) = self.here(id);
                DiskSyncs {
                    disk,
                    node,
                    site,
                    journal_syncs: figures.syncs,
                }
            })
            .collect();
        Ok(Syncs { disks })
    }

    fn journal(&self) -> Result<Journal, Failure> {
        let figures = self.stats()?.1;
        let mut files = Vec::new();
        for (id, figures) in figures {
            let (disk, node, site) = self.here(id);
            let own = self.disks.lock().unwrap_or_else(PoisonError::into_inner);
            let root = own
                .get(&id)
                .map_or_else(String::new, |(_, path)| path.clone());
            drop(own);
            for (_, path, trimmed) in figures.files {
                files.push(JournalFile {
                    disk: disk.clone(),
                    node: node.clone(),
                    site: site.clone(),
                    path: format!("{root}/{path}"),
                    bytes: figures.journal_file_bytes,
                    trimmed,
                });
            }
        }
        Ok(Journal { files })
    }
}

/// Whether its answer is about more than the node that is asked; lists of all see to it themselves.
fn tells_of_the_fabric(request: &Request) -> bool {
    !matches!(
        request,
        Request::Ping
            | Request::Token { .. }
            | Request::NbdCertificate { .. }
            | Request::DebugSyncs
            | Request::DebugJournal
            | Request::Status
            // A drill's word must not wait for a group that has just lost its leader.
            | Request::SiteFenceRenew { .. }
            | Request::SiteFenceLift { .. }
            | Request::SiteList
            | Request::NodeList
            | Request::DiskList
    )
}

/// What is wanted of something that is drained, or undrained.
fn duty(undo: bool) -> Duty {
    if undo { Duty::Serve } else { Duty::Drain }
}

fn unknown_outcome() -> Failure {
    fail(
        FailureKind::Unknown,
        "no quorum of the global placement group answers, and it is unknown whether it was done: \
         look with `atoll status`, then try again",
    )
}

fn taken(name: &str) -> Failure {
    let why = format!(
        "there is a volume '{name}' already (`atoll volume show {name}`): choose another name"
    );
    fail(FailureKind::Refused, why)
}

/// `name` and `size_bytes` are the request's, where it has them.
fn refused(reason: Refusal, name: &str, size_bytes: u64) -> Failure {
    let message = match reason {
        Refusal::NoVolume => return no_volume(name),
        Refusal::BadName => format!(
            "a volume can't be called '{name}': 1 to 255 bytes without '@', '/' and control characters, and not another volume's name"
        ),
        Refusal::BadSize if size_bytes > 0 && !size_bytes.is_multiple_of(BLOCK_BYTES) => {
            let down = size_bytes / BLOCK_BYTES * BLOCK_BYTES;
            let up = down.saturating_add(BLOCK_BYTES);
            let near = if down == 0 { up.to_string() } else { format!("{down} or {up}") };
            format!("a size of {size_bytes} bytes is no multiple of {BLOCK_BYTES}: give {near}")
        }
        Refusal::BadSize => format!("a size of {size_bytes} bytes can't be: give a positive multiple of {BLOCK_BYTES}"),
        Refusal::BadReplicas => {
            "the journal needs a disk in the home site and in up to two others that are up: `atoll status` says what is not".to_owned()
        }
        Refusal::BadCode => {
            "the code does not fit the fabric's sites: of rs:K+M no site may hold more than M fragments, geo:K+M \
             needs two sites or more; rs:4+2 fits one site and three, rs:2+2 two, geo:2+1 two and three"
                .to_owned()
        }
        Refusal::NotYours => "that node is unknown, or down: `atoll node list` shows which are up".to_owned(),
        Refusal::StaleEpoch | Refusal::StaleVersion | Refusal::BelowRecord => {
            "the volume changed meanwhile: look with `atoll volume show`, then try again".to_owned()
        }
        Refusal::Full => {
            "the fabric has as many volumes as its metadata holds (about 24,000; deleted ones stay in it for good)".to_owned()
        }
        Refusal::CutPending => format!(
            "'{name}' was made smaller, and can grow once its owner has journaled that: it can't commit now \
             (`atoll status` says why), try again when it serves"
        ),
    };
    fail(FailureKind::Refused, message)
}

fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> Failure {
    let known: Vec<&str> = known.collect();
    let why = format!(
        "there is no {what} '{name}': {what}s are {}",
        known.join(", ")
    );
    fail(FailureKind::NotFound, why)
}

/// Of those that were removed, a name may be another's by now.
fn node_named(view: &View, name: &str) -> Result<(NodeId, Node), Failure> {
    let members = || {
        view.nodes
            .iter()
            .filter(|(_, n)| n.presence != Presence::Gone)
    };
    let found = members().find(|(_, n)| n.name == name);
    found
        .map(|(id, node)| (*id, node.clone()))
        .ok_or_else(|| unknown("node", name, members().map(|(_, n)| n.name.as_str())))
}

/// The same of a site.
fn site_named(view: &View, name: &str) -> Result<SiteId, Failure> {
    let found = present_sites(view).find(|(_, s)| s.name == name);
    found.map(|(id, _)| *id).ok_or_else(|| {
        unknown(
            "site",
            name,
            present_sites(view).map(|(_, s)| s.name.as_str()),
        )
    })
}

/// Sites that were not removed.
fn present_sites(view: &View) -> impl Iterator<Item = (&SiteId, &Site)> {
    let all = view.sites.iter();
    all.filter(|(_, site)| site.presence != Presence::Gone)
}

#[cfg(test)]
mod tests {
    use model::ids::{NodeId, SiteId};
    use model::placement::{Presence, View};

    use super::show::tests::view;
    use super::{node_named, present_sites, site_named};

    /// A node and a site were removed, and others took their names.
    fn renewed() -> View {
        let mut view = view();
        let (mut node, mut site) = (
            view.nodes[&NodeId(1)].clone(),
            view.sites[&SiteId(1)].clone(),
        );
        view.nodes.insert(NodeId(9), node.clone());
        view.sites.insert(SiteId(9), site.clone());
        (node.presence, site.presence) = (Presence::Gone, Presence::Gone);
        view.nodes.insert(NodeId(1), node.clone());
        view.sites.insert(SiteId(1), site.clone());
        (node.name, site.name) = ("lost".into(), "lost".into());
        view.nodes.insert(NodeId(3), node);
        view.sites.insert(SiteId(3), site);
        view
    }

    #[test]
    fn a_name_is_of_who_takes_part() {
        let view = renewed();
        assert_eq!(node_named(&view, "a1").expect("it is there").0, NodeId(9));
        assert_eq!(site_named(&view, "a").expect("it is there"), SiteId(9));
        assert_eq!(present_sites(&view).count(), 1);
        for failure in [
            node_named(&view, "lost").expect_err("it was removed"),
            site_named(&view, "lost").expect_err("it was removed"),
        ] {
            let (_, known) = failure.message.split_once(": ").expect("names");
            assert!(!known.contains("lost"), "{}", failure.message);
        }
    }
}
