//! Option haggling, up to the transmission phase.

use super::reply::Framing;
use super::transmission::Transmission;
use super::wire::{
    OPTION_HEADER_BYTES, OPTION_MAGIC, OPTION_REPLY_HEADER_BYTES, Reader, info, option,
    option_reply,
};
use super::{CloseReason, Effect, Encryption, Phase, Session};
use crate::export::{
    ExportError, ExportInfo, LIST_BYTES_MAX, LIST_MAX, ListedExport, STRING_BYTES_MAX,
};

/// Most data in bytes of an option that is understood; more is refused as too big.
const OPTION_BYTES_MAX: u32 = 32 << 10;
/// Most data in bytes of an option that is skipped; more is taken for an attack.
const OPTION_SKIP_MAX: u32 = 32 << 20;
/// Bytes of replies that the client has not taken yet, beyond which no further option is looked
/// at. One option's replies may overshoot it: a list's by [`LIST_BYTES_MAX`], others by little.
const REPLIES_BYTES_MAX: usize = 64 << 10;
/// Bytes of zeros after the reply to NBD_OPT_EXPORT_NAME, unless the client waived them.
const ZEROES: [u8; 124] = [0; 124];
/// The one metadata context.
pub(super) const ALLOCATION: &str = "base:allocation";
/// The wildcard for it in a list.
const BASE_WILDCARD: &[u8] = b"base:";
/// Its id on the wire.
pub(super) const ALLOCATION_ID: u32 = 1;

/// What the shell was asked during the handshake, and what its answer is for.
#[derive(Debug)]
pub(super) enum Question {
    /// NBD_OPT_EXPORT_NAME.
    ExportName { name: String },
    /// NBD_OPT_INFO, or NBD_OPT_GO if `go`.
    Info {
        name: String,
        go: bool,
        wants_name: bool,
        wants_description: bool,
        wants_sizes: bool,
    },
    /// NBD_OPT_LIST.
    List,
    /// NBD_OPT_LIST_META_CONTEXT.
    ListMeta { allocation: bool },
    /// NBD_OPT_SET_META_CONTEXT.
    SetMeta { name: String, allocation: bool },
    /// NBD_OPT_STARTTLS.
    Tls,
}

impl Session {
    /// Whether the client took enough of its replies for one more option.
    pub(super) const fn has_reply_room(&self) -> bool {
        self.output.len() < REPLIES_BYTES_MAX
    }

    /// An option's header.
    pub(super) fn option_header(&mut self, effects: &mut Vec<Effect>) -> bool {
        let Some(bytes) = self.staging.peek(OPTION_HEADER_BYTES) else {
            return false;
        };
        let mut at = Reader::new(bytes);
        let (Some(magic), Some(option), Some(length)) = (at.u64(), at.u32(), at.u32()) else {
            return false;
        };
        if option == option::LIST && !self.affords(LIST_BYTES_MAX) {
            return false;
        }
        self.staging.consume(OPTION_HEADER_BYTES);
        if magic != OPTION_MAGIC {
            self.close(CloseReason::Magic);
        } else if length > OPTION_SKIP_MAX {
            self.close(CloseReason::TooLarge);
        } else if option == option::EXPORT_NAME {
            self.export_name_header(length);
        } else if let Some(reply) = self.refusal(option, length) {
            if option == option::SET_META_CONTEXT {
                self.allocation_for = None;
            }
            self.phase = Phase::OptionSkip {
                option,
                remaining: length.into(),
                reply,
            };
        } else if length == 0 {
            self.plain_option(option, effects);
        } else {
            self.phase = Phase::OptionData {
                option,
                length: length as usize,
            };
        }
        true
    }

    /// NBD_OPT_EXPORT_NAME has no error reply: what can't be served drops the connection.
    fn export_name_header(&mut self, length: u32) {
        let in_clear = self.encryption == Encryption::Required && !self.encrypted;
        if in_clear || self.framing == Framing::Extended || length as usize > STRING_BYTES_MAX {
            self.close(CloseReason::Refused);
        } else {
            self.phase = Phase::OptionData {
                option: option::EXPORT_NAME,
                length: length as usize,
            };
        }
    }

    /// The reply to an option whose data needs no look, if it is one: an error, or the
    /// acknowledgement of ABORT.
    fn refusal(&self, option: u32, length: u32) -> Option<u32> {
        use option_reply as reply;
        let must_encrypt = self.encryption == Encryption::Required && !self.encrypted;
        match option {
            option::ABORT => Some(reply::ACK),
            option::STARTTLS if length > 0 || self.encrypted => Some(reply::ERR_INVALID),
            option::STARTTLS if self.encryption == Encryption::Off || !self.fixed_newstyle => {
                Some(reply::ERR_POLICY)
            }
            option::STARTTLS => None,
            _ if must_encrypt => Some(reply::ERR_TLS_REQD),
            option::LIST | option::STRUCTURED_REPLY | option::EXTENDED_HEADERS if length > 0 => {
                Some(reply::ERR_INVALID)
            }
            option::STRUCTURED_REPLY if self.framing == Framing::Extended => {
                Some(reply::ERR_EXT_HEADER_REQD)
            }
            option::LIST | option::STRUCTURED_REPLY | option::EXTENDED_HEADERS => None,
            option::INFO | option::GO | option::LIST_META_CONTEXT | option::SET_META_CONTEXT => {
                let meta = matches!(option, option::LIST_META_CONTEXT | option::SET_META_CONTEXT);
                if length == 0 || (meta && self.framing == Framing::Simple) {
                    Some(reply::ERR_INVALID)
                } else {
                    (length > OPTION_BYTES_MAX).then_some(reply::ERR_TOO_BIG)
                }
            }
            _ => Some(reply::ERR_UNSUP),
        }
    }

    /// An option without data.
    fn plain_option(&mut self, option: u32, effects: &mut Vec<Effect>) {
        match option {
            option::LIST => self.ask(Question::List, Effect::List, effects),
            option::STARTTLS if !self.staging.is_empty() => self.close(CloseReason::ClearText),
            option::STARTTLS => {
                self.option_reply(option, option_reply::ACK, &[]);
                self.ask(Question::Tls, Effect::StartTls, effects);
            }
            option::STRUCTURED_REPLY => self.agree(option, Framing::Structured),
            option::EXTENDED_HEADERS => self.agree(option, Framing::Extended),
            _ => unreachable!("other options were refused or have data"),
        }
    }

    fn agree(&mut self, option: u32, framing: Framing) {
        self.framing = framing;
        self.option_reply(option, option_reply::ACK, &[]);
        self.phase = Phase::Option;
    }

    fn ask(&mut self, question: Question, effect: Effect, effects: &mut Vec<Effect>) {
        self.phase = Phase::Waiting(question);
        effects.push(effect);
    }

    /// Skips an option's data, then replies.
    pub(super) fn option_skip(&mut self) -> bool {
        let Phase::OptionSkip {
            option,
            remaining,
            reply,
        } = &mut self.phase
        else {
            unreachable!("called in this phase only");
        };
        *remaining -= self.staging.skip(*remaining);
        if *remaining > 0 {
            return false;
        }
        let (option, reply) = (*option, *reply);
        self.option_reply(option, reply, &[]);
        if option == option::ABORT {
            self.close(CloseReason::Done);
        } else {
            self.phase = Phase::Option;
        }
        true
    }

    /// An option's data, once it is there in full.
    pub(super) fn option_data(&mut self, effects: &mut Vec<Effect>) -> bool {
        let Phase::OptionData { option, length } = self.phase else {
            unreachable!("called in this phase only");
        };
        let Some(data) = self.staging.peek(length).map(<[u8]>::to_vec) else {
            return false;
        };
        self.staging.consume(length);
        self.phase = Phase::Option;
        let understood = match option {
            option::EXPORT_NAME => self.export_name(&data, effects),
            option::INFO | option::GO => self.info(option, &data, effects),
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => {
                self.meta_context(option, &data, effects)
            }
            _ => unreachable!("other options have no data"),
        };
        if understood.is_none() && option == option::EXPORT_NAME {
            self.close(CloseReason::Refused);
        } else if understood.is_none() {
            self.option_reply(option, option_reply::ERR_INVALID, &[]);
        }
        true
    }

    fn export_name(&mut self, data: &[u8], effects: &mut Vec<Effect>) -> Option<()> {
        let name = string(data)?;
        self.ask(
            Question::ExportName { name: name.clone() },
            Effect::Open { name },
            effects,
        );
        Some(())
    }

    fn info(&mut self, option: u32, data: &[u8], effects: &mut Vec<Effect>) -> Option<()> {
        let mut at = Reader::new(data);
        let name = string(at.counted()?)?;
        let (mut wants_name, mut wants_description, mut wants_sizes) = (false, false, false);
        for _ in 0..at.u16()? {
            match at.u16()? {
                info::NAME => wants_name = true,
                info::DESCRIPTION => wants_description = true,
                info::BLOCK_SIZE => wants_sizes = true,
                _ => {} // NBD_INFO_EXPORT is sent anyway, and unknown ones are ignored.
            }
        }
        if !at.is_empty() {
            return None;
        }
        let go = option == option::GO;
        let effect = if go {
            Effect::Open { name: name.clone() }
        } else {
            Effect::Lookup { name: name.clone() }
        };
        let question = Question::Info {
            name,
            go,
            wants_name,
            wants_description,
            wants_sizes,
        };
        self.ask(question, effect, effects);
        Some(())
    }

    fn meta_context(&mut self, option: u32, data: &[u8], effects: &mut Vec<Effect>) -> Option<()> {
        let list = option == option::LIST_META_CONTEXT;
        if !list {
            // The old set is replaced even if this option fails.
            self.allocation_for = None;
        }
        let mut at = Reader::new(data);
        let name = string(at.counted()?)?;
        let count = at.u32()?;
        let mut allocation = list && count == 0;
        for _ in 0..count {
            // Unknown namespaces and leaves are ignored; the wildcard is for lists only.
            let query = at.counted()?;
            allocation |= query == ALLOCATION.as_bytes() || (list && query == BASE_WILDCARD);
        }
        if !at.is_empty() {
            return None;
        }
        let effect = Effect::Lookup { name: name.clone() };
        let question = if list {
            Question::ListMeta { allocation }
        } else {
            Question::SetMeta { name, allocation }
        };
        self.ask(question, effect, effects);
        Some(())
    }

    /// The answer to [`Effect::Lookup`].
    ///
    /// # Panics
    /// If there was no such effect.
    pub fn looked_up(&mut self, found: Result<ExportInfo, ExportError>) {
        let Some(question) = self.take_question() else {
            return;
        };
        let option = match &question {
            Question::Info { go: false, .. } => option::INFO,
            Question::ListMeta { .. } => option::LIST_META_CONTEXT,
            Question::SetMeta { .. } => option::SET_META_CONTEXT,
            other => panic!("a lookup answers {other:?}"),
        };
        let export = match found {
            Ok(export) => export,
            Err(error) => return self.refuse(option, error),
        };
        match &question {
            Question::ListMeta { allocation: true } => self.send_context(option, 0),
            Question::SetMeta {
                name,
                allocation: true,
            } => {
                self.allocation_for = Some(name.clone());
                self.send_context(option, ALLOCATION_ID);
            }
            Question::Info { .. } => self.send_info(option, &question, &export),
            _ => {}
        }
        self.option_reply(option, option_reply::ACK, &[]);
    }

    /// The answer to [`Effect::Open`]. On success the transmission phase begins.
    ///
    /// # Panics
    /// If there was no such effect.
    pub fn opened(&mut self, found: Result<ExportInfo, ExportError>) {
        let Some(question) = self.take_question() else {
            return;
        };
        let (name, export) = match (&question, found) {
            (Question::ExportName { .. }, Err(_)) => return self.close(CloseReason::Refused),
            (Question::ExportName { name }, Ok(export)) => {
                self.output.put(&export.size.to_be_bytes());
                self.output.put(&self.flags(&export).to_be_bytes());
                if !self.no_zeroes {
                    self.output.put(&ZEROES);
                }
                (name, export)
            }
            (Question::Info { go: true, .. }, Err(error)) => return self.refuse(option::GO, error),
            (Question::Info { go: true, name, .. }, Ok(export)) => {
                self.send_info(option::GO, &question, &export);
                self.option_reply(option::GO, option_reply::ACK, &[]);
                (name, export)
            }
            (other, _) => panic!("an open answers {other:?}"),
        };
        // Contexts hold only for the export that they were selected for.
        let has_status = self.allocation_for.as_ref() == Some(name);
        self.transmission = Some(Transmission {
            size: export.size,
            read_only: export.read_only,
            has_status,
        });
        self.phase = Phase::Request;
    }

    /// The answer to [`Effect::List`].
    ///
    /// # Panics
    /// If there was no such effect.
    pub fn listed(&mut self, exports: Result<Vec<ListedExport>, ExportError>) {
        let Some(question) = self.take_question() else {
            return;
        };
        assert!(
            matches!(question, Question::List),
            "a list answers {question:?}"
        );
        let exports = match exports {
            Ok(exports) => exports,
            Err(error) => return self.refuse(option::LIST, error),
        };
        let bytes: usize = exports.iter().map(listed_bytes).sum();
        if exports.len() > LIST_MAX || bytes > LIST_BYTES_MAX {
            return self.option_reply(option::LIST, option_reply::ERR_TOO_BIG, &[]);
        }
        for export in exports.iter().filter(|export| fits(&export.name)) {
            let length = (export.name.len() as u32).to_be_bytes();
            let description = if fits(&export.description) {
                &export.description
            } else {
                ""
            };
            let data: [&[u8]; 3] = [&length, export.name.as_bytes(), description.as_bytes()];
            self.option_reply(option::LIST, option_reply::SERVER, &data);
        }
        self.option_reply(option::LIST, option_reply::ACK, &[]);
    }

    /// The answer to [`Effect::StartTls`]: from here on, all bytes travel inside TLS, and
    /// whatever was negotiated before is forgotten.
    ///
    /// # Panics
    /// If there was no such effect.
    pub fn tls_started(&mut self) {
        let Some(question) = self.take_question() else {
            return;
        };
        assert!(
            matches!(question, Question::Tls),
            "a TLS handshake answers {question:?}"
        );
        self.encrypted = true;
        self.framing = Framing::Simple;
        self.allocation_for = None;
    }

    /// What the shell answers; none if the session was closed meanwhile. The next phase is
    /// another option, unless the caller says otherwise.
    fn take_question(&mut self) -> Option<Question> {
        if matches!(self.phase, Phase::Closing(_)) {
            return None;
        }
        match std::mem::replace(&mut self.phase, Phase::Option) {
            Phase::Waiting(question) => Some(question),
            other => panic!("nothing was asked in {other:?}"),
        }
    }
}

/// What a line of a list takes on the wire, at most.
const fn listed_bytes(export: &ListedExport) -> usize {
    OPTION_REPLY_HEADER_BYTES + 4 + export.name.len() + export.description.len()
}

/// A string of the protocol: bounded UTF-8 without NUL.
fn string(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    (fits(text) && !text.contains('\0')).then(|| text.to_owned())
}

/// Whether a string may be sent.
pub(super) const fn fits(text: &str) -> bool {
    text.len() <= STRING_BYTES_MAX
}
