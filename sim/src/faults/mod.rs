//! What goes wrong in a run, drawn from its seed: within what the fabric promises to survive
//! (R24), or so that it may stall but must never be wrong.
//!
//! Swarm testing: a run has a random few *kinds* of faults switched on, so that one kind's
//! damage is not always hidden by another's. A fault is aimed: most hit whoever owns the volume
//! when they strike, many wait for an interesting moment of it.

pub mod astray;
mod atlas;
mod compound;
pub mod drains;
mod draw;
mod fault;
pub mod full;
pub mod growth;
pub mod hung;
mod ill;
mod kind;
pub mod last;
mod lost;
pub mod maintenance;
mod plan;
pub mod quorum;
pub mod resizes;
pub mod sites;
pub mod upgrades;

pub use atlas::Atlas;
pub use draw::draw;
pub use fault::{Fault, Parting, Struck};
pub use ill::Ill;
pub use kind::Kind;
pub use plan::{FaultPlan, Victim};
