//! Task management (RFC 7143, 11.5 and 11.6). A function is answered only once nothing that it
//! ended can still change anything: an initiator that was told so may write the same blocks anew.

use std::collections::BTreeSet;

use super::pdu::{Bhs, FINAL, response};
use super::transfer::Stage;
use super::{CloseReason, CommandId, Effect, Session};
use crate::scsi::Outcome;

/// Functions at once.
const FUNCTIONS_MAX: usize = 16;

/// What a reset ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The tasks of others alone.
    Tasks,
    /// What a unit's reset ends.
    Unit,
    /// All sessions.
    Target,
}

/// A function under way.
#[derive(Debug)]
pub(super) struct Function {
    tag: u32,
    waits_for: BTreeSet<CommandId>,
    /// Whether other sessions are still to be waited for.
    others: bool,
    closes: bool,
}

/// RFC 7143, 11.6.1.
const COMPLETE: u8 = 0;
const NO_TASK: u8 = 1;
const NO_UNIT: u8 = 2;
const REASSIGNMENT_NOT_SUPPORTED: u8 = 4;
const NOT_SUPPORTED: u8 = 5;
const REJECTED: u8 = 255;

impl Session {
    pub(super) fn manage(&mut self, bhs: &Bhs) -> Result<(), CloseReason> {
        const ABORT_TASK: u8 = 1;
        const ABORT_TASK_SET: u8 = 2;
        const CLEAR_ACA: u8 = 3;
        const CLEAR_TASK_SET: u8 = 4;
        const UNIT_RESET: u8 = 5;
        const WARM_RESET: u8 = 6;
        const COLD_RESET: u8 = 7;
        const REASSIGN: u8 = 8;
        let tag = bhs.tag();
        let function = bhs.0[1] & 0x7f;
        if self.discovery || self.functions.len() >= FUNCTIONS_MAX {
            self.respond(tag, REJECTED);
            return Ok(());
        }
        let of_unit = matches!(
            function,
            ABORT_TASK | ABORT_TASK_SET | CLEAR_TASK_SET | UNIT_RESET
        );
        if of_unit && bhs.lun() != 0 {
            self.respond(tag, NO_UNIT);
            return Ok(());
        }
        match function {
            ABORT_TASK => self.abort_task(tag, bhs.be32(20)),
            ABORT_TASK_SET => self.abort_all(tag, None, false),
            CLEAR_TASK_SET => self.abort_all(tag, Some(Scope::Tasks), false),
            UNIT_RESET => self.abort_all(tag, Some(Scope::Unit), false),
            WARM_RESET => self.abort_all(tag, Some(Scope::Unit), false),
            COLD_RESET => self.abort_all(tag, Some(Scope::Target), true),
            REASSIGN => self.respond(tag, REASSIGNMENT_NOT_SUPPORTED),
            CLEAR_ACA => self.respond(tag, NOT_SUPPORTED),
            _ => self.respond(tag, REJECTED),
        }
        Ok(())
    }

    fn respond(&mut self, tag: u32, answer: u8) {
        let mut bhs = Bhs::new(response::TASK_MANAGEMENT, FINAL);
        bhs.0[2] = answer;
        bhs.put32(16, tag);
        self.send(bhs, Vec::new());
    }

    fn abort_task(&mut self, tag: u32, task: u32) {
        if !self.commands.contains_key(&task) {
            return self.respond(tag, NO_TASK);
        }
        let waits_for = self.abort([task]);
        self.begin(tag, waits_for, None, false);
    }

    fn abort_all(&mut self, tag: u32, others: Option<Scope>, closes: bool) {
        let all: Vec<u32> = self.commands.keys().copied().collect();
        let waits_for = self.abort(all);
        self.begin(tag, waits_for, others, closes);
    }

    /// Ends commands: those that run are waited for.
    fn abort(&mut self, tags: impl IntoIterator<Item = u32>) -> BTreeSet<CommandId> {
        let mut waits_for = BTreeSet::new();
        for tag in tags {
            let Some(transfer) = self.commands.get_mut(&tag) else {
                continue;
            };
            let was = std::mem::replace(&mut transfer.stage, Stage::Aborted);
            let serial = transfer.serial;
            if was == Stage::Collecting {
                self.finish(tag, Outcome::good());
            } else {
                waits_for.insert(CommandId { tag, serial });
            }
        }
        if !waits_for.is_empty() {
            let running = waits_for.iter().copied().collect();
            self.effects.push(Effect::Abort(running));
        }
        waits_for
    }

    fn begin(
        &mut self,
        tag: u32,
        waits_for: BTreeSet<CommandId>,
        others: Option<Scope>,
        closes: bool,
    ) {
        if let Some(scope) = others {
            self.effects.push(Effect::Reset(scope));
        }
        self.functions.push_back(Function {
            tag,
            waits_for,
            others: others.is_some(),
            closes,
        });
        self.settle_functions();
    }

    /// To [`Effect::Reset`]: other sessions do nothing any more of what they did.
    pub fn reset(&mut self) {
        let first = self.functions.iter_mut().find(|f| f.others);
        if let Some(function) = first {
            function.others = false;
        }
        self.settle_functions();
    }

    /// Another session of the target resets it: commands end without an answer. Those that run are
    /// to be waited for until [`Session::is_quiet`].
    pub fn abort_for_reset(&mut self) {
        let all: Vec<u32> = self.commands.keys().copied().collect();
        self.abort(all);
    }

    /// Whether no command that was aborted still runs.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.commands.values().all(|t| t.stage != Stage::Aborted)
    }

    /// Answers functions whose commands have ended.
    pub(super) fn settle_functions(&mut self) {
        let commands = &self.commands;
        for function in &mut self.functions {
            let runs =
                |id: &CommandId| commands.get(&id.tag).is_some_and(|t| t.serial == id.serial);
            function.waits_for.retain(runs);
        }
        let is_done = |f: &mut Function| f.waits_for.is_empty() && !f.others;
        while let Some(function) = self.functions.pop_front_if(is_done) {
            self.respond(function.tag, COMPLETE);
            if function.closes {
                self.close(CloseReason::Done);
            }
        }
    }
}
