//! One client's connection as a sans-IO machine: bytes in; bytes, block requests and questions
//! about exports out.
//!
//! How a shell drives it:
//!
//! 0. With a budget that sessions share: [`Session::grant`] what [`Session::lacks`], and take back
//!    what is more than [`Session::held`].
//! 1. While [`Session::wants_input`], read from the socket into [`Session::input`], then call
//!    [`Session::advance`] and carry out the [`Effect`]s.
//! 2. Resume it with what came of them: [`Session::looked_up`], [`Session::opened`],
//!    [`Session::listed`], [`Session::tls_started`], and [`Session::replied`] in any order.
//!    Call [`Session::advance`] afterwards: input may have waited for it.
//! 3. Send [`Session::output`].
//! 4. Once [`Session::closing`] gives a reason and the output is sent, close the connection.
//!
//! It is not a `model::machine::Machine` because it knows no time and because payload is read
//! straight into its buffers, but it keeps to the same rule: no clock, no I/O, no randomness.
//!
//! | file | what |
//! | --- | --- |
//! | `options`, `option_replies` | the handshake: option haggling, entering the transmission phase |
//! | `transmission` | requests: parsing, checks, payloads, what is in flight |
//! | `reply` | simple, structured and extended replies |
//! | `input`, `output` | buffers |
//! | `wire` | numbers of the protocol |

mod input;
mod option_replies;
mod options;
mod output;
mod reply;
mod transmission;
pub(crate) mod wire;

use bytes::BufMut;
use bytes::buf::Limit;
use model::block::Request;
use thiserror::Error;

use self::input::Staging;
use self::options::Question;
pub use self::output::Output;
use self::reply::Framing;
use self::transmission::{InFlight, Transmission, Upload};
use self::wire::{
    CLIENT_FLAGS_BYTES, FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, GREETING_MAGIC, OPTION_HEADER_BYTES,
    OPTION_MAGIC,
};
use crate::export::LIST_BYTES_MAX;

/// Bounds of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests in flight beyond which no further one is read.
    pub requests_max: usize,
    /// Bytes of payload in flight, in either direction and including replies that the client
    /// has not taken yet, beyond which no further request is read. One request may overshoot
    /// it by [`crate::export::PAYLOAD_BYTES_MAX`].
    pub bytes_max: usize,
    /// Bytes read ahead: how many requests one system call may bring.
    pub read_ahead: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests_max: 256,
            bytes_max: 32 << 20,
            read_ahead: 64 << 10,
        }
    }
}

/// Whether a client may, or must, encrypt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encryption {
    /// STARTTLS is refused.
    #[default]
    Off,
    /// STARTTLS is the client's choice.
    Allowed,
    /// Nothing but STARTTLS and ABORT is answered before it.
    Required,
}

/// Names a request in flight on one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId {
    slot: u32,
    generation: u32,
}

/// What a session asks of its shell, in the order in which it is to be carried out.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Describe an export; answered by [`Session::looked_up`]. Nothing else is processed until
    /// then.
    Lookup {
        /// The name that the client gave; empty for the default export.
        name: String,
    },
    /// Open an export for use; answered by [`Session::opened`]. At most one succeeds.
    Open {
        /// The name that the client gave; empty for the default export.
        name: String,
    },
    /// List the exports; answered by [`Session::listed`].
    List,
    /// Send all output, then do the server's part of a TLS handshake and go on inside; answered
    /// by [`Session::tls_started`], or the connection is dropped.
    StartTls,
    /// Carry out a request on the opened export; answered by [`Session::replied`].
    Submit {
        /// Its name in the answer.
        id: RequestId,
        /// What to do.
        request: Request,
    },
}

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CloseReason {
    /// The client said that it leaves: NBD_OPT_ABORT or NBD_CMD_DISC.
    #[error("the client left")]
    Done,
    /// The client closed its sending side.
    #[error("the client closed the connection")]
    EndOfInput,
    /// [`Session::shut_down`].
    #[error("the server is being shut down")]
    ShutDown,
    /// The client set handshake flags that were not offered, or lacks one that TLS needs.
    #[error("unacceptable client flags")]
    ClientFlags,
    /// An option or a request does not start with its magic number.
    #[error("bad magic number")]
    Magic,
    /// An option or a payload is so large that it is taken for an attack.
    #[error("an option or a payload is too large")]
    TooLarge,
    /// NBD_OPT_EXPORT_NAME cannot be refused otherwise.
    #[error("the export was refused")]
    Refused,
    /// Clear text came after NBD_OPT_STARTTLS: somebody may be injecting it.
    #[error("clear text after STARTTLS")]
    ClearText,
    /// The volume forgot this client's session (R10).
    #[error("the volume forgot the session")]
    NoSession,
}

impl CloseReason {
    /// Whether requests in flight are still answered. After a violation, or once the volume
    /// forgot the session, they are not.
    const fn is_graceful(self) -> bool {
        matches!(self, Self::Done | Self::EndOfInput | Self::ShutDown)
    }
}

/// What the next bytes of the client are.
#[derive(Debug)]
enum Phase {
    /// The client's handshake flags.
    ClientFlags,
    /// The header of an option.
    Option,
    /// An option's data, to be read in full.
    OptionData { option: u32, length: usize },
    /// An option's data, to be ignored; then comes a reply.
    OptionSkip {
        option: u32,
        remaining: u64,
        reply: u32,
    },
    /// Nothing: the shell owes an answer.
    Waiting(Question),
    /// The header of a request.
    Request,
    /// The payload of a WRITE.
    Upload(Upload),
    /// The payload of a refused request; then comes an error.
    Discard {
        remaining: u64,
        refusal: transmission::Refusal,
    },
    /// Nothing more.
    Closing(CloseReason),
}

/// One client's connection.
#[derive(Debug)]
pub struct Session {
    limits: Limits,
    encryption: Encryption,
    /// Bytes that it may hold.
    credit: usize,
    /// Bytes of credit without which it can't go on.
    lacks: Option<usize>,
    phase: Phase,
    staging: Staging,
    output: Output,
    /// Handshake: the client's flags.
    fixed_newstyle: bool,
    no_zeroes: bool,
    encrypted: bool,
    /// How replies are framed, as negotiated so far.
    framing: Framing,
    /// The export for which context `base:allocation` is selected.
    allocation_for: Option<String>,
    /// The export in use, once in the transmission phase.
    transmission: Option<Transmission>,
    in_flight: InFlight,
}

impl Session {
    /// A session at its start; the greeting waits in its output.
    #[must_use]
    pub fn new(limits: Limits, encryption: Encryption) -> Self {
        let mut output = Output::default();
        output.put(&GREETING_MAGIC.to_be_bytes());
        output.put(&OPTION_MAGIC.to_be_bytes());
        let flags = (FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES) as u16;
        output.put(&flags.to_be_bytes());
        Self {
            limits,
            encryption,
            credit: usize::MAX,
            lacks: None,
            phase: Phase::ClientFlags,
            staging: Staging::default(),
            output,
            fixed_newstyle: false,
            no_zeroes: false,
            encrypted: false,
            framing: Framing::Simple,
            allocation_for: None,
            transmission: None,
            in_flight: InFlight::default(),
        }
    }

    /// Whether the export is being opened, which takes as long as its volume can't be served.
    #[must_use]
    pub const fn is_opening(&self) -> bool {
        matches!(
            self.phase,
            Phase::Waiting(Question::ExportName { .. } | Question::Info { go: true, .. })
        )
    }

    /// Whether more bytes of the client are wanted. If not, the shell stops reading: an answer
    /// is due, or the connection is at its limits, or at its end.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        match self.phase {
            // A little, to see whether the client is still there.
            Phase::Waiting(_) if self.is_opening() => self.staging.len() < input::HANDSHAKE_BYTES,
            Phase::Waiting(_) | Phase::Closing(_) => false,
            Phase::Option | Phase::OptionData { .. } | Phase::OptionSkip { .. } => {
                self.has_reply_room() && self.lacks.is_none()
            }
            Phase::Request => self.has_room() && self.lacks.is_none(),
            Phase::ClientFlags | Phase::Upload(_) | Phase::Discard { .. } => true,
        }
    }

    /// Where the next bytes of the client go: a buffer and how many bytes it takes, never 0
    /// while [`Session::wants_input`]. Large payloads are read straight into their own buffer.
    pub fn input(&mut self) -> Limit<&mut Vec<u8>> {
        let capacity = match self.phase {
            Phase::OptionData { length, .. } => length.max(OPTION_HEADER_BYTES),
            Phase::Request | Phase::Upload(_) | Phase::Discard { .. } => self.limits.read_ahead,
            _ => input::HANDSHAKE_BYTES,
        };
        if let Phase::Upload(upload) = &mut self.phase
            && self.staging.is_empty()
            && upload.takes_direct_input()
        {
            return upload.input();
        }
        self.staging.room(capacity.max(input::HANDSHAKE_BYTES))
    }

    /// Processes what was read and appends what is to be done to `effects`.
    pub fn advance(&mut self, effects: &mut Vec<Effect>) {
        while self.step(effects) {}
    }

    /// Takes bytes from a slice, as if they had been read into [`Session::input`], and
    /// processes them. Returns how many were wanted.
    pub fn receive(&mut self, bytes: &[u8], effects: &mut Vec<Effect>) -> usize {
        let mut taken = 0;
        self.advance(effects);
        while taken < bytes.len() && self.wants_input() {
            let mut input = self.input();
            let count = input.remaining_mut().min(bytes.len() - taken);
            input.put_slice(&bytes[taken..taken + count]);
            taken += count;
            self.advance(effects);
        }
        taken
    }

    /// What waits to be sent.
    #[must_use]
    pub const fn output(&self) -> &Output {
        &self.output
    }

    /// What waits to be sent, to report what was ([`Output::sent`]).
    pub const fn output_mut(&mut self) -> &mut Output {
        &mut self.output
    }

    /// Bytes that it may hold from now on; without a bound until this is said.
    pub const fn grant(&mut self, credit: usize) {
        self.credit = credit;
    }

    /// The credit without which nothing further is taken up; none while it suffices.
    #[must_use]
    pub const fn lacks(&self) -> Option<usize> {
        self.lacks
    }

    /// Bytes that it holds of its credit: payload of requests in flight, in either direction,
    /// a payload that is being read, replies that the client has not taken.
    #[must_use]
    pub const fn held(&self) -> usize {
        let under_way = match &self.phase {
            Phase::Upload(upload) => upload.cost(),
            Phase::Waiting(Question::List) => LIST_BYTES_MAX,
            _ => 0,
        };
        under_way + self.in_flight.bytes() + self.output.len()
    }

    /// Bytes that it is the client's turn to send or to take.
    #[must_use]
    pub fn owed(&self) -> usize {
        let missing = match &self.phase {
            Phase::Upload(upload) => upload.missing(),
            _ => 0,
        };
        missing + self.output.len()
    }

    /// Whether the credit allows to hold so many bytes more.
    fn affords(&mut self, bytes: usize) -> bool {
        let needed = self.held() + bytes;
        self.lacks = (needed > self.credit).then_some(needed);
        self.lacks.is_none()
    }

    /// Requests that the shell still has to answer.
    #[must_use]
    pub const fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether the handshake is over.
    #[must_use]
    pub const fn is_transmitting(&self) -> bool {
        self.transmission.is_some()
    }

    /// Whether the connection is ending: no request is read any more.
    #[must_use]
    pub const fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing(_))
    }

    /// Why the connection ends, once nothing but output stands against closing it.
    #[must_use]
    pub const fn closing(&self) -> Option<CloseReason> {
        match self.phase {
            Phase::Closing(reason) if !reason.is_graceful() || self.in_flight.is_empty() => {
                Some(reason)
            }
            _ => None,
        }
    }

    /// The client closed its sending side: what is in flight is still answered.
    pub fn end_of_input(&mut self) {
        self.close(CloseReason::EndOfInput);
    }

    /// The server is being shut down: reads no more; what is in flight is still answered.
    pub fn shut_down(&mut self) {
        self.close(CloseReason::ShutDown);
    }

    /// Bytes of memory that its own buffers hold, for accounting and tests. Payloads of requests
    /// in flight are not included.
    #[must_use]
    pub fn memory(&self) -> usize {
        let upload = match &self.phase {
            Phase::Upload(upload) => upload.memory(),
            _ => 0,
        };
        self.staging.memory() + self.output.memory() + upload + self.in_flight.memory()
    }

    /// Does one thing with the input; false if it needs more, or must wait.
    fn step(&mut self, effects: &mut Vec<Effect>) -> bool {
        match &self.phase {
            Phase::ClientFlags => self.client_flags(),
            Phase::Option | Phase::OptionData { .. } | Phase::OptionSkip { .. }
                if !self.has_reply_room() =>
            {
                false
            }
            Phase::Option => self.option_header(effects),
            Phase::OptionData { .. } => self.option_data(effects),
            Phase::OptionSkip { .. } => self.option_skip(),
            Phase::Request => self.request(effects),
            Phase::Upload(_) => self.upload(effects),
            Phase::Discard { .. } => self.discard(),
            Phase::Waiting(_) | Phase::Closing(_) => false,
        }
    }

    /// Ends the session, unless it has a stronger reason to end already.
    fn close(&mut self, reason: CloseReason) {
        if let Phase::Closing(before) = self.phase
            && (reason.is_graceful() || !before.is_graceful())
        {
            return;
        }
        self.phase = Phase::Closing(reason);
        self.lacks = None;
        self.staging.clear();
    }

    /// The client's flags: the connection is dropped on unknown ones.
    fn client_flags(&mut self) -> bool {
        let Some(bytes) = self.staging.peek(CLIENT_FLAGS_BYTES) else {
            return false;
        };
        let flags = wire::Reader::new(bytes)
            .u32()
            .expect("four bytes were there");
        self.staging.consume(CLIENT_FLAGS_BYTES);
        self.fixed_newstyle = flags & FLAG_FIXED_NEWSTYLE != 0;
        self.no_zeroes = flags & FLAG_NO_ZEROES != 0;
        let unknown = flags & !(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES) != 0;
        // TLS needs the fixed newstyle: without it the client could only ever be refused.
        let hopeless = self.encryption == Encryption::Required && !self.fixed_newstyle;
        if unknown || hopeless {
            self.close(CloseReason::ClientFlags);
        } else {
            self.phase = Phase::Option;
        }
        true
    }
}
