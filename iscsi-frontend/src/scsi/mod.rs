//! What commands mean: a sans-IO machine between a session and a volume (SPC-4, SBC-3).
//!
//! A [`Device`] is one session's sight of LUN 0. A [`Command`] begins with [`Device::start`] and
//! goes on with [`Device::resume`], one [`Step`] after another; whoever carries out the steps knows
//! from [`needs`] what must be settled before.
//!
//! | file | what |
//! | --- | --- |
//! | `opcodes` | the table of what is supported, and what reservations say of each command |
//! | `blocks` | commands that move or compare blocks |
//! | `task`, `copy` | commands of several steps |
//! | `reservation` | reservations: a machine of its own |
//! | `inquiry`, `mode`, `report` | what a unit tells of itself |
//! | `cdb`, `sense`, `facts`, `limits` | fields, errors, what is known of a unit, bounds |

mod blocks;
pub mod cdb;
mod copy;
pub mod facts;
mod inquiry;
pub mod limits;
mod mode;
pub mod opcodes;
mod report;
pub mod reservation;
pub mod sense;
mod task;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use model::block::Reply;
use model::iscsi::{Nexus, UnitState};

use self::cdb::Cdb;
use self::copy::LastCopy;
use self::facts::{AccessState, Facts};
use self::opcodes::{Access, find, is_known};
use self::reservation::{Attention, Refused};
use self::sense::{Sense, Status};
pub use self::task::{Outcome, Step, Task};

pub use self::blocks::data_out;

/// A command with all its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The logical unit number, as it came.
    pub lun: u64,
    /// What to do.
    pub cdb: Cdb,
    /// Its data: at most as much as [`data_out`] says.
    pub data: Bytes,
    /// How much data the initiator has for it.
    pub expected: u32,
}

/// What must be settled before a command starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// The unit's state as all portals know it, not only as this one does.
    pub fresh: bool,
    /// Whether it excludes others of the unit, or they exclude it.
    pub turn: Turn,
}

/// Beside what a command may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Anything.
    Free,
    /// All but what is alone: it changes blocks.
    Shared,
    /// Nothing that changes blocks: it reads, decides and writes.
    Alone,
}

/// What a command needs.
#[must_use]
pub fn needs(cdb: Cdb) -> Needs {
    let opcode = cdb.opcode();
    let turn = match (opcode, find(opcode, cdb.action())) {
        (opcodes::COMPARE_AND_WRITE | opcodes::ORWRITE_16, _) => Turn::Alone,
        (_, Some(command)) if command.access == Access::Write => Turn::Shared,
        _ => Turn::Free,
    };
    Needs {
        fresh: matches!(
            opcode,
            opcodes::RESERVE_IN
                | opcodes::RESERVE_OUT
                | opcodes::RESERVE_6
                | opcodes::RELEASE_6
                | opcodes::MODE_SELECT_6
                | opcodes::MODE_SELECT_10
        ),
        turn,
    }
}

/// Bound of what a nexus still has to be told: one of each kind.
const ATTENTIONS_MAX: usize = 8;

/// One session's sight of a unit.
#[derive(Debug)]
pub struct Device {
    nexus: Nexus,
    attentions: VecDeque<Attention>,
    state: Arc<UnitState>,
    size_bytes: u64,
    optimized: Option<u16>,
    last_copy: Option<LastCopy>,
}

/// The group through which a unit is reached best.
fn optimized(facts: &Facts) -> Option<u16> {
    let best = |group: &&facts::PortGroup| group.access == AccessState::Optimized;
    facts.groups.iter().find(best).map(|group| group.id)
}

impl Device {
    /// A nexus begins, which knows the unit as it is.
    #[must_use]
    pub fn new(nexus: Nexus, facts: &Facts) -> Self {
        Self {
            nexus,
            attentions: VecDeque::new(),
            state: Arc::clone(&facts.state),
            size_bytes: facts.size_bytes,
            optimized: optimized(facts),
            last_copy: None,
        }
    }

    /// Who it is.
    #[must_use]
    pub fn nexus(&self) -> &Nexus {
        &self.nexus
    }

    /// Whether it holds the unit by SPC-2's RESERVE: that ends with the nexus.
    #[must_use]
    pub fn reserved(&self, state: &UnitState) -> bool {
        state.reserved_by.as_ref() == Some(&self.nexus)
    }

    /// The nexus is to be told of something.
    pub fn attend(&mut self, attention: Attention) {
        if !self.attentions.contains(&attention) && self.attentions.len() < ATTENTIONS_MAX {
            self.attentions.push_back(attention);
        }
    }

    /// The unit's state is what this nexus itself just made of it.
    pub fn changed(&mut self, state: &UnitState) {
        self.state = Arc::new(state.clone());
    }

    /// Looks what others changed since.
    fn look(&mut self, facts: &Facts) {
        if self.state != facts.state {
            let told = reservation::attentions(&self.state, &facts.state, &self.nexus);
            self.state = Arc::clone(&facts.state);
            for attention in told {
                self.attend(attention);
            }
        }
        if self.size_bytes != facts.size_bytes {
            self.size_bytes = facts.size_bytes;
            self.attend(Attention::CapacityChanged);
        }
        let best = optimized(facts);
        if best.is_some() && best != self.optimized {
            if self.optimized.is_some() {
                self.attend(Attention::AccessChanged);
            }
            self.optimized = best;
        }
    }

    /// Begins a command.
    pub fn start(&mut self, command: &Command, facts: &Facts) -> Step {
        self.look(facts);
        let cdb = command.cdb;
        let opcode = cdb.opcode();
        if command.lun != 0 {
            return elsewhere(command);
        }
        // SAM-5, 5.14: these neither tell nor clear it, or they do in their own way.
        let attends = !matches!(
            opcode,
            opcodes::INQUIRY | opcodes::REPORT_LUNS | opcodes::REQUEST_SENSE
        );
        if attends && let Some(attention) = self.attentions.pop_front() {
            return attention.sense().into();
        }
        if !is_known(opcode) {
            return Sense::OPCODE.into();
        }
        let Some(known) = find(opcode, cdb.action()) else {
            return Sense::CDB_FIELD.into();
        };
        if reservation::conflicts(&facts.state, &self.nexus, known.access) {
            return Step::Done(Outcome::status(Status::ReservationConflict));
        }
        if facts.state.write_protected || facts.read_only {
            let writes = known.access == Access::Write && blocks::changes_blocks(cdb);
            if writes {
                return Sense::PROTECTED.into();
            }
        }
        self.carry_out(command, facts)
    }

    fn carry_out(&mut self, command: &Command, facts: &Facts) -> Step {
        let cdb = command.cdb;
        match cdb.opcode() {
            opcodes::TEST_UNIT_READY | opcodes::START_STOP => Step::Done(Outcome::good()),
            opcodes::REQUEST_SENSE => self.sense(cdb),
            opcodes::INQUIRY => inquire(cdb, Some(facts)),
            opcodes::MODE_SENSE_6 => told(mode::sense(cdb, facts), u32::from(cdb.byte(4))),
            opcodes::MODE_SENSE_10 => told(mode::sense(cdb, facts), u32::from(cdb.be16(7))),
            opcodes::MODE_SELECT_6 | opcodes::MODE_SELECT_10 => select(command, facts),
            opcodes::RESERVE_6 => changed(facts, reservation::reserve(&facts.state, &self.nexus)),
            opcodes::RELEASE_6 => {
                changed(facts, Ok(reservation::release(&facts.state, &self.nexus)))
            }
            opcodes::RESERVE_IN => {
                let data = reservation::report(&facts.state, cdb.action());
                told(data, u32::from(cdb.be16(7)))
            }
            opcodes::RESERVE_OUT => self.reserve_out(command, facts),
            opcodes::READ_CAPACITY_10 => told(Ok(report::capacity_10(facts)), u32::MAX),
            opcodes::SERVICE_IN_16 if cdb.action() == opcodes::READ_CAPACITY_16 => {
                told(Ok(report::capacity_16(facts)), cdb.be32(10))
            }
            opcodes::REPORT_LUNS => told(report::luns(cdb), cdb.be32(6)),
            opcodes::MAINTENANCE_IN => {
                let data = match cdb.action() {
                    opcodes::REPORT_GROUPS => Ok(report::groups(cdb, facts)),
                    opcodes::REPORT_OPCODES => report::operation_codes(cdb),
                    _ => Ok(report::functions(cdb)),
                };
                told(data, cdb.be32(6))
            }
            opcodes::DEFECTS_10 => told(Ok(report::defects(cdb)), u32::from(cdb.be16(7))),
            opcodes::DEFECTS_12 => told(Ok(report::defects(cdb)), cdb.be32(6)),
            opcodes::EXTENDED_COPY => self.copy(command, facts),
            opcodes::COPY_RESULTS => {
                let data = match cdb.action() {
                    0 => copy::status(self.last_copy.as_ref(), cdb.byte(2)),
                    _ => Ok(copy::operating_parameters()),
                };
                told(data, cdb.be32(10))
            }
            _ => blocks::start(command, facts),
        }
    }

    /// REQUEST SENSE: what there is to tell, as data (SPC-4, 6.39).
    fn sense(&mut self, cdb: Cdb) -> Step {
        // Only the fixed format is known.
        if cdb.has(1, 0x01) {
            return Sense::CDB_FIELD.into();
        }
        let attention = self.attentions.pop_front();
        let sense = attention.map_or(Sense::NONE, Attention::sense);
        told(Ok(sense.bytes().to_vec()), u32::from(cdb.byte(4)))
    }

    fn reserve_out(&self, command: &Command, facts: &Facts) -> Step {
        let cdb = command.cdb;
        let said = usize::try_from(reservation::list_length(&cdb)).unwrap_or(usize::MAX);
        if said != command.data.len() {
            return Sense::LIST_LENGTH.into();
        }
        let what = (cdb.action(), cdb.byte(2));
        let next = reservation::change(&facts.state, &self.nexus, what, &command.data);
        changed(facts, next)
    }

    fn copy(&mut self, command: &Command, facts: &Facts) -> Step {
        let said = usize::try_from(command.cdb.be32(10)).unwrap_or(usize::MAX);
        if said != command.data.len() {
            return Sense::LIST_LENGTH.into();
        }
        let step = copy::start(&command.data, facts);
        if let Some(list) = command.data.first() {
            self.last_copy = Some(LastCopy {
                list: *list,
                failed: matches!(&step, Step::Done(outcome) if outcome.status != Status::Good),
                segments: 0,
                bytes: 0,
            });
        }
        step
    }

    /// Goes on with a command.
    pub fn resume(&mut self, task: Task, reply: Reply) -> Step {
        task.resume(reply)
    }
}

/// A command to a unit that is not there (SPC-4, 6.6.2 and 6.39; SAM-5, 5.11).
fn elsewhere(command: &Command) -> Step {
    let cdb = command.cdb;
    match cdb.opcode() {
        opcodes::INQUIRY => inquire(cdb, None),
        opcodes::REPORT_LUNS => told(report::luns(cdb), cdb.be32(6)),
        opcodes::REQUEST_SENSE => {
            let data = Sense::NO_UNIT.bytes().to_vec();
            told(Ok(data), u32::from(cdb.byte(4)))
        }
        _ => Sense::NO_UNIT.into(),
    }
}

fn told(data: Result<Vec<u8>, Sense>, allocation: u32) -> Step {
    match data {
        Ok(data) => Step::Done(Outcome::told(data, allocation)),
        Err(sense) => sense.into(),
    }
}

fn inquire(cdb: Cdb, facts: Option<&Facts>) -> Step {
    let allocation = u32::from(cdb.be16(3));
    let data = match (cdb.byte(1) & 0x03, cdb.byte(2)) {
        (0, 0) => Ok(inquiry::standard(facts.is_some())),
        (1, code) => facts
            .and_then(|facts| inquiry::page(code, facts))
            .ok_or(Sense::CDB_FIELD),
        // CMDDT is obsolete, and a page code without EVPD means nothing.
        _ => Err(Sense::CDB_FIELD),
    };
    told(data, allocation)
}

fn select(command: &Command, facts: &Facts) -> Step {
    let cdb = command.cdb;
    let said = match cdb.opcode() {
        opcodes::MODE_SELECT_6 => u16::from(cdb.byte(4)),
        _ => cdb.be16(7),
    };
    if usize::from(said) != command.data.len() {
        return Sense::LIST_LENGTH.into();
    }
    match mode::select(cdb, &command.data, facts) {
        Ok(write_protected) => {
            let next = UnitState {
                write_protected,
                ..(*facts.state).clone()
            };
            changed(facts, Ok(next))
        }
        Err(sense) => sense.into(),
    }
}

/// What is as it was needs no commit.
fn changed(facts: &Facts, next: Result<UnitState, Refused>) -> Step {
    match next {
        Ok(next) if next == *facts.state => Step::Done(Outcome::good()),
        Ok(next) => Step::Change(Box::new(next)),
        Err(Refused::Conflict) => Step::Done(Outcome::status(Status::ReservationConflict)),
        Err(Refused::Check(sense)) => sense.into(),
    }
}

#[cfg(test)]
mod tests;
