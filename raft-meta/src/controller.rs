//! Leaders' duties: what is to be proposed, as a function of committed state and of who is
//! heard. Level-triggered: nothing is remembered but what was proposed lately.

pub(crate) mod faulty;
pub(crate) mod global;
pub(crate) mod moves;
mod respread;
pub(crate) mod site;
pub(crate) mod voters;
mod writable;

use std::collections::BTreeMap;
use std::time::Duration;

use bincode::Encode;
use model::time::Time;
use model::wire;

/// A decision that had no effect yet is proposed again after this long.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// What was proposed lately, so that a decision is not proposed at every tick.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lately {
    proposed: BTreeMap<Vec<u8>, Time>,
}

impl Lately {
    /// Whether a decision is to be proposed now; if so it is remembered.
    pub(crate) fn admit<T: Encode>(&mut self, now: Time, decision: &T) -> bool {
        self.proposed.retain(|_, at| now.since(*at) < AGAIN_AFTER);
        let key = wire::encode(decision);
        if self.proposed.contains_key(&key) {
            return false;
        }
        self.proposed.insert(key, now);
        true
    }
}
