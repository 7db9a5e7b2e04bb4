//! MODE SENSE and MODE SELECT (SPC-4, 6.11 to 6.14 and 7.5; SBC-3, 6.5).

use super::cdb::Cdb;
use super::facts::Facts;
use super::opcodes::{MODE_SELECT_6, MODE_SENSE_6};
use super::sense::Sense;

const CACHING: u8 = 0x08;
const CONTROL: u8 = 0x0a;
const EXCEPTIONS: u8 = 0x1c;
const ALL_PAGES: u8 = 0x3f;
const ALL_SUBPAGES: u8 = 0xff;
/// SWP, in byte 4 of the control page.
const SWP: u8 = 0x08;
const SWP_AT: usize = 4;

/// Whether values are the current ones, those that can be changed, or those at first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Values {
    Current,
    Changeable,
    Default,
}

/// A page's bytes, its two bytes of header included.
fn page(code: u8, values: Values, protected: bool) -> Option<Vec<u8>> {
    let mut bytes = match code {
        CACHING => vec![0; 20],
        CONTROL | EXCEPTIONS => vec![0; 12],
        _ => return None,
    };
    bytes[0] = code;
    bytes[1] = u8::try_from(bytes.len() - 2).expect("pages are short");
    let told = values != Values::Changeable;
    match code {
        // WCE 0: what is acknowledged is on two sites' disks. DISC: reads may fetch more.
        CACHING if told => bytes[2] = 0x10,
        CONTROL => {
            let swp = match values {
                Values::Current => protected,
                Values::Changeable => true,
                Values::Default => false,
            };
            bytes[SWP_AT] = if swp { SWP } else { 0 };
            if told {
                // Queue algorithm 1: tasks may be reordered. RLEC, busy timeout and the like: 0.
                bytes[3] = 0x10;
            }
        }
        _ => {}
    }
    Some(bytes)
}

/// MODE SENSE (6) and (10).
///
/// # Errors
/// No such page, or saved values.
pub(super) fn sense(cdb: Cdb, facts: &Facts) -> Result<Vec<u8>, Sense> {
    let short = cdb.opcode() == MODE_SENSE_6;
    let (code, subpage) = (cdb.byte(2) & 0x3f, cdb.byte(3));
    let values = match cdb.byte(2) >> 6 {
        0 => Values::Current,
        1 => Values::Changeable,
        2 => Values::Default,
        // SAVING PARAMETERS NOT SUPPORTED.
        _ => return Err(Sense::illegal(0x3900)),
    };
    let protected = facts.state.write_protected;
    let pages = match (code, subpage) {
        (ALL_PAGES, 0 | ALL_SUBPAGES) => [CACHING, CONTROL, EXCEPTIONS]
            .iter()
            .filter_map(|code| page(*code, values, protected))
            .collect::<Vec<_>>()
            .concat(),
        (code, 0 | ALL_SUBPAGES) => page(code, values, protected).ok_or(Sense::CDB_FIELD)?,
        _ => return Err(Sense::CDB_FIELD),
    };
    // DPOFUA is told always, WP while nothing may be written.
    let specific = 0x10 | u8::from(protected || facts.read_only) << 7;
    let no_descriptors = cdb.has(1, 0x08);
    let descriptor = if no_descriptors {
        Vec::new()
    } else {
        descriptor(facts)
    };
    let length = u8::try_from(descriptor.len()).expect("one descriptor");
    let mut data = if short {
        vec![0, 0, specific, length]
    } else {
        vec![0, 0, 0, specific, 0, 0, 0, length]
    };
    data.extend(descriptor);
    data.extend(pages);
    if short {
        data[0] = u8::try_from(data.len() - 1).expect("three pages");
    } else {
        let length = u16::try_from(data.len() - 2).expect("three pages");
        data[..2].copy_from_slice(&length.to_be_bytes());
    }
    Ok(data)
}

/// The short block descriptor (SBC-3, 6.5.2.2).
fn descriptor(facts: &Facts) -> Vec<u8> {
    let blocks = u32::try_from(facts.sectors()).unwrap_or(u32::MAX);
    [
        blocks.to_be_bytes(),
        super::facts::SECTOR_BYTES.to_be_bytes(),
    ]
    .concat()
}

/// MODE SELECT (6) and (10): whether SWP is set now. Everything else must be as it is.
///
/// # Errors
/// The list is cut short, or changes what can't be changed.
pub(super) fn select(cdb: Cdb, list: &[u8], facts: &Facts) -> Result<bool, Sense> {
    // PF must be set; nothing is saved.
    if !cdb.has(1, 0x10) || cdb.has(1, 0x01) {
        return Err(Sense::CDB_FIELD);
    }
    let mut protected = facts.state.write_protected;
    if list.is_empty() {
        return Ok(protected);
    }
    let (header, length_at) = match cdb.opcode() {
        MODE_SELECT_6 => (4, 3),
        _ => (8, 7),
    };
    let descriptors = *list.get(length_at).ok_or(Sense::LIST_LENGTH)?;
    let mut rest = list
        .get(header + usize::from(descriptors)..)
        .ok_or(Sense::LIST_LENGTH)?;
    while !rest.is_empty() {
        // PS is reserved here, and initiators leave it as they read it.
        let code = rest[0] & 0x7f;
        let length = usize::from(*rest.get(1).ok_or(Sense::LIST_LENGTH)?);
        let current = page(code, Values::Current, facts.state.write_protected);
        let current = current.ok_or(Sense::LIST_FIELD)?;
        if length + 2 != current.len() {
            return Err(Sense::LIST_FIELD);
        }
        let wanted = rest.get(..length + 2).ok_or(Sense::LIST_LENGTH)?;
        rest = &rest[length + 2..];
        let changeable = page(code, Values::Changeable, false).expect("it is a page");
        let differs = |at: usize| (wanted[at] ^ current[at]) & !changeable[at] != 0;
        if (2..current.len()).any(differs) {
            return Err(Sense::LIST_FIELD);
        }
        if code == CONTROL {
            protected = wanted[SWP_AT] & SWP != 0;
        }
    }
    Ok(protected)
}
