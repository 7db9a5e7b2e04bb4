//! Scrubs: begun by the operator's word, and told of.

use std::collections::BTreeSet;

use model::ids::DiskId;
use model::placement::{DiskFault, Presence, View};

use super::show::{self, Heard};
use super::{Admin, fail, node_named, status};
use crate::admin::protocol::{Degraded, Failure, FailureKind, Reply};
use crate::admin::scrub::{DiskScrub, Scrub, Scrubs};
use crate::daemon::peers::{DiskUse, Question};

/// A disk's scrub, by what its node tells.
pub(super) fn scrub(told: &DiskUse) -> Scrub {
    let figures = &told.scrub;
    let left = told.used_bytes.saturating_sub(figures.mark.pass_bytes);
    let eta = || left.div_ceil(figures.bytes_per_s.max(1));
    Scrub {
        running: figures.running,
        pass_bytes: figures.mark.pass_bytes,
        held_bytes: told.used_bytes,
        bytes_per_s: figures.bytes_per_s,
        eta_s: figures.running.then(eta),
        next_in_s: figures.next_in_s,
        passes: figures.mark.passes,
        verified_bytes: figures.mark.verified_bytes,
        found: figures.mark.found,
        repaired: figures.mark.repaired,
        restored: figures.mark.restored,
        rotten: figures.rotten,
        flagged: figures.flagged,
    }
}

fn scrubs(view: &View, heard: &Heard, is_meant: impl Fn(DiskId) -> bool) -> Scrubs {
    let all = show::disks(view, heard);
    let meant: BTreeSet<String> = view
        .disks
        .iter()
        .filter(|(id, disk)| is_meant(**id) && disk.presence != Presence::Gone)
        .map(|(id, _)| show::disk_name(view, *id))
        .collect();
    let disks = all.disks.into_iter();
    let disks = disks.filter(|disk| meant.contains(&disk.name));
    Scrubs {
        disks: disks
            .map(|disk| DiskScrub {
                disk: disk.name,
                site: disk.site,
                scrub: disk.scrub,
            })
            .collect(),
        unreachable: heard.unreachable(view),
    }
}

/// Disks whose scrub found what is not repaired yet, or too much of it.
pub(super) fn degraded(view: &View, heard: &Heard, degraded: &mut Vec<Degraded>) {
    for figures in heard.figures.values() {
        for (id, told) in &figures.disks {
            let scrub = scrub(told);
            let what = format!("disk {}", show::disk_name(view, *id));
            let s = |n: u64| if n == 1 { "" } else { "s" };
            if scrub.rotten > 0 {
                status::add(
                    degraded,
                    what.clone(),
                    format!("{} fragment{} on it rotted", scrub.rotten, s(scrub.rotten)),
                    "they are rebuilt from other disks and stored anew; until then reads go around them",
                );
            }
            // Of one that is emptied for it, that is told.
            let is_emptied = view
                .disks
                .get(id)
                .is_some_and(|d| d.fault == Some(DiskFault::Rots));
            if scrub.flagged && !is_emptied {
                let (found, repaired) = (scrub.found, scrub.repaired);
                status::add(
                    degraded,
                    what,
                    format!(
                        "it corrupts data: {found} fragments rotted so far, {repaired} were repaired"
                    ),
                    "it goes on serving, and what rots is repaired; replace the disk",
                );
            }
        }
    }
}

impl Admin {
    pub(super) fn scrub_status(&self) -> Result<Reply, Failure> {
        let (view, heard) = self.hear_all()?;
        Ok(Reply::Scrubs(scrubs(&view, &heard, |_| true)))
    }

    pub(super) fn scrub_start(
        &self,
        disk: Option<&str>,
        node: Option<&str>,
    ) -> Result<Reply, Failure> {
        let view = self.meta.view();
        let (nodes, disk) = match (disk, node) {
            (Some(disk), _) => {
                let disk = self.disk_named(&view, disk)?;
                (BTreeSet::from([disk.node]), Some(disk.at.disk))
            }
            (None, Some(node)) => (BTreeSet::from([node_named(&view, node)?.0]), None),
            (None, None) => (show::members(&view), None),
        };
        let heard = self.hear(&view, nodes.clone(), Question::StartScrub(disk))?;
        if heard.figures.is_empty() {
            let why = "no node that has such disks answers: `atoll status` says why";
            return Err(fail(FailureKind::NotNow, why));
        }
        let is_meant = |id: DiskId| match disk {
            Some(disk) => disk == id,
            None => view.disks.get(&id).is_some_and(|d| nodes.contains(&d.node)),
        };
        Ok(Reply::Scrubs(scrubs(&view, &heard, is_meant)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use model::ids::{DiskRef, Incarnation, NodeId};
    use model::placement::Disk;
    use model::store::ScrubMark;

    use super::*;
    use crate::daemon::peers::{Figures, ScrubFigures};

    fn told(scrub: ScrubFigures) -> DiskUse {
        DiskUse {
            name: "d1".into(),
            path: "/d/d1".into(),
            used_bytes: 100,
            scrub,
        }
    }

    #[test]
    fn progress_and_eta_are_those_of_the_pass() {
        let mark = ScrubMark {
            pass_bytes: 30,
            ..ScrubMark::default()
        };
        let figures = ScrubFigures {
            mark,
            running: true,
            bytes_per_s: 8,
            ..ScrubFigures::default()
        };
        let running = scrub(&told(figures));
        assert_eq!((running.percent(), running.eta_s), (30, Some(9)));
        let resting = ScrubFigures {
            running: false,
            next_in_s: Some(5),
            ..figures
        };
        let resting = scrub(&told(resting));
        assert_eq!((resting.eta_s, resting.next_in_s), (None, Some(5)));
    }

    #[test]
    fn status_tells_what_rotted_and_which_disk_is_bad() {
        let node = NodeId(1);
        let mut view = View::default();
        let disk = Disk {
            at: DiskRef {
                disk: DiskId(7),
                incarnation: Incarnation(1),
            },
            node,
            capacity_bytes: 1,
            presence: Presence::Up,
            duty: model::placement::Duty::Serve,
            fault: None,
        };
        view.disks.insert(DiskId(7), disk);
        let of = |scrub| {
            let figures = Figures {
                disks: BTreeMap::from([(DiskId(7), told(scrub))]),
                ..Figures::default()
            };
            let heard = Heard::of(BTreeMap::from([(node, figures)]), Vec::new());
            let mut found = Vec::new();
            degraded(&view, &heard, &mut found);
            found
        };
        assert!(of(ScrubFigures::default()).is_empty());
        let rotten = ScrubFigures {
            rotten: 1,
            flagged: true,
            ..ScrubFigures::default()
        };
        let found = of(rotten);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].why, "1 fragment on it rotted");
        assert!(found[1].doing.contains("replace the disk"));
    }
}
