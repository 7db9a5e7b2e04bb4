//! Copying forward: an idle volume never pins a journal file.
//!
//! Two things are written again: a replica's `State` (when it may trim or is refilled, and
//! when the entry lies in a file that is to go), and records of such a file. Both first read
//! the payload that goes along, then queue an entry that supersedes the old one once durable.
//! A crash at any point in between finds the old entry or both: the replay of either is the
//! same. One round runs at a time.

use bytes::Bytes;
use model::ids::{Position, VolumeId};
use model::journal::Checkpoint;
use model::payload::Payload;
use model::sometimes::{Sometimes, reached};
use model::store::{EntryAt, FileNo};

use super::batch::Serial;
use super::entry::{DISK_MARK, Entry, Health};
use super::files::{Pinned, payload_cost};
use super::reads::Reading;
use super::replica::Replica;
use super::{Disk, DiskEffect};

/// Entries of one round.
const MOVES_MAX: usize = 1024;

/// What is written again.
#[derive(Debug)]
pub(super) struct Move {
    volume: VolumeId,
    lineage: Serial,
    what: What,
    /// Where the payload lies, if there is one.
    at: Option<EntryAt>,
}

#[derive(Clone, Copy, Debug)]
enum What {
    State(Option<(Position, Checkpoint)>),
    Record(Position, EntryAt),
}

impl Disk {
    /// Starts a round if there is something to do.
    pub(super) fn advance_moves(&mut self, out: &mut Vec<DiskEffect>) {
        if self.reads.values().any(Reading::is_move) {
            return;
        }
        let mut moves = Vec::new();
        let wishes: Vec<VolumeId> = self.restate.iter().copied().take(MOVES_MAX).collect();
        for volume in wishes {
            let replica = self.replicas.get(&volume);
            match replica.filter(|r| r.wants_state()) {
                None => {
                    self.restate.remove(&volume);
                }
                Some(replica) => moves.extend(state_move(volume, replica)),
            }
        }
        if std::mem::take(&mut self.look_for_moves) {
            self.plan_file(&mut moves);
        }
        if moves.is_empty() {
            return;
        }
        let places: Vec<EntryAt> = moves.iter().filter_map(|m| m.at).collect();
        if places.is_empty() {
            self.moves_read(moves, Vec::new());
        } else {
            self.read_moves(places, moves, out);
        }
    }

    /// What pins the oldest file, as far as the credit goes.
    fn plan_file(&mut self, moves: &mut Vec<Move>) {
        let Some(Pinned { file, is_pressing }) = self.files.oldest_pinned(&self.config) else {
            return;
        };
        let mut budget = self.files.credit_bytes().min(self.config.move_bytes_max);
        let pins: Vec<VolumeId> = self.files.pins(file).take(MOVES_MAX).collect();
        for volume in &pins {
            if budget == 0 || moves.len() >= MOVES_MAX {
                return;
            }
            let Some(replica) = self.replicas.get_mut(volume) else {
                continue;
            };
            if replica.health() == Health::Damaged {
                // Its records are given up for nothing less.
                if is_pressing && replica.state().pending.is_none() {
                    replica.queue_wreck(&mut self.batcher);
                }
                continue;
            }
            plan_replica(*volume, replica, file, &mut budget, moves);
        }
        // The mark goes last: by then every damaged replica's own state, which it stood for,
        // lies in a later file.
        if pins == [DISK_MARK] && self.damaged_mark.pending.is_none() {
            self.mark_damaged_disk(Entry::DiskWasDamaged);
        }
    }

    /// Queues what was read. `payloads` are those of the moves that have one, in order.
    pub(super) fn moves_read(&mut self, moves: Vec<Move>, payloads: Vec<Option<Bytes>>) {
        let mut payloads = payloads.into_iter();
        for item in moves {
            let bytes = match item.at {
                Some(_) => payloads.next().expect("one for each place"),
                None => Some(Bytes::new()),
            };
            let Some(replica) = self.replicas.get_mut(&item.volume) else {
                continue;
            };
            if replica.lineage() != item.lineage {
                continue;
            }
            let Some(bytes) = bytes else {
                self.damage(item.volume);
                continue;
            };
            let cost = payload_cost(bytes.len() as u64);
            let moved = match item.what {
                What::State(checkpoint) => {
                    let idle = replica.state().pending.is_none();
                    if idle {
                        let table = Payload::from(bytes);
                        replica.restate(checkpoint, table, &mut self.batcher);
                    }
                    idle
                }
                What::Record(position, at) => {
                    replica.queue_moved(position, at, bytes, &mut self.batcher)
                }
            };
            if moved {
                if matches!(item.what, What::Record(..)) {
                    reached(Sometimes::JournalMoved);
                }
                self.files.spend(cost);
                self.moved_bytes += cost;
            }
            self.note_wish(item.volume);
        }
    }
}

/// The `State` entry to write, unless one is under way.
fn state_move(volume: VolumeId, replica: &Replica) -> Option<Move> {
    if replica.state().pending.is_some() {
        return None;
    }
    let known = replica.known();
    if known.is_some_and(|k| k.table.is_none()) {
        return None;
    }
    let table = known.and_then(|k| k.table);
    Some(Move {
        volume,
        lineage: replica.lineage(),
        what: What::State(known.map(|k| (k.position, k.checkpoint))),
        at: table.filter(|at| at.payload_len > 0),
    })
}

fn plan_replica(
    volume: VolumeId,
    replica: &Replica,
    file: FileNo,
    budget: &mut u64,
    moves: &mut Vec<Move>,
) {
    let places = [replica.state().at, replica.promise().at];
    let planned = moves
        .iter()
        .any(|m| m.volume == volume && matches!(m.what, What::State(_)));
    if places.into_iter().flatten().any(|at| at.file == file)
        && !planned
        && let Some(item) = state_move(volume, replica)
    {
        let table = item.at.map_or(0, |at| u64::from(at.payload_len));
        *budget = budget.saturating_sub(payload_cost(table));
        moves.push(item);
    }
    for held in replica.log().from(model::ids::Seq(0)) {
        if *budget == 0 || moves.len() >= MOVES_MAX {
            return;
        }
        let Some(at) = held.slot.at else {
            continue;
        };
        if at.file != file || held.slot.pending.is_some() {
            continue;
        }
        let bytes = u64::from(at.payload_len);
        *budget = budget.saturating_sub(payload_cost(bytes));
        moves.push(Move {
            volume,
            lineage: replica.lineage(),
            what: What::Record(held.head.position, at),
            at: (bytes > 0).then_some(at),
        });
    }
}
