//! What comes to a Volume machine, and what it asks of its shell.

use std::sync::Arc;

use bytes::Bytes;
use model::ids::{DiskId, Endpoint, Epoch, NodeId, RequestId};
use model::meta::{MetaReply, MetaRequest, MetaToken};
use model::payload::Payload;
use model::placement::View;

use crate::messages::{
    ClientsReply, ClientsRequest, DiskReply, DiskRequest, SegmentReply, SegmentRequest,
    VolumeReply, VolumeRequest,
};

/// What may happen to a Volume machine.
#[derive(Debug)]
pub enum Input {
    /// A client's request.
    Request {
        /// The client.
        from: Endpoint,
        /// Its request's id.
        id: RequestId,
        /// The request.
        request: VolumeRequest,
        /// The payload beside it.
        payload: Bytes,
    },
    /// A disk's answer.
    Disk {
        /// The disk.
        disk: DiskId,
        /// The request that it answers.
        id: RequestId,
        /// The answer.
        reply: DiskReply,
        /// The payload beside it.
        payload: Bytes,
    },
    /// The Segment machine's answer.
    Segment(SegmentReply),
    /// A node's answer, of its clients.
    Clients {
        /// The node.
        node: NodeId,
        /// The answer.
        reply: ClientsReply,
    },
    /// The global placement group's answer.
    Meta {
        /// The request that it answers.
        token: MetaToken,
        /// The answer.
        reply: MetaReply,
    },
    /// The placement changed.
    View(Arc<View>),
    /// Forget cached blocks.
    DropCache,
    /// Stop cleanly: cover everything with a checkpoint, then end (R3).
    Stop,
}

/// What a Volume machine asks of its shell.
#[derive(Debug)]
pub enum Effect {
    /// To a disk's machine.
    ToDisk {
        /// The node that has it.
        node: NodeId,
        /// The disk.
        disk: DiskId,
        /// The request's id.
        id: RequestId,
        /// The request.
        request: DiskRequest,
        /// Its payload.
        payload: Payload,
    },
    /// To a client's machine.
    ToClient {
        /// The client.
        to: Endpoint,
        /// The request that is answered.
        id: RequestId,
        /// The answer.
        reply: VolumeReply,
        /// Its payload.
        payload: Payload,
    },
    /// To a node, of its clients.
    ToClients {
        /// The node.
        node: NodeId,
        /// The request's id.
        id: RequestId,
        /// The request.
        request: ClientsRequest,
    },
    /// To the Segment machine.
    ToSegment(SegmentRequest),
    /// To the global placement group.
    Meta {
        /// Correlates the answer.
        token: MetaToken,
        /// The request.
        request: MetaRequest,
    },
    /// It serves from now on.
    Serving {
        /// In this epoch.
        epoch: Epoch,
    },
    /// The machine is at its end; the shell drops it. Who asked gets no answer and retries.
    Stopped(StopReason),
}

/// Why a Volume machine ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StopReason {
    /// As it was asked to: all is covered by the published checkpoint.
    Clean,
    /// As it was asked to: all is covered, and the lease is given up; clients' sessions go on
    /// with the next owner.
    Released,
    /// Another epoch began, or the claim was refused.
    Fenced,
    /// The volume was deleted.
    Deleted,
    /// A record or page was not what its checksum promised. A new start recovers.
    Corrupt,
}
