//! Faults: armed, striking at their moment, mended.

use std::time::Duration;

use model::ids::{NodeId, SiteId};
use model::time::Time;

use super::{Own, Run};
use crate::faults::{Fault, Kind, Plan, Struck, Victim};
use crate::report::{between, listed};

/// Lanes are busy for so long before and after a fault's moment.
const FLURRY: Duration = Duration::from_millis(60);

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
        for (i, mut plan) in self.plan.faults.clone().into_iter().enumerate() {
            plan.armed = self.begun + plan.armed.since(Time::ZERO);
            self.world.plan(plan.armed, Own::Arm(i).number());
            self.flurries.push((plan.armed, plan.armed + FLURRY));
            self.faults.push((plan, Stage::Planned));
        }
    }

    /// When the last fault is over, counted from the work's begin, and more.
    pub(super) fn last_fault_by(&self) -> Duration {
        let over = |p: &Plan| p.armed.since(Time::ZERO) + p.patience() + p.lasts;
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
                self.world.plan(at, Own::Strike(i).number());
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
        let until = at + plan.lasts;
        match &fault {
            Fault::Killed {
                nodes,
                power,
                for_good,
            } => {
                for node in nodes {
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
            Fault::LostDisk(node, disk) => self.world.lose_disk(*node, *disk),
            Fault::SlowDisks(nodes) => nodes
                .iter()
                .for_each(|node| self.world.slow_disks(*node, true)),
        }
        self.world.plan(until, Own::Mend(i).number());
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

    /// Whom a fault hits now.
    fn resolve(&self, plan: &Plan) -> Fault {
        let owner = self.world.owner(self.volume);
        let sites = self.world.sites();
        let owner = owner.unwrap_or(NodeId(1));
        let node = match plan.victim {
            Victim::Owner => owner,
            // A plan that was made smaller may name one that is not there.
            Victim::Node(name) => self.by_name.get(&name).copied().unwrap_or(owner),
            Victim::Replica => {
                let names: Vec<SiteId> = sites.keys().copied().collect();
                let home = self.world.nodes[&owner].site;
                let own = names.iter().position(|s| *s == home).unwrap_or(0);
                let site = names[(own + plan.other as usize) % names.len()];
                let replica = self.world.replica_in(self.volume, site);
                replica.unwrap_or(sites[&site][0])
            }
        };
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
            Kind::KillSite | Kind::Laggard => killed(sites[&site].clone(), plan.power),
            Kind::PowerLoss => killed(sites.into_values().flatten().collect(), true),
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
            Kind::LoseNode => Fault::Killed {
                nodes: vec![node],
                power: true,
                for_good: true,
            },
            Kind::LoseDisk => {
                let mut disks = self.world.nodes[&node].disks.keys().copied();
                let disk = disks.nth(plan.other as usize - 1);
                Fault::LostDisk(node, disk.expect("a node has two disks until it loses one"))
            }
            Kind::SlowSite => Fault::SlowDisks(sites[&site].clone()),
        }
    }

    pub(super) fn mend(&mut self, i: usize) {
        let Stage::Struck(entry) = self.faults[i].1 else {
            return;
        };
        if !matches!(
            self.struck[entry].fault,
            Fault::Killed { for_good: true, .. }
        ) {
            self.tell(format!("fault {} is over", entry + 1));
        }
        match self.struck[entry].fault.clone() {
            Fault::Killed { for_good: true, .. } | Fault::LostDisk(..) => return,
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
        }
        self.faults[i].1 = Stage::Mended;
    }

    pub(super) fn kill(&mut self, node: NodeId, power: bool) {
        if !self.lost.contains(&node) && self.dead.insert(node) {
            self.world.kill(node, power);
        }
    }

    /// A fault in words.
    fn describe(&self, fault: &Fault) -> String {
        let nodes = |nodes: &[NodeId]| listed(nodes.iter().map(|n| self.name(*n)));
        let links = |links: &[(SiteId, SiteId)]| {
            between(
                links
                    .iter()
                    .map(|(a, b)| (self.letter(*a), self.letter(*b))),
            )
        };
        match fault {
            Fault::Killed {
                nodes: of,
                power,
                for_good,
            } => {
                let power = if *power { ", and lose power" } else { "" };
                let for_good = if *for_good { ", for good" } else { "" };
                format!("{} are killed{power}{for_good}", nodes(of))
            }
            Fault::Cut(of) => format!("nothing gets through {}", links(of)),
            Fault::Slow(of) => format!("it is slow {}", links(of)),
            Fault::CutNode(node) => format!("{} is cut from all others", self.name(*node)),
            Fault::Paused(node) => format!("{} stands still", self.name(*node)),
            Fault::SlowDisks(of) => format!("disks of {} are slow", nodes(of)),
            Fault::LostDisk(node, disk) => {
                format!("{disk} of {} is lost for good", self.name(*node))
            }
        }
    }
}
