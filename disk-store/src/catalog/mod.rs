//! The catalog: where each fragment lies. It only reflects the extents' headers, and is
//! rebuilt from them when it is missing, corrupt or behind.

use bincode::{Decode, Encode};
use model::ids::FragmentKey;
use model::store::FragmentMeta;
use thiserror::Error;

mod mem;
#[cfg(feature = "real")]
mod rocks;

pub use mem::MemCatalog;
#[cfg(feature = "real")]
pub use rocks::RocksCatalog;

/// Where a fragment lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Row {
    /// Which extent file.
    pub extent: u32,
    /// Offset of its header; its data follows the header area.
    pub offset: u64,
    /// Bytes of the header area: whole blocks.
    pub header_bytes: u32,
    /// Its description.
    pub meta: FragmentMeta,
}

impl Row {
    /// Bytes of header area and data.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        u64::from(self.header_bytes) + u64::from(self.meta.fragment_bytes)
    }

    /// Offset of the data.
    #[must_use]
    pub fn data_offset(&self) -> u64 {
        self.offset + u64::from(self.header_bytes)
    }
}

/// What a catalog was last settled at: the second place of its synced position (R8).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Encode, Decode)]
pub struct Stamp {
    /// The disk's incarnation.
    pub id: u64,
    /// Grows by one at every settling.
    pub generation: u64,
}

/// The catalog can't be used as it is: it is reset and rebuilt from the headers, but for
/// [`CatalogError::NoSpace`]. Never an error to a client.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CatalogError {
    /// Bytes are not what was written.
    #[error("the catalog is corrupt: {0}")]
    Corrupt(String),
    /// The catalog can't be opened or written at all.
    #[error("the catalog failed: {0}")]
    Failed(String),
    /// The file system is full: nothing is wrong with what is there, and once there is room it goes on.
    #[error("the catalog has no room: {0}")]
    NoSpace(String),
}

/// An ordered map from fragment to row.
pub trait Catalog {
    /// The row of a fragment.
    ///
    /// # Errors
    /// It is to be rebuilt.
    fn get(&self, key: FragmentKey) -> Result<Option<Row>, CatalogError>;

    /// Rows with keys greater than `after`, ascending, at most `limit`.
    ///
    /// # Errors
    /// It is to be rebuilt.
    fn scan(
        &self,
        after: Option<FragmentKey>,
        limit: usize,
    ) -> Result<Vec<(FragmentKey, Row)>, CatalogError>;

    /// Puts (`Some`) and deletes (`None`) rows. Not durable: a crash may lose any of them. Where there
    /// is no room for them they are kept in memory.
    ///
    /// # Errors
    /// It is to be rebuilt.
    fn write(&mut self, rows: &[(FragmentKey, Option<Row>)]) -> Result<(), CatalogError>;

    /// The stamp; `None` in a new or reset catalog.
    ///
    /// # Errors
    /// It is to be rebuilt; or [`CatalogError::NoSpace`], if it can't be opened for that.
    fn stamp(&self) -> Result<Option<Stamp>, CatalogError>;

    /// Makes everything durable, and then the stamp.
    ///
    /// # Errors
    /// It is to be rebuilt; or [`CatalogError::NoSpace`]: it is settled as it was.
    fn settle(&mut self, stamp: Stamp) -> Result<(), CatalogError>;

    /// Empties it, whatever state it is in, and durably takes the stamp away.
    ///
    /// # Errors
    /// It can't be made at all: the disk retires.
    fn reset(&mut self) -> Result<(), CatalogError>;
}
