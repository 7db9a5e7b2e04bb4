//! The scrub of journals: what replicas hold is read and checked at rest, one replica after the
//! other, at a bounded pace.
//!
//! A log that turns out to be damaged counts for nothing until its owner has refilled it (R8). So
//! only what an owner lives for is looked at, which refills it at once from what it holds itself:
//! with none, one that rots here and one that rots elsewhere would both be given up.
//!
//! **Invariant:** one page is read at a time, and nothing is said of a replica whose log is another
//! one since it was asked for.

use std::time::Duration;

use bytes::Bytes;
use model::ids::{Seq, VolumeId};
use model::sometimes::{Sometimes, reached};
use model::store::EntryAt;
use model::time::Time;

use super::batch::Serial;
use super::entry::Health;
use super::replica::Replica;
use super::{Disk, DiskEffect};

/// Payload bytes of a page, about.
const PAGE_BYTES: u64 = 256 << 10;

/// So often in a row do appends go first.
const YIELDS_MAX: u32 = 10;

/// A page that is being read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page {
    volume: VolumeId,
    lineage: Serial,
    bytes: u64,
}

/// How far the pass is.
#[derive(Debug)]
pub(super) struct JournalScrub {
    /// Where it goes on; nothing between two passes.
    cursor: Option<(VolumeId, Seq)>,
    due: Time,
    began: Time,
    yields: u32,
}

impl JournalScrub {
    /// The first pass begins after a while, as each later one.
    pub(super) fn new(now: Time, every: Duration) -> Self {
        Self {
            cursor: None,
            due: now + every,
            began: now,
            yields: 0,
        }
    }
}

impl Disk {
    /// When there is something to do. The store's answer comes by itself.
    pub(super) fn journal_scrub_deadline(&self) -> Option<Time> {
        let reading = self.reads.values().any(|reading| reading.is_scrub());
        (!reading).then_some(self.journal_scrub.due)
    }

    /// Goes on, if that is due.
    pub(super) fn scrub_journals(&mut self, now: Time, out: &mut Vec<DiskEffect>) {
        let is_due = self.journal_scrub_deadline().is_some_and(|due| due <= now);
        if self.retired || !is_due {
            return;
        }
        let scrub = &mut self.journal_scrub;
        if self.appends > 0 && scrub.yields < YIELDS_MAX {
            scrub.yields += 1;
            scrub.due = now + self.config.scrub.pause;
            return;
        }
        scrub.yields = 0;
        let (volume, seq) = *scrub.cursor.get_or_insert_with(|| {
            scrub.began = now;
            (VolumeId(0), Seq(0))
        });
        let rest = self.replicas.range(volume..);
        for (id, replica) in rest {
            let from = if *id == volume { seq } else { Seq(0) };
            let (places, next) = match replica.has_owner(now) && replica.health() == Health::Whole {
                true => page(replica, from),
                false => continue,
            };
            if places.is_empty() {
                continue;
            }
            let bytes = places.iter().map(|at| u64::from(at.payload_len)).sum();
            let page = Page {
                volume: *id,
                lineage: replica.lineage(),
                bytes,
            };
            self.journal_scrub.cursor = Some((*id, next));
            return self.read_page(places, page, out);
        }
        // All were looked at.
        let scrub = &mut self.journal_scrub;
        scrub.cursor = None;
        scrub.due = (scrub.began + self.config.scrub.journals_every).max(now);
    }

    /// A page was read; what is not as it was written is missing.
    pub(super) fn page_read(&mut self, now: Time, page: Page, read: &[Option<Bytes>]) {
        let pace = self.config.scrub.bytes_per_s.max(1);
        let takes = page.bytes.saturating_mul(1_000_000_000) / pace;
        self.journal_scrub.due = now + Duration::from_nanos(takes);
        let replica = self.replicas.get(&page.volume);
        let is_same = |r: &&Replica| r.lineage() == page.lineage && r.health() == Health::Whole;
        if replica.filter(is_same).is_some() && read.iter().any(Option::is_none) {
            reached(Sometimes::JournalRotFound);
            self.damage(page.volume);
        }
    }
}

/// What is read next of a replica: where that lies, and from where on it goes on.
fn page(replica: &Replica, from: Seq) -> (Vec<EntryAt>, Seq) {
    let (mut places, mut bytes, mut next) = (Vec::new(), 0, from);
    for held in replica.log().from(from) {
        // What is not durable yet was just written.
        let Some(at) = held.slot.at else {
            break;
        };
        if at.payload_len > 0 {
            bytes += u64::from(at.payload_len);
            places.push(at);
        }
        next = Seq(held.head.position.seq.0.saturating_add(1));
        if bytes >= PAGE_BYTES {
            break;
        }
    }
    (places, next)
}
