//! Virtual time: events in order, ties broken by the order of their making.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use model::time::Time;

/// When, in which order of making, and where in the slab: what the heap moves is small.
type Entry = (Time, u64, usize);

/// What is to happen, and when.
#[derive(Debug)]
pub struct Queue<E> {
    heap: BinaryHeap<Reverse<Entry>>,
    slab: Vec<Option<E>>,
    free: Vec<usize>,
    now: Time,
    made: u64,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self {
            heap: BinaryHeap::new(),
            slab: Vec::new(),
            free: Vec::new(),
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
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slab.push(None);
            self.slab.len() - 1
        });
        self.slab[slot] = Some(event);
        self.heap.push(Reverse((at.max(self.now), self.made, slot)));
    }

    /// The next event; time moves to it.
    pub fn pop(&mut self) -> Option<E> {
        let Reverse((at, _, slot)) = self.heap.pop()?;
        assert!(at >= self.now, "time runs forward");
        self.now = at;
        self.free.push(slot);
        self.slab[slot].take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_time_and_ties_in_the_order_of_making() {
        let mut queue = Queue::default();
        let base = queue.now().0;
        for (after, event) in [(5, 'c'), (1, 'a'), (5, 'd'), (2, 'b')] {
            queue.plan(Time(base + after), event);
        }
        // What is planned for the past happens now.
        assert_eq!(queue.pop(), Some('a'));
        queue.plan(Time(0), 'x');
        let rest: Vec<char> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(rest, ['x', 'b', 'c', 'd']);
        assert_eq!(queue.now(), Time(base + 5));
    }
}
