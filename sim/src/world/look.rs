//! Looking at the world: what a run, the faults and the invariants ask of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use actors::volume::Volume;
use model::ids::{ClientRef, DiskRef, NodeId, SiteId, VolumeId};
use model::placement::{View, VolumeRecord};
use raft_meta::message::GroupId;

use super::World;
use crate::node::{OpenDisk, Process, SimDisk, SimNode};

impl World {
    /// Sites, each with its nodes, as the world knows them.
    #[must_use]
    pub fn sites(&self) -> BTreeMap<SiteId, Vec<NodeId>> {
        let mut sites: BTreeMap<SiteId, Vec<NodeId>> = BTreeMap::new();
        for node in self.nodes.values() {
            sites.entry(node.site).or_default().push(node.id);
        }
        sites
    }

    /// The processes that run.
    pub fn running(&self) -> impl Iterator<Item = &Process> {
        self.nodes.values().filter_map(|n| n.process.as_ref())
    }

    /// The newest view of a running node that has every table that its own state of the global
    /// group names: one that has just started knows few, and by those alone nothing would be at
    /// stake.
    #[must_use]
    pub fn whole_view(&self) -> Option<&Arc<View>> {
        let is_whole = |p: &&Process| {
            let view = p.host.current_view();
            let named = p.meta.global().map(|global| global.pools.keys());
            named.is_some_and(|mut pools| pools.all(|pool| view.pools.contains_key(pool)))
        };
        let views = self.running().filter(is_whole);
        let views = views.map(|p| p.host.current_view());
        let known = views.filter(|view| !view.pools.is_empty());
        known.max_by_key(|view| view.version)
    }

    /// Who owns a volume, by the latest word that any running node has.
    #[must_use]
    pub fn owner(&self, volume: VolumeId) -> Option<NodeId> {
        let processes = self.nodes.values().filter_map(|n| n.process.as_ref());
        let records = processes.filter_map(|p| p.host.current_view().volumes.get(&volume));
        records.max_by_key(|r| r.epoch)?.owner.map(|o| o.node)
    }

    /// The node that has the replica of a volume's journal in a site, by the latest word that
    /// any running node has.
    #[must_use]
    pub fn replica_in(&self, volume: VolumeId, site: SiteId) -> Option<NodeId> {
        let processes = self.nodes.values().filter_map(|n| n.process.as_ref());
        let records = processes.filter_map(|p| p.host.current_view().volumes.get(&volume));
        let record = records.max_by_key(|r| (r.epoch, r.journal.version))?;
        let mut of_site = self.nodes.values().filter(|n| n.site == site);
        let has = |n: &&SimNode| {
            let mut replicas = record.journal.replicas.iter();
            replicas.any(|at| n.disks.contains_key(&at.disk))
        };
        of_site.find(has).map(|n| n.id)
    }

    /// A volume's record in the newest state of the global group that any running node has.
    #[must_use]
    pub fn record(&self, volume: VolumeId) -> Option<&VolumeRecord> {
        let processes = self.nodes.values().filter_map(|n| n.process.as_ref());
        let newest = processes.max_by_key(|p| p.meta.applied(GroupId::Global))?;
        newest.meta.global()?.volumes.get(&volume)
    }

    /// The clients that have a session with a node's machine of a volume.
    #[must_use]
    pub fn clients(&self, node: NodeId, volume: VolumeId) -> Vec<ClientRef> {
        let process = self.nodes.get(&node).and_then(|n| n.process.as_ref());
        let machine = process.and_then(|p| p.volumes.get(&volume));
        machine.map(Volume::clients).unwrap_or_default()
    }

    /// A disk in that life, if a process has it open.
    #[must_use]
    pub fn open_of(&self, at: DiskRef) -> Option<&OpenDisk> {
        self.sim_disk(at)?.open.as_ref()
    }

    /// A disk in that life.
    #[must_use]
    pub fn sim_disk(&self, at: DiskRef) -> Option<&SimDisk> {
        let mut disks = self.nodes.values().filter_map(|n| n.disks.get(&at.disk));
        disks.find(|d| d.at == at)
    }

    /// Whether something is lost or damaged for good.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.damaged
    }

    /// How a volume fares, in words, for a failure's report.
    #[must_use]
    pub fn describe(&self, volume: VolumeId) -> String {
        let Some(owner) = self.owner(volume) else {
            return format!("nobody owns {volume}");
        };
        let Some(process) = self.nodes.get(&owner).and_then(|n| n.process.as_ref()) else {
            return format!("its owner {owner} does not run");
        };
        let view = process.host.current_view();
        let away = view.away();
        match process.volumes.get(&volume) {
            Some(machine) => {
                let pools: Vec<String> = view.pools.keys().map(ToString::to_string).collect();
                let stats = machine.stats();
                format!("{owner} has {stats:?}, away: {away:?}, pools: {pools:?}")
            }
            None => format!("{owner} owns {volume} but does not serve it, away: {away:?}"),
        }
    }
}
