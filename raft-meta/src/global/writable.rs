//! R27: a site that is reached, and whose disks take nothing, is away for new segments, and for
//! nothing else: it votes, keeps its journals and is read from.

use model::ids::{NodeId, SiteId};
use model::placement::Presence;
use model::sometimes::{Sometimes, reached};

use super::GlobalState;

impl GlobalState {
    /// Whether new segments could do without a site whose disks take nothing: all that was
    /// founded is up, and what is left is more than one site.
    #[must_use]
    pub fn may_leave(&self, site: SiteId) -> bool {
        let settled = self.data_sites();
        let is_up = |s: &SiteId| self.sites[s].presence == Presence::Up;
        settled.len() > 2 && settled.contains(&site) && settled.iter().all(is_up)
    }

    pub(super) fn leave_unwritable(&mut self, site: SiteId, live: &[NodeId]) -> bool {
        if self.unwritable.is_some() || !self.may_leave(site) {
            return false;
        }
        reached(Sometimes::SiteUnwritable);
        self.unwritable = Some(site);
        let live = self.known(live, |_, of| of != site);
        self.create_pool_without(site, &live);
        true
    }

    pub(super) fn take_writable(&mut self, site: SiteId) -> bool {
        if self.unwritable != Some(site) {
            return false;
        }
        reached(Sometimes::SiteWritable);
        self.unwritable = None;
        true
    }
}
