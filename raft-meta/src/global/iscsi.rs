//! Volumes as iSCSI targets. What initiators set of them is decided elsewhere; here it is compared and
//! set, and has bounds.

use std::sync::Arc;

use model::ids::{Version, VolumeId};
use model::iscsi::{
    CHAP_BYTES_MAX, INITIATORS_MAX, MAPPINGS_MAX, Mapping, NAME_BYTES_MAX, NAMES_MAX,
    REGISTRATIONS_MAX, SECRET_BYTES_MIN, Secret, UnitState, target_name,
};

use super::GlobalState;
use crate::node::AdminRefusal;

/// What follows an initiator's name in its port's: `,i,0x` and an ISID of twelve digits.
const PORT_NAME_BYTES_MAX: usize = NAME_BYTES_MAX + 17;

impl GlobalState {
    pub(super) fn map_iscsi(
        &mut self,
        volume: VolumeId,
        initiators: Vec<String>,
        (chap, mutual): (Option<Secret>, Option<Secret>),
    ) -> Result<(), AdminRefusal> {
        let record = self.volumes.get(&volume).filter(|v| !v.deleted);
        let name = &record.ok_or(AdminRefusal::NoVolume)?.name;
        let secrets = [&chap, &mutual];
        let is_sound = target_name(name).is_some()
            && initiators.iter().all(|name| is_name(name))
            && secrets.into_iter().flatten().all(is_secret)
            // The target proves itself only to who proved itself.
            && (mutual.is_none() || chap.is_some());
        if !is_sound {
            return Err(AdminRefusal::BadIscsiName);
        }
        let known = self.iscsi.get(&volume);
        let others = self.names_of_others(volume);
        let registered = known.map_or(0, |m| m.state.registrations.len());
        let is_full = (known.is_none() && self.iscsi.len() >= MAPPINGS_MAX)
            || initiators.len() > INITIATORS_MAX
            || others + initiators.len() + registered > NAMES_MAX;
        if is_full {
            return Err(AdminRefusal::Full);
        }
        let state = known.map(|m| m.state.clone()).unwrap_or_default();
        let created = known.map(|m| m.created);
        let version = self.next_mapping();
        let mapping = Mapping {
            version,
            created: created.unwrap_or(version),
            initiators,
            chap,
            mutual,
            state,
        };
        Arc::make_mut(&mut self.iscsi).insert(volume, mapping);
        Ok(())
    }

    /// A version that no mapping ever had: one that is made anew is not taken for the one before.
    fn next_mapping(&mut self) -> Version {
        self.mapped = self.mapped.next();
        self.mapped
    }

    fn names_of_others(&self, volume: VolumeId) -> usize {
        let others = self.iscsi.iter().filter(|(id, _)| **id != volume);
        others.map(|(_, mapping)| mapping.names()).sum()
    }

    pub(super) fn unmap_iscsi(&mut self, volume: VolumeId) -> Result<(), AdminRefusal> {
        if !self.iscsi.contains_key(&volume) {
            return Err(AdminRefusal::NotMapped);
        }
        Arc::make_mut(&mut self.iscsi).remove(&volume);
        Ok(())
    }

    /// A volume that is gone is no target.
    pub(super) fn unmap_deleted(&mut self, volume: VolumeId) {
        // There may be none.
        let _ = self.unmap_iscsi(volume);
    }

    pub(super) fn set_unit_state(
        &mut self,
        volume: VolumeId,
        expected: Version,
        state: UnitState,
    ) -> Result<(), AdminRefusal> {
        let others = self.names_of_others(volume);
        let known = self.iscsi.get(&volume).ok_or(AdminRefusal::NotMapped)?;
        if known.version != expected {
            return Err(AdminRefusal::Stale);
        }
        let names = known.initiators.len() + state.registrations.len();
        if state.registrations.len() > REGISTRATIONS_MAX || others + names > NAMES_MAX {
            return Err(AdminRefusal::Full);
        }
        let registered = state.registrations.iter().map(|r| &r.nexus);
        let held = state.held.iter().map(|held| &held.by);
        let mut all = registered.chain(held).chain(&state.reserved_by);
        if all.any(|nexus| nexus.initiator.len() > PORT_NAME_BYTES_MAX) {
            return Err(AdminRefusal::BadIscsiName);
        }
        let version = self.next_mapping();
        let mapping = Arc::make_mut(&mut self.iscsi).get_mut(&volume);
        let mapping = mapping.ok_or(AdminRefusal::NotMapped)?;
        mapping.version = version;
        mapping.state = state;
        Ok(())
    }
}

fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_graphic() && c != ',';
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.chars().all(plain)
}

fn is_secret(secret: &Secret) -> bool {
    let visible = |text: &str| text.chars().all(|c| !c.is_control());
    (1..=CHAP_BYTES_MAX).contains(&secret.user.len())
        && (SECRET_BYTES_MIN..=CHAP_BYTES_MAX).contains(&secret.secret.len())
        && visible(&secret.user)
        && visible(&secret.secret)
}

#[cfg(test)]
mod tests;
