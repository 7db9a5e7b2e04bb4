//! The protocol between a volume's owner and the nodes where its clients are.

use bincode::{Decode, Encode};
use model::ids::ClientRef;

/// Clients that one question names at most.
pub const CLIENTS_MAX: usize = 1024;

/// Sent by a volume's owner to a node, of clients there that opened a session (R10).
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum ClientsRequest {
    /// Which of these, at most [`CLIENTS_MAX`], are at their end? Answered by `Ended`, by
    /// whichever life of the node gets it; not at all if all of them live.
    WhoEnded(Vec<ClientRef>),
}

/// A node's answer.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum ClientsReply {
    /// These will never ask anything again. That stays true, so that it does not matter which
    /// question it answers, nor how late.
    Ended(Vec<ClientRef>),
}
