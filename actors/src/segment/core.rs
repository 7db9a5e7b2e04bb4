//! What the write, read and delete halves share: placement, request ids, timers, codecs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use coding::{Codec, CodingError};
use model::geometry::{Code, Pool};
use model::ids::{DiskId, DiskRef, NodeId, RequestId, Row, SegmentId, SiteId, Slot, Version};
use model::payload::Payload;
use model::placement::{Presence, View};
use model::spread::{RowStamp, SpreadTable};
use model::time::Time;

use super::{Effect, SegmentConfig};
use crate::messages::DiskRequest;

/// A disk that had no room is not asked again for so long, while others have it.
const FULL_FOR: Duration = Duration::from_secs(2);

/// Codes kept ready: a fabric uses a handful; more only if a reference is corrupt.
const CODECS_MAX: usize = 32;

#[derive(Debug)]
pub(super) struct Core {
    node: NodeId,
    pub(super) config: SegmentConfig,
    pub(super) view: Arc<View>,
    pub(super) timers: Timers,
    next: RequestId,
    asked: BTreeMap<RequestId, Asked>,
    codecs: BTreeMap<Code, Codec>,
    /// Disks that had no room lately, and until when that is believed.
    full: BTreeMap<DiskId, Time>,
}

/// An unanswered request to a disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) disk: DiskId,
    pub(super) purpose: Purpose,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    Put { write: RequestId, slot: Slot },
    Get { read: RequestId },
    Delete,
}

/// Where a slot of a segment is, by the newest view.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// On this disk, which takes part or is down by a committed decision.
    Disk(OnDisk),
    /// The disk was removed for good or has begun another life: the fragment is gone.
    Lost,
    /// The view assigns no disk, or does not know it yet.
    Unassigned,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct OnDisk {
    pub(super) at: DiskRef,
    pub(super) node: NodeId,
    pub(super) site: SiteId,
    pub(super) up: bool,
}

impl Place {
    pub(super) fn disk(self) -> Option<OnDisk> {
        match self {
            Self::Disk(on) => Some(on),
            Self::Lost | Self::Unassigned => None,
        }
    }
}

impl Core {
    pub(super) fn new(
        node: NodeId,
        config: SegmentConfig,
        view: Arc<View>,
        start: RequestId,
    ) -> Self {
        Self {
            node,
            config,
            view,
            timers: Timers::default(),
            next: start,
            asked: BTreeMap::new(),
            codecs: BTreeMap::new(),
            full: BTreeMap::new(),
        }
    }

    /// The code's codec; an error if the code (perhaps from a corrupt reference) is unsound.
    pub(super) fn codec(&mut self, code: Code) -> Result<Codec, CodingError> {
        if let Some(codec) = self.codecs.get(&code) {
            return Ok(codec.clone());
        }
        let codec = Codec::new(code)?;
        if self.codecs.len() >= CODECS_MAX {
            self.codecs.clear();
        }
        self.codecs.insert(code, codec.clone());
        Ok(codec)
    }

    fn table(&self, pool: Pool) -> Option<&SpreadTable> {
        let table = self.view.pools.get(&pool);
        table.filter(|t| t.slots == pool.code.slots())
    }

    /// Where a slot of a segment is written, and read first.
    pub(super) fn place(&self, pool: Pool, segment: SegmentId, slot: Slot) -> Place {
        let at = self.table(pool).and_then(|t| t.disk(t.row(segment), slot));
        at.map_or(Place::Unassigned, |at| self.place_of(at))
    }

    /// Whether every slot of a new segment would be on a disk that takes part.
    pub(super) fn is_writable(&self, pool: Pool, segment: SegmentId) -> bool {
        let table = self.table(pool);
        table.is_some_and(|table| self.takes(table, table.row(segment)))
    }

    /// A disk has no room.
    pub(super) fn note_full(&mut self, now: Time, disk: DiskId) {
        self.full.insert(disk, now + FULL_FOR);
    }

    /// Whether a segment's disks have room, as far as is known, or no row's of its pool have.
    pub(super) fn has_room(&mut self, now: Time, pool: Pool, segment: SegmentId) -> bool {
        self.full.retain(|_, until| *until > now);
        let Some(table) = self.table(pool).filter(|_| !self.full.is_empty()) else {
            return true;
        };
        let other = |row: &Row| self.takes(table, *row) && self.is_roomy(table, *row);
        self.is_roomy(table, table.row(segment)) || !(0..table.rows).map(Row).any(|row| other(&row))
    }

    /// Whether space is all that lacks: no row of a pool without a full disk waits for something
    /// else, such as a disk that is being replaced (R18).
    pub(super) fn lacks_space_alone(&self, pool: Pool) -> bool {
        let Some(table) = self.table(pool) else {
            return false;
        };
        let waits = |row: Row| !self.takes(table, row) && self.is_roomy(table, row);
        !(0..table.rows).map(Row).any(waits)
    }

    fn is_roomy(&self, table: &SpreadTable, row: Row) -> bool {
        let mut disks = (0..table.slots).filter_map(|slot| table.disk(row, Slot(slot)));
        disks.all(|at| !self.full.contains_key(&at.disk))
    }

    /// Whether that can be said of any segment of a pool.
    pub(super) fn has_writable_row(&self, pool: Pool) -> bool {
        let table = self.table(pool);
        table.is_some_and(|table| (0..table.rows).any(|row| self.takes(table, Row(row))))
    }

    fn takes(&self, table: &SpreadTable, row: Row) -> bool {
        (0..table.slots).map(Slot).all(|slot| {
            let place = table.disk(row, slot).map(|at| self.place_of(at));
            place.and_then(Place::disk).is_some_and(|on| on.up)
        })
    }

    /// Where a slot that is being moved lay before, unless that is lost.
    pub(super) fn former(&self, pool: Pool, segment: SegmentId, slot: Slot) -> Option<OnDisk> {
        let table = self.table(pool)?;
        let at = table.former(table.row(segment), slot)?;
        self.place_of(at).disk()
    }

    /// Whether a slot of a segment is being moved.
    pub(super) fn is_moving(&self, pool: Pool, segment: SegmentId, slot: Slot) -> bool {
        let place = self.table(pool).map(|t| t.place(t.row(segment), slot));
        place.is_some_and(|place| place.to.is_some())
    }

    /// How often a slot of a segment was moved, as far as is known.
    pub(super) fn version(&self, pool: Pool, segment: SegmentId, slot: Slot) -> Version {
        let place = self.table(pool).map(|t| t.place(t.row(segment), slot));
        place.map_or(Version::default(), |place| place.version)
    }

    /// A segment's row, and what is known of its moves (R20).
    pub(super) fn row(&self, pool: Pool, segment: SegmentId) -> (Row, RowStamp) {
        let row = self
            .table(pool)
            .map(|t| (t.row(segment), t.stamp(t.row(segment))));
        row.unwrap_or_default()
    }

    fn place_of(&self, at: DiskRef) -> Place {
        let view = &self.view;
        let Some(disk) = view.disks.get(&at.disk) else {
            return Place::Unassigned;
        };
        let Some(node) = view.nodes.get(&disk.node) else {
            return Place::Unassigned;
        };
        let Some(site) = view.sites.get(&node.site) else {
            return Place::Unassigned;
        };
        let presences = [disk.presence, node.presence, site.presence];
        if disk.at != at || presences.contains(&Presence::Gone) {
            return Place::Lost;
        }
        let up = presences.iter().all(|p| *p == Presence::Up);
        Place::Disk(OnDisk {
            at,
            node: disk.node,
            site: node.site,
            up,
        })
    }

    /// The site of the node that this machine runs on.
    pub(super) fn site(&self) -> Option<SiteId> {
        self.view.nodes.get(&self.node).map(|node| node.site)
    }

    /// A new request id, under which an answer from `disk` is awaited.
    pub(super) fn ask(&mut self, disk: DiskId, purpose: Purpose) -> RequestId {
        let id = self.next;
        self.next = RequestId(id.0 + 1);
        let before = self.asked.insert(id, Asked { disk, purpose });
        assert!(before.is_none(), "request ids are never reused");
        id
    }

    /// No answer to this request is awaited any more.
    pub(super) fn forget(&mut self, id: RequestId) {
        self.asked.remove(&id);
    }

    pub(super) fn asked(&self, id: RequestId) -> Option<Asked> {
        self.asked.get(&id).copied()
    }

    pub(super) fn asked_count(&self) -> usize {
        self.asked.len()
    }
}

/// Appends a message to a disk.
pub(super) fn send(
    out: &mut Vec<Effect>,
    node: NodeId,
    disk: DiskId,
    id: RequestId,
    request: DiskRequest,
    payload: Payload,
) {
    out.push(Effect::ToDisk {
        node,
        disk,
        id,
        request,
        payload,
    });
}

/// What a deadline is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Timer {
    Write(RequestId),
    Admission,
    Read(RequestId),
    Delete(DiskId),
}

/// One deadline a timer.
#[derive(Debug, Default)]
pub(super) struct Timers {
    by_time: BTreeSet<(Time, Timer)>,
    by_timer: BTreeMap<Timer, Time>,
}

impl Timers {
    pub(super) fn set(&mut self, timer: Timer, at: Option<Time>) {
        let before = match at {
            Some(at) => self.by_timer.insert(timer, at),
            None => self.by_timer.remove(&timer),
        };
        if before == at {
            return;
        }
        if let Some(before) = before {
            self.by_time.remove(&(before, timer));
        }
        if let Some(at) = at {
            self.by_time.insert((at, timer));
        }
    }

    pub(super) fn next(&self) -> Option<Time> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes one timer that is due.
    pub(super) fn pop(&mut self, now: Time) -> Option<Timer> {
        let &(at, timer) = self.by_time.first()?;
        if at > now {
            return None;
        }
        self.set(timer, None);
        Some(timer)
    }
}
