//! Virtual time: events in order, ties broken by the order of their making.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use model::time::Time;

#[derive(Debug)]
struct Entry<E> {
    at: Time,
    number: u64,
    event: E,
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// What is to happen, and when.
#[derive(Debug)]
pub struct Queue<E> {
    heap: BinaryHeap<Reverse<Entry<E>>>,
    now: Time,
    made: u64,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self {
            heap: BinaryHeap::new(),
            now: Time(1_000_000_000),
            made: 0,
        }
    }
}

impl<E> Queue<E> {
    /// The virtual time.
    #[must_use]
    pub fn now(&self) -> Time {
        self.now
    }

    /// Events made so far.
    #[must_use]
    pub fn made(&self) -> u64 {
        self.made
    }

    /// Plans an event, not before now.
    pub fn plan(&mut self, at: Time, event: E) {
        self.made += 1;
        let at = at.max(self.now);
        self.heap.push(Reverse(Entry {
            at,
            number: self.made,
            event,
        }));
    }

    /// The next event; time moves to it.
    pub fn pop(&mut self) -> Option<E> {
        let Reverse(entry) = self.heap.pop()?;
        assert!(entry.at >= self.now, "time runs forward");
        self.now = entry.at;
        Some(entry.event)
    }
}
