//! What the placement's view says of moves to this node's disks, and of rows whose fragments are
//! mended there.

use std::collections::BTreeSet;
use std::sync::Arc;

use model::ids::DiskRef;
use model::placement::View;
use model::spread::SlotMove;
use model::time::Time;

use super::job::{Job, State};
use super::sources::Row;
use super::{Healer, Key};

impl Healer {
    pub(super) fn view(&mut self, now: Time, view: Arc<View>) {
        if view.version < self.view.version {
            return;
        }
        let before = std::mem::replace(&mut self.view, view);
        let view = &self.view;
        if (&before.pools, &before.disks, &before.nodes) == (&view.pools, &view.disks, &view.nodes)
            && before.sites == view.sites
        {
            // What is new is about volumes.
            return;
        }
        self.survey.view(&self.view, self.node);
        let view = Arc::clone(&self.view);
        let node = self.node;
        let is_here = |to: DiskRef| {
            let disk = view.disks.get(&to.disk);
            disk.is_some_and(|d| d.at == to && d.node == node)
        };
        let mut seen = BTreeSet::new();
        for (pool, table) in &view.pools {
            for (row, slot, place) in table.iter() {
                let Some(to) = place.to.filter(|to| is_here(*to)) else {
                    continue;
                };
                let (pool, version) = (*pool, place.version);
                let healing = SlotMove {
                    pool,
                    row,
                    slot,
                    version,
                    to,
                };
                seen.insert((pool, row, slot));
                self.see(now, healing);
            }
        }
        let unseen = self.jobs.iter().filter(|(key, _)| !seen.contains(key));
        let (mends, moves): (Vec<_>, Vec<_>) = unseen.partition(|(_, job)| job.mend.is_some());
        let mends: Vec<Key> = mends.into_iter().map(|(key, _)| *key).collect();
        let ended: Vec<Key> = moves.into_iter().map(|(key, _)| *key).collect();
        for key in ended {
            self.drop_job(&key);
        }
        for key in mends {
            let healing = self.jobs[&key].healing;
            match Row::of(&self.view, &healing) {
                Some(row) => self.row_seen(now, key, row),
                // It is moved, or it was.
                None => self.drop_job(&key),
            }
        }
    }

    /// A move to a disk of this node, as the view has it.
    fn see(&mut self, now: Time, healing: SlotMove) {
        let key = (healing.pool, healing.row, healing.slot);
        if self
            .jobs
            .get(&key)
            .is_some_and(|job| job.healing != healing)
        {
            self.drop_job(&key);
        }
        let Some(row) = Row::of(&self.view, &healing) else {
            return;
        };
        match self.jobs.get(&key) {
            Some(_) => self.row_seen(now, key, row),
            None => {
                self.jobs.insert(key, Job::new(healing, row, now));
            }
        }
    }

    fn row_seen(&mut self, now: Time, key: Key, row: Row) {
        let job = self.jobs.get_mut(&key).expect("it is there");
        if job.row == row {
            return;
        }
        let mut stale = job.row_changed(row);
        if job.is_active() && !job.may_run() {
            job.put_off(now);
            stale = true;
        }
        if stale {
            self.asked.retain(|_, asked| asked.key != key);
        }
    }

    pub(super) fn drop_job(&mut self, key: &Key) {
        let job = self.jobs.remove(key).expect("it is there");
        self.news |= matches!(job.state, State::Done);
        self.asked.retain(|_, asked| asked.key != *key);
    }
}
