//! What an owner asks of its Segment machine, in turn. A drain of many small writes makes more
//! reads and writes than that has room for, and a read that waits for a site to come back keeps
//! its place until then: so each kind has places of its own.
//!
//! **Invariant:** no more is asked at a time than there is room for, and clients' reads never
//! take the places of those on which the drain, and with it the journal, depends.

use std::collections::{BTreeSet, VecDeque};

use model::ids::RequestId;

use crate::messages::SegmentRequest;

/// What the Segment machine has room for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentRoom {
    /// Reads at a time, of which clients may have three quarters.
    pub reads: usize,
    /// Writes at a time.
    pub writes: usize,
}

impl Default for SegmentRoom {
    fn default() -> Self {
        Self {
            reads: 1024,
            writes: 64,
        }
    }
}

/// Who waits for a read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reading {
    /// A client.
    Client,
    /// Whoever needs a page of the index: before what else upkeep reads.
    Page,
    /// The drain, or what is written anew.
    Upkeep,
}

/// Requests of one kind.
#[derive(Debug)]
struct Lane {
    waiting: VecDeque<SegmentRequest>,
    out: BTreeSet<RequestId>,
    max: usize,
}

impl Lane {
    fn new(max: usize) -> Self {
        Self {
            waiting: VecDeque::new(),
            out: BTreeSet::new(),
            max: max.max(1),
        }
    }

    fn send(&mut self, mut send: impl FnMut(SegmentRequest)) {
        while self.out.len() < self.max
            && let Some(request) = self.waiting.pop_front()
        {
            let id = id_of(&request).expect("only what is answered waits in a lane");
            assert!(self.out.insert(id), "each request has a number of its own");
            send(request);
        }
    }

    /// Whether nothing need be told of a request that is not wanted any more.
    fn forget(&mut self, id: RequestId) -> bool {
        self.waiting.retain(|request| id_of(request) != Some(id));
        !self.out.remove(&id)
    }
}

/// All that is asked.
#[derive(Debug)]
pub(super) struct Asking {
    clients: Lane,
    upkeep: Lane,
    writes: Lane,
}

impl Asking {
    pub(super) fn new(room: SegmentRoom) -> Self {
        let upkeep = (room.reads / 4).max(1);
        Self {
            clients: Lane::new(room.reads.saturating_sub(upkeep)),
            upkeep: Lane::new(upkeep),
            writes: Lane::new(room.writes),
        }
    }

    /// Takes a request in; one that is not answered needs no place, and comes back.
    pub(super) fn ask(&mut self, request: SegmentRequest, by: Reading) -> Option<SegmentRequest> {
        match (&request, by) {
            (SegmentRequest::Read { .. }, Reading::Client) => {
                self.clients.waiting.push_back(request)
            }
            (SegmentRequest::Read { .. }, Reading::Page) => self.upkeep.waiting.push_front(request),
            (SegmentRequest::Read { .. }, Reading::Upkeep) => {
                self.upkeep.waiting.push_back(request)
            }
            (SegmentRequest::Write { .. }, _) => self.writes.waiting.push_back(request),
            (SegmentRequest::Forget { .. } | SegmentRequest::Delete { .. }, _) => {
                return Some(request);
            }
        }
        None
    }

    /// Hands over what there is room for.
    pub(super) fn send(&mut self, mut send: impl FnMut(SegmentRequest)) {
        for lane in [&mut self.writes, &mut self.clients, &mut self.upkeep] {
            lane.send(&mut send);
        }
    }

    /// A request was answered: false if nobody waits for it any more.
    pub(super) fn answered(&mut self, id: RequestId) -> bool {
        let mut lanes = [&mut self.writes, &mut self.clients, &mut self.upkeep].into_iter();
        lanes.any(|lane| lane.out.remove(&id))
    }

    /// Nobody waits for these reads any more; those that the Segment machine must be told of.
    pub(super) fn forget(&mut self, ids: BTreeSet<RequestId>) -> Vec<RequestId> {
        let told = ids.into_iter();
        told.filter(|id| !(self.clients.forget(*id) & self.upkeep.forget(*id)))
            .collect()
    }
}

fn id_of(request: &SegmentRequest) -> Option<RequestId> {
    match request {
        SegmentRequest::Read { id, .. } | SegmentRequest::Write { id, .. } => Some(*id),
        SegmentRequest::Forget { .. } | SegmentRequest::Delete { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use model::geometry::{Code, Pool};
    use model::ids::{Epoch, SegmentId, VolumeId};

    use super::*;
    use crate::messages::SegmentRef;

    fn read(id: u64) -> SegmentRequest {
        let segment = SegmentRef {
            id: SegmentId {
                volume: VolumeId(1),
                epoch: Epoch(1),
                counter: 1,
            },
            pool: Pool::of(Code::INDEX),
            bytes: 4096,
        };
        SegmentRequest::Read {
            id: RequestId(id),
            segment,
            runs: Vec::new(),
        }
    }

    fn sent(asking: &mut Asking) -> Vec<u64> {
        let mut sent = Vec::new();
        asking.send(|request| sent.extend(id_of(&request).map(|id| id.0)));
        sent
    }

    #[test]
    fn hung_reads_of_clients_leave_room_for_upkeep() {
        let mut asking = Asking::new(SegmentRoom {
            reads: 8,
            writes: 1,
        });
        for id in 0..10 {
            assert_eq!(asking.ask(read(id), Reading::Client), None);
        }
        for id in 10..14 {
            assert_eq!(asking.ask(read(id), Reading::Upkeep), None);
        }
        assert_eq!(sent(&mut asking), [0, 1, 2, 3, 4, 5, 10, 11]);
        // A page of the index goes before the rest of them.
        asking.ask(read(14), Reading::Page);
        assert!(asking.answered(RequestId(10)) && !asking.answered(RequestId(10)));
        assert_eq!(sent(&mut asking), [14]);
    }

    #[test]
    fn what_is_forgotten_is_told_only_if_it_was_sent() {
        let mut asking = Asking::new(SegmentRoom {
            reads: 4,
            writes: 1,
        });
        for id in 0..3 {
            asking.ask(read(id), Reading::Upkeep);
        }
        assert_eq!(sent(&mut asking), [0]);
        let ids = [0, 1].map(RequestId);
        assert_eq!(asking.forget(BTreeSet::from(ids)), [RequestId(0)]);
        assert!(!asking.answered(RequestId(0)), "nobody waits for it");
        assert_eq!(sent(&mut asking), [2]);
    }
}
