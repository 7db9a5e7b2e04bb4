//! How long service was away: after each fault, when every site that it leaves alone had a new
//! write acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model::ids::{NodeId, SiteId};
use model::time::Time;

use super::{Failure, Own, Run};
use crate::faults::{Fault, Struck};
use crate::plan::load::{ClientPlan, Place};
use crate::service::left_alone;
use crate::workload::Mix;

/// A site's acknowledgements of writes that were sent after a fault, until it was mended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Service {
    first: Time,
    last: Time,
    /// The longest time without one.
    longest: Duration,
    bytes: u64,
}

/// Those of each site, after each fault (by its entry in `Run::struck`).
pub(super) type Resumed = BTreeMap<(usize, SiteId), Service>;

impl Run {
    /// A write is acknowledged: for the faults before its call, its site is served.
    pub(super) fn note_resumed(&mut self, node: NodeId, called: Time, bytes: u64) {
        let now = self.world.now();
        let site = self.world.nodes[&node].site;
        for entry in (0..self.struck.len()).rev() {
            let (at, until) = (self.struck[entry].at, self.struck[entry].until);
            if called < at {
                continue;
            }
            if let Some(service) = self.resumed.get_mut(&(entry, site)) {
                if now <= until {
                    service.longest = service.longest.max(now.since(service.last));
                    service.last = now;
                    service.bytes += bytes;
                }
                continue;
            }
            let service = Service {
                first: now,
                last: now,
                longest: now.since(at),
                bytes,
            };
            self.resumed.insert((entry, site), service);
            let letter = self.name(node).remove(0);
            let fault = entry + 1;
            self.tell(format!(
                "site {letter} has a new write acknowledged, {} after fault {fault}",
                crate::report::seconds(now.since(at))
            ));
        }
    }

    /// The longest wait of a site that was left alone; for ever if one never went on, which is
    /// told as the time until now.
    pub(super) fn longest_wait(&self) -> Option<Duration> {
        let now = self.world.now();
        let waits = self.struck.iter().enumerate().flat_map(|(entry, struck)| {
            let asked = self.asked_after(struck);
            asked.into_iter().map(move |site| {
                let first = self.resumed.get(&(entry, site)).map(|s| s.first);
                first.unwrap_or(now).since(struck.at)
            })
        });
        waits.max()
    }

    /// Waits until it is known whether service went on as expected.
    pub(super) fn await_resumption(&mut self) -> Result<(), Failure> {
        let Some(bar) = self.plan.expect.rto else {
            return Ok(());
        };
        let latest = self.struck.iter().map(|s| s.at + bar).max();
        let Some(latest) = latest else { return Ok(()) };
        self.world.schedule(latest, Own::Tick.number());
        self.until("service goes on", bar * 2, |run| {
            run.world.now() >= latest || run.all_resumed()
        })?;
        for (entry, struck) in self.struck.iter().enumerate() {
            for site in self.asked_after(struck) {
                let letter = self.letter(site);
                let fault = entry + 1;
                let Some(service) = self.resumed.get(&(entry, site)) else {
                    return Err(Failure::Unexpected(format!(
                        "service at site {letter} to go on after fault {fault}: it never did"
                    )));
                };
                let took = service.first.since(struck.at);
                if took > bar {
                    return Err(Failure::Unexpected(format!(
                        "service at site {letter} to go on within {bar:?} after fault {fault}: it took {took:?}"
                    )));
                }
                let longest = service.longest.max(struck.until.since(service.last));
                if self.plan.expect.pause.is_some_and(|most| longest > most) {
                    return Err(Failure::Unexpected(format!(
                        "service at site {letter} all the time of fault {fault}: it paused for {longest:?}"
                    )));
                }
            }
        }
        let owner = self.world.owner(self.volume);
        let moved = self.struck.iter().any(|s| s.owner != owner);
        if self.plan.expect.owner_stays && moved {
            return Err(Failure::Unexpected(
                "the volume to keep its owner".to_owned(),
            ));
        }
        self.check_written()
    }

    fn check_written(&self) -> Result<(), Failure> {
        let written: u64 = self.resumed.values().map(|s| s.bytes).sum();
        match self.plan.expect.written {
            Some(least) if written < least => Err(Failure::Unexpected(format!(
                "{least} bytes to be written while faults last: there were {written}"
            ))),
            _ => Ok(()),
        }
    }

    fn all_resumed(&self) -> bool {
        let mut each = self.struck.iter().enumerate();
        each.all(|(entry, struck)| {
            let asked = self.asked_after(struck);
            asked
                .iter()
                .all(|site| self.resumed.contains_key(&(entry, *site)))
        })
    }

    /// Sites that a fault leaves alone and that have clients who write, in their place for good.
    fn asked_after(&self, struck: &Struck) -> BTreeSet<SiteId> {
        let scripted = !self.plan.workload.operations.is_empty();
        let writes = |c: &&ClientPlan| !scripted && c.lanes.iter().any(|m| *m != Mix::Reads);
        let clients = self.plan.workload.clients.iter().filter(writes);
        let nodes = clients.filter_map(|c| match c.place {
            Place::At(name) => self.by_name.get(&name),
            Place::NearOwner | Place::FarFromOwner => None,
        });
        let untouched = self.left_alone(&struck.fault);
        let stays = |n: &&NodeId| !is_gone(&struck.fault, **n);
        let sites = nodes.filter(stays).map(|n| self.world.nodes[n].site);
        sites.filter(|s| untouched.contains(s)).collect()
    }

    fn left_alone(&self, fault: &Fault) -> BTreeSet<SiteId> {
        let (gone, cut): (&[NodeId], &[(SiteId, SiteId)]) = match fault {
            Fault::Killed { nodes, .. } => (nodes, &[]),
            Fault::ShutDown(node) | Fault::Maintained(node) => (std::slice::from_ref(node), &[]),
            Fault::Cut(links) => (&[], links),
            // It waits as long as one that is cut, and then arrives.
            Fault::Clogged(links) => (&[], links),
            Fault::Slow(_)
            | Fault::CutNode(_)
            | Fault::Paused(_)
            | Fault::SlowDisks(_)
            | Fault::LostDisk(..)
            | Fault::QuorumLost { .. }
            | Fault::Drifted { .. }
            | Fault::Disk { .. }
            | Fault::Stopped(_)
            | Fault::Deserted
            | Fault::Moved(_)
            | Fault::Resized(_)
            | Fault::FullSite(_)
            | Fault::Drained { .. }
            | Fault::DiskAdded(..)
            | Fault::NodeAdded(..)
            | Fault::SiteAdded(_)
            | Fault::Spared => (&[], &[]),
        };
        left_alone(&self.world.sites(), gone, cut)
    }

    pub(super) fn letter(&self, site: SiteId) -> String {
        let node = self.world.nodes.values().find(|n| n.site == site);
        let name = node.map(|n| n.identity.name.chars().take(1).collect());
        name.unwrap_or_else(|| site.to_string())
    }
}

/// Whether a node is out of service by a fault.
fn is_gone(fault: &Fault, node: NodeId) -> bool {
    match fault {
        Fault::Killed { nodes, .. } => nodes.contains(&node),
        Fault::CutNode(n) | Fault::Paused(n) | Fault::ShutDown(n) | Fault::Maintained(n) => {
            *n == node
        }
        Fault::QuorumLost { owner, .. } => *owner == node,
        Fault::Cut(_)
        | Fault::LostDisk(..)
        | Fault::Slow(_)
        | Fault::SlowDisks(_)
        | Fault::Clogged(_)
        | Fault::Drifted { .. }
        | Fault::Disk { .. }
        | Fault::Stopped(_)
        | Fault::Deserted
        | Fault::Moved(_)
        | Fault::Resized(_)
        | Fault::FullSite(_)
        | Fault::Drained { .. }
        | Fault::DiskAdded(..)
        | Fault::NodeAdded(..)
        | Fault::SiteAdded(_)
        | Fault::Spared => false,
    }
}
