//! Exactly-once writes (R10): per open session, the lowest unanswered part and the parts
//! that the journal holds. A function of the journal's records; kept in the checkpoint beside
//! the root, never rolled back or cloned.

use std::collections::BTreeMap;

use model::ids::{Position, Seq, SessionId};
use model::journal::{PARTS_IN_FLIGHT_MAX, Part, RecordBody, RecordHead};
use model::wire::{self, WireError};

use crate::planted::{Bug, planted};

/// Sessions that a volume keeps; the oldest is dropped for a new one (its client, if it still
/// lives, is told `NoSession` and reconnects).
pub const SESSIONS_MAX: usize = 4096;

/// What is to be done with a mutating part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// It was never seen: journal it.
    New,
    /// It is in the journal as this record: answer once that is committed.
    Known(Seq),
    /// Its client has its answer already: drop it.
    Answered,
    /// No such session: never taken for new.
    NoSession,
    /// Beyond the window that a client may use.
    OutOfWindow,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Session {
    low: u64,
    journaled: BTreeMap<u64, Seq>,
}

/// All open sessions of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sessions {
    open: BTreeMap<SessionId, Session>,
}

/// One session as the checkpoint holds it: id, low, and the journaled parts.
type Row = (SessionId, u64, Vec<(u64, Seq)>);

impl Sessions {
    /// Looks a part up.
    pub fn admit(&mut self, part: Part) -> Admission {
        let Some(session) = self.open.get_mut(&part.session) else {
            return Admission::NoSession;
        };
        if part.low == 0 || part.n < part.low || part.n >= part.low + PARTS_IN_FLIGHT_MAX {
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

    /// Follows a record that was appended or adopted. An `Open` counts once it is committed.
    pub fn follow(&mut self, head: &RecordHead) {
        match &head.body {
            RecordBody::Write { part, .. } | RecordBody::Zero { part, .. } => {
                if let Some(session) = self.open.get_mut(&part.session) {
                    if part.low > session.low {
                        session.low = part.low;
                        session.journaled = session.journaled.split_off(&part.low);
                    }
                    session.journaled.insert(part.n, head.position.seq);
                }
            }
            RecordBody::Open => {
                let id = SessionId(head.position);
                self.open.insert(
                    id,
                    Session {
                        low: 1,
                        journaled: BTreeMap::new(),
                    },
                );
                if self.open.len() > SESSIONS_MAX {
                    self.open.pop_first();
                }
            }
            RecordBody::Close(id) => {
                self.open.remove(id);
            }
            RecordBody::EpochStart
            | RecordBody::Checkpoint(_)
            | RecordBody::Cut(_)
            | RecordBody::Kept { .. } => {}
        }
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
            .map(|(id, s)| {
                let journaled = s.journaled.iter().filter(|(_, seq)| **seq <= covers.seq);
                (*id, s.low, journaled.map(|(n, seq)| (*n, *seq)).collect())
            })
            .collect();
        wire::encode(&rows)
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
        let open = rows
            .into_iter()
            .map(|(id, low, journaled)| {
                (
                    id,
                    Session {
                        low,
                        journaled: journaled.into_iter().collect(),
                    },
                )
            })
            .collect();
        Ok(Self { open })
    }
}
