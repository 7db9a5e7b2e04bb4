//! The daemon's side of the admin API: what a node knows and does when asked.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use actix::Addr;
use actors::runtime::{DiskFigures, Dropped, GetStats, Switchboard};
use actors::volume::VolumeStats;
use model::geometry::Code;
use model::ids::{DiskId, DiskRef, NodeId, SiteId, VolumeId};
use model::meta::{MetaReply, MetaRequest, Refusal};
use model::placement::{Presence, View, VolumeRecord};

use super::join::{Admitter, make_token};
use super::meta::MetaHandle;
use crate::admin::protocol::{
    Answer, CacheDropped, Condition, Degraded, Deleted, Disk, DiskSyncs, Disks, Failure,
    FailureKind, Journal, JournalFile, Node, Nodes, Pong, Reply, Request, Site, Sites, Status,
    Syncs, Token, UpOf, Volume, Volumes,
};
use crate::admin::server::Handler;

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
    /// The actors; absent until the node serves.
    pub switchboard: Mutex<Option<Addr<Switchboard>>>,
    /// The authority, where this node has it.
    pub admitter: Option<Arc<Admitter>>,
    /// Names and paths of this node's disks.
    pub disks: Mutex<BTreeMap<DiskId, (String, String)>>,
}

type Stats = (
    BTreeMap<VolumeId, VolumeStats>,
    BTreeMap<DiskId, DiskFigures>,
);

fn fail(kind: FailureKind, message: impl Into<String>) -> Failure {
    Failure {
        kind,
        message: message.into(),
    }
}

fn no_volume(name: &str) -> Failure {
    fail(
        FailureKind::NotFound,
        format!("there is no volume '{name}': `atoll volume list` shows them"),
    )
}

fn not_now() -> Failure {
    fail(FailureKind::NotNow, "this node does not serve yet")
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
        match request {
            Request::Ping => Ok(Reply::Pong(self.pong())),
            Request::Token { .. } => self.token(),
            Request::VolumeCreate {
                name,
                size_bytes,
                home,
                code,
            } => self.create(&name, size_bytes, home.as_deref(), &code),
            Request::VolumeList => {
                let view = self.meta.view();
                let stats = self.stats().map(|s| s.0).unwrap_or_default();
                let live = view.volumes.values().filter(|v| !v.deleted);
                let volumes = live.map(|v| volume(&view, v, stats.get(&v.id))).collect();
                Ok(Reply::Volumes(Volumes { volumes }))
            }
            Request::VolumeShow { name } => self.show(&name),
            Request::VolumeResize { name, size_bytes } => {
                let volume = self.named(&name)?.id;
                self.change(MetaRequest::ResizeVolume { volume, size_bytes })
            }
            Request::VolumeDelete { name } => {
                let volume = self.named(&name)?.id;
                self.change(MetaRequest::DeleteVolume { volume })?;
                Ok(Reply::Deleted(Deleted { deleted: name }))
            }
            Request::VolumeMove { name, to } => self.move_volume(&name, &to),
            Request::SiteList => Ok(Reply::Sites(sites(&self.meta.view()))),
            Request::NodeList => Ok(Reply::Nodes(nodes(&self.meta.view()))),
            Request::DiskList => Ok(Reply::Disks(self.disk_list()?)),
            Request::Status => Ok(Reply::Status(status(&self.meta.view(), &self.name))),
            Request::CacheDrop => {
                let switchboard = self.switchboard()?;
                futures::executor::block_on(switchboard.send(Dropped)).map_err(|_| not_now())?;
                Ok(Reply::CacheDropped(CacheDropped { dropped_bytes: 0 }))
            }
            Request::DebugSyncs => Ok(Reply::Syncs(self.syncs()?)),
            Request::DebugJournal => Ok(Reply::Journal(self.journal()?)),
        }
    }

    fn switchboard(&self) -> Result<Addr<Switchboard>, Failure> {
        let guard = self
            .switchboard
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        guard.clone().ok_or_else(not_now)
    }

    fn stats(&self) -> Result<Stats, Failure> {
        futures::executor::block_on(self.switchboard()?.send(GetStats)).map_err(|_| not_now())
    }

    fn pong(&self) -> Pong {
        let view = self.meta.view();
        let waiting_for = if self.switchboard().is_err() {
            Some("its disks".to_owned())
        } else if view
            .nodes
            .get(&self.node)
            .is_none_or(|n| n.presence != Presence::Up)
        {
            Some("its site group to take it in".to_owned())
        } else {
            None
        };
        Pong {
            node: self.name.clone(),
            ready: waiting_for.is_none(),
            waiting_for,
        }
    }

    fn token(&self) -> Result<Reply, Failure> {
        let Some(admitter) = &self.admitter else {
            let why = "this node does not hold the fabric's authority: ask the node that `atoll init` made";
            return Err(fail(FailureKind::NotNow, why));
        };
        let token = make_token(&admitter.authority, self.quic, &self.meta)
            .map_err(|e| fail(FailureKind::NotNow, e.to_string()))?;
        Ok(Reply::Token(Token { token }))
    }

    fn named(&self, name: &str) -> Result<VolumeRecord, Failure> {
        self.meta
            .view()
            .volume_named(name)
            .cloned()
            .ok_or_else(|| no_volume(name))
    }

    fn ask(&self, request: MetaRequest) -> Result<VolumeRecord, Failure> {
        let reply = self.meta.request(request).blocking_recv();
        match reply.map_err(|_| fail(FailureKind::NotNow, "this node is stopping"))? {
            MetaReply::Volume(Some(record)) => Ok(record),
            MetaReply::Volume(None) | MetaReply::Done => Err(no_volume("")),
            MetaReply::Refused { reason, .. } => Err(refused(reason)),
            MetaReply::Unavailable => Err(fail(
                FailureKind::Unknown,
                "no quorum of the global placement group answers: look with `atoll status`, then try again",
            )),
        }
    }

    fn change(&self, request: MetaRequest) -> Result<Reply, Failure> {
        let record = self.ask(request)?;
        Ok(Reply::Volume(volume(&self.meta.view(), &record, None)))
    }

    fn create(
        &self,
        name: &str,
        size_bytes: u64,
        home: Option<&str>,
        code: &str,
    ) -> Result<Reply, Failure> {
        let view = self.meta.view();
        let code = Code::from_str(code).map_err(|e| fail(FailureKind::Refused, e.to_string()))?;
        let sites = u8::try_from(view.sites.len()).unwrap_or(u8::MAX);
        let code = code.over_sites(sites);
        let home = match home {
            Some(home) => site_named(&view, home)?,
            None => view
                .nodes
                .get(&self.node)
                .map(|n| n.site)
                .ok_or_else(not_now)?,
        };
        let journal = journal_disks(&view, home)?;
        let name = name.to_owned();
        self.change(MetaRequest::CreateVolume {
            name,
            size_bytes,
            code,
            home,
            journal,
        })
    }

    fn show(&self, name: &str) -> Result<Reply, Failure> {
        let record = self.named(name)?;
        let stats = self.stats()?.0.remove(&record.id);
        let elsewhere = record.owner.is_some_and(|owner| owner.node != self.node);
        if elsewhere && stats.is_none() {
            let view = self.meta.view();
            let owner = record.owner.and_then(|o| view.nodes.get(&o.node));
            let owner = owner.map_or("another node", |n| n.name.as_str());
            let why = format!("volume '{name}' is served by {owner}, which does not answer");
            return Err(fail(FailureKind::NotNow, why));
        }
        Ok(Reply::Volume(volume(
            &self.meta.view(),
            &record,
            stats.as_ref(),
        )))
    }

    fn move_volume(&self, name: &str, to: &str) -> Result<Reply, Failure> {
        let record = self.named(name)?;
        let view = self.meta.view();
        let (to, _) = view
            .nodes
            .iter()
            .find(|(_, n)| n.name == to)
            .ok_or_else(|| fail(FailureKind::NotFound, format!("there is no node '{to}'")))?;
        let request = MetaRequest::MoveVolume {
            volume: record.id,
            expected: record.epoch,
            to: *to,
        };
        self.change(request)
    }

    fn disk_list(&self) -> Result<Disks, Failure> {
        let view = self.meta.view();
        let figures = self.stats()?.1;
        let own = self.disks.lock().unwrap_or_else(PoisonError::into_inner);
        let disks = view
            .disks
            .iter()
            .map(|(id, disk)| {
                let path = own
                    .get(id)
                    .map_or_else(String::new, |(_, path)| path.clone());
                Disk {
                    name: disk_name(&view, *id),
                    site: site_name(&view, view.site_of(*id)),
                    condition: condition(disk.presence),
                    path,
                    capacity_bytes: disk.capacity_bytes,
                    used_bytes: figures.get(id).map_or(0, |f| f.fragment_bytes),
                }
            })
            .collect();
        Ok(Disks { disks })
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
                    volumes: Vec::new(),
                });
            }
        }
        Ok(Journal { files })
    }
}

fn refused(reason: Refusal) -> Failure {
    let message = match reason {
        Refusal::NoVolume => "there is no such volume",
        Refusal::BadName => "the name is taken or not allowed: 1 to 255 bytes without '@' and '/'",
        Refusal::BadSize => "the size must be a positive multiple of 4096 bytes",
        Refusal::BadReplicas => {
            "the journal needs one disk that is up in each site: see `atoll status`"
        }
        Refusal::BadCode => "the code does not fit the fabric's sites: rs:4+2 fits three",
        Refusal::NotYours => "the node is unknown, or down",
        Refusal::StaleEpoch | Refusal::StaleVersion => "the volume changed meanwhile: try again",
    };
    fail(FailureKind::Refused, message)
}

fn site_named(view: &View, name: &str) -> Result<SiteId, Failure> {
    let site = view.sites.iter().find(|(_, s)| s.name == name);
    site.map(|(id, _)| *id)
        .ok_or_else(|| fail(FailureKind::NotFound, format!("there is no site '{name}'")))
}

/// One disk in each site, home's first, those with the fewest journals.
fn journal_disks(view: &View, home: SiteId) -> Result<Vec<DiskRef>, Failure> {
    let mut load: BTreeMap<DiskId, u32> = BTreeMap::new();
    for volume in view.volumes.values().filter(|v| !v.deleted) {
        for at in &volume.journal.replicas {
            *load.entry(at.disk).or_default() += 1;
        }
    }
    let mut sites: Vec<SiteId> = view.sites.keys().copied().collect();
    sites.sort_by_key(|site| *site != home);
    sites
        .iter()
        .map(|site| {
            let up = view.disks.iter().filter(|(id, disk)| {
                disk.presence == Presence::Up && view.site_of(**id) == Some(*site)
            });
            let least = up.min_by_key(|(id, _)| (load.get(id).copied().unwrap_or(0), id.0));
            least.map(|(_, disk)| disk.at).ok_or_else(|| {
                let site = site_name(view, Some(*site));
                fail(
                    FailureKind::NotNow,
                    format!("site {site} has no disk that is up: see `atoll status`"),
                )
            })
        })
        .collect()
}

fn site_name(view: &View, site: Option<SiteId>) -> String {
    site.and_then(|id| view.sites.get(&id))
        .map_or_else(String::new, |s| s.name.clone())
}

fn disk_name(view: &View, id: DiskId) -> String {
    let node = view.disks.get(&id).and_then(|d| view.nodes.get(&d.node));
    format!("{}/{}", node.map_or("?", |n| n.name.as_str()), id.0)
}

fn volume(view: &View, record: &VolumeRecord, stats: Option<&VolumeStats>) -> Volume {
    let owner = record
        .owner
        .and_then(|o| view.nodes.get(&o.node))
        .map(|n| n.name.clone());
    let stats = stats.filter(|s| s.serving);
    let checkpoint = &record.checkpoint;
    Volume {
        name: record.name.clone(),
        size_bytes: record.size_bytes,
        home: site_name(view, Some(record.home)),
        code: record.code.to_string(),
        owner,
        epoch: record.epoch.0,
        logical_bytes: stats.map_or(checkpoint.mapped_blocks * model::BLOCK_BYTES as u64, |s| {
            s.logical_bytes
        }),
        stored_bytes: stats.map_or(checkpoint.stored_bytes, |s| s.stored_bytes),
        untrimmed_bytes: stats.map_or(0, |s| s.untrimmed_bytes),
        journal: record
            .journal
            .replicas
            .iter()
            .map(|at| disk_name(view, at.disk))
            .collect(),
    }
}

fn condition(presence: Presence) -> Condition {
    match presence {
        Presence::Up => Condition::Up,
        Presence::Down => Condition::Away,
        Presence::Gone => Condition::Lost,
    }
}

fn owned_by(view: &View, node: NodeId) -> u32 {
    let owned = view
        .volumes
        .values()
        .filter(|v| v.owner.is_some_and(|o| o.node == node));
    u32::try_from(owned.count()).unwrap_or(u32::MAX)
}

fn sites(view: &View) -> Sites {
    let sites = view
        .sites
        .iter()
        .map(|(id, site)| {
            let of_site = view.nodes.iter().filter(|(_, n)| n.site == *id);
            Site {
                name: site.name.clone(),
                condition: condition(site.presence),
                nodes: of_site.clone().map(|(_, n)| n.name.clone()).collect(),
                volumes_owned: of_site.map(|(n, _)| owned_by(view, *n)).sum(),
            }
        })
        .collect();
    Sites { sites }
}

fn nodes(view: &View) -> Nodes {
    let nodes = view
        .nodes
        .iter()
        .map(|(id, node)| Node {
            name: node.name.clone(),
            site: site_name(view, Some(node.site)),
            condition: condition(node.presence),
            quic: node.address.to_string(),
            nbd: node.nbd.to_string(),
            volumes_owned: owned_by(view, *id),
        })
        .collect();
    Nodes { nodes }
}

fn up_of(presences: impl Iterator<Item = Presence>) -> UpOf {
    let (mut up, mut of) = (0, 0);
    for presence in presences {
        of += 1;
        up += u32::from(presence == Presence::Up);
    }
    UpOf { up, of }
}

fn status(view: &View, seen_by: &str) -> Status {
    let mut degraded = Vec::new();
    let mut add = |what: String, why: &str, doing: &str| {
        degraded.push(Degraded {
            what,
            why: why.to_owned(),
            doing: doing.to_owned(),
        });
    };
    for (id, site) in &view.sites {
        if site.presence == Presence::Down {
            add(
                format!("site {}", site.name),
                "none of its nodes answers",
                "its volumes are served elsewhere; new segments are spread over the sites that are left, \
                 older ones stand without slack until it returns",
            );
        }
        let up = view
            .nodes
            .values()
            .filter(|n| n.site == *id && n.presence == Presence::Up);
        if site.presence == Presence::Up && up.count() == 0 {
            add(
                format!("site {}", site.name),
                "no node of it is up",
                "waiting for its nodes to join or return",
            );
        }
    }
    for node in view.nodes.values() {
        let away = view
            .sites
            .get(&node.site)
            .is_some_and(|s| s.presence == Presence::Down);
        if node.presence == Presence::Down && !away {
            add(
                format!("node {}", node.name),
                "it does not answer",
                "its volumes are served by others; its fragments are read around until it returns",
            );
        }
    }
    for (id, disk) in &view.disks {
        let node_up = view
            .nodes
            .get(&disk.node)
            .is_some_and(|n| n.presence == Presence::Up);
        if disk.presence == Presence::Down && node_up {
            add(
                format!("disk {}", disk_name(view, *id)),
                "its node does not serve it: it failed, or its directory is gone",
                "its fragments are read around, new segments avoid it; restart the node with an empty \
                 directory for a new disk",
            );
        }
    }
    let live = || view.volumes.values().filter(|v| !v.deleted);
    let served = live().filter(|v| v.clean || v.owner.is_some_and(|o| o.boot.is_some()));
    let volumes = UpOf {
        up: u32::try_from(served.count()).unwrap_or(u32::MAX),
        of: u32::try_from(live().count()).unwrap_or(u32::MAX),
    };
    for volume in live().filter(|v| !v.clean && v.owner.is_none_or(|o| o.boot.is_none())) {
        add(
            format!("volume {}", volume.name),
            "it has no owner yet",
            "a node is taking it over",
        );
    }
    Status {
        healthy: degraded.is_empty(),
        degraded,
        seen_by: seen_by.to_owned(),
        sites: up_of(view.sites.values().map(|s| s.presence)),
        nodes: up_of(view.nodes.values().map(|n| n.presence)),
        disks: up_of(view.disks.values().map(|d| d.presence)),
        volumes,
    }
}
