//! Messages between machines, and the session table that a checkpoint holds.

use actors::messages::{
    DiskReply, DiskRequest, Envelope, Message, PutFragment, ReadChunk, RowKnown, VolumeReply,
    VolumeRequest,
};
use actors::volume::sessions::Sessions;
use model::geometry::{Code, Pool};
use model::ids::{
    Actor, Boot, ClientId, ClientRef, DiskId, Endpoint, Epoch, FragmentKey, Incarnation, NodeId,
    Position, RequestId, Row, SegmentId, Seq, SessionId, Slot, VolumeId,
};
use model::journal::{Checkpoint, Part, RecordBody, RecordHead, SealReport};
use model::spread::RowStamp;
use model::store::{Claim, FragmentMeta, SegmentKind};
use model::wire;

use crate::Verdict;
use crate::input::{Input, chunk};

pub(super) fn run(data: &[u8]) -> Verdict {
    let Ok(envelope) = wire::decode::<Envelope>(data) else {
        return Verdict::Refused;
    };
    let bytes = wire::encode(&envelope);
    assert_eq!(wire::decode(&bytes), Ok(envelope));
    Verdict::Taken
}

pub(super) const POSITION: Position = Position {
    epoch: Epoch(3),
    seq: Seq(900),
};

pub(super) const POOL: Pool = Pool::of(Code::Rs { k: 4, m: 2 });

const PART: Part = Part {
    session: SessionId(POSITION),
    n: 5,
    low: 4,
};

pub(super) fn write_head(seq: u64) -> RecordHead {
    let position = Position {
        epoch: Epoch(3),
        seq: Seq(seq),
    };
    RecordHead {
        position,
        body: RecordBody::Write {
            part: PART,
            offset: 1 << 33,
            sums: vec![1, 0x1234_5678],
        },
        payload_len: 8192,
    }
}

fn requests() -> Vec<Message> {
    let (volume, epoch, incarnation) = (VolumeId(7), Epoch(3), Incarnation(1 << 60));
    let segment = SegmentId {
        volume,
        epoch,
        counter: 70_000,
    };
    let key = FragmentKey {
        segment,
        slot: Slot(2),
    };
    let stamp = RowStamp::default();
    let put = PutFragment {
        incarnation,
        key,
        meta: FragmentMeta {
            pool: POOL,
            segment_bytes: 1 << 14,
            fragment_bytes: 1 << 12,
            kind: SegmentKind::Data,
        },
        claim: Claim::Client,
        sums: vec![9],
        row: Row(4),
        stamp: stamp.clone(),
    };
    let append = DiskRequest::Append {
        incarnation,
        volume,
        epoch,
        prev: POSITION,
        records: vec![write_head(901), write_head(902)],
        committed: POSITION,
        trim: Position::ZERO,
        lease: true,
    };
    let reset = DiskRequest::Reset {
        incarnation,
        volume,
        epoch,
        base: POSITION,
        at: POSITION,
        checkpoint: Checkpoint::EMPTY,
        founded: Epoch(1),
    };
    let get = DiskRequest::Get {
        incarnation,
        key,
        pool: POOL,
        ranges: vec![(0, 4096), (8192, 4096)],
    };
    let delete = DiskRequest::Delete {
        incarnation,
        keys: vec![key, key],
        rows: vec![RowKnown {
            pool: POOL,
            row: Row(4),
            slots: vec![Slot(2)],
            stamp,
        }],
    };
    let write = VolumeRequest::Write {
        volume,
        part: PART,
        offset: 4096,
        sums: vec![1, 2, 3],
    };
    let of_disk = [append, reset, DiskRequest::Put(put), get, delete];
    let mut messages: Vec<_> = of_disk.map(Message::DiskRequest).into();
    messages.push(Message::VolumeRequest(write));
    messages
}

fn replies() -> [Message; 4] {
    let report = SealReport {
        epoch: Epoch(3),
        base: Position::ZERO,
        last: POSITION,
        committed: POSITION,
        checkpoint: Some((POSITION, Checkpoint::EMPTY, vec![0, 1])),
    };
    let records = vec![write_head(1), write_head(2)];
    let chunks = vec![ReadChunk::Data(4096), ReadChunk::Zeros(1 << 20)];
    [
        Message::DiskReply(DiskReply::Sealed(report)),
        Message::DiskReply(DiskReply::Fetched { records }),
        Message::DiskReply(DiskReply::Busy),
        Message::VolumeReply(VolumeReply::Data(chunks)),
    ]
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let at = |node, actor| Endpoint {
        node: NodeId(node),
        actor,
    };
    let enveloped = |message| {
        wire::encode(&Envelope {
            from: at(3, Actor::Volume(VolumeId(7))),
            to: at(400, Actor::Disk(DiskId(12))),
            id: RequestId(1 << 20),
            message,
        })
    };
    requests()
        .into_iter()
        .chain(replies())
        .map(enveloped)
        .collect()
}

/// A table, and parts of whoever claims to be its client.
pub(super) fn sessions(data: &[u8]) -> Verdict {
    let mut input = Input::new(data);
    let Ok(mut sessions) = Sessions::decode(input.chunk()) else {
        return Verdict::Refused;
    };
    assert_eq!(
        Sessions::decode(&sessions.encode(LAST)),
        Ok(sessions.clone())
    );
    while !input.is_empty() {
        let Ok(part) = wire::decode::<Part>(input.chunk()) else {
            return Verdict::Refused;
        };
        sessions.admit(part);
    }
    Verdict::Taken
}

/// No position comes after it.
const LAST: Position = Position {
    epoch: Epoch(u64::MAX),
    seq: Seq(u64::MAX),
};

pub(super) fn session_seeds() -> Vec<Vec<u8>> {
    let mut open = write_head(900);
    open.body = RecordBody::Open(ClientRef {
        node: NodeId(3),
        boot: Boot(1),
        client: ClientId(9),
    });
    let mut sessions = Sessions::default();
    sessions.follow(&open);
    sessions.follow(&write_head(901));
    let table = chunk(&sessions.encode(LAST));
    let part = |n, low| {
        let part = Part { n, low, ..PART };
        chunk(&wire::encode(&part))
    };
    vec![
        chunk(&[]),
        table.clone(),
        [table.clone(), part(5, 4), part(6, 4)].concat(),
        [table, part(1 << 40, 1 << 39), part(3, 1)].concat(),
    ]
}
