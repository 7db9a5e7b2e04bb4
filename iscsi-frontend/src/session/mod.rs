//! One session of one connection as a sans-IO machine (RFC 7143): bytes in; bytes, commands and
//! questions out. Error recovery level 0, one connection a session.
//!
//! How a shell drives it:
//!
//! 1. While [`Session::wants_input`], read from the socket into [`Session::input`], then call
//!    [`Session::advance`] and carry out the [`Effect`]s.
//! 2. Resume it with what came of them: [`Session::identified`], [`Session::established`],
//!    [`Session::discovered`], and [`Session::completed`] in any order. Call [`Session::advance`]
//!    afterwards: input may have waited for it.
//! 3. Send [`Session::output`].
//! 4. Once [`Session::closing`] gives a reason and the output is sent, close the connection.
//!
//! It knows no time and payload is read straight into its buffers, so it is no
//! `model::machine::Machine`, but it keeps to the same rule: no clock, no I/O, no randomness (what
//! CHAP needs of that is given to it).
//!
//! | file | what |
//! | --- | --- |
//! | `login`, `chap`, `parameters` | the login phase |
//! | `full` | the full feature phase: commands, data, pings, text, logout |
//! | `management` | task management functions |
//! | `transfer` | one command while its data comes |
//! | `sender` | PDUs for the initiator |
//! | `input`, `output`, `pdu`, `text` | buffers, framing, fields, keys |

mod chap;
mod full;
mod input;
mod login;
mod management;
mod output;
mod parameters;
mod pdu;
mod sender;
mod text;
mod transfer;

use std::collections::{BTreeMap, VecDeque};

use bytes::BytesMut;
use bytes::buf::Limit;
use thiserror::Error;

pub use self::chap::{CHALLENGE_BYTES, Credentials, Entropy};
use self::full::TextOut;
use self::input::{Input, Pdu};
pub use self::login::{Access, Isid, LoginError, Names};
use self::login::{Login, LoginHeader, LoginStep, Stage};
use self::management::Function;
pub use self::management::Scope;
pub use self::output::Output;
use self::parameters::{LOGIN_BYTES, Parameters, RECEIVE_BYTES};
use self::pdu::{Bhs, FINAL, request, response};
use self::transfer::Transfer;
use crate::scsi;

/// Bounds of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Commands at once: the window of CmdSN.
    pub commands_max: u32,
    /// Bytes of data of commands under way, in either direction; one command may overshoot, and so
    /// may what comes unasked.
    pub bytes_max: usize,
    /// Bytes that wait for an initiator which does not read, beyond which it is not read either.
    pub output_max: usize,
    /// Bytes read ahead: how much one system call may bring.
    pub read_ahead: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            commands_max: 128,
            bytes_max: 16 << 20,
            output_max: 8 << 20,
            read_ahead: 64 << 10,
        }
    }
}

/// Names a command under way on one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommandId {
    tag: u32,
    serial: u64,
}

/// What a session asks of its shell, in the order in which it is to be carried out.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Whether these may log in, and how; answered by [`Session::identified`]. Nothing else is
    /// processed until then.
    Identify(Names),
    /// Begin the session, and end an older one of the same names first (RFC 7143, 6.3.5);
    /// answered by [`Session::established`].
    Establish(Names),
    /// List the targets that the initiator may see, or only that one; answered by
    /// [`Session::discovered`].
    Discover(Option<String>),
    /// Carry out a command; answered by [`Session::completed`].
    Execute {
        /// Its name in the answer.
        id: CommandId,
        /// What to do.
        command: scsi::Command,
    },
    /// Let no further step of these commands begin; each is answered all the same, by what it
    /// came to so far.
    Abort(Vec<CommandId>),
    /// End what other sessions of the target do, all of it, and tell them; answered by
    /// [`Session::reset`].
    Reset(Scope),
}

/// A target in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedTarget {
    /// Its name.
    pub name: String,
    /// Where it is reached: `address:port`.
    pub portals: Vec<String>,
}

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CloseReason {
    /// The initiator logged out.
    #[error("the initiator left")]
    Done,
    /// The initiator closed its sending side.
    #[error("the initiator closed the connection")]
    EndOfInput,
    /// [`Session::shut_down`].
    #[error("the server is being shut down")]
    ShutDown,
    /// A newer session of the same names took its place.
    #[error("a newer session took its place")]
    Replaced,
    /// The login failed.
    #[error("the login failed: {0}")]
    Login(LoginError),
    /// A PDU that can't come now, or whose fields contradict each other.
    #[error("a breach of the protocol")]
    Protocol,
    /// More data than was agreed on.
    #[error("a data segment is too large")]
    TooLarge,
    /// A header was damaged.
    #[error("a header digest is wrong")]
    HeaderDigest,
    /// Data was damaged.
    #[error("a data digest is wrong")]
    DataDigest,
    /// The volume's session is gone (R10).
    #[error("the volume's session is gone")]
    NoSession,
    /// The target is no longer there.
    #[error("the target is gone")]
    Gone,
}

/// Sequence numbers (RFC 7143, 4.2.2).
#[derive(Debug)]
struct Numbers {
    stat_sn: u32,
    exp_cmd_sn: u32,
    /// How many commands may still come.
    window: u32,
}

impl Numbers {
    fn max_cmd_sn(&self) -> u32 {
        self.exp_cmd_sn.wrapping_add(self.window).wrapping_sub(1)
    }
}

#[derive(Debug)]
enum Phase {
    Login(Box<Login>),
    Full,
}

/// A session.
#[derive(Debug)]
pub struct Session {
    limits: Limits,
    phase: Phase,
    parameters: Parameters,
    numbers: Numbers,
    input: Input,
    output: Output,
    /// The login request that is being answered, and the session's number.
    login_bhs: Bhs,
    tsih: u16,
    discovery: bool,
    /// Whether an answer of the shell is waited for.
    asked: bool,
    serial: u64,
    commands: BTreeMap<u32, Transfer>,
    /// Commands that wait for room before their data is asked for.
    wanting: VecDeque<u32>,
    next_transfer_tag: u32,
    functions: VecDeque<Function>,
    text_in: Vec<u8>,
    text_out: Option<TextOut>,
    /// A ping that was not answered yet.
    pinged: bool,
    effects: Vec<Effect>,
    closing: Option<CloseReason>,
}

impl Session {
    /// A connection that was just made.
    #[must_use]
    pub fn new(limits: Limits, entropy: Entropy) -> Self {
        Self {
            limits,
            phase: Phase::Login(Box::new(Login::new(entropy))),
            parameters: Parameters::default(),
            numbers: Numbers {
                stat_sn: 1,
                exp_cmd_sn: 1,
                window: limits.commands_max,
            },
            input: Input::default(),
            output: Output::default(),
            login_bhs: Bhs::new(request::LOGIN, 0),
            tsih: 0,
            discovery: false,
            asked: false,
            serial: 0,
            commands: BTreeMap::new(),
            wanting: VecDeque::new(),
            next_transfer_tag: 1,
            functions: VecDeque::new(),
            text_in: Vec::new(),
            text_out: None,
            pinged: false,
            effects: Vec::new(),
            closing: None,
        }
    }

    /// Where the shell reads to.
    pub fn input(&mut self) -> Limit<&mut BytesMut> {
        let lacks = self.input.lacks(self.parameters.digests);
        // No more than a PDU may have, whatever its header says.
        let lacks = lacks.min(RECEIVE_BYTES as usize + 4096);
        self.input.room(self.limits.read_ahead, lacks)
    }

    /// Whether the initiator is to be read.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        self.closing.is_none() && !self.asked && self.output.len() <= self.limits.output_max
    }

    /// What waits to be sent.
    #[must_use]
    pub const fn output(&self) -> &Output {
        &self.output
    }

    /// The same, to be told what was sent.
    pub const fn output_mut(&mut self) -> &mut Output {
        &mut self.output
    }

    /// Whether the login is over.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        matches!(self.phase, Phase::Full)
    }

    /// Why the connection is to be closed, once the output is sent.
    #[must_use]
    pub const fn closing(&self) -> Option<CloseReason> {
        self.closing
    }

    /// How many bytes of data commands may have under way from now on.
    pub const fn grant(&mut self, bytes_max: usize) {
        self.limits.bytes_max = bytes_max;
    }

    /// The initiator sends no more.
    pub fn end_of_input(&mut self) {
        self.close(CloseReason::EndOfInput);
    }

    /// Ends it: it is told with an asynchronous message, which asks it to log out
    /// (RFC 7143, 11.9.1).
    pub fn shut_down(&mut self) {
        if self.is_full() && self.closing.is_none() {
            self.send_event(2, [0; 3]);
        }
        self.close(CloseReason::ShutDown);
    }

    /// Ends it for that reason.
    pub fn close(&mut self, reason: CloseReason) {
        self.closing = self.closing.or(Some(reason));
    }

    fn send_event(&mut self, event: u8, parameters: [u16; 3]) {
        let mut bhs = Bhs::new(response::ASYNC, FINAL);
        bhs.put32(16, pdu::RESERVED_TAG);
        bhs.0[36] = event;
        for (n, parameter) in parameters.into_iter().enumerate() {
            bhs.0[38 + 2 * n..40 + 2 * n].copy_from_slice(&parameter.to_be_bytes());
        }
        self.send(bhs, Vec::new());
    }

    /// Makes all the progress that is possible now.
    pub fn advance(&mut self, effects: &mut Vec<Effect>) {
        while self.wants_input() {
            let data_max = match self.phase {
                Phase::Login(_) => LOGIN_BYTES,
                Phase::Full => RECEIVE_BYTES,
            };
            match self.input.next(self.parameters.digests, data_max as usize) {
                Ok(Some(pdu)) => self.process(&pdu),
                Ok(None) => break,
                Err(reason) => self.close(reason),
            }
        }
        self.go_on();
        effects.append(&mut self.effects);
    }

    fn process(&mut self, pdu: &Pdu) {
        let done = match self.phase {
            Phase::Login(_) => self.login(pdu),
            Phase::Full => self.full(pdu),
        };
        if let Err(reason) = done {
            self.close(reason);
        }
    }

    fn login(&mut self, pdu: &Pdu) -> Result<(), CloseReason> {
        let bhs = pdu.bhs;
        // RFC 7143, 6.3: nothing but login requests before the end of the login.
        if bhs.opcode() != request::LOGIN {
            return Err(CloseReason::Protocol);
        }
        let Phase::Login(login) = &mut self.phase else {
            return Err(CloseReason::Protocol);
        };
        self.login_bhs = bhs;
        if login.names().is_none() {
            self.numbers.exp_cmd_sn = bhs.be32(24);
        }
        let header = LoginHeader {
            flags: bhs.0[1],
            version_min: bhs.0[3],
            isid: bhs.0[8..14].try_into().expect("six bytes"),
            tsih: bhs.be16(14),
        };
        let step = login.request(header, &pdu.data);
        self.login_step(step);
        Ok(())
    }

    fn login_step(&mut self, step: Result<LoginStep, LoginError>) {
        match step {
            Ok(LoginStep::Respond { answers, next }) => {
                self.respond_login(next, answers.bytes(), [0, 0]);
            }
            Ok(LoginStep::Identify(names)) => {
                self.discovery = names.target.is_none();
                self.asked = true;
                self.effects.push(Effect::Identify(names));
            }
            Ok(LoginStep::Establish) => {
                let Phase::Login(login) = &self.phase else {
                    return self.close(CloseReason::Protocol);
                };
                let Some(names) = login.names().cloned() else {
                    return self.close(CloseReason::Protocol);
                };
                self.asked = true;
                self.effects.push(Effect::Establish(names));
            }
            Err(error) => self.fail_login(error),
        }
    }

    fn fail_login(&mut self, error: LoginError) {
        self.respond_login(None, Vec::new(), error.status());
        self.close(CloseReason::Login(error));
    }

    /// A login response (RFC 7143, 11.13).
    fn respond_login(&mut self, next: Option<Stage>, data: Vec<u8>, status: [u8; 2]) {
        let asked = self.login_bhs;
        let current = asked.0[1] & 0x0c;
        let transit = next.map_or(0, |next| FINAL | next as u8);
        let mut bhs = Bhs::new(response::LOGIN, current | transit);
        bhs.0[8..14].copy_from_slice(&asked.0[8..14]);
        bhs.0[14..16].copy_from_slice(&self.tsih.to_be_bytes());
        bhs.put32(16, asked.tag());
        bhs.0[36..38].copy_from_slice(&status);
        self.send(bhs, data);
    }

    /// To [`Effect::Identify`].
    pub fn identified(&mut self, access: Result<Access, LoginError>) {
        assert!(self.asked, "it was asked");
        self.asked = false;
        let Phase::Login(login) = &mut self.phase else {
            return;
        };
        let step = access.and_then(|access| login.identified(access));
        self.login_step(step);
    }

    /// To [`Effect::Establish`]: the session's number, not 0.
    pub fn established(&mut self, tsih: Result<u16, LoginError>) {
        assert!(self.asked, "it was asked");
        self.asked = false;
        match tsih {
            Err(error) => self.fail_login(error),
            Ok(tsih) => {
                let Phase::Login(login) = &mut self.phase else {
                    return;
                };
                let (answers, parameters) = (login.established(), login.parameters);
                self.tsih = tsih;
                self.respond_login(Some(Stage::Full), answers.bytes(), [0, 0]);
                // Digests begin with what follows.
                self.parameters = parameters;
                self.phase = Phase::Full;
            }
        }
    }
}

#[cfg(test)]
mod tests;
