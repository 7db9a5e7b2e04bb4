//! The injectable file layer: everything that a store asks of an operating system.

use bytes::Bytes;
use model::store::DeviceError;
use thiserror::Error;

#[cfg(feature = "real")]
mod direct;
mod image;
#[cfg(feature = "real")]
pub mod real;
pub mod sim;

/// Why a file operation failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FileError {
    /// No such file.
    #[error("no such file")]
    NotFound,
    /// The file exists already.
    #[error("the file exists already")]
    Exists,
    /// The device has no space left.
    #[error("no space left on the device")]
    NoSpace,
    /// Anything else: the device failed.
    #[error("{what} failed: {detail}")]
    Device {
        /// Which operation.
        what: &'static str,
        /// The system's word.
        detail: String,
    },
}

impl FileError {
    /// The error as the store's callers see it.
    #[must_use]
    pub fn during(self, what: &'static str) -> DeviceError {
        DeviceError {
            what,
            detail: self.to_string(),
        }
    }
}

/// One disk's directory. Paths are relative to it, with `/` between their parts.
///
/// A name that was created, renamed or removed is durable only after [`FileLayer::sync_dir`]
/// of its directory.
pub trait FileLayer: Clone {
    /// An open file.
    type File: File;

    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// [`FileError::NotFound`], or the device's.
    fn open(&self, path: &str) -> Result<Self::File, FileError>;

    /// Creates an empty file.
    ///
    /// # Errors
    /// [`FileError::Exists`], [`FileError::NoSpace`], or the device's.
    fn create(&self, path: &str) -> Result<Self::File, FileError>;

    /// Makes a directory (and durable in its parent); an existing one is fine.
    ///
    /// # Errors
    /// The device's.
    fn create_dir(&self, dir: &str) -> Result<(), FileError>;

    /// Names of the files in a directory, ascending; none if there is no such directory.
    ///
    /// # Errors
    /// The device's.
    fn list(&self, dir: &str) -> Result<Vec<String>, FileError>;

    /// Removes a file.
    ///
    /// # Errors
    /// [`FileError::NotFound`], or the device's.
    fn remove(&self, path: &str) -> Result<(), FileError>;

    /// Renames a file within its directory, replacing what is there.
    ///
    /// # Errors
    /// [`FileError::NotFound`], or the device's.
    fn rename(&self, from: &str, to: &str) -> Result<(), FileError>;

    /// Makes a directory's names durable; the disk's own directory is `""`.
    ///
    /// # Errors
    /// The device's.
    fn sync_dir(&self, dir: &str) -> Result<(), FileError>;

    /// Whether `path` still names this open file (R2: a deleted directory syncs happily).
    fn is_current(&self, path: &str, file: &Self::File) -> bool;
}

/// An open file. A clone is the same open file.
pub trait File: Clone {
    /// Its length in bytes.
    ///
    /// # Errors
    /// The device's.
    fn size(&self) -> Result<u64, FileError>;

    /// Reads `len` bytes; beyond the file's end they are zeros.
    ///
    /// # Errors
    /// The device's.
    fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, FileError>;

    /// Writes the chunks one after the other from `offset` on, with one call where the
    /// system allows. Durable only after [`File::sync_data`].
    ///
    /// # Errors
    /// [`FileError::NoSpace`], or the device's; part of the bytes may have been written.
    fn write_at(&self, offset: u64, chunks: &[Bytes]) -> Result<(), FileError>;

    /// Makes all that was written durable (fdatasync). After an error nothing is known about
    /// what was written before: never try again (R8).
    ///
    /// # Errors
    /// The device's.
    fn sync_data(&self) -> Result<(), FileError>;

    /// Returns a range's space to the device; it reads as zeros from then on.
    ///
    /// # Errors
    /// The device's.
    fn punch_hole(&self, offset: u64, len: u64) -> Result<(), FileError>;

    /// Cuts or extends (with a hole).
    ///
    /// # Errors
    /// The device's.
    fn set_len(&self, len: u64) -> Result<(), FileError>;

    /// Makes the file `len` bytes of written zeros, so that later writes change no metadata.
    ///
    /// # Errors
    /// [`FileError::NoSpace`], or the device's.
    fn allocate(&self, len: u64) -> Result<(), FileError>;
}

/// The directory part of a path.
pub(crate) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

/// One buffer of several.
pub(crate) fn gather(chunks: &[Bytes]) -> Bytes {
    if let [one] = chunks {
        return one.clone();
    }
    let mut all = bytes::BytesMut::with_capacity(chunks.iter().map(Bytes::len).sum());
    for chunk in chunks {
        all.extend_from_slice(chunk);
    }
    all.freeze()
}
