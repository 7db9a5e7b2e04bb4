//! What clients were promised: every sector is a register with unique values, and the history
//! of each must be linearizable (Gibbons and Korach's zones). An unanswered write is
//! *unknown*, never absent: it may take effect at any time after its call, or never.

use std::collections::BTreeMap;

use model::time::Time;

/// The unit of the oracle in bytes.
pub const SECTOR: usize = 512;

/// A unique value; zero is what is read where nothing was written, or after a trim.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Value(pub u64);

impl Violation {
    /// The sector.
    #[must_use]
    pub fn sector(&self) -> u64 {
        match self {
            Self::Invented { sector, .. }
            | Self::Stale { sector, .. }
            | Self::TookTurns { sector, .. } => *sector,
        }
    }
}

impl Value {
    /// Zeros.
    pub const ZERO: Self = Self(0);
}

/// A write that was called.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct WriteId(u64);

#[derive(Clone, Copy, Debug)]
struct Write {
    value: Value,
    called: Time,
    /// When it is known to have taken effect: its answer, or the answer of a read that saw it.
    effective: Option<Time>,
    /// The latest call of an operation that it must have happened before or at: itself, or a
    /// read that saw it.
    seen_called: Time,
    /// It was acknowledged, and may have been lost then: if it is there at all, it was before.
    lost: Option<Lost>,
    /// It was answered by then, and may have done nothing: if it did anything, it was before.
    optional: Option<Time>,
}

/// An acknowledged write that a recovery may have lost.
#[derive(Clone, Copy, Debug)]
struct Lost {
    /// When it had taken effect.
    effective: Time,
    /// When the volume was recovered.
    at: Time,
}

/// A promise was broken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Violation {
    /// A value was read that nobody wrote there.
    #[error("sector {sector}: read {value:?}, which was never written there")]
    Invented {
        /// Where.
        sector: u64,
        /// What.
        value: Value,
    },
    /// An older value was read after a younger one was acknowledged or seen.
    #[error("sector {sector}: read {value:?} at {called}, but {newer:?} was there by {since}")]
    Stale {
        /// Where.
        sector: u64,
        /// What was read.
        value: Value,
        /// When the read was called.
        called: Time,
        /// What should have been seen.
        newer: Value,
        /// Since when.
        since: Time,
    },
    /// Two values were each seen before and after the other.
    #[error("sector {sector}: {a:?} and {b:?} took turns")]
    TookTurns {
        /// Where.
        sector: u64,
        /// One.
        a: Value,
        /// The other.
        b: Value,
    },
}

/// A sector's writes.
#[derive(Clone, Default, Debug)]
struct History {
    all: Vec<Write>,
    /// Those that some read may still see, or that must be known to judge one.
    live: Vec<usize>,
}

/// So many live writes are looked through before they are sifted.
const LIVE_MAX: usize = 3;

impl History {
    /// The value that was surely there, instead of what write `of` (or nobody: the initial
    /// zeros) left, when a read was called; and since when.
    fn overtaken(&self, of: Option<usize>, called: Time, now: Time) -> Option<(Value, Time)> {
        let (effective, value) = match of {
            Some(i) => {
                let write = &self.all[i];
                let known = [write.effective, write.lost.map(|l| l.at), write.optional];
                let latest = known.into_iter().flatten().fold(now, Time::min);
                (latest, write.value)
            }
            None => (Time::ZERO, Value::ZERO),
        };
        self.live.iter().find_map(|i| {
            let other = &self.all[*i];
            let since = other.effective?;
            let newer = Some(*i) != of && other.value != value;
            (newer && other.called > effective && since < called).then_some((other.value, since))
        })
    }

    /// Drops what every read called at `horizon` or later finds overtaken: by a write that
    /// began after it took effect, and took effect before the horizon. (Whatever a dropped
    /// write overtakes, its own overtaker does too.)
    fn sift(&mut self, horizon: Time) {
        let newest = self.live.iter().filter_map(|i| {
            let write = &self.all[*i];
            (write.effective? < horizon).then_some(write.called)
        });
        let Some(newest) = newest.max() else { return };
        let all = &self.all;
        self.live.retain(|i| {
            let by = all[*i].effective.or(all[*i].optional);
            by.is_none_or(|by| by >= newest)
        });
    }
}

/// The histories of all sectors of a volume.
#[derive(Debug, Default)]
pub struct Oracle {
    sectors: BTreeMap<u64, History>,
    calls: BTreeMap<WriteId, Vec<(u64, usize)>>,
    next: u64,
    checked: u64,
}

impl Oracle {
    /// A write (or a trim: zero) of `value` to sectors was called.
    pub fn write_called(
        &mut self,
        now: Time,
        sectors: impl Iterator<Item = (u64, Value)>,
    ) -> WriteId {
        self.next += 1;
        let id = WriteId(self.next);
        let mut all = Vec::new();
        for (sector, value) in sectors {
            let history = self.sectors.entry(sector).or_default();
            let i = history.all.len();
            all.push((sector, i));
            history.live.push(i);
            history.all.push(Write {
                value,
                called: now,
                effective: None,
                seen_called: now,
                lost: None,
                optional: None,
            });
        }
        self.calls.insert(id, all);
        id
    }

    /// A write was acknowledged.
    pub fn write_answered(&mut self, now: Time, id: WriteId) {
        for (sector, i) in self.calls.remove(&id).unwrap_or_default() {
            let write = &mut self.sectors.get_mut(&sector).expect("it was called").all[i];
            write.effective = Some(write.effective.map_or(now, |t| t.min(now)));
        }
    }

    /// An operation was answered that may have left any of its sectors as they were: that it
    /// takes effect later than this is no excuse for zeros where something was written since.
    pub fn optional_answered(&mut self, now: Time, id: WriteId) {
        for (sector, i) in self.calls.remove(&id).unwrap_or_default() {
            let write = &mut self.sectors.get_mut(&sector).expect("it was called").all[i];
            write.optional = Some(now);
        }
    }

    /// Sector reads that were checked.
    #[must_use]
    pub fn checked(&self) -> u64 {
        self.checked
    }

    /// A read was answered that was called at `called`. No read that is still unanswered, or
    /// comes later, was called before `horizon`.
    ///
    /// # Errors
    /// What was promised and not kept.
    pub fn read(
        &mut self,
        (called, now, horizon): (Time, Time, Time),
        sector: u64,
        value: Value,
    ) -> Result<(), Violation> {
        assert!(horizon <= called);
        self.checked += 1;
        let history = self.sectors.entry(sector).or_default();
        if history.live.len() > LIVE_MAX {
            history.sift(horizon);
        }
        // Values are unique but for zeros: any of those that may be meant will do.
        let mut found: Option<usize> = None;
        let (mut meant, mut stale) = (0, None);
        let initial = (value == Value::ZERO).then_some(None);
        let same = |i: &usize| history.all[*i].value == value && history.all[*i].called <= now;
        let written = history.live.iter().copied().filter(same).map(Some);
        for of in written.chain(initial) {
            match history.overtaken(of, called, now) {
                Some(by) => stale = Some(by),
                None => {
                    meant += 1;
                    found = of;
                }
            }
        }
        if meant == 0 {
            let known = history
                .all
                .iter()
                .any(|w| w.value == value && w.called <= now);
            if stale.is_none() && known {
                // It was sifted: something overtook it.
                let last = history.live.iter().filter_map(|i| {
                    let write = &history.all[*i];
                    Some((write.effective?, write.value))
                });
                stale = last.min().map(|(since, newer)| (newer, since));
            }
            return Err(match stale {
                Some((newer, since)) => Violation::Stale {
                    sector,
                    value,
                    called,
                    newer,
                    since,
                },
                None => Violation::Invented { sector, value },
            });
        }
        if let (1, Some(one)) = (meant, found) {
            let write = &mut history.all[one];
            let survived = write.lost.take();
            let by = survived.map_or(now, |lost| lost.effective);
            write.effective = Some(write.effective.map_or(by, |t| t.min(by)));
            write.seen_called = write.seen_called.max(called);
            let first = write.called;
            if let Some(lost) = survived {
                self.survived(first, lost.at);
            }
        }
        Ok(())
    }

    /// The volume was recovered with loss: what is not known to have taken effect by `floor` may
    /// be gone, from some place in the journal on. Returns how many sectors' writes those are.
    pub fn lose(&mut self, floor: Time, now: Time) -> usize {
        let mut lost = 0;
        for history in self.sectors.values_mut() {
            let gone = |w: &&mut Write| w.effective.is_some_and(|t| t > floor);
            let before = lost;
            for write in history.all.iter_mut().filter(gone) {
                let effective = write.effective.take().expect("filtered");
                let at = now;
                write.lost = Some(Lost { effective, at });
                write.seen_called = write.called;
                lost += 1;
            }
            if lost > before {
                // What they overtook may be there again.
                history.live = (0..history.all.len()).collect();
            }
        }
        lost
    }

    /// One that was called at `called` is there after all that may have been lost at `at`: the
    /// journal was cut behind it, so that all that was acknowledged before it began is there too.
    fn survived(&mut self, called: Time, at: Time) {
        for history in self.sectors.values_mut() {
            for write in &mut history.all {
                let before = |lost: &Lost| lost.at == at && lost.effective < called;
                if let Some(lost) = write.lost.filter(before) {
                    write.effective = Some(lost.effective);
                    write.lost = None;
                }
            }
        }
    }

    /// A read was answered while clocks run wrong beyond the lease's margin: it may be stale,
    /// but never made up. It proves nothing.
    ///
    /// # Errors
    /// [`Violation::Invented`].
    pub fn glance(&mut self, now: Time, sector: u64, value: Value) -> Result<(), Violation> {
        self.checked += 1;
        let of = self.sectors.get(&sector).map_or(&[][..], |h| &h.all[..]);
        let known = of.iter().any(|w| w.value == value && w.called <= now);
        if known || value == Value::ZERO {
            return Ok(());
        }
        Err(Violation::Invented { sector, value })
    }

    /// A sector's writes in words, for a failure's report.
    #[must_use]
    pub fn history(&self, sector: u64) -> Vec<String> {
        let of = self.sectors.get(&sector).map_or(&[][..], |h| &h.all[..]);
        let line = |w: &Write| {
            let effective = w
                .effective
                .map_or_else(|| "unknown".to_owned(), |t| t.to_string());
            format!(
                "sector {sector}: {:?} called {} there by {effective}",
                w.value, w.called
            )
        };
        of.iter().map(line).collect()
    }

    /// At the end: no two values took turns. (A forward zone runs from when a value was
    /// surely there to when it was last surely asked for; zeros count where it is known which
    /// write made them, but for those of what need not have happened: it may read as it likes.)
    ///
    /// # Errors
    /// The first pair that did.
    pub fn finish(&self) -> Result<(), Violation> {
        for (sector, history) in &self.sectors {
            let mut zones: Vec<(Time, Time, Value)> = history
                .all
                .iter()
                .filter(|w| w.optional.is_none())
                .filter_map(|w| Some((w.effective?, w.seen_called, w.value)))
                .collect();
            zones.sort_unstable();
            let forward: Vec<_> = zones.iter().filter(|z| z.0 < z.1).collect();
            for pair in forward.windows(2) {
                if pair[1].0 < pair[0].1 {
                    return Err(Violation::TookTurns {
                        sector: *sector,
                        a: pair[0].2,
                        b: pair[1].2,
                    });
                }
            }
            for back in zones.iter().filter(|z| z.0 >= z.1) {
                if let Some(f) = forward.iter().find(|f| f.0 < back.1 && back.0 < f.1) {
                    return Err(Violation::TookTurns {
                        sector: *sector,
                        a: f.2,
                        b: back.2,
                    });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
