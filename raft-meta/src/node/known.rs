//! What a node knows of the groups, and by whom it finds them.

use std::sync::Arc;

use model::ids::{NodeId, SiteId};
use model::placement::{Presence, View};
use model::time::Time;

use super::MetaNode;
use super::api::Identity;
use crate::global::GlobalState;
use crate::message::{GroupId, LogIndex, Members, Term};
use crate::seat::Seat;
use crate::site::SiteState;

impl MetaNode {
    /// Who this is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The last view that was given out.
    #[must_use]
    pub fn view(&self) -> Option<&Arc<View>> {
        self.view.as_ref()
    }

    /// The newest state of the global placement group that this node has; may lag.
    #[must_use]
    pub fn global(&self) -> Option<&GlobalState> {
        self.global.state()
    }

    /// The newest state of a site's group that this node has; may lag.
    #[must_use]
    pub fn site(&self, site: SiteId) -> Option<&SiteState> {
        self.sites.get(&site)?.state()
    }

    /// Whether this node leads a group.
    #[must_use]
    pub fn is_leader(&self, group: GroupId) -> bool {
        match group {
            GroupId::Global => self.global.is_leader(),
            GroupId::Site(site) => self.sites.get(&site).is_some_and(Seat::is_leader),
        }
    }

    /// Whether this node is a member of a group.
    pub(super) fn is_member(&self, group: GroupId) -> bool {
        match group {
            GroupId::Global => self.global.is_member(),
            GroupId::Site(site) => self.sites.get(&site).is_some_and(Seat::is_member),
        }
    }

    /// A group's term at this node, if it is a member.
    #[must_use]
    pub fn term(&self, group: GroupId) -> Option<Term> {
        match group {
            GroupId::Global => self.global.term(),
            GroupId::Site(site) => self.sites.get(&site)?.term(),
        }
    }

    /// A group's leader, as far as this node knows.
    #[must_use]
    pub fn leader(&self, group: GroupId, now: Time) -> Option<NodeId> {
        match group {
            GroupId::Global => self.global.leader(now),
            GroupId::Site(site) => self.sites.get(&site)?.leader(now),
        }
    }

    /// A group's members, as far as this node knows.
    #[must_use]
    pub fn members(&self, group: GroupId) -> Option<&Members> {
        match group {
            GroupId::Global => self.global.members(),
            GroupId::Site(site) => self.sites.get(&site)?.members(),
        }
    }

    /// How much of a group's log this node has applied.
    #[must_use]
    pub fn applied(&self, group: GroupId) -> LogIndex {
        match group {
            GroupId::Global => self.global.applied(),
            GroupId::Site(site) => self.sites.get(&site).map_or(LogIndex(0), Seat::applied),
        }
    }

    /// The nodes by which a site's group is found, by the global placement group.
    pub(super) fn hints(&self, site: SiteId) -> Vec<NodeId> {
        let entry = self.global.state().and_then(|g| g.sites.get(&site));
        let Some(entry) = entry else {
            return Vec::new();
        };
        if entry.contacts.is_empty() {
            return entry.founder.into_iter().collect();
        }
        let mut hints = entry.contacts.clone();
        if entry.presence == Presence::Down {
            // Its members may all be lost: others relay what they know.
            hints.extend(
                self.global
                    .members()
                    .map(Members::voter_nodes)
                    .unwrap_or_default(),
            );
        }
        hints
    }

    /// The nodes by which the global placement group is found while none of its members is
    /// known: a node that restarted remembers the nodes of its site, and one of them may well
    /// be a member. Its contacts may be lost, and its site without a member: then others ask
    /// for the site's group.
    pub(super) fn global_hints(&self) -> Vec<NodeId> {
        if self.global.members().is_some() {
            return Vec::new();
        }
        let own = self.sites.get(&self.identity.site).and_then(Seat::state);
        let nodes = own.into_iter().flat_map(|s| s.nodes.keys());
        nodes
            .chain(&self.callers)
            .copied()
            .filter(|n| *n != self.identity.node)
            .collect()
    }
}
