//! Faults that real processes can be made to have.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};
use sim::faults::{self, Kind, Victim};
use sim::plan::Plan;
use sim::report::{between, listed};
use sim::service::left_alone;

use super::{DrillError, processes};
use crate::check::Target;
use crate::dev::control::{self, Answer, Request};
use crate::dev::layout::Layout;

/// Where a drill takes place.
pub(super) struct Field {
    pub(super) directory: PathBuf,
    pub(super) layout: Layout,
}

impl Field {
    pub(super) fn new(directory: &Path, layout: Layout) -> Self {
        Self {
            directory: directory.to_owned(),
            layout,
        }
    }

    fn ask(&self, request: &Request) -> Result<Answer, DrillError> {
        match control::ask(&self.directory, request)? {
            Answer::Error(why) => Err(DrillError::Refused(why)),
            answer => Ok(answer),
        }
    }

    /// The process of a node that runs: starting what runs tells, and changes nothing.
    fn pid(&self, node: &str) -> Result<Option<Pid>, DrillError> {
        let name = node.to_owned();
        let answer = self.ask(&Request::NodeStart { name })?;
        let pid = processes(answer)?.into_iter().find(|p| p.name == node);
        let raw = pid.and_then(|p| i32::try_from(p.pid?).ok());
        Ok(raw.and_then(Pid::from_raw))
    }

    fn signal(&self, node: &str, signal: Signal) -> Result<(), DrillError> {
        let Some(pid) = self.pid(node)? else {
            return Ok(());
        };
        kill_process(pid, signal).map_err(|error| DrillError::Signal {
            node: node.to_owned(),
            error: error.into(),
        })
    }

    fn start(&self, node: &str) -> Result<(), DrillError> {
        let name = node.to_owned();
        self.ask(&Request::NodeStart { name }).map(drop)
    }

    /// Bytes that passed between sites, if the WAN emulator counts them.
    pub(super) fn wan_bytes(&self) -> Option<u64> {
        match control::ask(&self.directory, &Request::LinkList) {
            Ok(Answer::Links(links)) => Some(links.iter().map(|l| l.bytes_passed).sum()),
            _ => None,
        }
    }

    fn nodes_of(&self, site: &str) -> Vec<String> {
        let site = self.layout.sites.iter().find(|s| s.name == site);
        let nodes = site.into_iter().flat_map(|s| &s.nodes);
        nodes.map(|n| n.name.clone()).collect()
    }

    fn sites(&self) -> BTreeMap<String, Vec<String>> {
        let name = |s: &crate::dev::layout::SiteLayout| s.name.clone();
        let sites = self.layout.sites.iter().map(name);
        sites.map(|s| (s.clone(), self.nodes_of(&s))).collect()
    }
}

/// Refuses a scenario that can't be drilled, before anything is touched.
pub(super) fn check(plan: &Plan, field: &Field) -> Result<(), DrillError> {
    for (number, fault) in (1..).zip(&plan.faults) {
        let impossible = |why| {
            Err(DrillError::Impossible {
                number,
                what: format!("{:?}", fault.kind),
                why,
            })
        };
        if fault.moment.is_some() {
            return impossible("only the simulator knows when a fabric's messages pass");
        }
        if matches!(fault.victim, Victim::Replica | Victim::OwnReplica) {
            return impossible("only the simulator aims at a journal's replica");
        }
        match fault.kind {
            Kind::Kill | Kind::KillSite | Kind::LoseSite | Kind::Pause => {}
            Kind::Cut | Kind::CutBack | Kind::Isolate | Kind::Mute | Kind::Deaf => {
                if field.wan_bytes().is_none() {
                    return impossible(
                        "links are cut by the WAN emulator: start `atoll dev --wan`",
                    );
                }
            }
            _ => return impossible("real processes can't be made to have it"),
        }
    }
    Ok(())
}

/// A fault with whom it hits.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    Killed { nodes: Vec<String>, for_good: bool },
    Paused(String),
    Cut(Vec<(String, String)>),
}

impl Fault {
    /// Whom a fault hits now. Without an owner, it is the first node.
    pub(super) fn resolve(plan: &faults::Plan, owner: Option<&str>, field: &Field) -> Self {
        let first = &field.layout.sites[0].nodes[0].name;
        let node = match plan.victim {
            Victim::Node(name) => name.to_string(),
            Victim::Owner | Victim::Replica | Victim::OwnReplica => {
                owner.unwrap_or(first).to_owned()
            }
        };
        let site = match field.layout.node(&node) {
            Ok((site, _)) => site.name.clone(),
            Err(_) => field.layout.sites[0].name.clone(),
        };
        let names: Vec<String> = field.sites().into_keys().collect();
        let at = names.iter().position(|s| *s == site).unwrap_or(0);
        let other = &names[(at + plan.other as usize) % names.len()];
        let others = || names.iter().filter(|s| **s != site);
        let from = |s: &String| (site.clone(), s.clone());
        let to = |s: &String| (s.clone(), site.clone());
        match plan.kind {
            Kind::KillSite | Kind::LoseSite => Self::Killed {
                nodes: field.nodes_of(&site),
                for_good: plan.kind == Kind::LoseSite,
            },
            Kind::Pause => Self::Paused(node),
            Kind::Cut if plan.both => Self::Cut(vec![from(other), to(other)]),
            Kind::Cut => Self::Cut(vec![from(other)]),
            Kind::CutBack => Self::Cut(vec![to(other)]),
            Kind::Mute => Self::Cut(others().map(from).collect()),
            Kind::Deaf => Self::Cut(others().map(to).collect()),
            Kind::Isolate => Self::Cut(others().flat_map(|s| [from(s), to(s)]).collect()),
            // `check` let nothing else through.
            _ => Self::Killed {
                nodes: vec![node],
                for_good: false,
            },
        }
    }

    pub(super) fn strike(&self, field: &mut Field) -> Result<(), DrillError> {
        match self {
            Self::Killed { nodes, .. } => {
                // All of them are known before the first one dies.
                let pids = nodes.iter().map(|n| Ok((n, field.pid(n)?)));
                let pids: Vec<_> = pids.collect::<Result<_, DrillError>>()?;
                for (node, pid) in pids {
                    let Some(pid) = pid else { continue };
                    kill_process(pid, Signal::KILL).map_err(|error| DrillError::Signal {
                        node: node.clone(),
                        error: error.into(),
                    })?;
                }
                Ok(())
            }
            Self::Paused(node) => field.signal(node, Signal::STOP),
            Self::Cut(links) => links.iter().try_for_each(|(from, to)| {
                let (from, to) = (from.clone(), to.clone());
                let one_way = true;
                let cut = Request::LinkCut { from, to, one_way };
                field.ask(&cut).map(drop)
            }),
        }
    }

    /// Ends it; false if it stays.
    pub(super) fn mend(&self, field: &mut Field) -> Result<bool, DrillError> {
        match self {
            Self::Killed { for_good: true, .. } => return Ok(false),
            Self::Killed { nodes, .. } => nodes.iter().try_for_each(|n| field.start(n))?,
            Self::Paused(node) => field.signal(node, Signal::CONT)?,
            Self::Cut(links) => {
                let pairs = links
                    .iter()
                    .map(|(a, b)| (a.min(b).clone(), a.max(b).clone()));
                for pair in pairs.collect::<BTreeSet<_>>() {
                    let between = Some(pair);
                    field.ask(&Request::LinkHeal { between })?;
                }
            }
        }
        Ok(true)
    }

    /// The sites with clients that must be served while it lasts.
    pub(super) fn asked(&self, field: &Field, targets: &[Target]) -> Vec<String> {
        let (gone, cut): (&[String], &[(String, String)]) = match self {
            Self::Killed { nodes, .. } => (nodes, &[]),
            Self::Paused(node) => (std::slice::from_ref(node), &[]),
            Self::Cut(links) => (&[], links),
        };
        let alone = left_alone(&field.sites(), gone, cut);
        let served = |t: &&Target| {
            let node = field.layout.nodes().find(|(_, n)| n.nbd == t.address);
            node.is_some_and(|(_, n)| !gone.contains(&n.name))
        };
        let sites = targets.iter().filter(served).filter_map(|t| t.site.clone());
        let sites: BTreeSet<String> = sites.filter(|s| alone.contains(s)).collect();
        sites.into_iter().collect()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Killed { nodes, for_good } => {
                let for_good = if *for_good { ", for good" } else { "" };
                write!(f, "{} are killed{for_good}", listed(nodes.iter().cloned()))
            }
            Self::Paused(node) => write!(f, "{node} stands still"),
            Self::Cut(links) => {
                write!(f, "nothing gets through {}", between(links.iter().cloned()))
            }
        }
    }
}
