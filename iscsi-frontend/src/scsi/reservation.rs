//! Reservations as a machine of their own (SPC-4, 5.13): a state and a command in, the next state
//! out. Who keeps the state, and compares and sets it, is not seen from here.

use model::iscsi::{Held, Nexus, REGISTRATIONS_MAX, Registration, ReservationKind, UnitState};

use super::cdb::{be32, be64};
use super::opcodes::Access;
use super::sense::Sense;

/// Bytes of PERSISTENT RESERVE OUT's parameter list without SPEC_I_PT (SPC-4, 6.16.3).
pub const LIST_BYTES: usize = 24;

/// Why a state is not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// RESERVATION CONFLICT.
    Conflict,
    /// The command makes no sense.
    Check(Sense),
}

/// Something that a nexus is to be told at its next command (SPC-4, 5.13; SAM-5, 5.14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attention {
    /// Its unit was reset.
    Reset,
    /// Another one cleared the task set.
    TasksCleared,
    /// Another initiator changed SWP.
    ModeChanged,
    /// Another one removed its reservation.
    ReservationsPreempted,
    /// A reservation under which it had access is gone.
    ReservationsReleased,
    /// Another one removed its registration.
    RegistrationsPreempted,
    /// The unit's owner is in another site.
    AccessChanged,
    /// The unit has another size.
    CapacityChanged,
}

impl Attention {
    /// As sense data.
    #[must_use]
    pub const fn sense(self) -> Sense {
        let code = match self {
            Self::Reset => 0x2903,
            Self::TasksCleared => 0x2f00,
            Self::ModeChanged => 0x2a01,
            Self::ReservationsPreempted => 0x2a03,
            Self::ReservationsReleased => 0x2a04,
            Self::RegistrationsPreempted => 0x2a05,
            Self::AccessChanged => 0x2a06,
            Self::CapacityChanged => 0x2a09,
        };
        Sense::new(super::sense::Key::UnitAttention, code)
    }
}

/// A type's number.
#[must_use]
pub const fn number(kind: ReservationKind) -> u8 {
    match kind {
        ReservationKind::WriteExclusive => 1,
        ReservationKind::ExclusiveAccess => 3,
        ReservationKind::WriteExclusiveRegistrants => 5,
        ReservationKind::ExclusiveAccessRegistrants => 6,
        ReservationKind::WriteExclusiveAll => 7,
        ReservationKind::ExclusiveAccessAll => 8,
    }
}

const KINDS: [ReservationKind; 6] = [
    ReservationKind::WriteExclusive,
    ReservationKind::ExclusiveAccess,
    ReservationKind::WriteExclusiveRegistrants,
    ReservationKind::ExclusiveAccessRegistrants,
    ReservationKind::WriteExclusiveAll,
    ReservationKind::ExclusiveAccessAll,
];

const fn excludes_reads(kind: ReservationKind) -> bool {
    matches!(
        kind,
        ReservationKind::ExclusiveAccess
            | ReservationKind::ExclusiveAccessRegistrants
            | ReservationKind::ExclusiveAccessAll
    )
}

/// Whether all registrants hold it.
const fn is_of_all(kind: ReservationKind) -> bool {
    matches!(
        kind,
        ReservationKind::WriteExclusiveAll | ReservationKind::ExclusiveAccessAll
    )
}

/// Whether registrants have access beside the holder.
const fn is_of_registrants(kind: ReservationKind) -> bool {
    !matches!(
        kind,
        ReservationKind::WriteExclusive | ReservationKind::ExclusiveAccess
    )
}

fn key_of(state: &UnitState, nexus: &Nexus) -> Option<u64> {
    let registration = state.registrations.iter().find(|r| r.nexus == *nexus)?;
    Some(registration.key)
}

fn holds(held: &Held, state: &UnitState, nexus: &Nexus) -> bool {
    match is_of_all(held.kind) {
        true => key_of(state, nexus).is_some(),
        false => held.by == *nexus,
    }
}

/// Whether a command of that access is refused to a nexus.
#[must_use]
pub fn conflicts(state: &UnitState, nexus: &Nexus, access: Access) -> bool {
    if access == Access::Always {
        return false;
    }
    if state.reserved_by.as_ref().is_some_and(|by| by != nexus) {
        return true;
    }
    let Some(held) = &state.held else {
        return false;
    };
    let excluded = match access {
        Access::Always | Access::Status => false,
        Access::Read => excludes_reads(held.kind),
        Access::Write => true,
    };
    let registered = is_of_registrants(held.kind) && key_of(state, nexus).is_some();
    excluded && !registered && !holds(held, state, nexus)
}

/// SPC-2's RESERVE, of the whole unit.
///
/// # Errors
/// Somebody else reserved it, or somebody is registered.
pub fn reserve(state: &UnitState, nexus: &Nexus) -> Result<UnitState, Refused> {
    let taken = state.reserved_by.as_ref().is_some_and(|by| by != nexus);
    if taken || !state.registrations.is_empty() {
        return Err(Refused::Conflict);
    }
    Ok(UnitState {
        reserved_by: Some(nexus.clone()),
        ..state.clone()
    })
}

/// SPC-2's RELEASE: of what another one reserved it says nothing.
#[must_use]
pub fn release(state: &UnitState, nexus: &Nexus) -> UnitState {
    let mut next = state.clone();
    next.reserved_by.take_if(|by| by == nexus);
    next
}

/// The parameter list of PERSISTENT RESERVE OUT.
struct Parameters {
    key: u64,
    other: u64,
    aptpl: bool,
}

fn parameters(action: u8, list: &[u8]) -> Result<Parameters, Sense> {
    if list.len() != LIST_BYTES {
        return Err(Sense::LIST_LENGTH);
    }
    let (Some(key), Some(other)) = (be64(list, 0), be64(list, 8)) else {
        return Err(Sense::LIST_LENGTH);
    };
    let registers = matches!(action, REGISTER | REGISTER_AND_IGNORE);
    // SPEC_I_PT and ALL_TG_PT: each port registers by itself.
    if registers && list[20] & 0x0c != 0 {
        return Err(Sense::LIST_FIELD);
    }
    Ok(Parameters {
        key,
        other,
        aptpl: list[20] & 0x01 != 0,
    })
}

const REGISTER: u8 = 0;
const RESERVE: u8 = 1;
const RELEASE: u8 = 2;
const CLEAR: u8 = 3;
const PREEMPT: u8 = 4;
const PREEMPT_AND_ABORT: u8 = 5;
const REGISTER_AND_IGNORE: u8 = 6;

/// PERSISTENT RESERVE OUT (SPC-4, 6.16): the state after it.
///
/// # Errors
/// It is refused.
pub fn change(
    state: &UnitState,
    nexus: &Nexus,
    (action, scope_and_type): (u8, u8),
    list: &[u8],
) -> Result<UnitState, Refused> {
    let parameters = parameters(action, list).map_err(Refused::Check)?;
    let mine = key_of(state, nexus);
    if action == REGISTER {
        // SPC-4, table 51: who is not registered gives 0.
        if mine.unwrap_or(0) != parameters.key {
            return Err(Refused::Conflict);
        }
    } else if action != REGISTER_AND_IGNORE && mine != Some(parameters.key) {
        return Err(Refused::Conflict);
    }
    let kind = || {
        let of_unit = scope_and_type >> 4 == 0;
        let kind = KINDS
            .into_iter()
            .find(|k| number(*k) == scope_and_type & 0x0f);
        kind.filter(|_| of_unit)
            .ok_or(Refused::Check(Sense::CDB_FIELD))
    };
    let mut next = state.clone();
    match action {
        REGISTER | REGISTER_AND_IGNORE => register(&mut next, nexus, &parameters)?,
        RESERVE => take(&mut next, nexus, kind()?)?,
        RELEASE => let_go(&mut next, nexus, kind()?)?,
        CLEAR => {
            next.registrations.clear();
            next.held = None;
            next.generation = next.generation.wrapping_add(1);
        }
        PREEMPT | PREEMPT_AND_ABORT => preempt(&mut next, nexus, parameters.other, &kind)?,
        _ => return Err(Refused::Check(Sense::CDB_FIELD)),
    }
    Ok(next)
}

/// SPC-4, 5.13.7: a new key; 0 unregisters.
fn register(next: &mut UnitState, nexus: &Nexus, parameters: &Parameters) -> Result<(), Refused> {
    let at = next.registrations.iter().position(|r| r.nexus == *nexus);
    match (at, parameters.other) {
        // Nothing was registered, and nothing is to be.
        (None, 0) => {}
        (Some(at), 0) => {
            unregister(next, at);
        }
        (Some(at), key) => next.registrations[at].key = key,
        (None, key) => {
            if next.registrations.len() >= REGISTRATIONS_MAX {
                return Err(Refused::Check(Sense::REGISTRATIONS));
            }
            next.registrations.push(Registration {
                nexus: nexus.clone(),
                key,
            });
        }
    }
    next.aptpl = parameters.aptpl;
    next.generation = next.generation.wrapping_add(1);
    Ok(())
}

/// SPC-4, 5.13.11.3: with its holder's registration a reservation ends, one of all with the last.
fn unregister(next: &mut UnitState, at: usize) {
    let gone = next.registrations.remove(at);
    let none_left = next.registrations.is_empty();
    next.held.take_if(|held| match is_of_all(held.kind) {
        true => none_left,
        false => held.by == gone.nexus,
    });
}

/// SPC-4, 5.13.9: reserving again what is held so already changes nothing.
fn take(next: &mut UnitState, nexus: &Nexus, kind: ReservationKind) -> Result<(), Refused> {
    match &next.held {
        None => {
            next.held = Some(Held {
                kind,
                by: nexus.clone(),
            });
            Ok(())
        }
        Some(held) if held.kind == kind && holds(held, next, nexus) => Ok(()),
        Some(_) => Err(Refused::Conflict),
    }
}

/// SPC-4, 5.13.11.2: to release what one does not hold changes nothing.
fn let_go(next: &mut UnitState, nexus: &Nexus, kind: ReservationKind) -> Result<(), Refused> {
    match &next.held {
        Some(held) if holds(held, next, nexus) => {
            if held.kind != kind {
                return Err(Refused::Check(Sense::RELEASE));
            }
            next.held = None;
            Ok(())
        }
        _ => Ok(()),
    }
}

/// SPC-4, 5.13.11.4: registrations of a key are removed; if that key holds the reservation, the
/// preempting nexus takes it over.
fn preempt(
    next: &mut UnitState,
    nexus: &Nexus,
    key: u64,
    kind: &dyn Fn() -> Result<ReservationKind, Refused>,
) -> Result<(), Refused> {
    let of_all = next.held.as_ref().is_some_and(|held| is_of_all(held.kind));
    let holder_key = next
        .held
        .as_ref()
        .filter(|held| !is_of_all(held.kind))
        .and_then(|held| key_of(next, &held.by));
    let everybody = key == 0;
    if everybody && !of_all {
        return Err(Refused::Check(Sense::LIST_FIELD));
    }
    let takes_over = (of_all && everybody) || holder_key == Some(key);
    let matches = |r: &Registration| everybody || r.key == key;
    if !next.registrations.iter().any(matches) {
        return Err(Refused::Conflict);
    }
    let kind = if takes_over { Some(kind()?) } else { None };
    next.registrations
        .retain(|r| r.nexus == *nexus || !matches(r));
    if let Some(kind) = kind {
        next.held = Some(Held {
            kind,
            by: nexus.clone(),
        });
    }
    next.generation = next.generation.wrapping_add(1);
    Ok(())
}

/// What a nexus is told of a change that another one made.
#[must_use]
pub fn attentions(old: &UnitState, new: &UnitState, nexus: &Nexus) -> Vec<Attention> {
    let mut told = Vec::new();
    if old.resets != new.resets {
        told.push(Attention::Reset);
    }
    let (was, is) = (key_of(old, nexus), key_of(new, nexus));
    if was.is_some() && is.is_none() {
        // SPC-4, 5.13.11: CLEAR leaves nobody, who preempts stays.
        told.push(match new.registrations.is_empty() {
            true => Attention::ReservationsPreempted,
            false => Attention::RegistrationsPreempted,
        });
    }
    let of_registrants = |held: &Held| is_of_registrants(held.kind);
    if was.is_some() && is.is_some() && old.held.as_ref().is_some_and(of_registrants) {
        let kinds = [&old.held, &new.held].map(|h| h.as_ref().map(|h| h.kind));
        if kinds[0] != kinds[1] {
            told.push(Attention::ReservationsReleased);
        }
    }
    if old.write_protected != new.write_protected {
        told.push(Attention::ModeChanged);
    }
    told
}

/// PERSISTENT RESERVE IN (SPC-4, 6.15), whole.
///
/// # Errors
/// There is no such service action.
pub fn report(state: &UnitState, action: u8) -> Result<Vec<u8>, Sense> {
    match action {
        0 => {
            let keys = state.registrations.iter().map(|r| r.key);
            let keys: Vec<u8> = keys.flat_map(u64::to_be_bytes).collect();
            Ok(with_generation(state, &keys))
        }
        1 => Ok(with_generation(state, &held(state))),
        // PTPL_C. TMV, and APTPL as it was asked for. All six types.
        2 => Ok(vec![
            0,
            8,
            0x01,
            0x80 | u8::from(state.aptpl),
            0xea,
            0x01,
            0,
            0,
        ]),
        3 => Ok(with_generation(state, &full_status(state))),
        _ => Err(Sense::CDB_FIELD),
    }
}

fn with_generation(state: &UnitState, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("few registrations");
    [
        &state.generation.to_be_bytes()[..],
        &length.to_be_bytes(),
        body,
    ]
    .concat()
}

/// READ RESERVATION's descriptor, if there is a reservation.
fn held(state: &UnitState) -> Vec<u8> {
    let Some(held) = &state.held else {
        return Vec::new();
    };
    // SPC-4, 6.15.3.2: of all registrants, the key is 0.
    let key = match is_of_all(held.kind) {
        true => 0,
        false => key_of(state, &held.by).unwrap_or(0),
    };
    let mut data = key.to_be_bytes().to_vec();
    data.extend([0; 5]);
    data.extend([number(held.kind), 0, 0]);
    data
}

/// READ FULL STATUS: each registration with its transport id (SPC-4, 7.6.4.6).
fn full_status(state: &UnitState) -> Vec<u8> {
    let mut data = Vec::new();
    for registration in &state.registrations {
        let of_this = |held: &&Held| holds(held, state, &registration.nexus);
        let held = state.held.as_ref().filter(of_this);
        let mut name = registration.nexus.initiator.clone().into_bytes();
        name.push(0);
        name.resize(name.len().next_multiple_of(4).max(20), 0);
        let length = u16::try_from(name.len()).expect("names are short");
        data.extend(registration.key.to_be_bytes());
        data.extend([0; 4]);
        data.push(u8::from(held.is_some()));
        data.push(held.map_or(0, |held| number(held.kind)));
        data.extend([0; 4]);
        data.extend(registration.nexus.port.to_be_bytes());
        data.extend((u32::from(length) + 4).to_be_bytes());
        // The name of an initiator's port, and of iSCSI.
        data.extend([0x45, 0]);
        data.extend(length.to_be_bytes());
        data.extend(name);
    }
    data
}

/// The parameter list's length that PERSISTENT RESERVE OUT says.
#[must_use]
pub fn list_length(cdb: &super::cdb::Cdb) -> u32 {
    be32(&cdb.0, 5).expect("within a CDB")
}

#[cfg(test)]
mod tests;
