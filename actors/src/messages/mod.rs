//! One enum per protocol and direction. Headers only: payload travels beside them, uncopied.

mod clients;
mod disk;
mod segment;
mod volume;

pub use clients::{CLIENTS_MAX, ClientsReply, ClientsRequest};
pub use disk::{DiskReply, DiskRequest, FragmentAt, PutFragment, RowKnown};
pub use segment::{BlockRun, SegmentRef, SegmentReply, SegmentRequest};
pub use volume::{ReadChunk, VolumeReply, VolumeRequest};

use bincode::{Decode, Encode};
use model::ids::{Endpoint, RequestId};

/// Any message between machines, as it crosses a node's boundary. Payload travels beside it.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Envelope {
    /// Who sent it, and gets the reply.
    pub from: Endpoint,
    /// Whom it is for.
    pub to: Endpoint,
    /// The request's id; a reply repeats it.
    pub id: RequestId,
    /// What it says.
    pub message: Message,
}

impl Envelope {
    /// A message on its way; an answer has its question's id.
    #[must_use]
    pub fn new(from: Endpoint, to: Endpoint, id: RequestId, message: Message) -> Self {
        Self {
            from,
            to,
            id,
            message,
        }
    }
}

/// The protocols.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Message {
    /// To a Disk machine.
    DiskRequest(DiskRequest),
    /// From a Disk machine.
    DiskReply(DiskReply),
    /// From a Client machine to a Volume machine.
    VolumeRequest(VolumeRequest),
    /// From a Volume machine to a Client machine.
    VolumeReply(VolumeReply),
    /// From a Volume machine to a node, of its clients.
    ClientsRequest(ClientsRequest),
    /// From a node to a Volume machine.
    ClientsReply(ClientsReply),
}
