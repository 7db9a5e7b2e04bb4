//! Faults: armed, striking at their moment, mended.

use std::time::Duration;

use model::ids::{NodeId, SiteId};
use model::placement::Duty;
use model::time::Time;
use raft_meta::GroupId;

use super::drains::Wish;
use super::{Failure, Own, Run};
use crate::faults::{Fault, FaultPlan, Kind, Struck, Victim};

/// Lanes are busy for so long before and after a fault's moment.
const FLURRY: Duration = Duration::from_millis(60);

/// A fault beyond the budget is tried again, for so long.
const SPARED_AGAIN: Duration = Duration::from_millis(300);
const SPARED_MAX: Duration = Duration::from_secs(6);

/// By so many millionths do clocks run wrong within the lease's margin: an owner counts 950 ms
/// where a replica counts 1020, so that both may be wrong by three hundredths.
const DRIFT_PPM: i64 = 30_000;

/// And by so many beyond it.
const DRIFT_FAR_PPM: i64 = 400_000;

/// After a clock runs right again, what it promised while it ran wrong is over.
const DRIFT_ECHO: Duration = Duration::from_secs(3);

/// How far a fault has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// It waits.
    Planned,
    /// It struck, as this entry of `Run::struck`.
    Struck(usize),
    /// It is over.
    Mended,
}

impl Run {
    pub(super) fn plan_faults(&mut self) {
        let plans = self.plan.faults.clone();
        self.atlas.loses_site = plans.iter().any(|p| p.kind == Kind::LoseSite);
        for (i, mut plan) in plans.into_iter().enumerate() {
            plan.armed = self.begun + plan.armed.since(Time::ZERO);
            self.world.schedule(plan.armed, Own::Arm(i).number());
            self.flurries.push((plan.armed, plan.armed + FLURRY));
            self.faults.push((plan, Stage::Planned));
        }
    }

    /// When the last fault is over, counted from the work's begin, and more.
    pub(super) fn last_fault_by(&self) -> Duration {
        let over = |p: &FaultPlan| p.armed.since(Time::ZERO) + p.patience() + p.lasts;
        let last = self.plan.faults.iter().map(over).max();
        last.unwrap_or_default() + Duration::from_secs(60)
    }

    /// Whether every fault struck and was mended, but for those that last.
    pub(super) fn faults_are_over(&self) -> bool {
        self.faults.iter().all(|(plan, stage)| match stage {
            Stage::Planned => false,
            Stage::Struck(_) => plan.kind.is_for_good(),
            Stage::Mended => true,
        })
    }

    pub(super) fn arm(&mut self, i: usize) {
        let plan = &self.faults[i].0;
        let (moment, patience) = (plan.moment, plan.patience());
        match moment {
            None => self.strike(i),
            Some((moment, count)) => {
                let at = self.world.now() + patience;
                self.world.watch(moment, count, Own::Strike(i).number());
                self.world.schedule(at, Own::Strike(i).number());
            }
        }
    }

    pub(super) fn strike(&mut self, i: usize) {
        if self.faults[i].1 != Stage::Planned {
            return;
        }
        self.world.unwatch(Own::Strike(i).number());
        let plan = self.faults[i].0.clone();
        let fault = self.resolve(&plan);
        let at = self.world.now();
        if fault == Fault::Spared && at < plan.armed + plan.patience() + SPARED_MAX {
            // It may be within the budget later.
            self.world
                .schedule(at + SPARED_AGAIN, Own::Strike(i).number());
            return;
        }
        let until = at + plan.lasts;
        match &fault {
            Fault::Killed {
                nodes,
                power,
                for_good,
            } => {
                for node in nodes {
                    if plan.kind == Kind::LoseNode {
                        let disks: Vec<_> = self.world.nodes[node].disks.keys().copied().collect();
                        self.note_loss(*node, &disks);
                    }
                    self.kill(*node, *power);
                    if *for_good {
                        self.lost.insert(*node);
                        self.dead.remove(node);
                    }
                }
            }
            Fault::Cut(links) => links
                .iter()
                .for_each(|(a, b)| self.world.network.cut_sites(*a, *b)),
            Fault::Slow(links) => links
                .iter()
                .for_each(|(a, b)| self.world.network.slow(*a, *b)),
            Fault::CutNode(node) => self.world.network.cut_node(*node),
            Fault::Paused(node) => self.world.pause(*node, until),
            Fault::LostDisk(node, disk) => {
                self.note_loss(*node, &[*disk]);
                self.world.lose_disk(*node, *disk);
            }
            Fault::SlowDisks(nodes) => nodes
                .iter()
                .for_each(|node| self.world.slow_disks(*node, true)),
            Fault::Clogged(links) => links
                .iter()
                .for_each(|(a, b)| self.world.network.clog(*a, *b, until)),
            Fault::Drifted { node, ppm, far } => {
                self.world.drift(*node, *ppm);
                if *far {
                    self.stale_until = self.stale_until.max(until + DRIFT_ECHO);
                }
            }
            Fault::Disk { node, disk, ill } => self.befall(*node, *disk, *ill),
            Fault::Stopped(node) => self.world.stop_volume(*node, self.volume),
            Fault::ShutDown(node) => self.shut_down(*node),
            Fault::Maintained(node) => self.begin_maintenance(*node),
            Fault::Deserted => self.leave(),
            Fault::Moved(to) => self.move_volume(*to),
            Fault::Drained {
                node, disk, remove, ..
            } => {
                let wish = match remove {
                    true => Wish::Removal,
                    false => Wish::Duty(Duty::Drain),
                };
                self.world.removing.extend(disk.filter(|_| *remove));
                self.want(*node, *disk, wish);
            }
            Fault::FullSite(disks) => self.fill(disks, true),
            Fault::DiskAdded(node, bytes) => self.give_disk(*node, *bytes),
            Fault::NodeAdded(place, bytes) => self.invite(*place, *bytes),
            Fault::SiteAdded(site) => self.build(*site),
            Fault::QuorumLost {
                owner,
                parting,
                disks,
                returns,
            } => self.lose_quorum((*owner, *parting), disks, *returns),
            Fault::Resized(sizes) => self.want_sizes(sizes),
            Fault::Spared => {}
        }
        self.world.schedule(until, Own::Mend(i).number());
        // While others take over, and when the old state is back.
        self.flurries.push((at, at + FLURRY));
        self.flurries.push((until, until + FLURRY));
        self.faults[i].1 = Stage::Struck(self.struck.len());
        let what = self.describe(&fault);
        let number = self.struck.len() + 1;
        self.tell(format!("fault {number}: {what}"));
        let owner = self.world.owner(self.volume);
        self.struck.push(Struck {
            at,
            until,
            owner,
            fault,
        });
    }

    /// Whom a plan means now.
    fn victim(&self, plan: &FaultPlan, owner: NodeId) -> NodeId {
        let sites = self.world.sites();
        let step = match plan.victim {
            Victim::Owner => return owner,
            // A plan that was made smaller may name one that is not there.
            Victim::Node(name) => return self.by_name.get(&name).copied().unwrap_or(owner),
            Victim::OwnReplica => 0,
            Victim::Replica => plan.other as usize,
        };
        let names: Vec<SiteId> = sites.keys().copied().collect();
        let home = self.world.nodes[&owner].site;
        let own = names.iter().position(|s| *s == home).unwrap_or(0);
        let site = names[(own + step) % names.len()];
        let replica = self.world.replica_in(self.volume, site);
        replica.unwrap_or(sites[&site][0])
    }

    /// What a plan comes to now. Nothing happens yet.
    fn resolve(&mut self, plan: &FaultPlan) -> Fault {
        let owner = self.world.owner(self.volume).unwrap_or(NodeId(1));
        let sites = self.world.sites();
        let node = self.victim(plan, owner);
        let site = self.world.nodes[&node].site;
        let names: Vec<SiteId> = sites.keys().copied().collect();
        let own = names
            .iter()
            .position(|s| *s == site)
            .expect("a node's site is known");
        let other = names[(own + plan.other as usize) % names.len()];
        let both = |a: SiteId, b: SiteId| [(a, b), (b, a)];
        let link = || match plan.both {
            true => both(site, other).to_vec(),
            false => vec![(site, other)],
        };
        let killed = |nodes: Vec<NodeId>, power: bool| Fault::Killed {
            nodes,
            power,
            for_good: false,
        };
        match plan.kind {
            Kind::Kill | Kind::Succession | Kind::MidDrain | Kind::Reform => {
                killed(vec![node], plan.power)
            }
            Kind::KillSite | Kind::Laggard | Kind::Relapse | Kind::TwoSites | Kind::LongAway => {
                killed(sites[&site].clone(), plan.power)
            }
            Kind::PowerLoss => killed(sites.into_values().flatten().collect(), true),
            Kind::LoseSite if !self.keeps_majority(GroupId::Global, &sites[&site]) => Fault::Spared,
            Kind::LoseSite => Fault::Killed {
                nodes: sites[&site].clone(),
                power: true,
                for_good: true,
            },
            Kind::Cut | Kind::LongCut => Fault::Cut(link()),
            Kind::Isolate => {
                let others = names.iter().filter(|s| **s != site);
                Fault::Cut(others.flat_map(|s| both(site, *s)).collect())
            }
            Kind::Mute => Fault::Cut(
                names
                    .iter()
                    .filter(|s| **s != site)
                    .map(|s| (site, *s))
                    .collect(),
            ),
            Kind::Deaf => Fault::Cut(
                names
                    .iter()
                    .filter(|s| **s != site)
                    .map(|s| (*s, site))
                    .collect(),
            ),
            Kind::CutBack if plan.both => Fault::Cut(link()),
            Kind::CutBack => Fault::Cut(vec![(other, site)]),
            Kind::IsolateNode => Fault::CutNode(node),
            Kind::Pause => Fault::Paused(node),
            Kind::SlowLink => Fault::Slow(link()),
            Kind::SlowDisks => Fault::SlowDisks(vec![node]),
            Kind::LoseNode => {
                let disks: Vec<_> = self.world.nodes[&node].disks.keys().copied().collect();
                match self.may_lose(node, &disks) && self.outlives(node) {
                    true => Fault::Killed {
                        nodes: vec![node],
                        power: true,
                        for_good: true,
                    },
                    false => Fault::Spared,
                }
            }
            Kind::LoseDisk => {
                let mut disks = self.world.nodes[&node].disks.keys().copied();
                let nth = plan.other.saturating_sub(1);
                match disks.nth(usize::try_from(nth).unwrap_or(usize::MAX)) {
                    Some(disk) if self.may_lose(node, &[disk]) => Fault::LostDisk(node, disk),
                    _ => Fault::Spared,
                }
            }
            Kind::SlowSite => Fault::SlowDisks(sites[&site].clone()),
            Kind::Clog => Fault::Clogged(link()),
            Kind::Drift | Kind::DriftFar => {
                let far = plan.kind == Kind::DriftFar;
                let most = if far { DRIFT_FAR_PPM } else { DRIFT_PPM };
                // An owner's slow clock is the one that makes its lease too long.
                let ppm = if plan.both { -most } else { most };
                Fault::Drifted { node, ppm, far }
            }
            Kind::Stop => Fault::Stopped(owner),
            Kind::ShutDown if self.may_shut_down(node) => Fault::ShutDown(node),
            Kind::Maintenance if self.may_maintain(node) => Fault::Maintained(node),
            Kind::ShutDown | Kind::Maintenance => Fault::Spared,
            Kind::Desert => Fault::Deserted,
            Kind::Resize => self.shrunk(plan),
            Kind::FullSite => self.disks_of(site),
            Kind::AddDisk | Kind::AddNode | Kind::AddSite => self.added(plan, node),
            Kind::Move | Kind::Usurp => match self.elsewhere(owner) {
                Some(to) => Fault::Moved(to),
                None => Fault::Spared,
            },
            Kind::LoseQuorum | Kind::Disown => self.quorum_lost(plan, owner),
            Kind::DrainDisk | Kind::RemoveDisk | Kind::DrainNode => self.drained(plan, node),
            Kind::PullDisk
            | Kind::HangDisk
            | Kind::WipeDisk
            | Kind::FailDisk
            | Kind::Unreadable
            | Kind::Full
            | Kind::RotFragments
            | Kind::RotJournal
            | Kind::RotRounds
            | Kind::LoseJournal
            | Kind::Ruin
            | Kind::Misdirect
            | Kind::MisdirectJournal => match self.diagnose(plan, node) {
                Some((disk, ill)) => Fault::Disk { node, disk, ill },
                None => Fault::Spared,
            },
        }
    }

    /// What the operator has emptied by a plan.
    fn drained(&self, plan: &FaultPlan, node: NodeId) -> Fault {
        let mut disks = self.world.nodes[&node].disks.keys().copied();
        let nth = usize::try_from(plan.other.saturating_sub(1)).unwrap_or(usize::MAX);
        let disk = match plan.kind {
            Kind::DrainNode => None,
            _ => match disks.nth(nth) {
                Some(disk) => Some(disk),
                None => return Fault::Spared,
            },
        };
        let emptied: Vec<_> = match disk {
            Some(disk) => vec![disk],
            None => self.world.nodes[&node].disks.keys().copied().collect(),
        };
        if !self.may_want(node, disk) || !self.keeps_disk(node, &emptied) {
            return Fault::Spared;
        }
        let remove = plan.kind == Kind::RemoveDisk;
        Fault::Drained {
            node,
            disk,
            remove,
            back: !remove && !plan.both,
        }
    }

    pub(super) fn mend(&mut self, i: usize) -> Result<(), Failure> {
        let Stage::Struck(entry) = self.faults[i].1 else {
            return Ok(());
        };
        if !matches!(
            self.struck[entry].fault,
            Fault::Killed { for_good: true, .. }
        ) {
            self.tell(format!("fault {} is over", entry + 1));
        }
        match self.struck[entry].fault.clone() {
            Fault::Killed { for_good: true, .. } | Fault::LostDisk(..) => return Ok(()),
            Fault::Killed { nodes, .. } => {
                for node in nodes {
                    if self.dead.remove(&node) {
                        self.start_node(node);
                    }
                }
            }
            Fault::Cut(links) => links
                .iter()
                .for_each(|(a, b)| self.world.network.mend_sites(*a, *b)),
            Fault::Slow(links) => links
                .iter()
                .for_each(|(a, b)| self.world.network.hasten(*a, *b)),
            Fault::CutNode(node) => self.world.network.mend_node(node),
            Fault::Paused(_) => {}
            Fault::SlowDisks(nodes) => nodes
                .into_iter()
                .for_each(|node| self.world.slow_disks(node, false)),
            Fault::Drifted { node, .. } => self.world.drift(node, 0),
            Fault::Disk { node, disk, ill } => self.cure(node, disk, ill),
            Fault::ShutDown(node) => self.begin_anew(node),
            Fault::Maintained(node) => self.end_maintenance(node)?,
            Fault::Deserted => self.come_back(),
            Fault::Resized(_) => {
                let plan = self.faults[i].0.clone();
                self.grow_back(&plan);
            }
            Fault::FullSite(disks) => self.fill(&disks, false),
            Fault::Drained {
                node,
                disk,
                back: true,
                ..
            } => self.want(node, disk, Wish::Duty(Duty::Serve)),
            Fault::QuorumLost {
                owner,
                parting,
                disks,
                ..
            } => self.quorum_back(owner, parting, &disks),
            Fault::Clogged(_)
            | Fault::Stopped(_)
            | Fault::Moved(_)
            | Fault::Drained { .. }
            | Fault::DiskAdded(..)
            | Fault::NodeAdded(..)
            | Fault::SiteAdded(_)
            | Fault::Spared => {}
        }
        self.faults[i].1 = Stage::Mended;
        Ok(())
    }

    pub(super) fn kill(&mut self, node: NodeId, power: bool) {
        if !self.lost.contains(&node) && self.dead.insert(node) {
            self.world.kill(node, power);
        }
    }
}
