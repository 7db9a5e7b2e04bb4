//! Mending: what rotted on a disk of this node, or is gone from it, is brought back where it
//! belongs. A rotten fragment is rebuilt from where the table says that the others are. Once a
//! disk's scrub has read all that is there, its rows are listed as for a move: what the disk
//! lacks in two looks, a while apart, is brought back. (In one look, it may just be written.)
//!
//! Nothing is kept over a restart: the scrub tells of what is rotten until it is whole.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use model::ids::{DiskRef, SegmentId, Slot};
use model::sometimes::{Sometimes, reached};
use model::spread::SlotMove;
use model::store::FragmentMeta;
use model::time::Time;

use super::job::{Copying, Job, State};
use super::listing::Missing;
use super::sources::{Row, Source};
use super::{Healer, Key};
use crate::disk::ScrubNews;
use crate::messages::FragmentAt;
use crate::planted::{Bug, planted};

/// What is to be mended of a slot.
#[derive(Debug, Default)]
pub(super) struct Mend {
    /// Told of, and to be tried with the next pass.
    rotten: BTreeMap<SegmentId, FragmentMeta>,
    /// Being tried in this one.
    trying: BTreeMap<SegmentId, FragmentMeta>,
    /// Whether the row is to be listed, to see what is gone.
    look: bool,
    /// What was missing in this pass for the first time.
    missed: BTreeSet<SegmentId>,
    /// And in the one before.
    missed_before: BTreeSet<SegmentId>,
}

impl Mend {
    /// It was stored, or nobody can bring it.
    pub(super) fn settled(&mut self, segment: SegmentId) {
        self.trying.remove(&segment);
    }
}

impl Job {
    /// Whether nothing is known to be wrong: others go first.
    pub(super) fn only_looks(&self) -> bool {
        let known = |m: &Mend| !m.rotten.is_empty() || !m.missed.is_empty();
        self.mend.as_ref().is_some_and(|mend| !known(mend))
    }

    /// Whether it may be worked on now. A disk that does not serve answers nothing: what is to be
    /// mended there must not keep others from their turn. What is moved to one goes elsewhere soon.
    pub(super) fn may_run(&self) -> bool {
        self.mend.is_none() || self.row.target_serves || planted(Bug::LingeringMend)
    }

    /// It is worked on later, from the beginning: nothing that it found is lost.
    pub(super) fn put_off(&mut self, now: Time) {
        let mend = self.mend.as_mut().expect("what is moved is not put off");
        mend.rotten.append(&mut mend.trying);
        mend.look = true;
        self.state = State::Waiting(now);
    }

    /// What is being tried in this pass.
    pub(super) fn rotten(&self) -> Option<&BTreeMap<SegmentId, FragmentMeta>> {
        self.mend.as_ref().map(|mend| &mend.trying)
    }

    /// A pass that need not list anything: what is rotten, and where others should be.
    pub(super) fn begin_mending(&mut self) -> Option<Copying> {
        let mend = self.mend.as_mut()?;
        mend.missed_before = std::mem::take(&mut mend.missed);
        mend.trying.append(&mut mend.rotten);
        if std::mem::take(&mut mend.look) {
            return None;
        }
        let (row, healing) = (&self.row, &self.healing);
        let missing = mend.trying.iter().map(|(segment, meta)| Missing {
            segment: *segment,
            meta: *meta,
            holders: row.holders(healing),
        });
        Some(Copying {
            queue: missing.collect(),
            running: BTreeMap::new(),
            end: None,
        })
    }

    /// Leaves out what is missing for the first time: how many those are. In a move nothing is.
    pub(super) fn not_missed_before(&mut self, queue: &mut VecDeque<Missing>) -> u64 {
        let Some(mend) = &mut self.mend else {
            return 0;
        };
        let before = queue.len();
        queue.retain(|missing| {
            let segment = missing.segment;
            if mend.trying.contains_key(&segment) {
                return true;
            }
            let was_missed = mend.missed_before.contains(&segment);
            if was_missed {
                reached(Sometimes::AbsentRestored);
            } else {
                mend.missed.insert(segment);
            }
            was_missed
        });
        (before - queue.len()) as u64
    }
}

impl Row {
    /// Where fragments of the row's other slots should be.
    fn holders(&self, healing: &SlotMove) -> BTreeMap<Slot, (DiskRef, Source)> {
        let mut holders = BTreeMap::new();
        for (at, source) in &self.disks {
            for slot in source.slots.iter() {
                if *at != healing.to || slot != healing.slot {
                    holders.insert(slot, (*at, *source));
                }
            }
        }
        holders
    }
}

impl Healer {
    pub(super) fn scrub_news(&mut self, now: Time, at: DiskRef, news: ScrubNews) {
        let disk = self.view.disks.get(&at.disk);
        if disk.is_none_or(|disk| disk.at != at || disk.node != self.node) {
            return;
        }
        match news {
            ScrubNews::Rotten(found) => self.mend_rotten(now, at, found),
            ScrubNews::Walked | ScrubNews::Lacking if planted(Bug::UnmissedFragment) => {}
            ScrubNews::Walked | ScrubNews::Lacking => self.look_for_gone(now, at),
        }
    }

    /// R16: nothing of a deleted volume comes back.
    fn mend_rotten(&mut self, now: Time, at: DiskRef, FragmentAt { key, meta }: FragmentAt) {
        let volume = self.view.volumes.get(&key.segment.volume);
        if volume.is_some_and(|volume| volume.deleted) {
            return;
        }
        let Some(table) = self.view.pools.get(&meta.pool) else {
            return;
        };
        let of = (meta.pool, table.row(key.segment), key.slot);
        if let Some(mend) = self.mend_of(now, at, of) {
            mend.rotten.insert(key.segment, meta);
        }
    }

    /// All that lies on the disk is compared with what others have of the same rows.
    fn look_for_gone(&mut self, now: Time, at: DiskRef) {
        let mut slots = Vec::new();
        for (pool, table) in &self.view.pools {
            let settled = table.iter().filter(|(_, _, place)| place.to.is_none());
            let here = settled.filter(|(_, _, place)| place.disk == Some(at));
            slots.extend(here.map(|(row, slot, _)| (*pool, row, slot)));
        }
        for of in slots {
            if let Some(mend) = self.mend_of(now, at, of) {
                mend.look = true;
            }
        }
    }

    /// The mending of a slot that lies on that disk for good. What is moved is not mended: the
    /// move brings all of it.
    fn mend_of(&mut self, now: Time, at: DiskRef, of: Key) -> Option<&mut Mend> {
        let (pool, row, slot) = of;
        let table = self.view.pools.get(&pool)?;
        if row.0 >= table.rows || slot.0 >= table.slots {
            return None;
        }
        let place = table.place(row, slot);
        if place.disk != Some(at) || place.to.is_some() {
            return None;
        }
        assert!(
            self.view.node_of(at) == Some(self.node),
            "only what lies here is mended"
        );
        let healing = SlotMove {
            pool,
            row,
            slot,
            version: place.version,
            to: at,
        };
        if !self.jobs.contains_key(&of) {
            let row = Row::of(&self.view, &healing)?;
            let mut job = Job::new(healing, row, now);
            job.mend = Some(Mend::default());
            self.jobs.insert(of, job);
        }
        self.jobs.get_mut(&of)?.mend.as_mut()
    }

    /// A pass is over: whether another one is needed.
    pub(super) fn mend_on(&mut self, now: Time, key: Key) {
        let job = self.jobs.get_mut(&key).expect("it is there");
        let copied = |s: &State| matches!(s, State::Copying(c) if c.queue.is_empty() && c.running.is_empty());
        assert!(copied(&job.state), "all that was found was tried");
        let mend = job.mend.as_mut().expect("it is mended");
        let tried = std::mem::take(&mut mend.trying);
        if job.left > 0 {
            // By the tables it was not to be had: it is looked where others are, or whether the
            // segment is gone.
            mend.rotten.extend(tried);
            mend.look = true;
            job.pause(now, self.config.pass_pause);
        } else if mend.look || !mend.rotten.is_empty() {
            job.state = State::Waiting(now);
        } else {
            self.drop_job(&key);
        }
    }
}
