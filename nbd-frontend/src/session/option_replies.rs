//! Replies during option haggling.

use super::Session;
use super::options::{ALLOCATION, Question, fits};
use super::reply::Framing;
use super::wire::{OPTION_REPLY_MAGIC, info, option_reply, transmission_flag as flag};
use crate::export::{
    BLOCK_BYTES_MIN, BLOCK_BYTES_PREFERRED, ExportError, ExportInfo, PAYLOAD_BYTES_MAX,
};

impl Session {
    /// Refuses an option because of its export.
    pub(super) fn refuse(&mut self, option: u32, error: ExportError) {
        let reply = match error {
            ExportError::Unknown | ExportError::Unavailable => option_reply::ERR_UNKNOWN,
            ExportError::Forbidden => option_reply::ERR_POLICY,
            ExportError::ShuttingDown => option_reply::ERR_SHUTDOWN,
        };
        let text = error.to_string();
        self.option_reply(option, reply, &[text.as_bytes()]);
    }

    /// The information on an export that a client asked for, and the mandatory part.
    pub(super) fn send_info(&mut self, option: u32, question: &Question, export: &ExportInfo) {
        let Question::Info {
            wants_name,
            wants_description,
            wants_sizes,
            ..
        } = question
        else {
            return;
        };
        let flags = self.flags(export).to_be_bytes();
        self.send_info_item(option, info::EXPORT, &[&export.size.to_be_bytes(), &flags]);
        if *wants_name && fits(&export.name) {
            self.send_info_item(option, info::NAME, &[export.name.as_bytes()]);
        }
        if *wants_description && !export.description.is_empty() && fits(&export.description) {
            self.send_info_item(option, info::DESCRIPTION, &[export.description.as_bytes()]);
        }
        if *wants_sizes {
            let sizes = [BLOCK_BYTES_MIN, BLOCK_BYTES_PREFERRED, PAYLOAD_BYTES_MAX];
            let sizes = sizes.map(u32::to_be_bytes);
            self.send_info_item(option, info::BLOCK_SIZE, &[&sizes[0], &sizes[1], &sizes[2]]);
        }
    }

    fn send_info_item(&mut self, option: u32, kind: u16, data: &[&[u8]]) {
        let kind = kind.to_be_bytes();
        let mut parts: Vec<&[u8]> = vec![&kind];
        parts.extend(data);
        self.option_reply(option, option_reply::INFO, &parts);
    }

    pub(super) fn send_context(&mut self, option: u32, id: u32) {
        let data: [&[u8]; 2] = [&id.to_be_bytes(), ALLOCATION.as_bytes()];
        self.option_reply(option, option_reply::META_CONTEXT, &data);
    }

    /// The transmission flags of an export, as negotiated so far.
    pub(super) fn flags(&self, export: &ExportInfo) -> u16 {
        let mut flags = flag::HAS_FLAGS | flag::SEND_FLUSH | flag::SEND_FUA | flag::SEND_CACHE;
        flags |= if export.read_only {
            flag::READ_ONLY
        } else {
            flag::SEND_TRIM | flag::SEND_WRITE_ZEROES | flag::SEND_FAST_ZERO
        };
        if self.framing != Framing::Simple {
            flags |= flag::SEND_DF;
        }
        if export.multi_conn {
            flags |= flag::CAN_MULTI_CONN;
        }
        flags
    }

    /// One reply to an option; an error without data gets a text for people.
    pub(super) fn option_reply(&mut self, option: u32, reply: u32, data: &[&[u8]]) {
        let text = match reply {
            option_reply::ERR_UNSUP => "unknown option",
            option_reply::ERR_POLICY => "not permitted by this server",
            option_reply::ERR_INVALID => "invalid option",
            option_reply::ERR_TLS_REQD => "TLS is required",
            option_reply::ERR_TOO_BIG => "too big",
            option_reply::ERR_EXT_HEADER_REQD => "extended headers were negotiated",
            _ => "",
        };
        let text = [text.as_bytes()];
        let data = if data.is_empty() { &text[..] } else { data };
        let length: usize = data.iter().map(|part| part.len()).sum();
        self.output.put(&OPTION_REPLY_MAGIC.to_be_bytes());
        self.output.put(&option.to_be_bytes());
        self.output.put(&reply.to_be_bytes());
        self.output.put(&(length as u32).to_be_bytes());
        for part in data {
            self.output.put(part);
        }
    }
}
