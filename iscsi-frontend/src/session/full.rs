//! The full feature phase: commands and their data, pings, text and logout.

use super::parameters::Parameters;
use super::pdu::{Bhs, CONTINUE, FINAL, RESERVED_TAG, request, response};
use super::text::{Keys, TEXT_BYTES_MAX};
use super::transfer::{Asked, DataOut, Stage, Transfer};
use super::{CloseReason, CommandId, Effect, ListedTarget, Pdu, Session};
use crate::scsi::cdb::Cdb;
use crate::scsi::sense::{Key, Sense};
use crate::scsi::{Command, Outcome};

/// Why a PDU is rejected (RFC 7143, 11.17.1).
#[derive(Clone, Copy)]
#[repr(u8)]
enum Rejection {
    NotSupported = 0x05,
    Protocol = 0x04,
    TaskInProgress = 0x07,
    InvalidField = 0x09,
}

/// DATA PHASE ERROR.
const DATA_PHASE: Sense = Sense::new(Key::AbortedCommand, 0x4b00);

/// A text response that is longer than one PDU: the rest of it.
#[derive(Debug)]
pub(super) struct TextOut {
    transfer_tag: u32,
    rest: Vec<u8>,
}

impl Session {
    pub(super) fn full(&mut self, pdu: &Pdu) -> Result<(), CloseReason> {
        let bhs = &pdu.bhs;
        let opcode = bhs.opcode();
        let is_numbered = !matches!(opcode, request::DATA_OUT | request::SNACK);
        if is_numbered && !self.takes_number(bhs) {
            return Ok(());
        }
        match opcode {
            request::NOP_OUT => self.nop_out(pdu),
            request::COMMAND if self.discovery => self.reject(bhs, Rejection::Protocol),
            request::COMMAND => return self.command(pdu),
            request::TASK_MANAGEMENT => return self.manage(bhs),
            request::TEXT => return self.text(pdu),
            request::DATA_OUT => return self.data_out(pdu),
            request::LOGOUT => self.logout(bhs),
            // SNACK has no meaning at error recovery level 0 (RFC 7143, 11.16).
            request::SNACK => self.reject(bhs, Rejection::NotSupported),
            request::LOGIN => return Err(CloseReason::Protocol),
            _ => self.reject(bhs, Rejection::NotSupported),
        }
        Ok(())
    }

    /// Whether a request is the next one. What is out of the window, or comes twice, is ignored
    /// (RFC 7143, 4.2.2.1); on one connection, nothing comes out of order.
    fn takes_number(&mut self, bhs: &Bhs) -> bool {
        let cmd_sn = bhs.be32(24);
        if bhs.is_immediate() {
            return true;
        }
        let ahead = cmd_sn.wrapping_sub(self.numbers.exp_cmd_sn);
        if ahead != 0 || self.numbers.window == 0 {
            return false;
        }
        self.numbers.exp_cmd_sn = cmd_sn.wrapping_add(1);
        if bhs.opcode() == request::COMMAND {
            self.numbers.window -= 1;
        }
        true
    }

    fn reject(&mut self, of: &Bhs, why: Rejection) {
        let mut bhs = Bhs::new(response::REJECT, FINAL);
        bhs.0[2] = why as u8;
        bhs.put32(16, RESERVED_TAG);
        self.send(bhs, of.0.to_vec());
        self.give_back(of);
    }

    /// A command that does not become one takes no room of the window.
    fn give_back(&mut self, of: &Bhs) {
        if of.opcode() == request::COMMAND && !of.is_immediate() {
            self.numbers.window += 1;
        }
    }

    fn nop_out(&mut self, pdu: &Pdu) {
        // An answer to ours, which asks for nothing (RFC 7143, 11.18.1).
        if pdu.bhs.tag() == RESERVED_TAG {
            self.pinged = false;
            return;
        }
        let mut bhs = Bhs::new(response::NOP_IN, FINAL);
        bhs.put64(8, pdu.bhs.lun());
        bhs.put32(16, pdu.bhs.tag());
        bhs.put32(20, RESERVED_TAG);
        let most = pdu.data.len().min(self.parameters.send_max as usize);
        self.send(bhs, pdu.data[..most].to_vec());
    }

    /// Asks whether the initiator is there (RFC 7143, 11.19), unless that is asked already.
    pub fn ping(&mut self) {
        if self.pinged || !self.is_full() || self.closing.is_some() {
            return;
        }
        self.pinged = true;
        let mut bhs = Bhs::new(response::NOP_IN, FINAL);
        bhs.put32(16, RESERVED_TAG);
        bhs.put32(20, self.next_tag());
        self.send_uncounted(bhs, Vec::new());
    }

    /// Whether a ping was not answered yet.
    #[must_use]
    pub const fn is_pinged(&self) -> bool {
        self.pinged
    }

    fn next_tag(&mut self) -> u32 {
        let tag = self.next_transfer_tag;
        // The reserved tag is none.
        self.next_transfer_tag = tag.wrapping_add(1) % RESERVED_TAG;
        tag
    }

    fn command(&mut self, pdu: &Pdu) -> Result<(), CloseReason> {
        let (bhs, data) = (&pdu.bhs, &pdu.data);
        let tag = bhs.tag();
        if self.commands.contains_key(&tag) {
            self.reject(bhs, Rejection::TaskInProgress);
            return Ok(());
        }
        let expected = bhs.be32(20);
        let cdb = Cdb(bhs.0[32..48].try_into().expect("16 bytes"));
        let flags = bhs.0[1];
        self.serial += 1;
        let mut transfer = Transfer::new(self.serial, bhs.lun(), cdb, expected, flags);
        let Parameters {
            immediate_data,
            first_burst,
            initial_r2t,
            ..
        } = self.parameters;
        let is_final = bhs.has(1, FINAL);
        let immediate = data.len() as u64;
        // RFC 7143, 11.3.1 and 13.10 to 13.14.
        let is_sound = (immediate == 0 || (transfer.writes && immediate_data))
            && immediate <= u64::from(first_burst.min(expected))
            && (is_final || (transfer.writes && !initial_r2t))
            && !(transfer.reads && transfer.writes);
        if !is_sound {
            self.reject(bhs, Rejection::InvalidField);
            return Ok(());
        }
        if bhs.is_immediate() {
            // It took no room of the window: it does as long as there is some.
            if self.numbers.window == 0 {
                self.reject(bhs, Rejection::Protocol);
                return Ok(());
            }
            self.numbers.window -= 1;
        }
        transfer.take(data);
        self.commands.insert(tag, transfer);
        self.wanting.push_back(tag);
        Ok(())
    }

    /// Carries out a command whose data is all there.
    fn execute(&mut self, tag: u32) {
        let transfer = self.commands.get_mut(&tag).expect("it is under way");
        transfer.stage = Stage::Running;
        let id = CommandId {
            tag,
            serial: transfer.serial,
        };
        let command = Command {
            lun: transfer.lun,
            cdb: transfer.cdb,
            data: transfer.take_data(),
            expected: if transfer.writes {
                transfer.expected
            } else {
                0
            },
        };
        self.effects.push(Effect::Execute { id, command });
    }

    fn data_out(&mut self, pdu: &Pdu) -> Result<(), CloseReason> {
        let bhs = &pdu.bhs;
        let tag = bhs.tag();
        // Data that nobody asked for any more: of a command that has ended, or is refused.
        let Some(transfer) = self.commands.get_mut(&tag) else {
            return Ok(());
        };
        if transfer.stage != Stage::Collecting {
            return Ok(());
        }
        let header = DataOut {
            is_final: bhs.has(1, FINAL),
            transfer_tag: bhs.be32(20),
            data_sn: bhs.be32(36),
            offset: bhs.be32(40),
        };
        let first_burst = self.parameters.first_burst;
        match transfer.data_out(header, &pdu.data, first_burst) {
            Ok(()) => {}
            // RFC 7143, 7.9: at error recovery level 0 the command fails.
            Err(_) => self.finish(tag, Outcome::check(DATA_PHASE)),
        }
        Ok(())
    }

    /// Carries out commands whose data is there, and asks for the data of others with R2Ts, as long
    /// as there is room for it. The first that has to wait goes first.
    pub(super) fn go_on(&mut self) {
        let mut waiting = std::mem::take(&mut self.wanting);
        let mut is_full = false;
        waiting.retain(|tag| {
            // An initiator may use the tag of a command that failed once more: it waits once alone.
            let transfer = self.commands.get(tag);
            let Some(transfer) = transfer.filter(|t| t.stage == Stage::Collecting) else {
                return false;
            };
            // What already took room goes on, whatever else there is.
            let fits = transfer.holds() > 0 || (!is_full && self.has_room_for(transfer.memory()));
            is_full |= !fits;
            if !fits {
                return true;
            }
            if transfer.is_complete() {
                self.execute(*tag);
                return false;
            }
            if let Some((offset, length)) = transfer.to_ask(self.parameters.max_burst) {
                self.send_r2t(*tag, offset, length);
            }
            true
        });
        self.wanting = waiting;
    }

    fn has_room_for(&self, bytes: usize) -> bool {
        let held: usize = self.commands.values().map(Transfer::holds).sum();
        held == 0 || held + bytes <= self.limits.bytes_max
    }

    /// RFC 7143, 11.8.
    fn send_r2t(&mut self, tag: u32, offset: u32, length: u32) {
        let transfer_tag = self.next_tag();
        let transfer = self.commands.get_mut(&tag).expect("it is under way");
        let mut bhs = Bhs::new(response::R2T, FINAL);
        bhs.put64(8, transfer.lun);
        bhs.put32(16, tag);
        bhs.put32(20, transfer_tag);
        bhs.put32(36, transfer.r2t_sn);
        bhs.put32(40, offset);
        bhs.put32(44, length);
        transfer.ask(Asked {
            transfer_tag,
            offset,
            length,
        });
        self.send_uncounted(bhs, Vec::new());
    }

    /// To [`Effect::Execute`].
    pub fn completed(&mut self, id: CommandId, outcome: Outcome) {
        let is_it = |t: &Transfer| t.serial == id.serial;
        if self.commands.get(&id.tag).is_some_and(is_it) {
            self.finish(id.tag, outcome);
        }
    }

    /// Ends a command; nobody is told of the end of one that was aborted.
    pub(super) fn finish(&mut self, tag: u32, outcome: Outcome) {
        let Some(transfer) = self.commands.remove(&tag) else {
            return;
        };
        self.numbers.window += 1;
        if transfer.stage != Stage::Aborted {
            self.send_outcome(tag, &transfer, outcome);
        }
        self.settle_functions();
    }

    /// RFC 7143, 11.14 and 11.15: the session ends with its one connection.
    fn logout(&mut self, bhs: &Bhs) {
        const CLOSE_SESSION: u8 = 0;
        const CLOSE_CONNECTION: u8 = 1;
        const RECOVERY_NOT_SUPPORTED: u8 = 2;
        let reason = bhs.0[1] & 0x7f;
        let closes = matches!(reason, CLOSE_SESSION | CLOSE_CONNECTION);
        let mut answer = Bhs::new(response::LOGOUT, FINAL);
        answer.0[2] = if closes { 0 } else { RECOVERY_NOT_SUPPORTED };
        answer.put32(16, bhs.tag());
        self.send(answer, Vec::new());
        if closes {
            self.close(CloseReason::Done);
        }
    }

    /// RFC 7143, 11.10: SendTargets, and keys that may be declared anew.
    fn text(&mut self, pdu: &Pdu) -> Result<(), CloseReason> {
        let bhs = &pdu.bhs;
        let transfer_tag = bhs.be32(20);
        if transfer_tag != RESERVED_TAG
            && let Some(out) = self
                .text_out
                .take_if(|out| out.transfer_tag == transfer_tag)
        {
            self.send_text(bhs.tag(), out.rest);
            return Ok(());
        }
        if self.text_in.len() + pdu.data.len() > TEXT_BYTES_MAX {
            return Err(CloseReason::TooLarge);
        }
        self.text_in.extend_from_slice(&pdu.data);
        if bhs.has(1, CONTINUE) {
            let mut answer = Bhs::new(response::TEXT, 0);
            answer.put32(16, bhs.tag());
            answer.put32(20, self.next_tag());
            self.send(answer, Vec::new());
            return Ok(());
        }
        let keys = Keys::parse(&std::mem::take(&mut self.text_in));
        let Ok(keys) = keys else {
            self.reject(bhs, Rejection::Protocol);
            return Ok(());
        };
        self.login_bhs = *bhs;
        match keys.get("SendTargets") {
            // In a normal session it is about the session's own target alone.
            Some("All") if !self.discovery => self.reject(bhs, Rejection::Protocol),
            Some(which) => {
                let which = (which != "All").then(|| which.to_owned());
                self.asked = true;
                self.effects.push(Effect::Discover(which));
            }
            None => {
                let mut answers = Keys::default();
                for (key, value) in keys.iter() {
                    // RFC 7143, 13: the one key that may change in this phase.
                    if key == "MaxRecvDataSegmentLength" {
                        let mut declared = Keys::default();
                        declared.push(key, value);
                        self.parameters.negotiate(&declared, &mut answers);
                    } else {
                        answers.push(key, "NotUnderstood");
                    }
                }
                self.send_text(bhs.tag(), answers.bytes());
            }
        }
        Ok(())
    }

    /// To [`Effect::Discover`]. An empty name means the session's own target.
    pub fn discovered(&mut self, targets: &[ListedTarget]) {
        assert!(self.asked, "it was asked");
        self.asked = false;
        let mut keys = Keys::default();
        for target in targets {
            keys.push("TargetName", target.name.clone());
            for portal in &target.portals {
                let tag = super::login::PORTAL_GROUP;
                keys.push("TargetAddress", format!("{portal},{tag}"));
            }
        }
        self.send_text(self.login_bhs.tag(), keys.bytes());
    }

    fn send_text(&mut self, tag: u32, mut text: Vec<u8>) {
        let most = self.parameters.send_max as usize;
        let rest = (text.len() > most).then(|| text.split_off(most));
        let flags = if rest.is_some() { CONTINUE } else { FINAL };
        let mut bhs = Bhs::new(response::TEXT, flags);
        bhs.put32(16, tag);
        let transfer_tag = match rest {
            None => RESERVED_TAG,
            Some(rest) => {
                let transfer_tag = self.next_tag();
                self.text_out = Some(TextOut { transfer_tag, rest });
                transfer_tag
            }
        };
        bhs.put32(20, transfer_tag);
        self.send(bhs, text);
    }
}
