//! One command while its data comes: what came unasked, and what is asked for with R2Ts
//! (RFC 7143, 4.2.5 and 11.7). Data comes in order: DataPDUInOrder and DataSequenceInOrder are Yes.

use bytes::{Bytes, BytesMut};

use super::pdu::RESERVED_TAG;
use crate::scsi::cdb::Cdb;
use crate::scsi::facts::{SECTOR_BYTES, TRANSFER_SECTORS_MAX};

const TRANSFER_BYTES_MAX: u32 = TRANSFER_SECTORS_MAX * SECTOR_BYTES;

/// The header of a Data-Out.
#[derive(Clone, Copy, Debug)]
pub(super) struct DataOut {
    pub(super) is_final: bool,
    pub(super) transfer_tag: u32,
    pub(super) data_sn: u32,
    pub(super) offset: u32,
}

/// Data that was not to come so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OutOfOrder;

/// An R2T that is being answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) transfer_tag: u32,
    pub(super) offset: u32,
    pub(super) length: u32,
}

/// What was gathered; the first piece is not copied if it is all.
#[derive(Debug, Default)]
enum Gathered {
    #[default]
    Nothing,
    One(Bytes),
    Many(BytesMut),
}

/// How far a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Data is still to come.
    Collecting,
    /// It is carried out.
    Running,
    /// It is carried out, and nobody waits for its end.
    Aborted,
}

/// A command.
#[derive(Debug)]
pub(super) struct Transfer {
    /// Tells it from another one of the same tag.
    pub(super) serial: u64,
    pub(super) lun: u64,
    pub(super) cdb: Cdb,
    /// How much data the initiator has, or has room for.
    pub(super) expected: u32,
    pub(super) reads: bool,
    pub(super) writes: bool,
    pub(super) stage: Stage,
    /// How much data the command says that there is.
    pub(super) wanted: u32,
    gathered: Gathered,
    received: u32,
    /// Whether more comes unasked.
    unsolicited: bool,
    data_sn: u32,
    asked: Option<Asked>,
    asked_end: u32,
    pub(super) r2t_sn: u32,
}

impl Transfer {
    pub(super) fn new(serial: u64, lun: u64, cdb: Cdb, expected: u32, flags: u8) -> Self {
        Self {
            serial,
            lun,
            cdb,
            expected,
            reads: flags & 0x40 != 0,
            writes: flags & 0x20 != 0,
            stage: Stage::Collecting,
            wanted: crate::scsi::data_out(cdb),
            gathered: Gathered::Nothing,
            received: 0,
            unsolicited: flags & 0x20 != 0 && flags & 0x80 == 0,
            data_sn: 0,
            asked: None,
            asked_end: 0,
            r2t_sn: 0,
        }
    }

    /// How much data is to come in all.
    pub(super) fn goal(&self) -> u32 {
        match self.writes {
            true => self.wanted.min(self.expected),
            false => 0,
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.received >= self.goal()
    }

    /// Bytes of memory that all its data takes, in either direction.
    pub(super) fn memory(&self) -> usize {
        match self.writes {
            true => self.goal() as usize,
            false => self.expected.min(TRANSFER_BYTES_MAX) as usize,
        }
    }

    /// Bytes of memory that it takes now: all of them, once it was begun with.
    pub(super) fn holds(&self) -> usize {
        let waits = self.stage == Stage::Collecting && self.received == 0 && self.r2t_sn == 0;
        if waits { 0 } else { self.memory() }
    }

    /// What is to be asked for next, at most that much.
    pub(super) fn to_ask(&self, burst_max: u32) -> Option<(u32, u32)> {
        let waits = self.stage == Stage::Collecting && !self.unsolicited && self.asked.is_none();
        let left = self.goal().saturating_sub(self.received);
        (waits && left > 0).then(|| (self.received, left.min(burst_max)))
    }

    pub(super) fn ask(&mut self, asked: Asked) {
        assert!(self.asked.is_none(), "one R2T at a time");
        self.asked = Some(asked);
        self.asked_end = asked.offset + asked.length;
        self.data_sn = 0;
        self.r2t_sn = self.r2t_sn.wrapping_add(1);
    }

    /// Data that came with the command, or after it.
    pub(super) fn take(&mut self, data: &Bytes) {
        let left = self.goal().saturating_sub(self.received) as usize;
        let data = data.slice(..data.len().min(left));
        if data.is_empty() {
            return;
        }
        let goal = self.goal() as usize;
        self.received += u32::try_from(data.len()).expect("a data segment is small");
        self.gathered = match std::mem::take(&mut self.gathered) {
            Gathered::Nothing if data.len() == goal => Gathered::One(data),
            Gathered::Nothing => {
                let mut all = BytesMut::with_capacity(goal);
                all.extend_from_slice(&data);
                Gathered::Many(all)
            }
            Gathered::One(first) => {
                let mut all = BytesMut::with_capacity(goal);
                all.extend_from_slice(&first);
                all.extend_from_slice(&data);
                Gathered::Many(all)
            }
            Gathered::Many(mut all) => {
                all.extend_from_slice(&data);
                Gathered::Many(all)
            }
        };
    }

    /// A Data-Out's data.
    pub(super) fn data_out(
        &mut self,
        header: DataOut,
        data: &Bytes,
        first_burst: u32,
    ) -> Result<(), OutOfOrder> {
        let length = u32::try_from(data.len()).map_err(|_| OutOfOrder)?;
        let end = header.offset.checked_add(length).ok_or(OutOfOrder)?;
        let limit = match (header.transfer_tag, self.asked) {
            (RESERVED_TAG, _) if self.unsolicited => first_burst.min(self.expected),
            (tag, Some(asked)) if tag == asked.transfer_tag => self.asked_end,
            _ => return Err(OutOfOrder),
        };
        // What the command does not say comes too, if the initiator has it; nobody reads it.
        let beyond = header.offset > self.received && self.is_complete();
        if header.data_sn != self.data_sn
            || (header.offset != self.received && !beyond)
            || end > limit
        {
            return Err(OutOfOrder);
        }
        self.data_sn += 1;
        self.take(data);
        if header.is_final {
            let was_asked = self.asked.take().is_some();
            self.unsolicited = false;
            // RFC 7143, 11.8.4: a sequence ends when all that was asked for came.
            if was_asked && end != self.asked_end {
                return Err(OutOfOrder);
            }
        }
        Ok(())
    }

    /// All of it.
    pub(super) fn take_data(&mut self) -> Bytes {
        match std::mem::take(&mut self.gathered) {
            Gathered::Nothing => Bytes::new(),
            Gathered::One(data) => data,
            Gathered::Many(data) => data.freeze(),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{Asked, DataOut, OutOfOrder, RESERVED_TAG, Transfer};
    use crate::scsi::cdb::Cdb;

    /// WRITE (10) of so many blocks, with so much data.
    fn write(blocks: u8, expected: u32, flags: u8) -> Transfer {
        let mut cdb = [0; 16];
        cdb[0] = 0x2a;
        cdb[8] = blocks;
        Transfer::new(1, 0, Cdb(cdb), expected, flags)
    }

    fn piece(transfer_tag: u32, data_sn: u32, offset: u32, is_final: bool) -> DataOut {
        DataOut {
            is_final,
            transfer_tag,
            data_sn,
            offset,
        }
    }

    const DATA: Bytes = Bytes::from_static(&[7; 512]);

    #[test]
    fn immediate_unasked_and_asked_data_add_up() {
        let mut transfer = write(3, 1536, 0x20);
        transfer.take(&DATA);
        assert_eq!(transfer.to_ask(1 << 20), None);
        let unasked = piece(RESERVED_TAG, 0, 512, true);
        assert_eq!(transfer.data_out(unasked, &DATA, 65536), Ok(()));
        assert_eq!(transfer.to_ask(1 << 20), Some((1024, 512)));
        let (transfer_tag, offset, length) = (9, 1024, 512);
        transfer.ask(Asked {
            transfer_tag,
            offset,
            length,
        });
        assert_eq!(
            transfer.data_out(piece(9, 0, 1024, true), &DATA, 65536),
            Ok(())
        );
        assert!(transfer.is_complete());
        assert_eq!(transfer.take_data(), Bytes::from(vec![7; 1536]));
    }

    #[test]
    fn what_comes_otherwise_is_refused() {
        let asked = || {
            let mut transfer = write(2, 1024, 0xa0);
            let (transfer_tag, offset, length) = (9, 0, 1024);
            transfer.ask(Asked {
                transfer_tag,
                offset,
                length,
            });
            transfer
        };
        for wrong in [
            piece(9, 1, 0, false),
            piece(9, 0, 512, false),
            piece(8, 0, 0, false),
            piece(RESERVED_TAG, 0, 0, false),
            piece(9, 0, u32::MAX, false),
            piece(9, 0, 0, true),
        ] {
            assert_eq!(
                asked().data_out(wrong, &DATA, 65536),
                Err(OutOfOrder),
                "{wrong:?}"
            );
        }
    }

    #[test]
    fn only_as_much_as_both_say() {
        let mut short = write(4, 512, 0xa0);
        short.take(&DATA);
        assert!(short.is_complete());
        let mut long = write(1, 2048, 0xa0);
        long.take(&Bytes::from(vec![1; 1024]));
        assert!(long.is_complete());
        assert_eq!(long.take_data().len(), 512);
    }
}
