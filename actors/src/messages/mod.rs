//! One enum per protocol and direction. Headers only: payload travels beside them, uncopied.

mod clients;
mod disk;
mod healer;
mod segment;
mod volume;

pub use clients::{CLIENTS_MAX, ClientsReply, ClientsRequest};
pub use disk::{DiskReply, DiskRequest, FragmentAt, PutFragment, RowKnown};
pub use healer::{HealerReply, HealerRequest, Term};
pub use segment::{BlockRun, SegmentRef, SegmentReply, SegmentRequest};
pub use volume::{ReadChunk, VolumeReply, VolumeRequest};

use bincode::{Decode, Encode};
use model::ids::{Actor, Endpoint, RequestId};

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

    /// How urgent it is, with a payload of so many bytes: fragments travel apart from what a
    /// client's write waits for, and all that the Healer says is patient.
    #[must_use]
    pub fn urgency(&self, payload_bytes: usize) -> Urgency {
        if [self.from.actor, self.to.actor].contains(&Actor::Healer) {
            return Urgency::Bulk;
        }
        match &self.message {
            Message::DiskRequest(asked) => match asked {
                DiskRequest::Put(_)
                | DiskRequest::Delete { .. }
                | DiskRequest::List { .. }
                | DiskRequest::ListRow { .. } => Urgency::Bulk,
                DiskRequest::Get { .. } => Urgency::Client,
                _ => Urgency::Journal,
            },
            Message::DiskReply(told) => match told {
                DiskReply::Data { .. } => Urgency::Client,
                DiskReply::Fetched { .. } if payload_bytes > FETCHED_BULK => Urgency::Bulk,
                DiskReply::Stored { .. } | DiskReply::Deleted | DiskReply::Keys(_) => Urgency::Bulk,
                _ => Urgency::Journal,
            },
            Message::VolumeRequest(_)
            | Message::VolumeReply(_)
            | Message::ClientsRequest(_)
            | Message::ClientsReply(_) => Urgency::Client,
            Message::HealerRequest(_) | Message::HealerReply(_) => Urgency::Bulk,
        }
    }
}

/// More of a log than this is fetched beside the journal's own traffic.
const FETCHED_BULK: usize = 64 << 10;

/// Who waits for a message, and so what it must not wait behind. Most urgent first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Urgency {
    /// A client's write, or a lease.
    Journal,
    /// A client's read, or a front end.
    Client,
    /// Upkeep.
    Bulk,
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
    /// From one node's Healer to another's.
    HealerRequest(HealerRequest),
    /// From a Healer that was asked.
    HealerReply(HealerReply),
}
