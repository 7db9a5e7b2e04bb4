//! What befalls disks, and what the operator does about it or beside it.

use disk_store::catalog::Catalog;
use disk_store::file::sim::Fault as FileFault;
use disk_store::file::{File, FileLayer};
use model::ids::{DiskId, NodeId, SiteId};
use model::meta::{MetaRequest, MetaToken};
use raft_meta::GroupId;

use super::Run;
use crate::faults::{Fault, FaultPlan, Ill, Kind};
use crate::world::RUN_TOKENS;

/// Places looked at for one with something written.
const LOOKS: usize = 64;

/// Where fragments and journal entries are; not the ledger, not the mark.
const EXTENTS: &str = "extents/0";
const JOURNAL: &str = "journal/file-";

impl Run {
    /// Which disk of a node an illness befalls, and which illness that is; within the budget.
    pub(super) fn diagnose(&mut self, plan: &FaultPlan, node: NodeId) -> Option<(DiskId, Ill)> {
        let disks: Vec<DiskId> = self.world.nodes[&node].disks.keys().copied().collect();
        let record = self.world.record(self.volume);
        let replicas = record
            .map(|r| r.journal.replicas.clone())
            .unwrap_or_default();
        let holds = |disk: &DiskId| replicas.iter().any(|at| at.disk == *disk);
        let replica = disks.iter().copied().find(holds);
        let any = disks.get(plan.other as usize % disks.len().max(1)).copied();
        let blocks = |rng: &mut crate::rng::Rng| rng.below(64) * 4096;
        let (disk, ill) = match plan.kind {
            Kind::PullDisk => (any?, Ill::Pulled),
            Kind::HangDisk => (replica.filter(|_| plan.both).or(any)?, Ill::Hung),
            Kind::WipeDisk => (replica.or(any)?, Ill::Wiped),
            Kind::FailDisk => (replica.or(any)?, Ill::Failing),
            Kind::Unreadable => (any?, Ill::Unreadable),
            Kind::Full => (any?, Ill::Full),
            Kind::RotFragments => (any?, Ill::RottenFragments),
            Kind::Misdirect => (any?, Ill::MisdirectedFragment(blocks(&mut self.rng))),
            Kind::LoseJournal => (replica?, Ill::LostJournal),
            Kind::MisdirectJournal => (replica?, Ill::MisdirectedJournal(blocks(&mut self.rng))),
            _ => {
                let restart = !self.rng.one_in(3);
                (replica?, Ill::RottenJournal { restart })
            }
        };
        self.atlas.forget_repaired(&mut self.world, self.volume);
        let world = &self.world;
        let view = world.whole_view()?;
        let costs_journal = ill.costs_journal() && holds(&disk);
        let allowed = (ill != Ill::Full || self.atlas.allows_full(view, disk))
            && (!ill.costs_fragments() || self.atlas.allows_fragments(view, disk))
            && (!costs_journal || self.atlas.allows_journal(world, self.volume, disk));
        allowed.then_some((disk, ill))
    }

    /// Whether a node's site keeps a disk that serves, without these: slots stay in their site.
    pub(super) fn keeps_disk(&self, node: NodeId, without: &[DiskId]) -> bool {
        let site = self.world.nodes[&node].site;
        let serves = |n: NodeId, disk: DiskId| {
            let wished = [(n, None), (n, Some(disk))];
            !without.contains(&disk) && wished.iter().all(|of| self.is_to_serve(of))
        };
        let nodes = self.world.nodes.values();
        let mut left = nodes.filter(|n| n.site == site && !self.lost.contains(&n.id));
        left.any(|n| n.disks.keys().any(|disk| serves(n.id, *disk)))
    }

    /// Whether disks of a node may go for good, with all that they hold (R24): their slots are
    /// moved (R20).
    pub(super) fn may_lose(&mut self, node: NodeId, disks: &[DiskId]) -> bool {
        if !self.keeps_disk(node, disks) {
            return false;
        }
        self.atlas.forget_repaired(&mut self.world, self.volume);
        let world = &self.world;
        let Some(view) = world.whole_view() else {
            return false;
        };
        let holds = |disk: &DiskId| {
            let record = world.record(self.volume);
            record.is_some_and(|r| r.journal.replicas.iter().any(|at| at.disk == *disk))
        };
        let mut journals = disks.iter().filter(|d| holds(d));
        self.atlas.allows_loss(view, disks)
            && journals.all(|disk| self.atlas.allows_journal(world, self.volume, *disk))
    }

    /// Whether its site's group and the global group keep their majorities without a node: one
    /// that lost it decides nothing any more, and is not founded anew by itself (R11).
    pub(super) fn outlives(&self, node: NodeId) -> bool {
        let site = self.world.nodes[&node].site;
        [GroupId::Site(site), GroupId::Global]
            .into_iter()
            .all(|group| self.keeps_majority(group, &[node]))
    }

    /// Whether a group keeps its majority without some nodes, and without those that are lost.
    pub(super) fn keeps_majority(&self, group: GroupId, without: &[NodeId]) -> bool {
        let led = self.world.running().find(|p| p.meta.is_leader(group));
        let Some(members) = led.and_then(|p| p.meta.members(group)) else {
            return false;
        };
        let gone = |n: &NodeId| without.contains(n) || self.lost.contains(n);
        [&members.voters, &members.outgoing].into_iter().all(|set| {
            let left = set.iter().filter(|m| !gone(&m.node())).count();
            set.is_empty() || left * 2 > set.len()
        })
    }

    /// Disks go for good.
    pub(super) fn note_loss(&mut self, node: NodeId, disks: &[DiskId]) {
        let life = self.world.nodes[&node].life;
        self.world.damaged = true;
        for disk in disks {
            self.atlas.note_fragments(*disk);
            self.atlas.note_journal(*disk, life);
        }
    }

    /// It befalls the disk.
    pub(super) fn befall(&mut self, node: NodeId, disk: DiskId, ill: Ill) {
        let life = self.world.nodes[&node].life;
        if ill.costs_fragments() {
            self.world.damaged = true;
            match ill {
                Ill::Wiped => self.atlas.note_fragments(disk),
                _ => self.atlas.note_rot(disk),
            }
        }
        if ill.costs_journal() {
            self.atlas.note_journal(disk, life);
        }
        if ill == Ill::Full {
            self.atlas.note_full(disk, true);
        }
        let files = self.world.nodes[&node].disks[&disk].files.clone();
        match ill {
            Ill::Pulled => self.world.pull_disk(node, disk),
            Ill::Hung => self.world.hang_disk(node, disk),
            Ill::Wiped => self.world.remove_disk(node, disk),
            Ill::RottenFragments => self.rot_fragments(node, disk),
            Ill::RottenJournal { .. } => self.rot_journal(node, disk),
            Ill::LostJournal => {
                self.world.bereft.insert(disk);
                files.lose("journal/");
            }
            Ill::Failing | Ill::Unreadable | Ill::Full => {
                file_faults(ill).into_iter().for_each(|f| files.inject(f));
            }
            Ill::MisdirectedFragment(by) => files.inject(astray(EXTENTS, by)),
            Ill::MisdirectedJournal(by) => files.inject(astray(JOURNAL, by)),
        }
    }

    /// What was for a while is over.
    pub(super) fn cure(&mut self, node: NodeId, disk: DiskId, ill: Ill) {
        let there = self.world.nodes[&node].disks.get(&disk);
        let is_there = there.is_some();
        if let Some(d) = there {
            let files = d.files.clone();
            file_faults(ill).iter().for_each(|f| files.remove_fault(f));
        }
        match ill {
            // It may be lost for good meanwhile.
            Ill::Pulled if is_there => self.world.return_disk(node, disk),
            Ill::Hung => self.world.unhang_disk(node, disk),
            Ill::Wiped => self.give_disk(node, self.plan.topology.disk),
            Ill::Full => self.atlas.note_full(disk, false),
            Ill::Failing
            | Ill::LostJournal
            | Ill::RottenJournal { restart: true }
            | Ill::MisdirectedJournal(_) => self.restart(node),
            // Then the catalog may forget those whose header rotted.
            Ill::RottenFragments if self.rng.one_in(2) => self.restart(node),
            _ => {}
        }
    }

    /// A node's process ends and begins.
    fn restart(&mut self, node: NodeId) {
        if !self.dead.contains(&node) && !self.lost.contains(&node) {
            self.kill(node, false);
            self.dead.remove(&node);
            self.start_node(node);
        }
    }

    /// All disks of a site, if there is no other one that lacks room.
    pub(super) fn disks_of(&self, site: SiteId) -> Fault {
        let nodes = self.world.nodes.values().filter(|n| n.site == site);
        let disks = nodes.flat_map(|n| n.disks.keys().map(|disk| (n.id, *disk)));
        let disks: Vec<(NodeId, DiskId)> = disks.collect();
        match disks.is_empty() || self.atlas.any_full() {
            true => Fault::Spared,
            false => Fault::FullSite(disks),
        }
    }

    /// These disks have no room, or have it again.
    pub(super) fn fill(&mut self, disks: &[(NodeId, DiskId)], full: bool) {
        for (node, disk) in disks {
            self.atlas.note_full(*disk, full);
            let Some(d) = self.world.nodes[node].disks.get(disk) else {
                continue;
            };
            for fault in no_space() {
                match full {
                    true => d.files.inject(fault),
                    false => d.files.remove_fault(&fault),
                }
            }
        }
    }

    fn rot_fragments(&mut self, node: NodeId, disk: DiskId) {
        let d = &self.world.nodes[&node].disks[&disk];
        let rows = d.catalog.scan(None, usize::MAX).unwrap_or_default();
        // The budget is the disk's: each of its fragments may be hit.
        let one_in = self.rng.within(1, 3);
        for (_, row) in rows {
            if !self.rng.one_in(one_in) {
                continue;
            }
            let header = u64::from(row.header_bytes) * u64::from(self.rng.one_in(2));
            let at = row.data_offset() - header
                + self.rng.below(row.bytes() - u64::from(row.header_bytes));
            let path = format!("extents/{:08}", row.extent);
            d.files.flip_bit(&path, at, self.rng.below(8) as u8);
        }
        // The catalog lies on the same medium: it fails while it is used, and is rebuilt.
        if self.rng.one_in(3) {
            d.catalog.corrupt_after(self.rng.below(64));
        }
    }

    /// Bits flip where something was written: most in the file that is written to.
    fn rot_journal(&mut self, node: NodeId, disk: DiskId) {
        let d = &self.world.nodes[&node].disks[&disk];
        let is_log = |path: &String| path.starts_with(JOURNAL);
        let mut paths: Vec<String> = d.files.paths().into_iter().filter(is_log).collect();
        if let Some(open) = &d.open
            && !self.rng.one_in(3)
        {
            let current = open.journal.current_file();
            let files = open.journal.files().into_iter();
            paths = files
                .filter(|f| f.file == Some(current))
                .map(|f| f.path)
                .collect();
        }
        if paths.is_empty() {
            // All of it is lost already.
            return;
        }
        for _ in 0..self.rng.within(1, 8) {
            for _ in 0..LOOKS {
                let path = self.rng.pick(&paths);
                let Some(len) = d.files.len_of(path).filter(|len| *len > 0) else {
                    continue;
                };
                let at = self.rng.below(len);
                let file = d.files.open(path).and_then(|file| file.read_at(at, 1));
                if file.is_ok_and(|byte| byte[0] != 0) {
                    d.files.flip_bit(path, at, self.rng.below(8) as u8);
                    break;
                }
            }
        }
    }

    /// Where a volume would be moved: a node that runs, in another site.
    pub(super) fn elsewhere(&mut self, owner: NodeId) -> Option<NodeId> {
        let site = self.world.nodes[&owner].site;
        let others = |n: &NodeId| self.world.nodes[n].site != site;
        let others: Vec<NodeId> = self.running().into_iter().filter(others).collect();
        (!others.is_empty()).then(|| *self.rng.pick(&others))
    }

    /// The operator moves the volume, by word of the node that it moves to.
    pub(super) fn move_volume(&mut self, to: NodeId) {
        let Some(record) = self.world.record(self.volume) else {
            return;
        };
        let request = MetaRequest::MoveVolume {
            volume: self.volume,
            expected: record.epoch,
            to,
        };
        self.next_tag += 1;
        let token = MetaToken(RUN_TOKENS + self.next_tag);
        self.world.ask_meta(to, token, request);
    }
}

/// What an illness does to a disk's files for a while.
fn file_faults(ill: Ill) -> Vec<FileFault> {
    match ill {
        Ill::Failing => vec![
            FileFault::WriteError("journal/".to_owned()),
            FileFault::SyncError(EXTENTS.to_owned()),
        ],
        Ill::Unreadable => vec![FileFault::ReadError {
            path: EXTENTS.to_owned(),
            from: 0,
            to: u64::MAX,
        }],
        Ill::Full => no_space().into(),
        _ => Vec::new(),
    }
}

/// A disk without space: for fragments, for another journal file, for what it knows of moves.
fn no_space() -> [FileFault; 3] {
    [EXTENTS, JOURNAL, "stamps"].map(|path| FileFault::Full(path.to_owned()))
}

fn astray(path: &str, by: u64) -> FileFault {
    let path = path.to_owned();
    match by {
        0 => FileFault::LoseNextWrite(path),
        by => FileFault::MisdirectNextWrite { path, by },
    }
}
