//! What a client may learn about an export before it uses it.

use thiserror::Error;

/// Smallest unit of access in bytes: any byte range is accepted (R12).
pub const BLOCK_BYTES_MIN: u32 = 1;
/// Unit in bytes at which access is efficient: the fabric's block.
pub const BLOCK_BYTES_PREFERRED: u32 = 4096;
/// Largest payload of one request or reply in bytes.
pub const PAYLOAD_BYTES_MAX: u32 = 32 << 20;
/// Longest string of the protocol in bytes: export names, descriptions, metadata contexts.
pub const STRING_BYTES_MAX: usize = 4096;
/// Most exports that a list may hold; beyond it the list is refused as too big.
pub const LIST_MAX: usize = 16_384;
/// Most bytes of replies that a list may come to; beyond it the list is refused as too big.
pub const LIST_BYTES_MAX: usize = 1 << 20;

/// An export as a client sees it. Block sizes are those of this module, the protocol's defaults,
/// so that clients which do not ask for them do the right thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportInfo {
    /// The canonical name, as a list shows it: at most [`STRING_BYTES_MAX`] bytes.
    pub name: String,
    /// Text for people, or empty: at most [`STRING_BYTES_MAX`] bytes.
    pub description: String,
    /// Size in bytes, the same as long as a session lives.
    pub size: u64,
    /// Whether mutations are refused.
    pub read_only: bool,
    /// Whether a flush on one connection covers what *any* connection, also through another
    /// node, has seen acknowledged. Advertised only if set.
    pub multi_conn: bool,
}

/// One line of a list of exports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedExport {
    /// The name: at most [`STRING_BYTES_MAX`] bytes.
    pub name: String,
    /// Text for people, or empty: at most [`STRING_BYTES_MAX`] bytes.
    pub description: String,
}

/// Why an export, or the list of exports, is not to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ExportError {
    /// There is no export of that name.
    #[error("no such export")]
    Unknown,
    /// The client may not use it, or may not list.
    #[error("not permitted")]
    Forbidden,
    /// It exists, but cannot be served now; the client may try again.
    #[error("the export cannot be served now")]
    Unavailable,
    /// The server is being shut down.
    #[error("the server is being shut down")]
    ShuttingDown,
}
