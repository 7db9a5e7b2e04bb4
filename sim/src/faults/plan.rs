//! A fault that is to happen, as it stands in a run's plan.

use std::time::Duration;

use model::time::Time;
use serde::{Deserialize, Serialize};

use super::Kind;
use crate::plan::PlanError;
use crate::plan::text::{as_duration, as_offset};
use crate::plan::topology::NodeName;
use crate::world::Moment;

/// Whom a fault hits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Victim {
    /// The volume's owner (its node, or its site) when the fault strikes.
    Owner,
    /// This node, or its site.
    Node(NodeName),
    /// The node that has the journal's replica in the other site ([`FaultPlan::other`]), or that
    /// site.
    Replica,
    /// The node that has the journal's replica in the owner's site.
    OwnReplica,
}

impl Victim {
    /// The node that it names, if it names one.
    #[must_use]
    pub fn name(self) -> Option<NodeName> {
        match self {
            Self::Node(name) => Some(name),
            Self::Owner | Self::Replica | Self::OwnReplica => None,
        }
    }
}

impl TryFrom<String> for Victim {
    type Error = PlanError;

    fn try_from(text: String) -> Result<Self, PlanError> {
        match text.as_str() {
            "owner" => Ok(Self::Owner),
            "replica" => Ok(Self::Replica),
            "own-replica" => Ok(Self::OwnReplica),
            name => name.parse().map(Self::Node),
        }
    }
}

impl From<Victim> for String {
    fn from(victim: Victim) -> Self {
        match victim {
            Victim::Owner => "owner".to_owned(),
            Victim::Replica => "replica".to_owned(),
            Victim::OwnReplica => "own-replica".to_owned(),
            Victim::Node(name) => name.to_string(),
        }
    }
}

/// A fault that is to happen.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultPlan {
    /// From when on it may strike, told from the moment at which clients begin to work.
    #[serde(rename = "at", with = "as_offset")]
    pub armed: Time,
    /// It strikes at the so-manieth of these moments from then on, or after
    /// [`FaultPlan::patience`]; at once without a moment.
    #[serde(rename = "when", default, skip_serializing_if = "Option::is_none")]
    pub moment: Option<(Moment, u64)>,
    /// How long it lasts.
    #[serde(with = "as_duration")]
    pub lasts: Duration,
    /// Its kind.
    pub kind: Kind,
    /// Whom it hits.
    pub victim: Victim,
    /// The other site of a link, counted from the victim's: 1 is the next one.
    #[serde(default = "next")]
    pub other: u64,
    /// Whether the power fails with the processes: unsynced writes are lost.
    #[serde(default)]
    pub power: bool,
    /// Whether a link fails in both directions.
    #[serde(default = "yes")]
    pub both: bool,
}

fn next() -> u64 {
    1
}

fn yes() -> bool {
    true
}

impl FaultPlan {
    /// How long it waits for its moment.
    #[must_use]
    pub fn patience(&self) -> Duration {
        match self.moment {
            None => Duration::ZERO,
            // A new owner's start takes as long as detection, the lease and the seal.
            Some((Moment::Serving, _)) => Duration::from_secs(5),
            Some((Moment::WriteAcked, _)) => Duration::from_millis(600),
            // A replica is replaced after seconds.
            Some((Moment::JoinSent | Moment::AdoptSent, _)) => Duration::from_secs(8),
            // Drains are rarer than writes.
            Some(_) => Duration::from_secs(2),
        }
    }
}
