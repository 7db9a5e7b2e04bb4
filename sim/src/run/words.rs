//! Faults in words, for the narrative.

use model::ids::{NodeId, SiteId};

use super::Run;
use crate::faults::{Fault, Parting};
use crate::plan::text;
use crate::plan::topology::site_name;
use crate::report::{between, listed};

impl Run {
    /// A fault in words.
    pub(super) fn describe(&self, fault: &Fault) -> String {
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
            Fault::Clogged(of) => format!("what is sent {} is held up", links(of)),
            Fault::Drifted { node, ppm, .. } => {
                let name = self.name(*node);
                format!("the clock of {name} runs {ppm} millionths too fast")
            }
            Fault::Disk { node, disk, ill } => {
                format!("{disk} of {} {ill}", self.name(*node))
            }
            Fault::Stopped(node) => format!("{} is asked to stop", self.name(*node)),
            Fault::Maintained(node) => {
                format!(
                    "{} is in maintenance, and its process is to end",
                    self.name(*node)
                )
            }
            Fault::ShutDown(node) => format!("the process of {} is to end", self.name(*node)),
            Fault::Deserted => "all clients leave".to_owned(),
            Fault::Resized(_) => "the volume is made smaller".to_owned(),
            Fault::FullSite(disks) => {
                let (node, _) = disks[0];
                let letter = self.letter(self.world.nodes[&node].site);
                format!("all {} disks of site {letter} are full", disks.len())
            }
            Fault::DiskAdded(node, bytes) => {
                format!(
                    "{} gets one more disk, of {}",
                    self.name(*node),
                    text::size(*bytes)
                )
            }
            Fault::NodeAdded(place, bytes) => {
                format!("{place} joins, with disks of {}", text::size(*bytes))
            }
            Fault::SiteAdded(site) => format!("site {} is added", site_name(*site)),
            Fault::QuorumLost {
                owner,
                parting,
                disks,
                returns,
            } => {
                let how = match parting {
                    Parting::Killed => "is killed",
                    Parting::Cut => "is cut off",
                    Parting::Disowned => "is cut off and taken for gone",
                };
                let disks = listed(disks.iter().map(|(_, disk)| disk.to_string()));
                let then = if *returns { ", until later" } else { "" };
                format!(
                    "{} {how}, and the journal's replicas on {disks} are lost{then}",
                    self.name(*owner)
                )
            }
            Fault::Moved(node) => format!("the volume is given to {}", self.name(*node)),
            Fault::Drained {
                node, disk, remove, ..
            } => {
                let what = disk.map_or_else(String::new, |d| format!("{d} of "));
                let then = if *remove { ", to be taken out" } else { "" };
                format!("{what}{} is to be emptied{then}", self.name(*node))
            }
            Fault::Spared => "spared: it would be more than may be lost".to_owned(),
        }
    }
}
