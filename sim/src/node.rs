//! A simulated node: the machines that a node's process runs, and its disks' files, which
//! outlive the process.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use actors::client::{Client, ClientConfig};
use actors::disk::{Disk, DiskConfig, Found, Reopening};
use actors::heal::{HealConfig, Healer};
use actors::host::Host;
use actors::segment::{SegmentConfig, Segments};
use actors::volume::{Volume, VolumeConfig};
use disk_store::catalog::MemCatalog;
use disk_store::file::sim::SimFiles;
use disk_store::fragments::{Fragments, FragmentsConfig};
use disk_store::journal::{Journal, JournalConfig};
use model::ids::{Boot, ClientId, DiskId, DiskRef, NodeId, RequestId, SiteId, VolumeId};
use model::placement::View;
use model::sometimes::{Sometimes, reached};
use model::store::{DeviceError, FragmentDone, FragmentOp, JournalDone, JournalOp, OpId};
use model::time::Time;
use raft_meta::log::{LogWrite, MemoryLog, RaftLog};
use raft_meta::message::{GroupId, Term};
use raft_meta::node::{Identity, MetaNode};
use transport::paths::Paths;

use crate::timers::Timers;
use crate::world::Store;

/// A disk and what is on it.
pub struct SimDisk {
    /// Its life.
    pub at: DiskRef,
    /// What it may hold.
    pub bytes: u64,
    /// Its files: they survive the process, and lose what was not synced.
    pub files: SimFiles,
    /// Its catalog's durable part.
    pub catalog: MemCatalog,
    /// Whether it was formatted.
    pub formatted: bool,
    /// The running half, while the node's process runs.
    pub open: Option<OpenDisk>,
    /// So many faults make it slow now.
    pub slowed: u32,
    /// It was taken out.
    pub pulled: bool,
    /// It answers nothing for now.
    pub hung: bool,
    /// What its stores would have answered since.
    pub held: Vec<Store>,
    /// It was given up for that, and is opened again once it lets go.
    pub is_let_go: bool,
    /// When it is opened again, as it could not be.
    pub reopening: Reopening,
    /// When that is, by the node's clock.
    pub reopen_at: Option<Time>,
}

/// What a store's thread is doing.
#[derive(Clone, Copy, Default, Debug)]
pub struct Pace {
    /// All that was asked of it is done then.
    pub busy: Time,
    /// When it last ended an operation.
    pub used: Time,
    /// Whether it is to settle when it was idle for long enough.
    pub settle_planned: bool,
}

/// A disk that a process has open.
pub struct OpenDisk {
    /// The machine.
    pub machine: Disk,
    /// The journal's store.
    pub journal: Journal<SimFiles>,
    /// The fragments' store.
    pub fragments: Fragments<SimFiles, MemCatalog>,
    /// What the journal's thread was asked and has not done.
    pub journal_queue: VecDeque<(OpId, JournalOp)>,
    /// What the fragments' thread was asked and has not done.
    pub fragment_queue: VecDeque<(OpId, FragmentOp)>,
    /// The journal's thread.
    pub journal_pace: Pace,
    /// The fragments' thread.
    pub fragment_pace: Pace,
}

impl OpenDisk {
    /// A store's thread.
    pub fn pace(&mut self, store: Store) -> &mut Pace {
        match store {
            Store::Journal => &mut self.journal_pace,
            Store::Fragments => &mut self.fragment_pace,
        }
    }

    /// Carries out the journal's oldest operation.
    pub fn next_journal_op(&mut self) -> Option<(OpId, Result<JournalDone, DeviceError>)> {
        let (op, request) = self.journal_queue.pop_front()?;
        Some((op, self.journal.execute(request)))
    }

    /// Carries out the fragments' oldest operation.
    pub fn next_fragment_op(&mut self) -> Option<(OpId, Result<FragmentDone, DeviceError>)> {
        let (op, request) = self.fragment_queue.pop_front()?;
        Some((op, self.fragments.execute(request)))
    }
}

/// Terms of all machines in a run.
#[derive(Clone, Debug)]
pub struct MachineTerms {
    /// Volumes.
    pub volume: VolumeConfig,
    /// Segments.
    pub segment: SegmentConfig,
    /// Clients.
    pub client: ClientConfig,
    /// Disks.
    pub disk: DiskConfig,
    /// Healers.
    pub heal: HealConfig,
    /// Metadata.
    pub meta: raft_meta::node::Config,
    /// Journal files.
    pub journal_file_bytes: u64,
}

/// A node's process.
pub struct Process {
    /// The metadata machine.
    pub meta: MetaNode,
    /// The ways to other nodes.
    pub paths: Paths,
    /// Which volumes run here.
    pub host: Host,
    /// The volumes' machines.
    pub volumes: BTreeMap<VolumeId, Volume>,
    /// The Segment machines beside them.
    pub segments: BTreeMap<VolumeId, Segments>,
    /// What fills its disks' slots.
    pub healer: Healer,
    /// Front ends' clients.
    pub clients: BTreeMap<ClientId, Client>,
    /// Lives of Volume machines begun.
    pub lives: u64,
    /// The life of each volume's machines that run, or ran last.
    pub life_of: BTreeMap<VolumeId, u64>,
    /// Metadata questions that are out.
    pub asked: BTreeMap<u64, (model::ids::Actor, model::meta::MetaToken)>,
    /// The next of their numbers.
    pub next_token: u64,
}

/// A node's clock: it runs on while the node is down, as CLOCK_BOOTTIME does while a machine
/// sleeps, and never backward.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// A moment of the world's time, and what the clock said then.
    base: (Time, Time),
    /// So many millionths of a second it gains in a second.
    ppm: i64,
}

const MILLION: i128 = 1_000_000;

impl Clock {
    /// A clock that runs right, so much ahead.
    #[must_use]
    pub fn ahead(nanos: u64) -> Self {
        Self {
            base: (Time::ZERO, Time(nanos)),
            ppm: 0,
        }
    }

    /// From now on it gains (or loses) so much.
    pub fn drift(&mut self, now: Time, ppm: i64) {
        assert!(i128::from(ppm) > -MILLION, "a clock never runs backward");
        self.base = (now, self.at(now));
        self.ppm = ppm;
    }

    fn at(&self, now: Time) -> Time {
        if self.ppm == 0 && now >= self.base.0 {
            return Time(self.base.1.0 + (now.0 - self.base.0.0));
        }
        let passed = i128::from(now.0) - i128::from(self.base.0.0);
        let shown = passed * (MILLION + i128::from(self.ppm)) / MILLION;
        Time(u64::try_from(i128::from(self.base.1.0) + shown).unwrap_or(0))
    }

    fn when(&self, clock: Time) -> Time {
        if self.ppm == 0 && clock >= self.base.1 {
            return Time((clock.0 - self.base.1.0).saturating_add(self.base.0.0));
        }
        let shown = i128::from(clock.0) - i128::from(self.base.1.0);
        let passed = shown * MILLION / (MILLION + i128::from(self.ppm));
        Time(u64::try_from(i128::from(self.base.0.0) + passed).unwrap_or(0))
    }
}

/// A node.
pub struct SimNode {
    /// Its id.
    pub id: NodeId,
    /// Its site.
    pub site: SiteId,
    /// Nodes that it was told of when it joined: by them it finds the fabric again.
    pub contacts: Vec<NodeId>,
    /// Lives so far; events of earlier ones are void.
    pub life: u64,
    /// Its clock.
    pub clock: Clock,
    /// Its disks.
    pub disks: BTreeMap<DiskId, SimDisk>,
    /// The metadata's durable log.
    pub meta_log: MemoryLog,
    /// What is being written to it.
    pub meta_writes: VecDeque<(GroupId, LogWrite)>,
    /// All of that is done then.
    pub meta_busy: Time,
    /// The groups that its metadata machine leads, and in which term.
    pub leads: BTreeMap<GroupId, Term>,
    /// Its process, while it runs.
    pub process: Option<Process>,
    /// Who it is.
    pub identity: Identity,
    /// When its machines' timers go off.
    pub armed: Timers,
}

impl SimNode {
    /// The node's own clock.
    #[must_use]
    pub fn clock(&self, now: Time) -> Time {
        self.clock.at(now)
    }

    /// The world's time of a moment of the node's clock.
    #[must_use]
    pub fn world_time(&self, clock: Time) -> Time {
        self.clock.when(clock)
    }

    /// The oldest write of the metadata's log is durable.
    pub fn persist_next(&mut self) {
        if let Some(write) = self.meta_writes.pop_front() {
            self.meta_log.write(&[write]).expect("memory does not fail");
        }
    }

    /// Begins a process around a metadata machine.
    pub fn boot(&mut self, meta: MetaNode, heal: HealConfig) {
        let host = Host::new(self.id, Arc::new(View::default()));
        let first = RequestId::first_of_life(self.identity.boot, 0);
        let healer = Healer::new(self.id, heal, first);
        self.process = Some(Process {
            meta,
            paths: Paths::new(self.id),
            host,
            volumes: BTreeMap::new(),
            segments: BTreeMap::new(),
            healer,
            clients: BTreeMap::new(),
            lives: 0,
            life_of: BTreeMap::new(),
            asked: BTreeMap::new(),
            next_token: 0,
        });
    }

    /// The process is killed: machines are gone; with a power loss, unsynced writes too.
    pub fn kill(&mut self, seed: u64, power: bool) {
        // Of the metadata's writes under way, the first few were made.
        for _ in 0..seed % (self.meta_writes.len() as u64 + 1) {
            self.persist_next();
        }
        self.meta_writes.clear();
        self.leads.clear();
        self.process = None;
        self.life += 1;
        self.armed.clear();
        self.identity.boot = Boot(self.identity.boot.0 + 1);
        for disk in self.disks.values_mut() {
            disk.open = None;
            (disk.reopening, disk.reopen_at) = (Reopening::default(), None);
            (disk.is_let_go, disk.held) = (false, Vec::new());
            disk.files.kill();
            if power {
                disk.files.crash(seed ^ u64::from(disk.at.disk.0));
                disk.catalog.crash(seed);
            }
        }
    }
}

/// Opens a disk as a process does at its start; a new one is formatted first. One that can't be
/// opened is tried again later, one that is not there is not.
///
/// # Panics
/// If a new simulated disk can't be formatted.
pub fn open_disk(disk: &mut SimDisk, node: NodeId, terms: &MachineTerms, clock: Time) {
    disk.reopen_at = None;
    if disk.pulled {
        return;
    }
    if disk.hung {
        disk.is_let_go = true;
        return;
    }
    disk.open = try_open(disk, node, terms, clock);
    if disk.open.is_none() {
        reached(Sometimes::DiskNotOpened);
        disk.reopen_at = Some(clock + disk.reopening.pause(clock));
    }
}

fn try_open(
    disk: &mut SimDisk,
    node: NodeId,
    terms: &MachineTerms,
    clock: Time,
) -> Option<OpenDisk> {
    let config = JournalConfig {
        id: disk.at.incarnation.0,
        file_bytes: terms.journal_file_bytes,
        files_max: 1024,
        spare_files_max: 4,
    };
    let layer = disk.files.clone();
    if !std::mem::replace(&mut disk.formatted, true) {
        Journal::create(&layer, config).expect("a new simulated disk takes a journal");
    }
    let (journal, scan, _) = Journal::open(&layer, config).ok()?;
    let fragments = FragmentsConfig {
        extent_bytes: 16 << 20,
        ..FragmentsConfig::new(disk.at.incarnation.0, disk.bytes)
    };
    let catalog = disk.catalog.clone();
    let (fragments, _) = Fragments::open(&layer, catalog, fragments).ok()?;
    let found = Found {
        scan,
        damage_before: journal.damage_before(),
        room: journal.room(),
        moves: fragments.adopted().clone(),
        scrubbed: fragments.scrubbed(),
    };
    Some(OpenDisk {
        machine: Disk::open(terms.disk, disk.at, node, clock, found),
        journal,
        fragments,
        journal_queue: VecDeque::new(),
        fragment_queue: VecDeque::new(),
        journal_pace: Pace::default(),
        fragment_pace: Pace::default(),
    })
}

impl Process {
    /// Starts a volume's machines.
    pub fn start_volume(&mut self, node: NodeId, boot: Boot, id: VolumeId, terms: &MachineTerms) {
        self.lives += 1;
        self.life_of.insert(id, self.lives);
        let first = RequestId::first_of_life(boot, self.lives);
        let view = Arc::clone(self.host.current_view());
        let segments = Segments::new(node, terms.segment, Arc::clone(&view), first);
        self.segments.insert(id, segments);
        self.volumes
            .insert(id, Volume::new(id, node, terms.volume, view, first));
    }
}
