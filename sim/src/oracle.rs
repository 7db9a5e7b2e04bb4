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
            Self::Invented { sector, .. } | Self::Stale { sector, .. } | Self::TookTurns { sector, .. } => *sector,
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

/// The value that was surely there, instead of what write `of` (or nobody: the initial zeros)
/// left, when a read was called; and since when.
fn overtaken(history: &[Write], of: Option<usize>, called: Time, now: Time) -> Option<(Value, Time)> {
    let (effective, value) = match of {
        Some(i) => (history[i].effective.unwrap_or(now).min(now), history[i].value),
        None => (Time::ZERO, Value::ZERO),
    };
    history.iter().enumerate().find_map(|(i, other)| {
        let since = other.effective?;
        let newer = Some(i) != of && other.value != value;
        (newer && other.called > effective && since < called).then_some((other.value, since))
    })
}

/// The histories of all sectors of a volume.
#[derive(Debug, Default)]
pub struct Oracle {
    sectors: BTreeMap<u64, Vec<Write>>,
    calls: BTreeMap<WriteId, Vec<(u64, usize)>>,
    next: u64,
    checked: u64,
}

impl Oracle {
    /// A write (or a trim: zero) of `value` to sectors was called.
    pub fn write_called(&mut self, now: Time, sectors: impl Iterator<Item = (u64, Value)>) -> WriteId {
        self.next += 1;
        let id = WriteId(self.next);
        let mut all = Vec::new();
        for (sector, value) in sectors {
            let history = self.sectors.entry(sector).or_default();
            all.push((sector, history.len()));
            history.push(Write { value, called: now, effective: None, seen_called: now });
        }
        self.calls.insert(id, all);
        id
    }

    /// A write was acknowledged.
    pub fn write_answered(&mut self, now: Time, id: WriteId) {
        for (sector, i) in self.calls.remove(&id).unwrap_or_default() {
            let write = &mut self.sectors.get_mut(&sector).expect("it was called")[i];
            write.effective = Some(write.effective.map_or(now, |t| t.min(now)));
        }
    }

    /// Sector reads that were checked.
    #[must_use]
    pub fn checked(&self) -> u64 {
        self.checked
    }

    /// A read was answered.
    ///
    /// # Errors
    /// What was promised and not kept.
    pub fn read(&mut self, called: Time, now: Time, sector: u64, value: Value) -> Result<(), Violation> {
        self.checked += 1;
        let history = self.sectors.entry(sector).or_default();
        // Values are unique but for zeros: any of those that may be meant will do.
        let mut meant: Vec<Option<usize>> = (0..history.len())
            .filter(|i| history[*i].value == value && history[*i].called <= now)
            .map(Some)
            .collect();
        if value == Value::ZERO {
            meant.push(None);
        }
        let mut stale = Violation::Invented { sector, value };
        meant.retain(|of| match overtaken(history, *of, called, now) {
            Some((newer, since)) => {
                stale = Violation::Stale { sector, value, called, newer, since };
                false
            }
            None => true,
        });
        match meant[..] {
            [] => Err(stale),
            [Some(one)] => {
                let write = &mut history[one];
                write.effective = Some(write.effective.map_or(now, |t| t.min(now)));
                write.seen_called = write.seen_called.max(called);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A sector's writes in words, for a failure's report.
    #[must_use]
    pub fn history(&self, sector: u64) -> Vec<String> {
        let of = self.sectors.get(&sector).map_or(&[][..], Vec::as_slice);
        let line = |w: &Write| {
            let effective = w.effective.map_or_else(|| "unknown".to_owned(), |t| t.to_string());
            format!("sector {sector}: {:?} called {} there by {effective}", w.value, w.called)
        };
        of.iter().map(line).collect()
    }

    /// At the end: no two values took turns. (A forward zone runs from when a value was
    /// surely there to when it was last surely asked for.)
    ///
    /// # Errors
    /// The first pair that did.
    pub fn finish(&self) -> Result<(), Violation> {
        for (sector, history) in &self.sectors {
            let mut zones: Vec<(Time, Time, Value)> = history
                .iter()
                .filter(|w| w.value != Value::ZERO)
                .filter_map(|w| Some((w.effective?, w.seen_called, w.value)))
                .collect();
            zones.sort_unstable();
            let forward: Vec<_> = zones.iter().filter(|z| z.0 < z.1).collect();
            for pair in forward.windows(2) {
                if pair[1].0 < pair[0].1 {
                    return Err(Violation::TookTurns { sector: *sector, a: pair[0].2, b: pair[1].2 });
                }
            }
            for back in zones.iter().filter(|z| z.0 >= z.1) {
                if let Some(f) = forward.iter().find(|f| f.0 < back.1 && back.0 < f.1) {
                    return Err(Violation::TookTurns { sector: *sector, a: f.2, b: back.2 });
                }
            }
        }
        Ok(())
    }
}
