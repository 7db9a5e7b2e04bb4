//! What clients were promised of allocation: every block is a register of how it is mapped,
//! and each answer of `base:allocation` must be one that a linear history allows. Beside that,
//! what is said to be a hole or a zero must read as zeros, which is the oracle's matter.

use std::collections::BTreeMap;

use model::block::Allocation;
use model::time::Time;

/// A mutation of one block.
#[derive(Clone, Copy, Debug)]
struct Touch {
    called: Time,
    /// When it was answered; unanswered, it may take effect at any time, or never.
    answered: Option<Time>,
    state: Allocation,
}

/// Names a mutation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct TouchId(u64);

/// An answer that no history allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("block {block} was said to be {said:?}")]
pub struct WrongAllocation {
    /// The block.
    pub block: u64,
    /// What was said.
    pub said: Allocation,
}

/// The histories of all blocks.
#[derive(Debug, Default)]
pub struct AllocationModel {
    blocks: BTreeMap<u64, Vec<Touch>>,
    calls: BTreeMap<TouchId, Vec<(u64, Time)>>,
    next: u64,
    /// Blocks whose mutations may be lost, since a recovery.
    unsure: BTreeMap<u64, Unsure>,
}

/// A block that a recovery left in nobody knows which state: any answer will do to a question
/// that was called before a later mutation was answered.
#[derive(Clone, Copy, Debug)]
struct Unsure {
    recovered: Time,
    settled: Option<Time>,
}

/// So many touches of a block are looked through before they are sifted.
const TOUCHES_MAX: usize = 12;

impl AllocationModel {
    /// A mutation was called: of whole blocks to `state`, of parts of blocks to data.
    pub fn called(
        &mut self,
        now: Time,
        blocks: impl Iterator<Item = (u64, Allocation)>,
        horizon: Time,
    ) -> TouchId {
        self.next += 1;
        let id = TouchId(self.next);
        let mut all = Vec::new();
        for (block, state) in blocks {
            let touches = self.blocks.entry(block).or_default();
            if touches.len() >= TOUCHES_MAX {
                sift(touches, horizon);
            }
            touches.push(Touch {
                called: now,
                answered: None,
                state,
            });
            all.push((block, now));
        }
        self.calls.insert(id, all);
        id
    }

    /// It was answered.
    pub fn answered(&mut self, now: Time, id: TouchId) {
        for (block, called) in self.calls.remove(&id).unwrap_or_default() {
            let touches = self.blocks.get_mut(&block).into_iter().flatten();
            let mut own = touches.filter(|t| t.called == called && t.answered.is_none());
            if let Some(touch) = own.next() {
                touch.answered = Some(now);
                if let Some(unsure) = self.unsure.get_mut(&block)
                    && called >= unsure.recovered
                {
                    unsure.settled.get_or_insert(now);
                }
            }
        }
    }

    /// The volume was recovered with loss: what was answered after `floor` may be gone.
    pub fn lose(&mut self, floor: Time, recovered: Time) {
        for (block, touches) in &mut self.blocks {
            if touches
                .iter()
                .any(|t| t.answered.is_some_and(|a| a > floor))
            {
                touches.retain(|t| t.answered.is_none());
                let settled = None;
                self.unsure.insert(*block, Unsure { recovered, settled });
            }
        }
    }

    /// A question was answered that was called at `called`.
    ///
    /// # Errors
    /// No history allows the answer.
    pub fn said(
        &self,
        (called, now): (Time, Time),
        block: u64,
        said: Allocation,
    ) -> Result<(), WrongAllocation> {
        let touches = self.blocks.get(&block).map_or(&[][..], Vec::as_slice);
        let overtaken = |since: Option<Time>| {
            let after = |t: &Touch| since.is_some_and(|s| t.called > s);
            touches
                .iter()
                .any(|t| after(t) && t.answered.is_some_and(|a| a < called))
        };
        let initial = said == Allocation::Hole && !overtaken(Some(Time::ZERO));
        let fits = |t: &&Touch| t.state == said && t.called <= now && !overtaken(t.answered);
        let unsure = |u: &Unsure| u.settled.is_none_or(|settled| called <= settled);
        if self.unsure.get(&block).is_some_and(unsure)
            || initial
            || touches.iter().any(|t| fits(&t))
        {
            return Ok(());
        }
        Err(WrongAllocation { block, said })
    }
}

/// Drops what every question called at `horizon` or later finds overtaken.
fn sift(touches: &mut Vec<Touch>, horizon: Time) {
    let settled = touches
        .iter()
        .filter(|t| t.answered.is_some_and(|a| a < horizon));
    let Some(newest) = settled.map(|t| t.called).max() else {
        return;
    };
    touches.retain(|t| t.answered.is_none_or(|a| a >= newest));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time(seconds * 1_000_000_000)
    }

    #[test]
    fn an_answer_follows_the_last_mutation() {
        let mut model = AllocationModel::default();
        let said = |model: &AllocationModel, t, state| model.said((at(t), at(t)), 3, state).is_ok();
        assert!(said(&model, 1, Allocation::Hole) && !said(&model, 1, Allocation::Data));
        let id = model.called(at(2), std::iter::once((3, Allocation::Data)), at(2));
        // Unanswered: either.
        assert!(said(&model, 3, Allocation::Hole) && said(&model, 3, Allocation::Data));
        model.answered(at(4), id);
        assert!(!said(&model, 5, Allocation::Hole) && said(&model, 5, Allocation::Data));
        let id = model.called(at(6), std::iter::once((3, Allocation::Zero)), at(6));
        model.answered(at(7), id);
        assert!(said(&model, 8, Allocation::Zero) && !said(&model, 8, Allocation::Data));
    }

    #[test]
    fn after_a_recovery_a_block_is_known_by_its_next_mutation() {
        let mut model = AllocationModel::default();
        let hole = |model: &mut AllocationModel, t| {
            model.called(at(t), std::iter::once((3, Allocation::Hole)), at(t))
        };
        let data = model.called(at(1), std::iter::once((3, Allocation::Data)), at(1));
        model.answered(at(2), data);
        let before = hole(&mut model, 3);
        let answered = hole(&mut model, 3);
        model.answered(at(4), answered);
        model.lose(at(3), at(5));
        let said = |model: &AllocationModel, called, now, state| {
            model.said((at(called), at(now)), 3, state).is_ok()
        };
        assert!(said(&model, 6, 6, Allocation::Data) && said(&model, 6, 6, Allocation::Hole));
        // What was called before it settles nothing.
        model.answered(at(7), before);
        assert!(said(&model, 8, 8, Allocation::Data));
        let later = hole(&mut model, 9);
        model.answered(at(10), later);
        // A question may have been answered before that.
        assert!(said(&model, 9, 11, Allocation::Data));
        assert!(!said(&model, 11, 11, Allocation::Data) && said(&model, 11, 11, Allocation::Hole));
    }

    #[test]
    fn sifting_changes_no_verdict() {
        let mut model = AllocationModel::default();
        for i in 1..50 {
            let state = match i % 2 {
                0 => Allocation::Hole,
                _ => Allocation::Data,
            };
            let id = model.called(at(2 * i), std::iter::once((0, state)), at(2 * i));
            model.answered(at(2 * i + 1), id);
        }
        assert!(model.blocks[&0].len() <= TOUCHES_MAX + 1);
        assert!(model.said((at(200), at(200)), 0, Allocation::Data).is_ok());
        assert!(model.said((at(200), at(200)), 0, Allocation::Hole).is_err());
    }
}
