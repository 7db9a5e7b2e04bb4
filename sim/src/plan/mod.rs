//! A run as data: one plain value says what there is, what clients do, what goes wrong and what
//! is expected. It is drawn from a seed ([`Plan::draw`]) or read from a scenario file; all
//! randomness of a run that is not in it comes from its [`Plan::seed`].

mod crowd;
mod draw;
mod kept;
pub mod load;
mod outage;
pub mod text;
pub mod topology;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::faults::FaultPlan;
use crate::network::NetworkTerms;
use load::Load;
pub use outage::Outage;
use text::{as_duration_if_any, as_size_if_any};
use topology::{Machines, NodeName, Topology};

/// A run.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Plan {
    /// What it is called.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// What it is about, for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub about: String,
    /// Decides all that is not said here.
    pub seed: u64,
    /// Sites, nodes, disks.
    pub topology: Topology,
    /// Between them.
    pub network: NetworkTerms,
    /// Terms of the machines.
    pub machines: Machines,
    /// What clients do.
    pub workload: Load,
    /// What goes wrong, and when.
    pub faults: Vec<FaultPlan>,
    /// What is done after everything was mended.
    pub ending: Ending,
    /// What must come out.
    pub expect: Expect,
}

/// After everything was mended: what else is done before the last reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ending {
    /// The power fails everywhere at once: all that is served must be durable.
    pub power_loss: bool,
    /// The owner ends cleanly, and another one begins from its checkpoint.
    pub clean_stop: bool,
    /// The power fails after that.
    pub power_loss_after: bool,
}

/// What a run must come to, beside that nothing is ever wrong, that every request is answered
/// and that everything heals.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Expect {
    /// At most so many acknowledged bytes are lost. Zero, as for every volume.
    #[serde(with = "text::as_size")]
    pub bytes_lost: u64,
    /// At most so long before a disaster were acknowledged writes made that it lost (recovery
    /// point objective). Zero.
    #[serde(with = "as_duration_if_any", skip_serializing_if = "Option::is_none")]
    pub rpo: Option<Duration>,
    /// Within this time after each fault every site that it leaves alone has a new write
    /// acknowledged (recovery time objective).
    #[serde(with = "as_duration_if_any", skip_serializing_if = "Option::is_none")]
    pub rto: Option<Duration>,
    /// While a fault lasts, no site that it leaves alone is for longer without a new write's
    /// acknowledgement.
    #[serde(with = "as_duration_if_any", skip_serializing_if = "Option::is_none")]
    pub pause: Option<Duration>,
    /// While faults last, at least so many bytes are written: too little fills nothing.
    #[serde(with = "as_size_if_any", skip_serializing_if = "Option::is_none")]
    pub written: Option<u64>,
    /// The volume keeps its owner.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub owner_stays: bool,
    /// Disks are too small for all that is written: writes are refused for want of room, and
    /// taken again once something was trimmed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub full: bool,
    /// Every request is answered so soon.
    #[serde(with = "as_duration_if_any", skip_serializing_if = "Option::is_none")]
    pub answered: Option<Duration>,
    /// At least so many disks are emptied for what is found of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub emptied: Option<usize>,
    /// At most so many bytes between sites.
    #[serde(with = "as_size_if_any", skip_serializing_if = "Option::is_none")]
    pub wan_bytes: Option<u64>,
}

/// A scenario file is none.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PlanError {
    /// It is no TOML, or has unknown or missing keys.
    #[error("{0}")]
    Toml(String),
    /// No such topology.
    #[error("a topology has 3 to 9 sites, 1 to 64 nodes a site and 1 to 16 disks a node")]
    Topology,
    /// No name of a node, or of none that there is.
    #[error("'{0}' is no node here: nodes are a1, a2, ..., b1, ...")]
    NodeName(String),
    /// No size of a volume.
    #[error("a volume is a whole number of blocks of 4 KiB and at most 1 GiB, not {0} bytes")]
    Volume(u64),
    /// Too few or too many clients.
    #[error("there are 1 to 64 clients")]
    Clients,
    /// Too few or too many lanes.
    #[error("a client has 1 to 64 lanes")]
    Lanes,
    /// A scripted operation is none.
    #[error(
        "'{0}' is no operation here: write '1.2s client 0 write 8+16' (or trim, zero, read, status; in \
         sectors of 512 bytes, within the volume)"
    )]
    Operation(String),
    /// A plan that can't be written.
    #[error("a plan can't be written: {0}")]
    Unwritable(String),
    /// Times beyond what a run may take.
    #[error("a run takes at most a day of virtual time")]
    Long,
}

/// The longest run.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

impl Plan {
    /// Reads a scenario file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, PlanError> {
        let plan: Self = toml::from_str(text).map_err(|e| PlanError::Toml(e.to_string()))?;
        plan.check()?;
        Ok(plan)
    }

    /// Writes a scenario file.
    ///
    /// # Errors
    /// [`PlanError::Unwritable`] if TOML can't say it.
    pub fn to_toml(&self) -> Result<String, PlanError> {
        toml::to_string_pretty(self).map_err(|e| PlanError::Unwritable(e.to_string()))
    }

    /// Whether it can be run.
    ///
    /// # Errors
    /// What can't.
    pub fn check(&self) -> Result<(), PlanError> {
        self.topology.check()?;
        self.workload.check(&self.topology)?;
        let named = self.faults.iter().filter_map(|f| f.victim.name());
        if let Some(name) = named
            .into_iter()
            .find(|n: &NodeName| !self.topology.has(*n))
        {
            return Err(PlanError::NodeName(name.to_string()));
        }
        let ends = self
            .faults
            .iter()
            .map(|f| Duration::from_nanos(f.armed.0).saturating_add(f.lasts));
        let longest = ends.chain([self.workload.span, self.workload.think]).max();
        if longest.unwrap_or_default() > LONGEST {
            return Err(PlanError::Long);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
