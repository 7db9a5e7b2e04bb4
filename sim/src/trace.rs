//! The hash of everything that happened: the same seed must give the same one.

/// FNV-1a over the run's events, and the last few of them in words.
#[derive(Clone, Debug)]
pub struct Trace {
    hash: u64,
    events: u64,
    tail: std::collections::VecDeque<String>,
    keep: usize,
}

impl Trace {
    /// A trace that keeps its last `keep` lines.
    #[must_use]
    pub fn new(keep: usize) -> Self {
        Self {
            hash: 0xcbf2_9ce4_8422_2325,
            events: 0,
            tail: std::collections::VecDeque::new(),
            keep,
        }
    }

    /// Adds an event by its numbers; `line` is made only if lines are kept.
    pub fn event(&mut self, numbers: &[u64], line: impl FnOnce() -> String) {
        self.events += 1;
        for number in numbers {
            self.hash = (self.hash ^ number).wrapping_mul(0x0000_0100_0000_01b3);
        }
        if self.keep > 0 {
            if self.tail.len() == self.keep {
                self.tail.pop_front();
            }
            self.tail.push_back(line());
        }
    }

    /// The hash so far.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many events.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The last lines.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.tail.iter().map(String::as_str)
    }
}
