//! A drain that finds no room. What was trimmed since its cut gives room only once a checkpoint
//! unmaps it, and so does what was copied together: so the cut is taken back and a later one is
//! made, which has both in it. What that one has no room for either stays in the journal.
//!
//! **Invariant (R13):** a cut is taken back as long as the index knows nothing of it, and all that
//! was committed since is in the next one: each checkpoint is an exact cut.

use model::sometimes::{Sometimes, reached};
use model::time::Time;

use super::{Drain, Serving};
use crate::planted::{Bug, planted};

impl Serving {
    /// Whether there is no room, and a checkpoint of what is here would make some.
    pub(super) fn would_make_room(&self, now: Time) -> bool {
        let frozen = self.layers.frozen.as_ref();
        let unmaps = self.layers.active.unmaps() || frozen.is_some_and(|f| f.overlay.unmaps());
        self.fullness.is_certain(now)
            && (unmaps || self.rewriter_wants_checkpoint())
            && !planted(Bug::HeldSpace)
    }

    /// Takes the cut back, and makes another one of all that is committed now. Segments that were
    /// written already are of it as if records had brought them (R14).
    pub(super) fn take_back(&mut self, now: Time) {
        reached(Sometimes::CutTakenBack);
        let Drain::Blocked {
            written, writes, ..
        } = std::mem::replace(&mut self.drain, Drain::Idle)
        else {
            unreachable!("the caller matched")
        };
        assert!(writes.is_empty(), "every write was answered");
        let frozen = self.layers.frozen.take();
        let mut overlay = frozen.expect("a drain has a frozen layer").overlay;
        for packed in &written {
            packed.bring_to(&mut overlay);
        }
        overlay.take_in(std::mem::take(&mut self.layers.active));
        self.layers.active = overlay;
        self.freeze(now);
        self.held_until = now + self.config.drain_age;
        let frozen = self.layers.frozen.as_mut();
        frozen.expect("just frozen").crowded_out = true;
    }
}
