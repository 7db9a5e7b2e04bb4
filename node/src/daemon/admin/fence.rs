//! A site is fenced for a drill: whether that may be, and the word of it to every node of every
//! other site. The site's own nodes are told nothing: who is lost can't be told.

use std::collections::{BTreeMap, BTreeSet};

use model::ids::{NodeId, SiteId};
use model::placement::{Presence, View};
use raft_meta::GroupId;
use raft_meta::message::Members;
use transport::fence::{DrillId, Order, Standing};

use super::safety::{self, Loss};
use super::show::{self, Heard, node_name, site_name};
use super::{Admin, fail, not_now, site_named, status};
use crate::admin::protocol::{
    Degraded, Drill, Failure, FailureKind, Fenced, Lifted, RepairKind, Reply, SiteSafety, Status,
};
use crate::daemon::peers::{Figures, Question};

/// Fences that nodes told of, each with who keeps it for longest.
fn standing(heard: &Heard) -> BTreeMap<(SiteId, DrillId), Standing> {
    let mut found: BTreeMap<(SiteId, DrillId), Standing> = BTreeMap::new();
    for told in heard.figures.values().filter_map(|figures| figures.fence) {
        let known = found.entry((told.site, told.drill)).or_insert(told);
        if known.ends_in_ms < told.ends_in_ms {
            *known = told;
        }
    }
    found
}

/// Sites that a drill keeps fenced.
pub(super) fn degraded(view: &View, heard: &Heard, degraded: &mut Vec<Degraded>) {
    for fence in standing(heard).values() {
        let seconds = |ms: u64| ms.div_ceil(1000);
        status::add(
            degraded,
            format!("drill at site {}", site_name(view, Some(fence.site))),
            "a drill fences it: nothing passes between its nodes and those of other sites, as if it were lost",
            format!(
                "it is over {} s after the drill stops renewing it, in {} s at the latest; `atoll drill stop` lifts it now",
                seconds(fence.ends_in_ms),
                seconds(fence.left_ms)
            ),
        );
    }
}

/// Why a site is not to be fenced: what is not whole already, and what counts on it.
fn reasons(
    view: &View,
    heard: &Heard,
    groups: &BTreeMap<GroupId, Members>,
    (site, seen_by): (SiteId, &str),
) -> Vec<String> {
    let status = status::status(view, heard, groups, seen_by);
    let mut reasons = plain_reasons(view, &status, site);
    let loss = Loss::of_site(view, site);
    reasons.extend(safety::reasons(view, heard, groups, &loss));
    reasons
}

/// Why not, whatever counts on it.
fn plain_reasons(view: &View, status: &Status, site: SiteId) -> Vec<String> {
    let mut reasons: Vec<String> = status
        .degraded
        .iter()
        .map(|d| format!("{}: {}", d.what, d.why))
        .collect();
    let unsafe_until_done = |kind: RepairKind| kind != RepairKind::Rebalance;
    let repairs = status.repairs.iter();
    reasons.extend(
        repairs
            .filter(|r| unsafe_until_done(r.kind))
            .map(|r| format!("{} is under way", r.what)),
    );
    match status.at_risk_bytes {
        Some(0) => {}
        Some(bytes) => reasons.push(format!("{bytes} bytes are at risk already")),
        None => reasons.push("nobody counted yet how many bytes are at risk".to_owned()),
    }
    let others = view
        .sites
        .iter()
        .filter(|(id, s)| **id != site && s.presence == Presence::Up);
    let others: Vec<_> = others.collect();
    let name = site_name(view, Some(site));
    if others.len() < 2 {
        reasons.push(format!(
            "without site {name} {} is left, and nothing goes on with fewer than two",
            others.len()
        ));
    }
    if view.sites.get(&site).is_some_and(|s| !s.role.holds_data()) {
        reasons.push(format!(
            "site {name} is a witness: a drill's volume has no home there"
        ));
    }
    reasons
}

impl Admin {
    /// The nodes that are to keep a site fenced.
    fn keepers(view: &View, site: SiteId) -> BTreeSet<NodeId> {
        let mut nodes = show::members(view);
        nodes.retain(|id| view.nodes.get(id).is_some_and(|n| n.site != site));
        nodes
    }

    /// Refuses a site that this node is in: it could not lift what keeps it from the others.
    fn site_to_fence(&self, name: &str) -> Result<SiteId, Failure> {
        let view = self.meta.view();
        let site = site_named(&view, name)?;
        if view.nodes.get(&self.node).is_some_and(|n| n.site == site) {
            let why = format!(
                "node {} is in site {name} itself: give --dir the directory of a node in another site",
                self.name
            );
            return Err(fail(FailureKind::Refused, why));
        }
        Ok(site)
    }

    fn fence_reasons(&self, site: SiteId) -> Result<Vec<String>, Failure> {
        let (view, heard) = self.hear_all()?;
        let groups = self.groups()?;
        Ok(reasons(&view, &heard, &groups, (site, &self.name)))
    }

    /// Whether a site may be fenced now.
    pub(super) fn safe_to_fence(&self, name: &str) -> Result<Reply, Failure> {
        let reasons = self.fence_reasons(self.site_to_fence(name)?)?;
        Ok(Reply::SiteSafety(SiteSafety {
            site: name.to_owned(),
            safe: reasons.is_empty(),
            reasons,
        }))
    }

    /// Fences a site. Half a fence is none: it is lifted again.
    pub(super) fn fence(&self, name: &str, drill: Drill, left_ms: u64) -> Result<Reply, Failure> {
        let site = self.site_to_fence(name)?;
        let reasons = self.fence_reasons(site)?;
        if !reasons.is_empty() {
            let why = format!("site {name} is not fenced:\n  {}", reasons.join("\n  "));
            return Err(fail(FailureKind::Refused, why));
        }
        let fenced = self.order(name, site, (drill, 0), left_ms)?;
        if fenced.silent.is_empty() && fenced.refused.is_empty() {
            return Ok(Reply::Fenced(fenced));
        }
        self.lift(&self.meta.view(), DrillId(drill.0), Some(site))?;
        let silent = fenced.silent.iter().map(|n| format!("{n}: it is silent"));
        let whys: Vec<String> = silent.chain(fenced.refused).collect();
        let why = format!("not every node keeps the fence:\n  {}", whys.join("\n  "));
        Err(fail(FailureKind::Refused, why))
    }

    /// Keeps it fenced.
    pub(super) fn renew_fence(
        &self,
        name: &str,
        numbered: (Drill, u64),
        left_ms: u64,
    ) -> Result<Reply, Failure> {
        if numbered.1 == 0 {
            return Err(fail(FailureKind::Refused, "renewals count from 1"));
        }
        let site = self.site_to_fence(name)?;
        let fenced = self.order(name, site, numbered, left_ms)?;
        Ok(Reply::Fenced(fenced))
    }

    fn order(
        &self,
        name: &str,
        site: SiteId,
        (drill, number): (Drill, u64),
        left_ms: u64,
    ) -> Result<Fenced, Failure> {
        if !self.peers.is_serving() {
            return Err(not_now());
        }
        let view = self.meta.view();
        let nodes = Self::keepers(&view, site);
        let order = Order {
            drill: DrillId(drill.0),
            site,
            number,
            left_ms,
        };
        let told = self.peers.ask(&nodes, Question::Fence(order));
        let named = |id: &NodeId| node_name(&view, *id);
        let keeps = |figures: &Figures| figures.refused.is_none();
        Ok(Fenced {
            site: name.to_owned(),
            kept_by: told
                .iter()
                .filter(|(_, f)| keeps(f))
                .map(|(id, _)| named(id))
                .collect(),
            silent: nodes
                .iter()
                .filter(|id| !told.contains_key(id))
                .map(named)
                .collect(),
            refused: told
                .iter()
                .filter_map(|(id, f)| Some(format!("{}: {}", named(id), f.refused?)))
                .collect(),
        })
    }

    /// Lifts a drill's fence, or all that nodes tell of.
    pub(super) fn lift_fence(&self, drill: Option<Drill>) -> Result<Reply, Failure> {
        let view = self.meta.view();
        let Some(Drill(drill)) = drill else {
            let heard = self.hear(&view, show::members(&view), Question::All)?;
            // A node that is busy with its disks may not answer itself in time.
            let own = self.peers.fence().map(|fence| (fence.site, fence.drill));
            let found: BTreeSet<_> = standing(&heard).into_keys().chain(own).collect();
            let mut told = Lifted::default();
            for (site, drill) in found {
                let lifted = self.lift(&view, drill, Some(site))?;
                told.lifted.extend(lifted.lifted);
                told.silent.extend(lifted.silent);
            }
            if told.lifted.is_empty() {
                // One of them may keep a fence.
                told.silent = heard.unreachable(&view);
            }
            return Ok(Reply::Lifted(told));
        };
        let drill = DrillId(drill);
        let known = self.peers.fence().filter(|fence| fence.drill == drill);
        let lifted = self.lift(&view, drill, known.map(|fence| fence.site))?;
        Ok(Reply::Lifted(lifted))
    }

    /// The site's own nodes need not be asked, and would not answer.
    fn lift(&self, view: &View, drill: DrillId, site: Option<SiteId>) -> Result<Lifted, Failure> {
        if !self.peers.is_serving() {
            return Err(not_now());
        }
        let nodes = site.map_or_else(|| show::members(view), |site| Self::keepers(view, site));
        let told = self.peers.ask(&nodes, Question::Lift(drill));
        let silent = nodes.iter().filter(|id| !told.contains_key(id));
        Ok(Lifted {
            lifted: site
                .iter()
                .map(|site| site_name(view, Some(*site)))
                .collect(),
            silent: silent.map(|id| node_name(view, *id)).collect(),
        })
    }
}

#[cfg(test)]
mod tests;
