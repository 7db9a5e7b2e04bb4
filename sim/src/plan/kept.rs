//! Plans that ship as files and show what no drawn run does, or one in thousands.

use super::Plan;

const LEASE_OUTLIVES_QUORUM: &str = include_str!("../../scenarios/lease_outlives_quorum.toml");

const LEFT_UNREAD: &str =
    include_str!("../../tests/regressions/what-could-not-be-read-is-looked-for-again.toml");

const FOREIGN_PREFIX: &str =
    include_str!("../../tests/regressions/a-near-log-of-another-epoch-is-no-prefix.toml");

const MOVED_IN_A_LOST_SITE: &str =
    include_str!("../../tests/regressions/what-moved-in-a-lost-site-holds-up-nobody.toml");

const MISDIRECTED: &str =
    include_str!("../../tests/regressions/what-was-misdirected-is-missed.toml");

const GIVEN_UP: &str =
    include_str!("../../tests/regressions/a-slot-returns-to-a-disk-with-what-was-given-up.toml");

const HUNG_DISK: &str = include_str!("../../scenarios/hung_disk.toml");

const MAINTENANCE: &str = include_str!("../../scenarios/maintenance.toml");

const SLOW_DISK: &str = include_str!("../../scenarios/slow_disk.toml");

const SITE_ADDED: &str = include_str!("../../scenarios/site_added.toml");

const WITNESS_STALLS: &str = include_str!("../../scenarios/witness_stalls.toml");

const LOST_UNDER_A_LOOK: &str = include_str!("../../scenarios/lost_under_a_look.toml");

impl Plan {
    /// The scenario `lease_outlives_quorum` on another seed: an owner that is cut off and taken for
    /// gone while its lease runs. No drawn run has an operator who comes so soon.
    ///
    /// # Panics
    /// If the file that ships with the source is none.
    #[must_use]
    pub fn disowned(seed: u64) -> Self {
        Self::of_file(LEASE_OUTLIVES_QUORUM, seed)
    }

    /// On another seed: a site is back, and what was written without it is to be written anew just
    /// when it can't be read.
    ///
    /// # Panics
    /// If the file that ships with the source is none.
    #[must_use]
    pub fn left_unread(seed: u64) -> Self {
        Self::of_file(LEFT_UNREAD, seed)
    }

    /// On another seed: the replica in a new owner's site ends in an older epoch than the log that
    /// is adopted.
    ///
    /// # Panics
    /// If the file that ships with the source is none.
    #[must_use]
    pub fn foreign_prefix(seed: u64) -> Self {
        Self::of_file(FOREIGN_PREFIX, seed)
    }

    /// On another seed: a site is lost whose last moves only disks of others took note of.
    ///
    /// # Panics
    /// If the file that ships with the source is none.
    #[must_use]
    pub fn moved_in_a_lost_site(seed: u64) -> Self {
        Self::of_file(MOVED_IN_A_LOST_SITE, seed)
    }

    /// On another seed: a write of a fragment goes astray, and power is lost.
    ///
    /// # Panics
    /// If the file that ships with the source is none.
    #[must_use]
    pub fn misdirected(seed: u64) -> Self {
        Self::of_file(MISDIRECTED, seed)
    }

    /// On another seed: a slot moves from a disk that fails and comes back to it, and meanwhile a
    /// segment is given up.
    ///
    /// # Panics
    /// If the file that ships with the source is none.
    #[must_use]
    pub fn given_up(seed: u64) -> Self {
        Self::of_file(GIVEN_UP, seed)
    }

    /// The scenario `hung_disk` on another seed.
    ///
    /// # Panics
    /// If the file that ships with the source is none.
    #[must_use]
    pub fn hung_disk(seed: u64) -> Self {
        Self::of_file(HUNG_DISK, seed)
    }

    /// The scenario `maintenance` on another seed.
    ///
    /// # Panics
    /// If the file that ships with the source is none.
    #[must_use]
    pub fn maintenance(seed: u64) -> Self {
        Self::of_file(MAINTENANCE, seed)
    }

    /// The scenario `slow_disk` on another seed.
    ///
    /// # Panics
    /// If the file that ships with the source is none.
    #[must_use]
    pub fn slow_disk(seed: u64) -> Self {
        Self::of_file(SLOW_DISK, seed)
    }

    /// The scenario `site_added` on another seed.
    ///
    /// # Panics
    /// If the file that ships with the source is none.
    #[must_use]
    pub fn site_added(seed: u64) -> Self {
        Self::of_file(SITE_ADDED, seed)
    }

    /// The scenario `witness_stalls` on another seed.
    ///
    /// # Panics
    /// If the file that ships with the source is none.
    #[must_use]
    pub fn witness_stalls(seed: u64) -> Self {
        Self::of_file(WITNESS_STALLS, seed)
    }

    /// The scenario `lost_under_a_look` on another seed.
    ///
    /// # Panics
    /// If the file that ships with the source is none.
    #[must_use]
    pub fn lost_under_a_look(seed: u64) -> Self {
        Self::of_file(LOST_UNDER_A_LOOK, seed)
    }

    fn of_file(text: &str, seed: u64) -> Self {
        let plan = Self::parse(text).expect("it ships with the source");
        Self { seed, ..plan }
    }
}
