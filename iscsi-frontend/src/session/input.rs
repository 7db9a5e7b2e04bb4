//! Bytes of the initiator that are not processed yet, cut into PDUs. Data is never copied out: it is
//! a slice of what was read.

use bytes::buf::Limit;
use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::CloseReason;
use super::pdu::{BHS_BYTES, Bhs, Crc, padding};

/// Which digests are on (RFC 7143, 13.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Digests {
    pub(super) header: bool,
    pub(super) data: bool,
}

/// One whole PDU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pdu {
    pub(super) bhs: Bhs,
    pub(super) data: Bytes,
}

/// A read buffer: filled at its end by the shell, emptied at its front by the session.
#[derive(Debug, Default)]
pub(super) struct Input {
    bytes: BytesMut,
}

const DIGEST_BYTES: usize = 4;
/// Less is no room: it would bring too little at once.
const ROOM_BYTES_MIN: usize = 8 << 10;

impl Input {
    /// Room for what the PDU under way still lacks; where a new buffer is needed, for `ahead` bytes
    /// at least.
    pub(super) fn room(&mut self, ahead: usize, lacks: usize) -> Limit<&mut BytesMut> {
        let left = self.bytes.capacity() - self.bytes.len();
        let needed = lacks.max(ROOM_BYTES_MIN);
        let room = match left >= needed {
            true => left,
            false => {
                let room = ahead.max(needed);
                self.bytes.reserve(room);
                room
            }
        };
        (&mut self.bytes).limit(room)
    }

    /// Bytes that the PDU under way still lacks, as far as that is known.
    pub(super) fn lacks(&self, digests: Digests) -> usize {
        self.bhs().map_or(BHS_BYTES, |bhs| {
            frame(&bhs, digests).saturating_sub(self.bytes.len())
        })
    }

    fn bhs(&self) -> Option<Bhs> {
        let bytes = self.bytes.get(..BHS_BYTES)?;
        Some(Bhs(bytes.try_into().expect("so many bytes")))
    }

    /// The next PDU, if all of it was read. Its data is at most `data_max` bytes.
    pub(super) fn next(
        &mut self,
        digests: Digests,
        data_max: usize,
    ) -> Result<Option<Pdu>, CloseReason> {
        let Some(bhs) = self.bhs() else {
            return Ok(None);
        };
        if bhs.data_bytes() > data_max {
            return Err(CloseReason::TooLarge);
        }
        let frame = frame(&bhs, digests);
        if self.bytes.len() < frame {
            return Ok(None);
        }
        let mut pdu = self.bytes.split_to(frame).freeze();
        let header = BHS_BYTES + bhs.ahs_bytes();
        // RFC 7143, 7.8: at error recovery level 0 a damaged PDU ends the connection.
        if digests.header {
            if Crc::of(&pdu[..header])[..] != pdu[header..header + DIGEST_BYTES] {
                return Err(CloseReason::HeaderDigest);
            }
            pdu.advance(DIGEST_BYTES);
        }
        pdu.advance(header);
        let data = bhs.data_bytes();
        let padded = data + padding(data);
        if digests.data && data > 0 && Crc::of(&pdu[..padded])[..] != pdu[padded..] {
            return Err(CloseReason::DataDigest);
        }
        pdu.truncate(data);
        Ok(Some(Pdu { bhs, data: pdu }))
    }
}

/// Bytes of a PDU on the wire.
fn frame(bhs: &Bhs, digests: Digests) -> usize {
    let data = bhs.data_bytes();
    let header_digest = if digests.header { DIGEST_BYTES } else { 0 };
    let data_digest = if digests.data && data > 0 {
        DIGEST_BYTES
    } else {
        0
    };
    BHS_BYTES + bhs.ahs_bytes() + header_digest + data + padding(data) + data_digest
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;

    use super::{Digests, Input};
    use crate::session::CloseReason;
    use crate::session::pdu::{BHS_BYTES, Bhs, Crc};

    fn fed(bytes: &[u8]) -> Input {
        let mut input = Input::default();
        input.room(bytes.len(), 0).put_slice(bytes);
        input
    }

    #[test]
    fn a_pdu_is_whole_or_waits() {
        let mut bhs = Bhs::new(0x01, 0x80);
        bhs.put_data_bytes(5);
        let wire = [&bhs.0[..], b"abcde\0\0\0", &[0; 7]].concat();
        for cut in 0..BHS_BYTES + 8 {
            assert_eq!(fed(&wire[..cut]).next(Digests::default(), 5), Ok(None));
        }
        let mut input = fed(&wire);
        let pdu = input
            .next(Digests::default(), 5)
            .expect("sound")
            .expect("whole");
        assert_eq!(&pdu.data[..], b"abcde");
        assert_eq!(input.next(Digests::default(), 5), Ok(None));
        assert_eq!(
            fed(&wire).next(Digests::default(), 4),
            Err(CloseReason::TooLarge)
        );
    }

    #[test]
    fn a_wrong_digest_is_found() {
        let digests = Digests {
            header: true,
            data: true,
        };
        let mut bhs = Bhs::new(0x01, 0x80);
        bhs.put_data_bytes(4);
        let wire = [&bhs.0[..], &Crc::of(&bhs.0), b"data", &Crc::of(b"data")].concat();
        let pdu = fed(&wire).next(digests, 4).expect("sound").expect("whole");
        assert_eq!(&pdu.data[..], b"data");
        for (at, expected) in [
            (9, CloseReason::HeaderDigest),
            (53, CloseReason::DataDigest),
        ] {
            let mut damaged = wire.clone();
            damaged[at] ^= 1;
            assert_eq!(fed(&damaged).next(digests, 4), Err(expected));
        }
    }
}
