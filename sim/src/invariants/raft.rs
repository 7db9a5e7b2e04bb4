//! Raft's own, of all metadata groups: election safety (one leader a term), leader completeness
//! (a leader's log has all that was committed), log matching, and state machine safety (no two
//! members hold different entries for committed at one place).

use std::collections::BTreeMap;

use model::ids::NodeId;
use raft_meta::log::LoadedLog;
use raft_meta::message::{GroupId, LogEntry, LogIndex, Term};

use super::{Broken, broken};
use crate::world::World;

/// What was seen of each group.
#[derive(Debug, Default)]
pub(super) struct Groups {
    leaders: BTreeMap<(GroupId, Term), NodeId>,
    committed: BTreeMap<(GroupId, LogIndex), LogEntry>,
}

impl Groups {
    pub(super) fn leads(
        &mut self,
        world: &World,
        node: NodeId,
        group: GroupId,
        term: Term,
    ) -> Result<(), Broken> {
        let before = *self.leaders.entry((group, term)).or_insert(node);
        if before != node {
            let how = format_args!("{before} and {node} lead {group:?} in {term:?}");
            return Err(broken("election safety", how));
        }
        self.note_committed(world, group)?;
        let Some(log) = log(world, node, group) else {
            return Ok(());
        };
        let known = self.committed.range((group, LogIndex(0))..);
        let known = known.take_while(|((g, _), _)| *g == group);
        for ((_, index), entry) in known.filter(|(_, entry)| entry.term < term) {
            let snapshot = log.snapshot.as_ref().map_or(LogIndex(0), |s| s.index);
            let held = log.entries.iter().find(|e| e.index == *index);
            if *index > snapshot && held != Some(entry) {
                let how = format_args!("{node} leads {group:?} in {term:?} without {entry:?}");
                return Err(broken("leader completeness", how));
            }
        }
        for other in world.nodes.keys().filter(|other| **other != node) {
            if let Some(theirs) = self::log(world, *other, group)
                && !do_match(&log.entries, &theirs.entries)
            {
                let how = format_args!("the logs of {node} and {other} in {group:?}");
                return Err(broken("log matching", how));
            }
        }
        Ok(())
    }

    /// At a run's end.
    pub(super) fn finish(&mut self, world: &World) -> Result<(), Broken> {
        let sites = world.sites();
        let groups = sites.keys().map(|site| GroupId::Site(*site));
        for group in groups.chain([GroupId::Global]) {
            self.note_committed(world, group)?;
        }
        Ok(())
    }

    /// State machine safety: what each member holds for committed.
    fn note_committed(&mut self, world: &World, group: GroupId) -> Result<(), Broken> {
        for node in world.nodes.keys() {
            let Some(log) = log(world, *node, group) else {
                continue;
            };
            let commit = log.hard.commit;
            for entry in log.entries.iter().take_while(|e| e.index <= commit) {
                let known = self.committed.entry((group, entry.index));
                let known = known.or_insert_with(|| entry.clone());
                if known != entry {
                    let how =
                        format_args!("{node} committed {entry:?} in {group:?}, not {known:?}");
                    return Err(broken("state machine safety", how));
                }
            }
        }
        Ok(())
    }
}

fn log(world: &World, node: NodeId, group: GroupId) -> Option<&LoadedLog> {
    world.nodes[&node].meta_log.group(group)
}

/// Whether the logs are the same up to the last place where their terms agree.
fn do_match(a: &[LogEntry], b: &[LogEntry]) -> bool {
    let from = |of: &[LogEntry]| of.first().map_or(u64::MAX, |e| e.index.0);
    let start = from(a).max(from(b));
    let of = |of: &[LogEntry]| {
        let skip = of.iter().take_while(|e| e.index.0 < start).count();
        of[skip..].to_vec()
    };
    let (a, b) = (of(a), of(b));
    let agree = a.iter().zip(&b).rposition(|(a, b)| a.term == b.term);
    agree.is_none_or(|last| a[..=last] == b[..=last])
}
