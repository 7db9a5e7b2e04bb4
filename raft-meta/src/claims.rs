//! What the answers that sessions keep claim of a snapshot, session by session: kept with each
//! change, since every command asks, and ranked, since at the bound every command ends one.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::message::ProposerId;

/// **Invariant:** `ranked` and `sum` are of `sessions`; a session that claims nothing is in none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claims {
    sessions: BTreeMap<ProposerId, usize>,
    ranked: BTreeSet<(usize, Reverse<ProposerId>)>,
    sum: usize,
}

impl Claims {
    /// Of all sessions.
    pub(crate) fn sum(&self) -> usize {
        self.sum
    }

    /// A session claims more, or less.
    pub(crate) fn change(&mut self, id: ProposerId, change: impl FnOnce(usize) -> usize) {
        let before = self.sessions.remove(&id).unwrap_or(0);
        self.ranked.remove(&(before, Reverse(id)));
        let after = change(before);
        self.sum = self.sum - before + after;
        if after > 0 {
            self.sessions.insert(id, after);
            self.ranked.insert((after, Reverse(id)));
        }
    }

    /// A session ended.
    pub(crate) fn end(&mut self, id: ProposerId) {
        self.change(id, |_| 0);
    }

    /// The session that claims most, the oldest of several, but not that one.
    pub(crate) fn largest_but(&self, kept: ProposerId) -> Option<ProposerId> {
        let mut falling = self.ranked.iter().rev().map(|(_, Reverse(id))| *id);
        falling.find(|id| *id != kept)
    }
}

#[cfg(test)]
mod tests {
    use super::Claims;
    use crate::message::{LogIndex, ProposerId};

    #[test]
    fn the_largest_goes_first_and_the_oldest_of_several() {
        let id = |n| ProposerId(LogIndex(n));
        let mut claims = Claims::default();
        for (n, bytes) in [(1, 10), (2, 30), (3, 30), (4, 20)] {
            claims.change(id(n), |before| before + bytes);
        }
        assert_eq!(claims.sum(), 90);
        assert_eq!(claims.largest_but(id(9)), Some(id(2)));
        assert_eq!(claims.largest_but(id(2)), Some(id(3)));
        claims.end(id(2));
        claims.change(id(3), |before| before - 30);
        assert_eq!(claims.largest_but(id(9)), Some(id(4)));
        claims.end(id(4));
        assert_eq!((claims.largest_but(id(1)), claims.sum()), (None, 10));
    }
}
