//! What clients do in a run: drawn from the seed, operation by operation as they are answered,
//! or a script of operations with the time of each.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::PlanError;
use super::text::{self, as_duration, as_size};
use super::topology::{NodeName, Topology};
use crate::oracle::{SECTOR, Value};
use crate::workload::{Layout, Mix, Op};

/// The load.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Load {
    /// The volume's size.
    #[serde(with = "as_size")]
    pub volume: u64,
    /// Whether operations go to few places only, at borders of the index's leaves, instead of
    /// everywhere.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub wide: bool,
    /// How long clients work, at least; they go on until the last fault is over.
    #[serde(with = "as_duration")]
    pub span: Duration,
    /// The longest pause of a lane between two operations.
    #[serde(with = "as_duration")]
    pub think: Duration,
    /// If there are any, these operations are done, at these times, and no others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<Scripted>,
    /// The clients.
    pub clients: Vec<ClientPlan>,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            volume: 1 << 20,
            wide: false,
            span: Duration::from_secs(10),
            think: Duration::from_millis(20),
            operations: Vec::new(),
            clients: ["a1", "b1", "c1"].map(ClientPlan::at).to_vec(),
        }
    }
}

/// Most of what a plan may ask for: a file is read by a program that then works for it.
const VOLUME_MAX: u64 = 1 << 30;
const CLIENTS_MAX: usize = 64;
const LANES_MAX: usize = 64;

impl Load {
    pub(super) fn check(&self, topology: &Topology) -> Result<(), PlanError> {
        let blocks = self.volume.is_multiple_of(model::BLOCK_BYTES as u64);
        if !blocks || self.volume == 0 || self.volume > VOLUME_MAX {
            return Err(PlanError::Volume(self.volume));
        }
        if self.clients.is_empty() || self.clients.len() > CLIENTS_MAX {
            return Err(PlanError::Clients);
        }
        for client in &self.clients {
            if client.lanes.is_empty() || client.lanes.len() > LANES_MAX {
                return Err(PlanError::Lanes);
            }
            if let Place::At(name) = client.place
                && !topology.has(name)
            {
                return Err(PlanError::NodeName(name.to_string()));
            }
        }
        let fits = |s: &Scripted| {
            let end = s.first.checked_add(s.count);
            s.client < self.clients.len() && s.count > 0 && end.is_some_and(|e| e <= self.sectors())
        };
        match self.operations.iter().find(|s| !fits(s)) {
            Some(wrong) => Err(PlanError::Operation(wrong.to_string())),
            None => Ok(()),
        }
    }

    /// Where operations go.
    #[must_use]
    pub fn layout(&self) -> Layout {
        let blocks = self.volume / model::BLOCK_BYTES as u64;
        if self.wide {
            Layout::wide(blocks)
        } else {
            Layout::small(blocks)
        }
    }

    /// The volume's sectors.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.volume / SECTOR as u64
    }
}

/// A client: it opens a session on some node, and another one elsewhere when that ends.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientPlan {
    /// Where.
    pub place: Place,
    /// What it asks for, one operation after the other in each lane.
    pub lanes: Vec<Mix>,
}

impl ClientPlan {
    /// One that reads, writes and does both at a node.
    #[must_use]
    pub fn at(node: &str) -> Self {
        let place = node.parse().map_or(Place::NearOwner, Place::At);
        Self {
            place,
            lanes: vec![Mix::Reads, Mix::Writes, Mix::All],
        }
    }
}

/// Where a client is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Place {
    /// Mostly in the owner's site, often on its node.
    NearOwner,
    /// Mostly in another site.
    FarFromOwner,
    /// On this node, whether it runs or not.
    At(NodeName),
}

impl TryFrom<String> for Place {
    type Error = PlanError;

    fn try_from(text: String) -> Result<Self, PlanError> {
        match text.as_str() {
            "near-owner" => Ok(Self::NearOwner),
            "far-from-owner" => Ok(Self::FarFromOwner),
            name => name.parse().map(Self::At),
        }
    }
}

impl From<Place> for String {
    fn from(place: Place) -> Self {
        match place {
            Place::NearOwner => "near-owner".to_owned(),
            Place::FarFromOwner => "far-from-owner".to_owned(),
            Place::At(name) => name.to_string(),
        }
    }
}

/// What a scripted operation does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    /// Write values of its own.
    Write,
    /// Make sectors read as zeros; they need no space.
    Trim,
    /// Make sectors read as zeros; they keep their space.
    Zero,
    /// Read.
    Read,
    /// Ask how sectors are allocated.
    Status,
}

const VERBS: [(Verb, &str); 5] = [
    (Verb::Write, "write"),
    (Verb::Trim, "trim"),
    (Verb::Zero, "zero"),
    (Verb::Read, "read"),
    (Verb::Status, "status"),
];

/// An operation at its time: `1.203s client 0 write 8+16`, in sectors of 512 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Scripted {
    /// When, from the work's begin.
    pub at: Duration,
    /// By which client.
    pub client: usize,
    /// What.
    pub verb: Verb,
    /// The first sector.
    pub first: u64,
    /// How many.
    pub count: u64,
}

impl Scripted {
    /// What a client did.
    #[must_use]
    pub fn of(at: Duration, client: usize, op: Op) -> Self {
        let (verb, first, count) = match op {
            Op::Write { first, count, .. } => (Verb::Write, first, count),
            Op::Clear {
                first,
                count,
                allocate,
            } => (if allocate { Verb::Zero } else { Verb::Trim }, first, count),
            Op::Read { first, count } => (Verb::Read, first, count),
            Op::Status { first, count } => (Verb::Status, first, count),
        };
        Self {
            at,
            client,
            verb,
            first,
            count,
        }
    }

    /// As an operation whose values, if it writes, begin with this one.
    #[must_use]
    pub fn op(self, value: Value) -> Op {
        let Self { first, count, .. } = self;
        match self.verb {
            Verb::Write => Op::Write {
                first,
                count,
                value,
            },
            Verb::Trim | Verb::Zero => Op::Clear {
                first,
                count,
                allocate: self.verb == Verb::Zero,
            },
            Verb::Read => Op::Read { first, count },
            Verb::Status => Op::Status { first, count },
        }
    }
}

impl fmt::Display for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = text::duration(self.at);
        let verb = VERBS.iter().find(|(v, _)| *v == self.verb);
        let verb = verb.map_or("", |(_, name)| name);
        let Self {
            client,
            first,
            count,
            ..
        } = self;
        write!(f, "{at} client {client} {verb} {first}+{count}")
    }
}

impl FromStr for Scripted {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        let wrong = || PlanError::Operation(text.to_owned());
        let words: Vec<&str> = text.split_whitespace().collect();
        let [at, "client", client, verb, sectors] = words[..] else {
            return Err(wrong());
        };
        let (first, count) = sectors.split_once('+').ok_or_else(wrong)?;
        let verb = VERBS.iter().find(|(_, name)| *name == verb);
        Ok(Self {
            at: model::units::parse_duration(at).map_err(|_| wrong())?,
            client: client.parse().map_err(|_| wrong())?,
            verb: verb.ok_or_else(wrong)?.0,
            first: first.parse().map_err(|_| wrong())?,
            count: count.parse().map_err(|_| wrong())?,
        })
    }
}

impl TryFrom<String> for Scripted {
    type Error = PlanError;

    fn try_from(text: String) -> Result<Self, PlanError> {
        text.parse()
    }
}

impl From<Scripted> for String {
    fn from(scripted: Scripted) -> Self {
        scripted.to_string()
    }
}
