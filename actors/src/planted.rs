//! Bugs that the simulator plants, see [`model::planted`].

#[cfg(feature = "planted")]
pub use model::planted::plant;
pub use model::planted::{Bug, planted};
