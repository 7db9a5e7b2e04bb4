//! How things become durable: submitting what gathered, and what a finished operation means.

use model::store::{DeviceError, EntryAt, JournalDone, JournalOp, JournalRoom, OpId};
use model::time::Time;

use super::batch::{Batch, Subject};
use super::files::entry_bytes;
use super::reads::Reading;
use super::{Disk, DiskEffect};

impl Disk {
    pub(super) fn journal_done(
        &mut self,
        now: Time,
        op: OpId,
        done: Result<JournalDone, DeviceError>,
        out: &mut Vec<DiskEffect>,
    ) {
        match done {
            Err(error) => self.retire(error, out),
            Ok(JournalDone::Appended { places, room }) => {
                self.shortage.told(now, room);
                let batch = self.batcher.complete(op);
                let batch = batch.expect("the store finishes the one append in flight");
                assert_eq!(
                    places.len(),
                    batch.queued.len(),
                    "every entry got its place"
                );
                self.batch_done(now, batch, &places, out);
            }
            Ok(JournalDone::Read(payloads)) => {
                let reading = self.reads.remove(&op);
                let reading = reading.expect("the store finishes reads that were asked for");
                self.read_done(now, reading, payloads, out);
            }
            Ok(JournalDone::Released) => {
                self.shortage.told(now, JournalRoom::Ample);
                let released = self.files.released(op);
                assert!(released, "the store finishes the one release in flight");
            }
            Ok(JournalDone::Full(entries)) => {
                if self.files.release_refused(op) {
                    self.shortage.refused_release(now);
                } else {
                    let kept = self.batcher.put_back(op, entries);
                    assert!(kept, "the store hands back the one append in flight");
                    self.shortage.refused_append(now);
                }
            }
            Ok(JournalDone::Prepared(room)) => self.prepared(now, op, room),
        }
        self.look_for_moves = true;
    }

    fn batch_done(
        &mut self,
        now: Time,
        batch: Batch,
        places: &[EntryAt],
        out: &mut Vec<DiskEffect>,
    ) {
        let mut freed = Vec::new();
        for (queued, at) in batch.queued.iter().zip(places) {
            let volume = queued.volume;
            self.files.need(*at, volume);
            let current = match self.replicas.get_mut(&volume) {
                _ if queued.subject == Subject::DiskMark => {
                    let current = self.damaged_mark.pending == Some(queued.serial);
                    if current {
                        self.damaged_mark.pending = None;
                        freed.extend(self.damaged_mark.at.replace(*at));
                    }
                    current
                }
                Some(replica) => replica.place(*queued, *at, &mut freed),
                None => false,
            };
            for old in freed.drain(..) {
                self.files.free(old, volume);
            }
            // Superseded by something that is queued later: needed until that is durable.
            if !current && !self.batcher.garbage(*at, volume) {
                self.files.free(*at, volume);
            }
            if !matches!(queued.subject, Subject::State | Subject::Moved(_)) {
                self.files.earn(entry_bytes(*at));
            }
            self.note_wish(volume);
        }
        for (at, volume) in batch.garbage {
            self.files.free(at, volume);
        }
        for after in batch.after {
            self.run(now, after, out);
        }
    }

    /// What every step ends with: submit what gathered, recycle files.
    pub(super) fn settle(&mut self, out: &mut Vec<DiskEffect>) {
        if self.retired {
            return;
        }
        self.advance_moves(out);
        if self.batcher.is_ready() && !self.shortage.holds_appends() {
            let op = self.op();
            let entries = self.batcher.submit(op).expect("it is ready");
            out.push(DiskEffect::Journal {
                op,
                request: JournalOp::Append(entries),
            });
        }
        let reading = self.reads.values().filter_map(Reading::oldest_file).min();
        if let Some(to) = self.files.releasable(reading)
            && !self.shortage.holds_releases()
        {
            let op = self.op();
            self.files.release(op, to);
            out.push(DiskEffect::Journal {
                op,
                request: JournalOp::ReleaseBefore(to),
            });
        }
    }
}
