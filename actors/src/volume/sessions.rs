//! Exactly-once writes (R10): per open session, whose it is, the lowest unanswered part and the
//! parts that the journal holds. A function of the journal's records; kept in the checkpoint
//! beside the root, never rolled back or cloned.

use std::collections::BTreeMap;

use model::block::BlockError;
use model::ids::{Boot, ClientId, ClientRef, NodeId, Position, Seq, SessionId};
use model::journal::{PARTS_IN_FLIGHT_MAX, Part, RecordBody, RecordHead};
use model::wire::{self, WireError};

use crate::disk::TABLE_BYTES_MAX;
use crate::planted::{Bug, planted};

/// Sessions that a volume has open at most. No session is given up for a new one: whoever asks
/// for one too many waits until another one's client ended.
pub const SESSIONS_MAX: usize = 4096;

/// A session takes so much of a checkpoint's table at most: the numbers of its row, and a bit for
/// each part that may be in flight.
const ROW_BYTES_MAX: usize = 64 + PARTS_IN_FLIGHT_MAX as usize / 8;

/// No replica takes a larger one, so that nothing behind it would ever be committed.
const _: () = assert!((SESSIONS_MAX + 1) * ROW_BYTES_MAX <= TABLE_BYTES_MAX);

/// The record of a part that a checkpoint's table names: it is covered, and so before all others.
const COVERED: Seq = Seq(0);

/// What is to be done with a mutating part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// It was never seen: journal it.
    New,
    /// It is in the journal as this record: answer once that is committed.
    Known(Seq),
    /// Its client has its answer already: drop it.
    Answered,
    /// It was refused by this owner, and stays so.
    Refused(BlockError),
    /// No such session: never taken for new.
    NoSession,
    /// Beyond the window that a client may use.
    OutOfWindow,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Session {
    client: ClientRef,
    low: u64,
    journaled: BTreeMap<u64, Seq>,
}

/// All open sessions of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sessions {
    open: BTreeMap<SessionId, Session>,
    /// The same by whose they are: a client has one.
    by_client: BTreeMap<ClientRef, SessionId>,
}

/// One session as the checkpoint holds it: id, client, low, and a bit for each part from low on,
/// whether it is journaled.
type Row = (SessionId, ClientRef, u64, Vec<u8>);

impl Session {
    /// Which of the parts from low on are covered.
    fn covered(&self, covers: Position) -> Vec<u8> {
        let end = self.low.saturating_add(PARTS_IN_FLIGHT_MAX);
        let journaled = self.journaled.range(self.low..end);
        let mut bits = Vec::new();
        for (n, _) in journaled.filter(|(_, seq)| **seq <= covers.seq) {
            let at = n - self.low;
            let byte = (at / 8) as usize;
            bits.resize(bits.len().max(byte + 1), 0);
            bits[byte] |= 1 << (at % 8);
        }
        bits
    }

    fn of_row(client: ClientRef, low: u64, bits: &[u8]) -> Self {
        let at = 0..PARTS_IN_FLIGHT_MAX.min(bits.len() as u64 * 8);
        let is_set = |at: &u64| bits[(at / 8) as usize] >> (at % 8) & 1 == 1;
        let parts = at.filter(is_set).map_while(|at| low.checked_add(at));
        Self {
            client,
            low,
            journaled: parts.map(|n| (n, COVERED)).collect(),
        }
    }
}

impl Sessions {
    /// Looks a part up.
    pub fn admit(&mut self, part: Part) -> Admission {
        let Some(session) = self.open.get_mut(&part.session) else {
            return Admission::NoSession;
        };
        // A peer's numbers: they may be anything.
        if !part.is_sound() {
            return Admission::OutOfWindow;
        }
        if part.n < session.low {
            return Admission::Answered;
        }
        if planted(Bug::ForgetSession) {
            return Admission::New;
        }
        match session.journaled.get(&part.n) {
            Some(seq) => Admission::Known(*seq),
            None => Admission::New,
        }
    }

    /// Follows a record that was appended or adopted.
    pub fn follow(&mut self, head: &RecordHead) {
        match &head.body {
            RecordBody::Write { part, .. } | RecordBody::Zero { part, .. } => {
                self.journaled(part, head.position.seq);
            }
            RecordBody::Stored(stored) => {
                let parts = stored.writes.iter().map(|write| &write.part);
                parts.for_each(|part| self.journaled(part, head.position.seq));
            }
            RecordBody::Open(client) => {
                let session = Session {
                    client: *client,
                    low: 1,
                    journaled: BTreeMap::new(),
                };
                self.insert(SessionId(head.position), session);
            }
            RecordBody::Close(id) => self.remove(*id),
            // Their clients may have seen acknowledged what is gone.
            RecordBody::Recovered => *self = Self::default(),
            RecordBody::EpochStart
            | RecordBody::Checkpoint(_)
            | RecordBody::Cut(_)
            | RecordBody::Kept { .. } => {}
        }
    }

    fn journaled(&mut self, part: &Part, at: Seq) {
        if let Some(session) = self.open.get_mut(&part.session) {
            if part.low > session.low {
                session.low = part.low;
                session.journaled = session.journaled.split_off(&part.low);
            }
            session.journaled.insert(part.n, at);
        }
    }

    /// No owner journals a second session of a client while one is open: from a disk that says
    /// so, the later one is taken, so that each one's client is known. Nor more than there may be.
    fn insert(&mut self, id: SessionId, session: Session) {
        self.remove(id);
        if self.open.len() >= SESSIONS_MAX && !self.by_client.contains_key(&session.client) {
            return;
        }
        if let Some(before) = self.by_client.insert(session.client, id) {
            self.open.remove(&before);
        }
        self.open.insert(id, session);
        assert_eq!(self.open.len(), self.by_client.len());
    }

    fn remove(&mut self, id: SessionId) {
        if let Some(session) = self.open.remove(&id) {
            self.by_client.remove(&session.client);
        }
        assert_eq!(self.open.len(), self.by_client.len());
    }

    /// The session that was opened first.
    #[must_use]
    pub fn oldest(&self) -> Option<SessionId> {
        self.open.keys().next().copied()
    }

    /// A client's session.
    #[must_use]
    pub fn of(&self, client: ClientRef) -> Option<SessionId> {
        self.by_client.get(&client).copied()
    }

    /// The clients that have one.
    pub fn clients(&self) -> impl Iterator<Item = ClientRef> {
        self.by_client.keys().copied()
    }

    /// The clients of a node that have one.
    pub fn clients_of(&self, node: NodeId) -> impl Iterator<Item = ClientRef> {
        let of = self.by_client.range(first_of(node)..);
        of.map(|(client, _)| *client)
            .take_while(move |client| client.node == node)
    }

    /// The nodes where they are, each once.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        let after = |node: &NodeId| Some(first_of(NodeId(node.0.checked_add(1)?)));
        let from = |first: ClientRef| self.by_client.range(first..).next().map(|(c, _)| c.node);
        std::iter::successors(from(first_of(NodeId(0))), move |node| from(after(node)?))
    }

    /// Whether a session is open.
    #[must_use]
    pub fn is_open(&self, id: SessionId) -> bool {
        self.open.contains_key(&id)
    }

    /// Open sessions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// The table as the checkpoint that covers `covers` holds it. A `low` that came with a
    /// later record is as true: its client has those answers.
    #[must_use]
    pub fn encode(&self, covers: Position) -> Vec<u8> {
        let rows: Vec<Row> = self
            .open
            .iter()
            .filter(|(id, _)| id.0 <= covers && !planted(Bug::UntabledSessions))
            .map(|(id, s)| (*id, s.client, s.low, s.covered(covers)))
            .collect();
        let table = wire::encode(&rows);
        assert!(table.len() <= TABLE_BYTES_MAX);
        table
    }

    /// Reads a table.
    ///
    /// # Errors
    /// If the bytes are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let rows: Vec<Row> = wire::decode(bytes)?;
        let mut sessions = Self::default();
        for (id, client, low, bits) in rows {
            sessions.insert(id, Session::of_row(client, low, &bits));
        }
        Ok(sessions)
    }
}

/// Before every client of a node.
fn first_of(node: NodeId) -> ClientRef {
    ClientRef {
        node,
        boot: Boot(0),
        client: ClientId(0),
    }
}

#[cfg(test)]
#[path = "tests/sessions.rs"]
mod tests;
