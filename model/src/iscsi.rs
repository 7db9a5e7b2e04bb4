//! Volumes as iSCSI targets: what the whole fabric knows of one, whichever node serves it.
//!
//! What reservations mean is decided by the front end's own machine; here is only what is
//! committed, compared and set by [`Mapping::version`].

use std::collections::BTreeMap;

use bincode::{Decode, Encode};

use crate::ids::{Version, VolumeId};

/// Bound of an iSCSI name in bytes (RFC 7143, 4.2.7.1).
pub const NAME_BYTES_MAX: usize = 223;
/// What every target's name begins with; a volume's name follows.
pub const TARGET_PREFIX: &str = "iqn.2026-01.io.atoll:";
/// Bound of a user's name and of a secret of CHAP, in bytes.
pub const CHAP_BYTES_MAX: usize = 128;
/// The shortest secret: RFC 7143, 9.2.1 wants 96 bits.
pub const SECRET_BYTES_MIN: usize = 12;
/// Mappings of a fabric.
pub const MAPPINGS_MAX: usize = 1024;
/// Initiators that one mapping names.
pub const INITIATORS_MAX: usize = 64;
/// Registrations of one volume.
pub const REGISTRATIONS_MAX: usize = 64;
/// Registrations and initiators of all volumes: what all of them take of a snapshot has a bound.
pub const NAMES_MAX: usize = 2048;

/// All mappings, by volume.
pub type Mappings = BTreeMap<VolumeId, Mapping>;

/// A volume that is served over iSCSI, as LUN 0 of a target of its own.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Mapping {
    /// Raised by every change of it.
    pub version: Version,
    /// Its first one: what is unmapped and mapped again is another mapping, on terms of its own.
    pub created: Version,
    /// Who may log in, by the initiator's name; anybody if empty.
    pub initiators: Vec<String>,
    /// How an initiator proves who it is.
    pub chap: Option<Secret>,
    /// How the target proves in turn who it is.
    pub mutual: Option<Secret>,
    /// What initiators set of it.
    pub state: UnitState,
}

impl Mapping {
    /// The names that it holds, initiators' and registrants'.
    #[must_use]
    pub fn names(&self) -> usize {
        self.initiators.len() + self.state.registrations.len()
    }
}

/// A name and a secret of CHAP (RFC 1994).
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct Secret {
    /// The name.
    pub user: String,
    /// The secret.
    pub secret: String,
}

/// A secret is in no log.
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// Who talks to a unit, and by which port (SAM-5's I_T nexus).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
pub struct Nexus {
    /// The initiator port's name: the initiator's, `,i,0x` and its ISID (RFC 7143, 4.2.7.1).
    pub initiator: String,
    /// The target port: the node's number.
    pub port: u16,
}

/// What initiators set of a unit, the same through all its ports: reservations (SPC-4, 5.13) and SWP.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct UnitState {
    /// PRGENERATION.
    pub generation: u32,
    /// Who is registered.
    pub registrations: Vec<Registration>,
    /// The persistent reservation.
    pub held: Option<Held>,
    /// Whether the last registration asked that they outlive a loss of power. They do anyway.
    pub aptpl: bool,
    /// How often it was reset.
    pub resets: u32,
    /// SWP of the control mode page: nothing may be written.
    pub write_protected: bool,
    /// Who reserved the unit by SPC-2's RESERVE, beside which there is nothing else.
    pub reserved_by: Option<Nexus>,
}

/// A registered nexus.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Registration {
    /// Which.
    pub nexus: Nexus,
    /// Its key, not 0.
    pub key: u64,
}

/// A persistent reservation.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Held {
    /// Its type.
    pub kind: ReservationKind,
    /// Who made it; of the types of all registrants each one holds it.
    pub by: Nexus,
}

/// The type of a persistent reservation (SPC-4, 6.15.3.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub enum ReservationKind {
    /// Only the holder writes.
    WriteExclusive,
    /// Only the holder reads and writes.
    ExclusiveAccess,
    /// Only who is registered writes.
    WriteExclusiveRegistrants,
    /// Only who is registered reads and writes.
    ExclusiveAccessRegistrants,
    /// As [`Self::WriteExclusiveRegistrants`], and all of them hold it.
    WriteExclusiveAll,
    /// As [`Self::ExclusiveAccessRegistrants`], and all of them hold it.
    ExclusiveAccessAll,
}

/// The name of a volume's target, if the volume's name can be a part of one.
#[must_use]
pub fn target_name(volume: &str) -> Option<String> {
    let fits = TARGET_PREFIX.len() + volume.len() <= NAME_BYTES_MAX;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    (fits && !volume.is_empty() && volume.chars().all(plain))
        .then(|| format!("{TARGET_PREFIX}{volume}"))
}

#[cfg(test)]
mod tests {
    use super::{NAME_BYTES_MAX, target_name};

    #[test]
    fn names_of_targets() {
        let name = target_name("vm-1.disk_a");
        assert_eq!(name.as_deref(), Some("iqn.2026-01.io.atoll:vm-1.disk_a"));
        assert_eq!(target_name("two words"), None);
        assert_eq!(target_name(&"v".repeat(NAME_BYTES_MAX)), None);
    }
}
