//! Long writes past the system's page cache (O_DIRECT). What a disk stores is mostly never read
//! again soon: through the cache each byte costs a fresh page, a copy into it and its
//! write-back, and an fdatasync waits for other files' dirty pages too (decision 16).
//!
//! Coherence: the kernel writes back and drops the cached pages of what is written here, and a
//! store's thread does one thing at a time, so that no cached write to the same pages is under
//! way. O_DIRECT is no durability: that takes an fdatasync, as for any write.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use bytes::Bytes;
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::real::is_one_file;
use crate::BLOCK;

/// What devices and file systems ask of addresses, offsets and lengths, at most.
const ALIGN: usize = BLOCK as usize;

/// Shorter writes go through the cache: what is short is often read or changed again.
const BYTES_MIN: usize = 16 << 10;

/// Bytes of one write: few enough that they still lie in the processor's cache.
const PIECE_BYTES: usize = 512 << 10;

thread_local! {
    /// Where pieces are put together, aligned.
    static PIECE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A file open for direct writes.
#[derive(Debug)]
pub(super) struct Direct(fs::File);

/// How a direct write ended.
pub(super) enum Written {
    /// All of it was written.
    All,
    /// The file system takes nothing directly, or only a part: from there on the cache has to.
    Until(u64),
}

impl Direct {
    /// Opens a second handle of an open file; `None` where the file system knows no direct
    /// writes, or the path names another file by now.
    pub(super) fn open(path: &Path, same: &fs::File) -> Option<Self> {
        let flags = i32::try_from(OFlags::DIRECT.bits()).ok()?;
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).custom_flags(flags).open(path).ok()?;
        let is_same = is_one_file(&file.metadata().ok()?, &same.metadata().ok()?);
        is_same.then_some(Self(file))
    }

    /// Whether a write is to go this way.
    pub(super) fn takes(offset: u64, bytes: usize) -> bool {
        bytes >= BYTES_MIN && bytes.is_multiple_of(ALIGN) && offset.is_multiple_of(BLOCK)
    }

    /// Writes the chunks one after the other from `offset` on.
    ///
    /// # Errors
    /// The device's; part of the bytes may have been written.
    pub(super) fn write_at(&self, offset: u64, chunks: &[Bytes]) -> std::io::Result<Written> {
        PIECE.with_borrow_mut(|buffer| {
            buffer.resize(PIECE_BYTES + ALIGN, 0);
            let start = buffer.as_ptr().align_offset(ALIGN);
            let piece = &mut buffer[start..start + PIECE_BYTES];
            let (mut at, mut filled) = (offset, 0);
            for chunk in chunks {
                let mut rest = &chunk[..];
                while !rest.is_empty() {
                    let take = rest.len().min(PIECE_BYTES - filled);
                    piece[filled..filled + take].copy_from_slice(&rest[..take]);
                    filled += take;
                    rest = &rest[take..];
                    if filled == PIECE_BYTES {
                        if let stopped @ Written::Until(_) = self.write_piece(at, piece)? {
                            return Ok(stopped);
                        }
                        at += filled as u64;
                        filled = 0;
                    }
                }
            }
            self.write_piece(at, &piece[..filled])
        })
    }

    fn write_piece(&self, offset: u64, piece: &[u8]) -> std::io::Result<Written> {
        let mut done = 0;
        while done < piece.len() {
            match self.0.write_at(&piece[done..], offset + done as u64) {
                // A part that ends within a block can't be gone on from directly.
                Ok(written) if written > 0 && written.is_multiple_of(ALIGN) => done += written,
                Ok(_) => return Ok(Written::Until(offset + done as u64)),
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::INTR) => {}
                    Some(Errno::INVAL | Errno::OPNOTSUPP) => {
                        return Ok(Written::Until(offset + done as u64));
                    }
                    _ => return Err(error),
                },
            }
        }
        Ok(Written::All)
    }
}
