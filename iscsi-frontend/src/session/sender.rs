//! PDUs for the initiator: framing, digests, and data cut to what it takes.

use bytes::Bytes;
use model::block::Chunk;

use super::output::Output;
use super::parameters::Parameters;
use super::pdu::{Bhs, Crc, FINAL, RESERVED_TAG, padding, response};
use super::transfer::Transfer;
use super::{Numbers, Session};
use crate::scsi::Outcome;
use crate::scsi::sense::Status;

/// O and U: more was to be moved than was expected, or less (RFC 7143, 11.4.5).
const OVERFLOW: u8 = 0x04;
const UNDERFLOW: u8 = 0x02;
/// S: the Data-In carries the status.
const WITH_STATUS: u8 = 0x01;

/// A run of zeros is spelled out from here.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Bytes of a command's data, piece by piece.
struct Pieces {
    chunks: std::vec::IntoIter<Chunk>,
    front: Option<Chunk>,
}

impl Pieces {
    fn new(chunks: Vec<Chunk>) -> Self {
        Self {
            chunks: chunks.into_iter(),
            front: None,
        }
    }

    /// The next bytes, at most so many; nothing at the end.
    fn next(&mut self, bytes_max: usize) -> Option<Bytes> {
        loop {
            match self.front.take().or_else(|| self.chunks.next())? {
                Chunk::Data(bytes) if bytes.is_empty() => {}
                Chunk::Zeros(0) => {}
                Chunk::Data(mut bytes) => {
                    let piece = bytes.split_to(bytes.len().min(bytes_max));
                    self.front = Some(Chunk::Data(bytes));
                    return Some(piece);
                }
                Chunk::Zeros(count) => {
                    let most = bytes_max.min(ZEROS.len()) as u64;
                    let length = count.min(most);
                    self.front = Some(Chunk::Zeros(count - length));
                    let length = usize::try_from(length).expect("no more than the zeros");
                    return Some(Bytes::from_static(&ZEROS[..length]));
                }
            }
        }
    }
}

fn length(chunks: &[Chunk]) -> u64 {
    let of = |chunk: &Chunk| match chunk {
        Chunk::Data(bytes) => bytes.len() as u64,
        Chunk::Zeros(count) => *count,
    };
    chunks.iter().map(of).sum()
}

/// The residual of a command: flags and count.
fn residual(transfer: &Transfer, outcome: &Outcome) -> (u8, u32) {
    let moved = match transfer.writes {
        // What a failed command would have taken is not known to be taken or not.
        true => u64::from(transfer.wanted),
        false => length(&outcome.data),
    };
    let expected = u64::from(transfer.expected);
    let count = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    match moved.cmp(&expected) {
        std::cmp::Ordering::Equal => (0, 0),
        std::cmp::Ordering::Greater => (OVERFLOW, count(moved - expected)),
        std::cmp::Ordering::Less => (UNDERFLOW, count(expected - moved)),
    }
}

/// Puts one PDU out.
fn put(output: &mut Output, parameters: &Parameters, mut bhs: Bhs, data: &[Bytes]) {
    let bytes: usize = data.iter().map(Bytes::len).sum();
    bhs.put_data_bytes(bytes);
    output.put(&bhs.0);
    if parameters.digests.header {
        output.put(&Crc::of(&bhs.0));
    }
    if bytes == 0 {
        return;
    }
    let pad = &[0; 3][..padding(bytes)];
    let mut crc = parameters.digests.data.then(Crc::new);
    for piece in data {
        if let Some(crc) = &mut crc {
            crc.update(piece);
        }
        output.push(piece.clone());
    }
    output.put(pad);
    if let Some(mut crc) = crc {
        crc.update(pad);
        output.put(&crc.wire());
    }
}

impl Numbers {
    /// StatSN, ExpCmdSN and MaxCmdSN, where all PDUs of a target have them.
    fn stamp(&mut self, bhs: &mut Bhs, counts: bool) {
        bhs.put32(24, self.stat_sn);
        bhs.put32(28, self.exp_cmd_sn);
        bhs.put32(32, self.max_cmd_sn());
        if counts {
            self.stat_sn = self.stat_sn.wrapping_add(1);
        }
    }
}

impl Session {
    /// A PDU that takes a StatSN.
    pub(super) fn send(&mut self, mut bhs: Bhs, data: Vec<u8>) {
        self.numbers.stamp(&mut bhs, true);
        let data = Bytes::from(data);
        put(&mut self.output, &self.parameters, bhs, &[data]);
    }

    /// A PDU that does not.
    pub(super) fn send_uncounted(&mut self, mut bhs: Bhs, data: Vec<u8>) {
        self.numbers.stamp(&mut bhs, false);
        let data = Bytes::from(data);
        put(&mut self.output, &self.parameters, bhs, &[data]);
    }

    /// A command's end: its data, and its status with the last of it or after it
    /// (RFC 7143, 11.4 and 11.7.3).
    pub(super) fn send_outcome(&mut self, tag: u32, transfer: &Transfer, outcome: Outcome) {
        let (flags, count) = residual(transfer, &outcome);
        let status = outcome.status;
        if status == Status::Good && transfer.reads && !outcome.data.is_empty() {
            let sent = self.send_data(tag, transfer, outcome.data, flags, count);
            if sent {
                return;
            }
        }
        let mut bhs = Bhs::new(response::COMMAND, FINAL | flags);
        bhs.0[3] = status as u8;
        bhs.put32(16, tag);
        bhs.put32(44, count);
        let data = match outcome.sense {
            None => Vec::new(),
            Some(sense) => {
                let sense = sense.bytes();
                let length = u16::try_from(sense.len()).expect("sense data is short");
                [&length.to_be_bytes()[..], &sense].concat()
            }
        };
        self.send(bhs, data);
    }

    /// Data-Ins, the last one with the status; whether there was any.
    fn send_data(
        &mut self,
        tag: u32,
        transfer: &Transfer,
        chunks: Vec<Chunk>,
        flags: u8,
        residual: u32,
    ) -> bool {
        let total = length(&chunks).min(transfer.expected.into());
        let mut left = u32::try_from(total).expect("no more than was expected");
        if left == 0 {
            return false;
        }
        let mut pieces = Pieces::new(chunks);
        let (mut offset, mut data_sn) = (0_u32, 0_u32);
        let mut burst = self.parameters.max_burst;
        while left > 0 {
            let size = left.min(burst).min(self.parameters.send_max);
            let mut data = Vec::new();
            let mut lacks = size as usize;
            while lacks > 0 {
                let piece = pieces
                    .next(lacks)
                    .expect("the pieces add up to their length");
                lacks -= piece.len();
                data.push(piece);
            }
            left -= size;
            burst -= size;
            let ends_burst = burst == 0 || left == 0;
            if burst == 0 {
                burst = self.parameters.max_burst;
            }
            let mut bhs = Bhs::new(response::DATA_IN, if ends_burst { FINAL } else { 0 });
            bhs.put32(16, tag);
            bhs.put32(20, RESERVED_TAG);
            bhs.put32(36, data_sn);
            bhs.put32(40, offset);
            let is_last = left == 0;
            self.numbers.stamp(&mut bhs, is_last);
            if is_last {
                bhs.0[1] |= WITH_STATUS | flags;
                bhs.put32(44, residual);
            } else {
                // Without S, StatSN is reserved.
                bhs.put32(24, 0);
            }
            put(&mut self.output, &self.parameters, bhs, &data);
            offset += size;
            data_sn += 1;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use model::block::Chunk;

    use super::Pieces;

    #[test]
    fn pieces_are_cut_as_asked() {
        let chunks = vec![
            Chunk::Data(Bytes::from_static(b"abc")),
            Chunk::Zeros(3),
            Chunk::Data(Bytes::new()),
            Chunk::Data(Bytes::from_static(b"d")),
        ];
        let mut pieces = Pieces::new(chunks);
        let cut: Vec<_> = std::iter::from_fn(|| pieces.next(2)).collect();
        let expected: [&[u8]; 5] = [b"ab", b"c", b"\0\0", b"\0", b"d"];
        assert_eq!(cut, expected);
    }
}
