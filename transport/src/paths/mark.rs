//! What a frame says of its way: four bits beside its lengths, and a node's id before its header.

use bytes::{Buf, Bytes};
use model::ids::NodeId;
use thiserror::Error;

/// Which leg of its way a frame is on. There is no third one: a frame that was passed on once is
/// for whom it reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Leg {
    /// From its origin to whom it is for.
    #[default]
    Direct,
    /// From its origin to a relay, which is to pass it on to that node.
    For(NodeId),
    /// From a relay to whom it is for; that node is its origin, by the relay's word.
    Of(NodeId),
}

/// A frame's mark.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mark {
    /// Where it is on its way.
    pub leg: Leg,
    /// Whether it is a [`super::Sounding`], for the machine of the ways itself.
    pub sounding: bool,
}

/// A mark that means nothing. On a received stream it is final, as a broken frame is.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum MarkError {
    /// Bits that have no meaning, or not together.
    #[error("a frame's mark {0:#06b} means nothing")]
    Unknown(u8),
    /// No room for the node that the mark promises.
    #[error("a frame's mark names a node, and its header does not")]
    NoNode,
}

/// Bytes of a node's id before a header.
const NODE_BYTES: usize = 2;

const FOR: u8 = 1;
const OF: u8 = 2;
const SOUNDING: u8 = 4;

impl Mark {
    /// Of a message that goes to whom it is for.
    pub const DIRECT: Self = Self {
        leg: Leg::Direct,
        sounding: false,
    };

    /// Its four bits.
    #[must_use]
    pub const fn bits(self) -> u8 {
        let leg = match self.leg {
            Leg::Direct => 0,
            Leg::For(_) => FOR,
            Leg::Of(_) => OF,
        };
        leg | if self.sounding { SOUNDING } else { 0 }
    }

    /// What goes before the header: its node, if it names one.
    #[must_use]
    pub fn node(self) -> Option<[u8; NODE_BYTES]> {
        match self.leg {
            Leg::Direct => None,
            Leg::For(node) | Leg::Of(node) => Some(node.0.to_le_bytes()),
        }
    }

    /// Bytes that go before the header.
    #[must_use]
    pub const fn len(self) -> usize {
        match self.leg {
            Leg::Direct => 0,
            Leg::For(_) | Leg::Of(_) => NODE_BYTES,
        }
    }

    /// Whether nothing goes before the header.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Reads a mark from its bits, and takes its node from before the header.
    ///
    /// # Errors
    /// [`MarkError`]; the header is as it was.
    pub fn take(bits: u8, header: &mut Bytes) -> Result<Self, MarkError> {
        let names = match bits & !SOUNDING {
            0 => None,
            FOR => Some(Leg::For as fn(NodeId) -> Leg),
            OF => Some(Leg::Of as fn(NodeId) -> Leg),
            _ => return Err(MarkError::Unknown(bits)),
        };
        let leg = match names {
            None => Leg::Direct,
            Some(_) if header.len() < NODE_BYTES => return Err(MarkError::NoNode),
            Some(leg) => leg(NodeId(header.get_u16_le())),
        };
        Ok(Self {
            leg,
            sounding: bits & SOUNDING != 0,
        })
    }
}
