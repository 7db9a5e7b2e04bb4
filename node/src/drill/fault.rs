//! What a drill does to real processes, links and disks, and how it is undone.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use model::units::ByteSize;
use rustix::process::Signal;
use sim::faults::{FaultPlan, Kind, Victim};
use sim::plan::Plan;
use sim::report::{between, listed};
use sim::service::left_alone;

use super::ballast::Ballast;
use super::error::{DrillError, at};
use super::field::Field;
use super::rot::Rot;
use crate::admin::protocol::{Disk, Request};
use crate::check::Target;
use crate::dev::control::{self, Link, LinkChange};

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

/// A disk whose directory is taken away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LostDisk {
    pub(super) node: String,
    /// `node/disk`.
    pub(super) name: String,
    pub(super) path: PathBuf,
}

impl LostDisk {
    pub(super) fn of(disk: &Disk) -> Self {
        let node = disk.name.split('/').next().unwrap_or_default();
        Self {
            node: node.to_owned(),
            name: disk.name.clone(),
            path: PathBuf::from(disk.path.clone().unwrap_or_default()),
        }
    }

    /// Where the directory is kept until what it held is whole elsewhere.
    pub(super) fn kept(&self) -> PathBuf {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(".lost-by-drill");
        self.path.with_file_name(name)
    }
}

/// A fault with whom it hits.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// Processes die at once; for good: until the drill has been judged.
    Killed { nodes: Vec<String>, for_good: bool },
    /// A process stops in good order.
    Stopped(String),
    /// A site is fenced by the nodes of all others, on a live fabric.
    Fenced { site: String, nodes: Vec<String> },
    /// A process stands still.
    Paused(String),
    /// Nothing gets through from one site to another.
    Cut(Vec<(String, String)>),
    /// Links, as they were, are shaped so.
    Slowed { links: Vec<Link>, to: LinkChange },
    /// A volume is given to another node by the operator's word.
    Moved { volume: String, to: String },
    /// A node is to be emptied.
    Drained(String),
    /// A disk's directory is gone; `replaced` once another one is to take its place.
    DiskLost { disk: LostDisk, replaced: bool },
    /// Bytes of fragments flipped.
    Rotten(Rot),
    /// A volume is there to fill the fabric with.
    Filled(Ballast),
    /// It is deleted by the operator's word.
    Freed(Ballast),
}

impl Fault {
    /// Whom a scenario's fault hits now. Without an owner, it is the first node.
    pub(super) fn resolve(plan: &FaultPlan, owner: Option<&str>, field: &Field) -> Self {
        let first = &field.ground.sites[0].nodes[0].name;
        let node = match plan.victim {
            Victim::Node(name) => name.to_string(),
            Victim::Owner | Victim::Replica | Victim::OwnReplica => {
                owner.unwrap_or(first).to_owned()
            }
        };
        let site = field.site_of(&node);
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

    pub(super) fn strike(&self, field: &Field) -> Result<(), DrillError> {
        match self {
            Self::Killed { nodes, .. } => field.kill(nodes),
            Self::Stopped(node) => field.stop(node),
            Self::Fenced { site, .. } => field.fence(site),
            Self::Paused(node) => field.signal(std::slice::from_ref(node), Signal::STOP),
            Self::Cut(links) => links.iter().try_for_each(|(from, to)| {
                let (from, to) = (from.clone(), to.clone());
                let one_way = true;
                let cut = control::Request::LinkCut { from, to, one_way };
                field.control(&cut).map(drop)
            }),
            Self::Slowed { links, to } => links.iter().try_for_each(|l| shape(field, l, *to)),
            Self::Moved { volume, to } => {
                let (name, to) = (volume.clone(), to.clone());
                field.admin(&Request::VolumeMove { name, to }).map(drop)
            }
            Self::Drained(node) => field.drain(node, false).map(drop),
            Self::DiskLost { disk, .. } => {
                std::fs::rename(&disk.path, disk.kept()).map_err(at(&disk.path))
            }
            Self::Rotten(rot) => rot.strike(),
            Self::Filled(ballast) => ballast.create(field),
            Self::Freed(ballast) => ballast.delete(field),
        }
    }

    /// Undoes it.
    pub(super) fn mend(&self, field: &Field) -> Result<(), DrillError> {
        match self {
            Self::Killed { nodes, .. } => field.start(nodes),
            Self::Stopped(node) => field.start(std::slice::from_ref(node)),
            Self::Fenced { .. } => {
                field.lift();
                Ok(())
            }
            Self::Paused(node) => field.signal(std::slice::from_ref(node), Signal::CONT),
            Self::Cut(links) => {
                let pairs = links
                    .iter()
                    .map(|(a, b)| (a.min(b).clone(), a.max(b).clone()));
                let pairs: BTreeSet<_> = pairs.collect();
                pairs.into_iter().try_for_each(|pair| {
                    let between = Some(pair);
                    let heal = control::Request::LinkHeal { between };
                    field.control(&heal).map(drop)
                })
            }
            Self::Slowed { links, .. } => links.iter().try_for_each(|link| {
                let before = LinkChange {
                    rtt_us: Some(2 * link.delay_us),
                    jitter_us: Some(link.jitter_us),
                    loss_ppm: Some(link.loss_ppm),
                    bytes_per_second: Some(link.bytes_per_second),
                };
                shape(field, link, before)
            }),
            // It stays where it is, and what was deleted stays so.
            Self::Moved { .. } | Self::Freed(_) => Ok(()),
            Self::Filled(ballast) => ballast.delete(field),
            Self::Drained(node) => field.drain(node, true).map(drop),
            Self::DiskLost { disk, replaced } => {
                field.stop(&disk.node)?;
                put_back(disk, *replaced)?;
                field.start(std::slice::from_ref(&disk.node))
            }
            // What was not repaired yet is by the next pass.
            Self::Rotten(rot) => {
                let start = Request::ScrubStart {
                    disk: Some(rot.disk.clone()),
                    node: None,
                };
                field.admin(&start).map(drop)
            }
        }
    }

    /// What was done to undo it, for the report.
    pub(super) fn mended(&self) -> String {
        match self {
            Self::Killed { nodes, .. } => {
                let run = if nodes.len() == 1 { "runs" } else { "run" };
                format!("{} {run} again", listed(nodes.iter().cloned()))
            }
            Self::Stopped(node) => format!("{node} runs again"),
            Self::Fenced { site, .. } => format!("the fence around site {site} is lifted"),
            Self::Paused(node) => format!("{node} goes on"),
            Self::Cut(links) => {
                format!("messages pass again {}", between(links.iter().cloned()))
            }
            Self::Slowed { links, .. } => format!("{} well again", are_links(links)),
            Self::Moved { to, .. } => format!("{to} keeps the volume"),
            Self::Drained(node) => format!("{node} serves again"),
            Self::DiskLost {
                disk,
                replaced: true,
            } => {
                format!("{} has a new disk in place of {}", disk.node, disk.name)
            }
            Self::DiskLost { disk, .. } => format!("disk {} is put back", disk.name),
            Self::Rotten(rot) => format!("disk {} is scrubbed", rot.disk),
            Self::Filled(ballast) => format!("volume {} is gone", ballast.volume),
            Self::Freed(_) => "its space is free".to_owned(),
        }
    }

    /// The sites with clients that must be served while it lasts.
    pub(super) fn asked(&self, field: &Field, targets: &[Target]) -> Vec<String> {
        // On a full fabric no write need go on.
        if matches!(self, Self::Filled(_)) {
            return Vec::new();
        }
        let (gone, cut) = (self.gone(), self.cut());
        let alone = left_alone(&field.sites(), gone, cut);
        let served = |t: &&Target| {
            let node = field.ground.nodes().find(|(_, n)| n.nbd == t.address);
            node.is_some_and(|(_, n)| !gone.contains(&n.name))
        };
        let sites = targets.iter().filter(served).filter_map(|t| t.site.clone());
        let sites: BTreeSet<String> = sites.filter(|s| alone.contains(s)).collect();
        sites.into_iter().collect()
    }

    /// Nodes that don't serve while it lasts.
    pub(super) fn gone(&self) -> &[String] {
        match self {
            Self::Killed { nodes, .. } | Self::Fenced { nodes, .. } => nodes,
            Self::Paused(node) | Self::Stopped(node) => std::slice::from_ref(node),
            Self::Cut(_)
            | Self::Slowed { .. }
            | Self::Moved { .. }
            | Self::Drained(_)
            | Self::DiskLost { .. }
            | Self::Rotten(_)
            | Self::Filled(_)
            | Self::Freed(_) => &[],
        }
    }

    /// The site that is fenced: its servers are there, and can answer nothing.
    pub(super) fn fenced(&self) -> Option<&str> {
        match self {
            Self::Fenced { site, .. } => Some(site),
            _ => None,
        }
    }

    fn cut(&self) -> &[(String, String)] {
        match self {
            Self::Cut(links) => links,
            _ => &[],
        }
    }
}

/// Shapes a link, in both directions.
fn shape(field: &Field, link: &Link, change: LinkChange) -> Result<(), DrillError> {
    let (a, b) = (link.from.clone(), link.to.clone());
    let set = control::Request::LinkSet { a, b, change };
    field.control(&set).map(drop)
}

fn are_links(links: &[Link]) -> String {
    let pairs = listed(links.iter().map(|l| format!("{}-{}", l.from, l.to)));
    match links {
        [_] => format!("link {pairs} is"),
        _ => format!("links {pairs} are"),
    }
}

/// Makes room for a new disk, or brings the old one back. To be called while the node is down.
fn put_back(disk: &LostDisk, replaced: bool) -> Result<(), DrillError> {
    // The node may have left something in the place of what it lost.
    match std::fs::remove_dir_all(&disk.path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(at(&disk.path)(e)),
        _ => {}
    }
    if replaced {
        return Ok(());
    }
    std::fs::rename(disk.kept(), &disk.path).map_err(at(&disk.path))
}

/// Removes what is left of a lost disk.
pub(super) fn discard(kept: &Path) -> Result<(), DrillError> {
    std::fs::remove_dir_all(kept).map_err(at(kept))
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Killed { nodes, for_good } => {
                let for_good = if *for_good { ", for good" } else { "" };
                let are = if nodes.len() == 1 { "is" } else { "are" };
                write!(
                    f,
                    "{} {are} killed{for_good}",
                    listed(nodes.iter().cloned())
                )
            }
            Self::Stopped(node) => write!(f, "{node} is stopped"),
            Self::Fenced { site, .. } => write!(f, "site {site} is fenced by all other sites"),
            Self::Paused(node) => write!(f, "{node} stands still"),
            Self::Cut(links) => {
                write!(f, "nothing gets through {}", between(links.iter().cloned()))
            }
            Self::Slowed { links, to } => write!(
                f,
                "{} at {} ms, lose {} % and carry {} a second",
                are_links(links),
                to.rtt_us.unwrap_or(0) / 1000,
                f64::from(to.loss_ppm.unwrap_or(0)) / 10_000.0,
                ByteSize(to.bytes_per_second.unwrap_or(0)),
            ),
            Self::Moved { volume, to } => write!(f, "volume {volume} is moved to {to}"),
            Self::Drained(node) => write!(f, "{node} is drained"),
            Self::DiskLost { disk, .. } => write!(f, "disk {} loses its directory", disk.name),
            Self::Rotten(rot) => write!(f, "{rot}"),
            Self::Filled(ballast) => write!(f, "volume {} fills the fabric", ballast.volume),
            Self::Freed(ballast) => write!(f, "volume {} is deleted", ballast.volume),
        }
    }
}
