//! An owner that is cut off and taken for gone while its lease runs: no drawn run has an operator
//! who comes so soon.

use super::Plan;

const SCENARIO: &str = include_str!("../../scenarios/lease_outlives_quorum.toml");

impl Plan {
    /// The scenario `lease_outlives_quorum` on another seed.
    ///
    /// # Panics
    /// If the file that ships with the source is none.
    #[must_use]
    pub fn disowned(seed: u64) -> Self {
        let plan = Self::parse(SCENARIO).expect("it ships with the source");
        Self { seed, ..plan }
    }
}
