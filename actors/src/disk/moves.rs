//! What the disk knows of rows' moves (R20), and what it does about them: what is placed by less
//! than it knows is refused, and fragments of slots that were moved away are dropped.
//!
//! **Invariants:**
//! - A note is durable before anything is answered that rests on it: the store works in order, and
//!   where it had no space for a note, what rests on that is answered `Busy`.
//! - A fragment is dropped only by a table that knows of every move that the disk has a note
//!   of: an older one, seen after a restart, may name a place that the slot has left again. Moves
//!   within a site that is away are left out, but for the fragment's own slot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::geometry::Pool;
use model::ids::{DiskRef, FragmentKey, Row, SegmentId, Slot};
use model::placement::View;
use model::spread::{RowStamp, SpreadTable};
use model::store::{FragmentDone, FragmentOp, OpId};

use super::{Disk, DiskEffect};
use crate::messages::{DiskReply, RowKnown};
use crate::planted::{Bug, planted};

/// Fragments looked at with one operation when the disk is cleared.
const PAGE_KEYS: u32 = 1024;

/// Rows that notes are taken of, at most; the store has the same bound.
const NOTES_MAX: usize = 1 << 18;

/// What a note is taken for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Note {
    /// A fragment of that slot, which was placed by it.
    Placed(Slot),
    /// A listing that others rely on: it never refuses.
    Listed,
}

/// Rows' moves, and the clearing of what was moved away.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// By this disk's own durable notes.
    noted: BTreeMap<(Pool, Row), RowStamp>,
    view: Arc<View>,
    /// The slots that are this disk's by the view.
    mine: BTreeMap<Pool, BTreeSet<(Row, Slot)>>,
    /// Slots that were, and are on their way elsewhere.
    leaving: BTreeMap<Pool, BTreeSet<(Row, Slot)>>,
    /// Notes that the store is making durable, in order.
    noting: BTreeMap<OpId, Noting>,
    /// Whether something may have to go that no clearing has looked for.
    due: bool,
    /// Whether a clearing left something, since a table knew less than the disk.
    postponed: bool,
    clearing: Option<Clearing>,
}

/// A note under way.
#[derive(Debug)]
struct Noting {
    row: (Pool, Row),
    /// What was noted of the row before.
    before: Option<RowStamp>,
}

/// A walk over everything that is stored.
#[derive(Debug)]
struct Clearing {
    op: OpId,
    /// Where it goes on after what is being deleted.
    next: Option<SegmentId>,
}

impl Moves {
    pub(super) fn knowing(noted: BTreeMap<(Pool, Row), RowStamp>) -> Self {
        Self {
            noted,
            ..Self::default()
        }
    }

    /// The placement as it was seen last.
    pub(super) fn view(&self) -> &View {
        &self.view
    }

    /// Of a row, by notes and by the view.
    fn known(&self, (pool, row): (Pool, Row)) -> RowStamp {
        let mut known = self.noted.get(&(pool, row)).cloned().unwrap_or_default();
        if let Some(table) = self.view.pools.get(&pool) {
            known.merge(&table.stamp(row));
        }
        known
    }

    /// The last note of a row that is not durable yet.
    pub(super) fn noting(&self, row: (Pool, Row)) -> Option<OpId> {
        let of_row = |(_, noting): &(&OpId, &Noting)| noting.row == row;
        self.noting.iter().rev().find(of_row).map(|(op, _)| *op)
    }

    /// There was no space for a note. One of the same row that was asked for after it holds what it
    /// held, and takes its place.
    fn forget(&mut self, op: OpId, Noting { row, before }: Noting) {
        let mut later = self.noting.range_mut(op..);
        if let Some((_, next)) = later.find(|(_, noting)| noting.row == row) {
            next.before = before;
            return;
        }
        match before {
            Some(before) => self.noted.insert(row, before),
            None => self.noted.remove(&row),
        };
    }

    /// Whether whoever knows that of a row knows enough to place, or to delete, fragments of the
    /// slots `of`. What moved within a site that is away by a committed decision nobody else may
    /// ever have heard of: its slots don't count, since nobody stores anything there. Those in
    /// question always do (R20; simulator seed 210).
    fn covers(&self, row: (Pool, Row), stamp: &RowStamp, of: impl Fn(Slot) -> bool) -> bool {
        stamp.covers_where(&self.known(row), |slot| {
            of(slot) || !self.is_away(row, slot) || planted(Bug::AwayCounts)
        })
    }

    /// Whether a slot of a row lies in the site that is away.
    fn is_away(&self, (pool, row): (Pool, Row), slot: Slot) -> bool {
        let table = self.view.pools.get(&pool);
        table.is_some_and(|table| self.view.is_slot_away(table.place(row, slot)))
    }

    /// A table is new, or another one than before.
    fn table_seen(&mut self, at: DiskRef, pool: Pool, table: &SpreadTable) {
        // At the first sight nobody knows what was moved away before: all is looked through.
        let is_new = !self.mine.contains_key(&pool);
        let mine = self.mine.entry(pool).or_default();
        let leaving = self.leaving.entry(pool).or_default();
        self.due |= is_new;
        for (row, slot, place) in table.iter() {
            let settled = place.to.is_none();
            if place.disk == Some(at) || place.to == Some(at) {
                mine.insert((row, slot));
                leaving.remove(&(row, slot));
            } else if mine.remove(&(row, slot)) || (is_new && !settled) {
                leaving.insert((row, slot));
            }
            self.due |= settled && leaving.remove(&(row, slot));
        }
    }

    /// Whether a fragment is to go: its slot lies elsewhere for good, by a table that knows
    /// all that the disk knows. By one that knows less it is to be looked at again.
    fn is_elsewhere(&mut self, at: DiskRef, key: FragmentKey, pool: Pool) -> bool {
        let Some(table) = self.view.pools.get(&pool) else {
            return false;
        };
        let row = table.row(key.segment);
        let place = table.place(row, key.slot);
        let settled = place.to.is_none() && place.disk.is_some_and(|disk| disk != at);
        let knows_all = self.covers((pool, row), &table.stamp(row), |slot| slot == key.slot);
        self.postponed |= settled && !knows_all;
        settled && knows_all
    }
}

impl Disk {
    /// Takes note of a row's moves, durably before anything that is asked of the store after
    /// this. What is placed by less than is known is refused: then says what is known.
    pub(super) fn take_note(
        &mut self,
        row: (Pool, Row),
        stamp: RowStamp,
        note: Note,
        out: &mut Vec<DiskEffect>,
    ) -> Result<(), RowStamp> {
        if let Note::Placed(of) = note
            && !self.moves.covers(row, &stamp, |slot| slot == of)
        {
            return Err(self.moves.known(row));
        }
        let noted = self.moves.noted.get(&row);
        if noted.map_or(stamp.slots() == 0, |noted| noted.covers(&stamp)) {
            return Ok(());
        }
        if noted.is_none() && self.moves.noted.len() >= NOTES_MAX {
            return Err(self.moves.known(row));
        }
        let before = noted.cloned();
        let noted = self.moves.noted.entry(row).or_default();
        noted.merge(&stamp);
        let request = FragmentOp::Adopt {
            pool: row.0,
            row: row.1,
            stamp: noted.clone(),
        };
        let op = self.op();
        self.moves.noting.insert(op, Noting { row, before });
        out.push(DiskEffect::Fragments { op, request });
        Ok(())
    }

    /// What is known of the first of these rows of which too little is known by that, to delete
    /// fragments of its slots.
    pub(super) fn outdated(&self, rows: &[RowKnown]) -> Option<RowStamp> {
        let is_old = |known: &&RowKnown| {
            let of = |slot| known.slots.contains(&slot);
            !self.moves.covers((known.pool, known.row), &known.stamp, of)
        };
        let RowKnown { pool, row, .. } = rows.iter().find(is_old)?;
        Some(self.moves.known((*pool, *row)))
    }

    /// The answer to a `Get` of what is not here.
    pub(super) fn not_found(&self, asked: Option<(Pool, FragmentKey)>) -> DiskReply {
        let Some((pool, key)) = asked else {
            return DiskReply::NotFound;
        };
        let table = self.moves.view.pools.get(&pool);
        let is_mine = table.is_none_or(|table| {
            let place = table.place(table.row(key.segment), key.slot);
            place.disk == Some(self.at) || place.to == Some(self.at)
        });
        if is_mine {
            return DiskReply::NotFound;
        }
        let row = table
            .map(|table| table.row(key.segment))
            .unwrap_or_default();
        let stamp = self.moves.known((pool, row));
        DiskReply::NotMine { stamp }
    }

    /// Whether a fragment's slot lies here for good, as far as is known.
    pub(super) fn lies_here(&self, pool: Pool, key: FragmentKey) -> bool {
        let table = self.moves.view.pools.get(&pool);
        table.is_some_and(|table| {
            let place = table.place(table.row(key.segment), key.slot);
            place.disk == Some(self.at) && place.to.is_none()
        })
    }

    /// The tables as they are now: once a slot lies elsewhere for good, its fragments go.
    pub(super) fn moves_seen(&mut self, view: Arc<View>, out: &mut Vec<DiskEffect>) {
        // Which site is away decides, too, how much a table must know of.
        let mut knows_more = self.moves.view.away() != view.away();
        for (pool, table) in &view.pools {
            if self.moves.view.pools.get(pool) != Some(table) {
                knows_more = true;
                self.moves.table_seen(self.at, *pool, table);
            }
        }
        if knows_more {
            self.moves.due |= std::mem::take(&mut self.moves.postponed);
        }
        self.moves.view = view;
        if self.moves.due && self.moves.clearing.is_none() {
            self.moves.due = false;
            self.clear(None, out);
        }
    }

    /// Looks at the next page of all that is stored.
    fn clear(&mut self, after: Option<SegmentId>, out: &mut Vec<DiskEffect>) {
        let limit = PAGE_KEYS;
        let request = FragmentOp::Scan {
            of: None,
            after,
            limit,
        };
        let op = self.op();
        self.moves.clearing = Some(Clearing { op, next: None });
        out.push(DiskEffect::Fragments { op, request });
    }

    /// The store's answer, if it is one to a note or to the clearing.
    pub(super) fn cleared(
        &mut self,
        op: OpId,
        done: FragmentDone,
        out: &mut Vec<DiskEffect>,
    ) -> Option<FragmentDone> {
        if let Some(noting) = self.moves.noting.remove(&op) {
            if done == FragmentDone::Full {
                self.fragments.note_failed(op);
                self.moves.forget(op, noting);
            }
            return None;
        }
        let Some(clearing) = self.moves.clearing.take_if(|c| c.op == op) else {
            return Some(done);
        };
        match done {
            FragmentDone::Scanned { keys, next } => {
                let at = self.at;
                let moves = &mut self.moves;
                let elsewhere = keys.into_iter();
                let elsewhere = elsewhere.filter(|(k, meta)| moves.is_elsewhere(at, *k, meta.pool));
                let keys: Vec<FragmentKey> = elsewhere.map(|(key, _)| key).collect();
                if keys.is_empty() {
                    self.clear_on(next, out);
                } else {
                    let op = self.op();
                    self.moves.clearing = Some(Clearing { op, next });
                    let request = FragmentOp::Delete { keys };
                    out.push(DiskEffect::Fragments { op, request });
                }
            }
            _ => self.clear_on(clearing.next, out),
        }
        None
    }

    fn clear_on(&mut self, next: Option<SegmentId>, out: &mut Vec<DiskEffect>) {
        if next.is_some() {
            self.clear(next, out);
        } else if std::mem::take(&mut self.moves.due) {
            self.clear(None, out);
        }
    }
}
