//! A sparse file image of shared pages.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

const PAGE: u64 = 4096;

/// What is read of a page that was never written.
static ZEROS: [u8; PAGE as usize] = [0; PAGE as usize];

/// Pages that were written; the rest are zeros.
#[derive(Clone, Default)]
pub(super) struct Image {
    len: u64,
    /// Up to here space is taken, whether or not there are pages.
    reserved: u64,
    pages: BTreeMap<u64, Bytes>,
}

impl Image {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn allocated(&self) -> u64 {
        let pages = match self.reserved {
            0 => self.pages.len(),
            reserved => self.pages.range(reserved / PAGE..).count(),
        };
        self.reserved + pages as u64 * PAGE
    }

    /// It is as long as this, of zeros, and takes the space.
    pub(super) fn allocate(&mut self, len: u64) {
        self.set_len(0);
        self.len = len;
        self.reserved = len / PAGE * PAGE;
    }

    /// Bytes of pages that a write of `[offset, offset + len)` would add.
    pub(super) fn missing(&self, offset: u64, len: u64) -> u64 {
        if len == 0 {
            return 0;
        }
        let (first, last) = (offset / PAGE, (offset + len - 1) / PAGE);
        let first = first.max(self.reserved / PAGE);
        if first > last {
            return 0;
        }
        let present = self.pages.range(first..=last).count() as u64;
        (last - first + 1 - present) * PAGE
    }

    pub(super) fn write(&mut self, offset: u64, chunks: &[Bytes]) {
        let mut at = offset;
        for chunk in chunks {
            let mut done = 0;
            while done < chunk.len() {
                let within = (at % PAGE) as usize;
                let take = (PAGE as usize - within).min(chunk.len() - done);
                let piece = chunk.slice(done..done + take);
                self.write_in_page(at / PAGE, within, piece);
                done += take;
                at += take as u64;
            }
        }
        self.len = self.len.max(at);
    }

    fn write_in_page(&mut self, page: u64, within: usize, piece: Bytes) {
        if piece.len() == PAGE as usize {
            self.pages.insert(page, piece);
            return;
        }
        let mut bytes = match self.pages.remove(&page) {
            Some(old) => old
                .try_into_mut()
                .unwrap_or_else(|shared| BytesMut::from(&shared[..])),
            None => BytesMut::zeroed(PAGE as usize),
        };
        bytes[within..within + piece.len()].copy_from_slice(&piece);
        self.pages.insert(page, bytes.freeze());
    }

    pub(super) fn punch(&mut self, offset: u64, len: u64) {
        let end = (offset + len).min(self.len.div_ceil(PAGE) * PAGE);
        let mut at = offset;
        while at < end {
            let until = ((at / PAGE + 1) * PAGE).min(end);
            let page = at / PAGE;
            if until - at == PAGE {
                self.pages.remove(&page);
            } else if self.pages.contains_key(&page) {
                let zeros = Bytes::from(vec![0; (until - at) as usize]);
                self.write_in_page(page, (at % PAGE) as usize, zeros);
            }
            at = until;
        }
    }

    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            let all = self.len.div_ceil(PAGE) * PAGE;
            self.punch(len, all - len);
            self.reserved = self.reserved.min(len / PAGE * PAGE);
        }
        self.len = len;
    }

    pub(super) fn read(&self, offset: u64, len: usize) -> Bytes {
        let within = (offset % PAGE) as usize;
        if within + len <= PAGE as usize {
            return match self.pages.get(&(offset / PAGE)) {
                Some(page) => page.slice(within..within + len),
                None => Bytes::from_static(&ZEROS[..len]),
            };
        }
        let mut out = Vec::with_capacity(len);
        while out.len() < len {
            let at = offset + out.len() as u64;
            let within = (at % PAGE) as usize;
            let take = (PAGE as usize - within).min(len - out.len());
            let page = self.pages.get(&(at / PAGE)).map_or(&ZEROS[..], |page| page);
            out.extend_from_slice(&page[within..within + take]);
        }
        Bytes::from(out)
    }
}
