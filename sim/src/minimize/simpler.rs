//! Simpler values of everything in a plan but its operations.

use std::time::Duration;

use model::time::Time;

use super::{Search, Size, ddmin};
use crate::faults;
use crate::network::NetworkTerms;
use crate::plan::topology::Machines;
use crate::plan::{Ending, Plan};

/// A time that is shorter than this is not made shorter.
const SHORT: Duration = Duration::from_millis(20);

impl<S: FnMut(Size, u64)> Search<S> {
    pub(super) fn simplify(&mut self) {
        let faults = self.best.faults.clone();
        ddmin(&faults, |kept| {
            let mut candidate = self.best.clone();
            candidate.faults = kept.to_vec();
            self.try_plan(candidate)
        });
        self.fewer_clients();
        self.smaller_fabric();
        self.plainer_terms();
        self.simpler_faults();
        self.shorter_time();
        self.smaller_volume();
    }

    fn change(&mut self, change: impl FnOnce(&mut Plan)) -> bool {
        let mut candidate = self.best.clone();
        change(&mut candidate);
        self.try_plan(candidate)
    }

    fn fewer_clients(&mut self) {
        let mut i = 0;
        while self.best.workload.clients.len() > 1 && i < self.best.workload.clients.len() {
            let dropped = self.change(|plan| {
                plan.workload.clients.remove(i);
                let operations = &mut plan.workload.operations;
                operations.retain(|op| op.client != i);
                operations
                    .iter_mut()
                    .filter(|op| op.client > i)
                    .for_each(|op| op.client -= 1);
            });
            if !dropped {
                i += 1;
            }
        }
        for i in 0..self.best.workload.clients.len() {
            let mut lane = 0;
            while self.best.workload.clients[i].lanes.len() > 1
                && lane < self.best.workload.clients[i].lanes.len()
            {
                let dropped = self.change(|plan| {
                    plan.workload.clients[i].lanes.remove(lane);
                });
                if !dropped {
                    lane += 1;
                }
            }
        }
    }

    fn smaller_fabric(&mut self) {
        for sites in 3..self.best.topology.sites {
            if self.change(|plan| plan.topology.sites = sites) {
                break;
            }
        }
        for nodes in 1..self.best.topology.nodes {
            if self.change(|plan| plan.topology.nodes = nodes) {
                break;
            }
        }
        for disks in 1..self.best.topology.disks {
            if self.change(|plan| plan.topology.disks = disks) {
                break;
            }
        }
    }

    fn plainer_terms(&mut self) {
        let plain = NetworkTerms::default();
        if !self.change(|plan| plan.network = plain) {
            self.change(|plan| plan.network.loss_one_in = 0);
            self.change(|plan| plan.network.twice_one_in = 0);
            self.change(|plan| plan.network.reorder = false);
            self.change(|plan| plan.network.jitter = plain.jitter);
        }
        self.change(|plan| plan.machines = Machines::default());
        if !self.change(|plan| plan.ending = Ending::default()) {
            self.change(|plan| plan.ending.power_loss = false);
            self.change(|plan| plan.ending.power_loss_after = false);
            self.change(|plan| plan.ending.clean_stop = false);
        }
    }

    fn simpler_faults(&mut self) {
        for i in 0..self.best.faults.len() {
            self.change(|plan| plan.faults[i].moment = None);
            self.change(|plan| plan.faults[i].power = false);
            let narrower: Option<faults::Kind> = match self.best.faults[i].kind {
                faults::Kind::KillSite => Some(faults::Kind::Kill),
                faults::Kind::SlowSite => Some(faults::Kind::SlowDisks),
                _ => None,
            };
            if let Some(kind) = narrower {
                self.change(|plan| plan.faults[i].kind = kind);
            }
            while self.best.faults[i].lasts > SHORT {
                if !self.change(|plan| plan.faults[i].lasts /= 2) {
                    break;
                }
            }
            self.change(|plan| plan.faults[i].lasts = rounded(plan.faults[i].lasts));
            self.change(|plan| {
                let fault = &mut plan.faults[i];
                fault.armed = Time::ZERO + rounded(fault.armed.since(Time::ZERO));
            });
        }
    }

    fn shorter_time(&mut self) {
        while self.best.workload.span > SHORT {
            if !self.change(|plan| plan.workload.span /= 2) {
                break;
            }
        }
        self.change(|plan| {
            let first = plan.workload.operations.iter().map(|op| op.at).min();
            let first = first.unwrap_or_default().saturating_sub(SHORT);
            for op in &mut plan.workload.operations {
                op.at -= first;
            }
            for fault in &mut plan.faults {
                let after = fault.armed.since(Time::ZERO).saturating_sub(first);
                fault.armed = Time::ZERO + after;
            }
        });
        self.change(|plan| {
            for op in &mut plan.workload.operations {
                op.at = rounded(op.at);
            }
        });
    }

    fn smaller_volume(&mut self) {
        self.change(|plan| plan.workload.wide = false);
        let last = self
            .best
            .workload
            .operations
            .iter()
            .map(|op| op.first + op.count);
        let block = model::BLOCK_BYTES as u64;
        match last.max() {
            Some(last) => {
                let bytes = last * crate::oracle::SECTOR as u64;
                self.change(|plan| plan.workload.volume = bytes.next_multiple_of(block));
            }
            None => {
                while self.best.workload.volume > block {
                    let half = (self.best.workload.volume / 2).next_multiple_of(block);
                    if !self.change(|plan| plan.workload.volume = half) {
                        break;
                    }
                }
            }
        }
    }
}

/// A round number of milliseconds, not later.
fn rounded(of: Duration) -> Duration {
    Duration::from_millis(u64::try_from(of.as_millis()).unwrap_or(u64::MAX))
}
