//! Names in certificates: which fabric, which node.

use std::fmt;
use std::str::FromStr;

use model::ids::NodeId;
use thiserror::Error;

const NODE_PREFIX: &str = "node-";
const SUFFIX: &str = "atoll";

/// Longest fabric id, bytes.
pub const FABRIC_ID_BYTES_MAX: usize = 32;

/// A fabric's id: 1 to 32 of `a-z`, `0-9` and inner `-`, so that it is a label of a DNS name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FabricId(String);

/// Not a fabric id.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[error("a fabric id is 1 to 32 characters a-z, 0-9 and inner '-'")]
pub struct FabricIdError;

impl FabricId {
    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The one DNS name in a node's certificate: `node-<id>.<fabric>.atoll`.
    #[must_use]
    pub fn node_name(&self, node: NodeId) -> String {
        format!("{NODE_PREFIX}{}.{}.{SUFFIX}", node.0, self.0)
    }

    /// The node that a certificate's name names in this fabric; `None` for any other name.
    #[must_use]
    pub fn node_of(&self, name: &str) -> Option<NodeId> {
        let digits = name.strip_prefix(NODE_PREFIX)?.split('.').next()?;
        let node = NodeId(digits.parse().ok()?);
        // One spelling only: no leading zero, no sign, no other fabric.
        (self.node_name(node) == name).then_some(node)
    }

    /// The DNS name in the authority's certificate: `<fabric>.atoll`.
    #[must_use]
    pub fn authority_name(&self) -> String {
        format!("{}.{SUFFIX}", self.0)
    }

    /// The fabric that an authority's name names.
    #[must_use]
    pub fn of_authority(name: &str) -> Option<Self> {
        name.strip_suffix(SUFFIX)?.strip_suffix('.')?.parse().ok()
    }
}

impl FromStr for FabricId {
    type Err = FabricIdError;

    fn from_str(text: &str) -> Result<Self, FabricIdError> {
        let fits = (1..=FABRIC_ID_BYTES_MAX).contains(&text.len());
        let letters = text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fits && letters && !text.starts_with('-') && !text.ends_with('-') {
            Ok(Self(text.to_owned()))
        } else {
            Err(FabricIdError)
        }
    }
}

impl fmt::Display for FabricId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
