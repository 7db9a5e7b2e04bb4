//! Whether a node may stop now, or a site be gone for a while: what would fall below what it needs
//! until it is back.
//! Journals need their quorum, segments fragments from which they are decoded, metadata groups
//! a majority of their voters.

use std::collections::{BTreeMap, BTreeSet};

use coding::{Codec, SlotSet};
use model::geometry::Pool;
use model::ids::{DiskRef, NodeId, Row, SiteId, Slot};
use model::placement::{JournalConfig, Presence, SpreadTable, View, VolumeRecord};
use raft_meta::GroupId;
use raft_meta::message::Members;

use super::show::{Heard, node_name, site_name};

/// What is to be gone for a while.
pub(super) struct Loss {
    name: String,
    nodes: BTreeSet<NodeId>,
    /// If it is a whole site.
    site: Option<SiteId>,
}

impl Loss {
    pub(super) fn of_node(view: &View, node: NodeId) -> Self {
        Self {
            name: node_name(view, node),
            nodes: BTreeSet::from([node]),
            site: None,
        }
    }

    pub(super) fn of_site(view: &View, site: SiteId) -> Self {
        let nodes = view.nodes.iter().filter(|(_, n)| n.site == site);
        Self {
            name: format!("site {}", site_name(view, Some(site))),
            nodes: nodes.map(|(id, _)| *id).collect(),
            site: Some(site),
        }
    }
}

/// The fabric without that.
struct Without<'a> {
    view: &'a View,
    heard: &'a Heard,
    loss: &'a Loss,
}

/// Why it may not be gone; nothing if it may.
pub(super) fn reasons(
    view: &View,
    heard: &Heard,
    groups: &BTreeMap<GroupId, Members>,
    loss: &Loss,
) -> Vec<String> {
    let without = Without { view, heard, loss };
    let mut reasons = Vec::new();
    for volume in view.volumes.values().filter(|v| !v.deleted && !v.clean) {
        reasons.extend(without.journal(volume));
    }
    for (pool, table) in &view.pools {
        reasons.extend(without.fragments(*pool, table));
    }
    // A site's own group is gone with it.
    let own = loss.site.map(GroupId::Site);
    for (group, members) in groups.iter().filter(|(group, _)| Some(**group) != own) {
        reasons.extend(without.voters(*group, members));
    }
    reasons
}

/// Whether so many voters answer that a group can decide.
pub(super) fn has_majority(view: &View, heard: &Heard, members: &Members) -> bool {
    let answers = |node| {
        let known = view.nodes.get(&node);
        known.is_some_and(|n| n.presence == Presence::Up) && !heard.is_silent(node)
    };
    [&members.voters, &members.outgoing].into_iter().all(|set| {
        let there = set.iter().filter(|m| answers(m.node())).count();
        there * 2 > set.len() || set.is_empty()
    })
}

impl Without<'_> {
    fn answers(&self, node: NodeId) -> bool {
        let known = self.view.nodes.get(&node);
        let up = known.is_some_and(|n| n.presence == Presence::Up);
        up && !self.loss.nodes.contains(&node) && !self.heard.is_silent(node)
    }

    fn is_lost(&self, at: DiskRef) -> bool {
        let node = self.view.node_of(at);
        node.is_some_and(|node| self.loss.nodes.contains(&node))
    }

    fn serves(&self, at: DiskRef) -> bool {
        let known = self.view.disks.get(&at.disk).filter(|d| d.at == at);
        known.is_some_and(|d| d.presence == Presence::Up && self.answers(d.node))
    }

    fn journal(&self, volume: &VolumeRecord) -> Option<String> {
        let is_here = |at: &DiskRef| self.is_lost(*at);
        let sets = std::iter::once(&volume.journal.replicas).chain(&volume.journal.next);
        let told = volume.owner.and_then(|o| self.heard.figures.get(&o.node));
        let told = told.and_then(|figures| figures.volumes.get(&volume.id));
        for set in sets {
            if !set.iter().any(is_here) {
                continue;
            }
            let serve = set.iter().filter(|at| self.serves(**at)).count();
            let need = JournalConfig::ack_quorum(set.len());
            // Which of them lag only their owner knows: it may be those that are left. Under load
            // one is nearly always behind by what is on its way, which a site's loss bears (the
            // next owner takes it from the other one), and a stop that can wait need not.
            let behind = match told {
                Some(told) if told.serving => told.replicas.saturating_sub(match self.loss.site {
                    Some(_) => told.replicas_in_step,
                    None => told.replicas_current,
                }),
                _ => 0,
            };
            let behind = usize::try_from(behind).unwrap_or(usize::MAX);
            if serve.saturating_sub(behind) < need {
                let lag = match behind {
                    0 => String::new(),
                    n => format!(", of which {n} may lag"),
                };
                return Some(format!(
                    "volume {}: {serve} of its {} journal replicas would serve{lag}, {need} are needed",
                    volume.name,
                    set.len()
                ));
            }
        }
        match told {
            Some(told) if told.serving => None,
            _ => Some(format!(
                "volume {}: its owner does not say how its journal is: it is being started, or does \
                 not answer",
                volume.name
            )),
        }
    }

    /// Rows from which nothing could be decoded any more.
    fn fragments(&self, pool: Pool, table: &SpreadTable) -> Option<String> {
        let codec = Codec::new(pool.code).ok()?;
        let all = SlotSet::first(table.slots);
        let is_short = |row: &Row| {
            let slots = || (0..table.slots).map(Slot);
            let is_touched = |slot| {
                let place = table.place(*row, slot);
                let mut at = [place.disk, place.to].into_iter().flatten();
                at.any(|at| self.is_lost(at))
            };
            // A slot in motion counts if both of its places do: each may hold what the other
            // one lacks.
            let is_there = |slot: &Slot| {
                let place = table.place(*row, *slot);
                let here = place.disk.is_some_and(|at| self.serves(at));
                here && place.to.is_none_or(|to| self.serves(to))
            };
            let left: SlotSet = slots().filter(is_there).collect();
            slots().any(is_touched) && codec.cheapest(all, left, |_| 1).is_none()
        };
        let short = (0..table.rows).map(Row).filter(is_short).count();
        (short > 0).then(|| {
            format!(
                "pool {pool}: segments in {short} of its {} rows could not be read",
                table.rows
            )
        })
    }

    fn voters(&self, group: GroupId, members: &Members) -> Option<String> {
        let name = match group {
            GroupId::Global => "the global placement group".to_owned(),
            GroupId::Site(site) => {
                format!("the group of site {}", site_name(self.view, Some(site)))
            }
        };
        for set in [&members.voters, &members.outgoing] {
            if !set.iter().any(|m| self.loss.nodes.contains(&m.node())) {
                continue;
            }
            let left = set.iter().filter(|m| self.answers(m.node())).count();
            let need = set.len() / 2 + 1;
            if left < need {
                return Some(format!(
                    "{name}: {left} of its {} voters would answer without {}, {need} are needed",
                    set.len(),
                    self.loss.name
                ));
            }
        }
        None
    }
}
