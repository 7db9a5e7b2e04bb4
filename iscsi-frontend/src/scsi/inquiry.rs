//! INQUIRY: what the unit is (SPC-4 6.6 and 7.8, SBC-3 6.6).

use super::facts::{Facts, GRANULE_SECTORS, TRANSFER_SECTORS_MAX};
use super::limits::{
    ATOMIC_SECTORS_MAX, COMPARE_SECTORS_MAX, SAME_SECTORS_MAX, UNMAP_DESCRIPTORS_MAX,
};

const VENDOR: &[u8; 8] = b"ATOLL   ";
const PRODUCT: &[u8; 16] = b"VOLUME          ";
const REVISION: &[u8; 4] = b"0100";

/// Standards that are claimed: SAM-5, iSCSI, SPC-4, SBC-3 (SPC-4, table 143).
const VERSIONS: [u16; 4] = [0x00a0, 0x0960, 0x0460, 0x04c0];

const SUPPORTED: u8 = 0x00;
const SERIAL: u8 = 0x80;
const IDENTIFICATION: u8 = 0x83;
const BLOCK_LIMITS: u8 = 0xb0;
const CHARACTERISTICS: u8 = 0xb1;
const PROVISIONING: u8 = 0xb2;
const PAGES: [u8; 6] = [
    SUPPORTED,
    SERIAL,
    IDENTIFICATION,
    BLOCK_LIMITS,
    CHARACTERISTICS,
    PROVISIONING,
];

/// Standard data; of a unit that is not there with the qualifier 011b (SPC-4, table 141).
#[must_use]
pub(super) fn standard(is_there: bool) -> Vec<u8> {
    let mut data = vec![0; 96];
    data[0] = if is_there { 0x00 } else { 0x7f };
    data[2] = 0x06;
    // HISUP, and the format of this.
    data[3] = 0x12;
    data[4] = 91;
    // TPGS: implicit. 3PC: EXTENDED COPY.
    data[5] = 0x18;
    // CMDQUE.
    data[7] = 0x02;
    data[8..16].copy_from_slice(VENDOR);
    data[16..32].copy_from_slice(PRODUCT);
    data[32..36].copy_from_slice(REVISION);
    for (n, version) in VERSIONS.iter().enumerate() {
        data[58 + 2 * n..60 + 2 * n].copy_from_slice(&version.to_be_bytes());
    }
    data
}

/// A page of vital product data, if there is one of that code.
#[must_use]
pub(super) fn page(code: u8, facts: &Facts) -> Option<Vec<u8>> {
    let body = match code {
        SUPPORTED => PAGES.to_vec(),
        SERIAL => facts.identity.serial.clone().into_bytes(),
        IDENTIFICATION => identification(facts),
        BLOCK_LIMITS => block_limits(),
        CHARACTERISTICS => characteristics(),
        PROVISIONING => provisioning(),
        _ => return None,
    };
    let length = u16::try_from(body.len()).expect("pages are short");
    let mut data = vec![0, code];
    data.extend(length.to_be_bytes());
    data.extend(body);
    Some(data)
}

/// A designation descriptor (SPC-4, 7.8.6.1). iSCSI's names say which protocol they are of.
fn designator(code_set: u8, association: u8, kind: u8, designator: &[u8]) -> Vec<u8> {
    const ISCSI: u8 = 5;
    let of_port_or_target = association != 0;
    let length = u8::try_from(designator.len()).expect("designators are short");
    let protocol = if of_port_or_target { ISCSI } else { 0 };
    let mut data = vec![
        protocol << 4 | code_set,
        u8::from(of_port_or_target) << 7 | association << 4 | kind,
        0,
        length,
    ];
    data.extend(designator);
    data
}

/// A SCSI name string: UTF-8, ended by a zero, and as long as a multiple of four.
fn name_string(name: String) -> Vec<u8> {
    let mut bytes = name.into_bytes();
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn identification(facts: &Facts) -> Vec<u8> {
    const BINARY: u8 = 1;
    const ASCII: u8 = 2;
    const UTF_8: u8 = 3;
    const UNIT: u8 = 0;
    const PORT: u8 = 1;
    const TARGET: u8 = 2;
    let identity = &facts.identity;
    let group = facts.group().map_or(0, |g| g.id);
    let long = |n: u16| u32::from(n).to_be_bytes();
    let t10 = [&VENDOR[..], identity.serial.as_bytes()].concat();
    // RFC 7143, 4.2.7.1: the portal group's tag is 1, as in SendTargets.
    let port = name_string(format!("{},t,0x0001", identity.target));
    [
        designator(BINARY, UNIT, 3, &identity.naa.to_be_bytes()),
        designator(ASCII, UNIT, 1, &t10),
        designator(BINARY, PORT, 4, &long(facts.port)),
        designator(BINARY, PORT, 5, &long(group)),
        designator(UTF_8, PORT, 8, &port),
        designator(UTF_8, TARGET, 8, &name_string(identity.target.clone())),
    ]
    .concat()
}

/// SBC-3, 6.6.4, and what SBC-4 adds of atomic writes.
fn block_limits() -> Vec<u8> {
    let mut page = [0; 0x3c];
    let mut put =
        |at: usize, bytes: &[u8]| page[at - 4..at - 4 + bytes.len()].copy_from_slice(bytes);
    // WSNZ: WRITE SAME of 0 blocks is refused.
    put(4, &[1, COMPARE_SECTORS_MAX]);
    let granularity = u16::try_from(GRANULE_SECTORS).expect("a few");
    put(6, &granularity.to_be_bytes());
    put(8, &TRANSFER_SECTORS_MAX.to_be_bytes());
    put(12, &(TRANSFER_SECTORS_MAX / 8).to_be_bytes());
    put(20, &u32::MAX.to_be_bytes());
    put(24, &u32::from(UNMAP_DESCRIPTORS_MAX).to_be_bytes());
    put(28, &GRANULE_SECTORS.to_be_bytes());
    // UGAVALID, and an alignment of 0.
    put(32, &0x8000_0000_u32.to_be_bytes());
    put(36, &u64::from(SAME_SECTORS_MAX).to_be_bytes());
    put(44, &ATOMIC_SECTORS_MAX.to_be_bytes());
    page.to_vec()
}

/// SBC-3, 6.6.2: a medium that does not rotate.
fn characteristics() -> Vec<u8> {
    let mut page = vec![0; 0x3c];
    page[1] = 1;
    page
}

/// SBC-3, 6.6.5: UNMAP, WRITE SAME (16) and (10) unmap, what is unmapped reads as zeros; thin.
fn provisioning() -> Vec<u8> {
    vec![0, 0xe4, 0x02, 0]
}

#[cfg(test)]
mod tests {
    use super::standard;

    #[test]
    fn standard_data_says_how_long_it_is() {
        let data = standard(true);
        assert_eq!(usize::from(data[4]) + 5, data.len());
        assert_eq!(standard(false)[0] >> 5, 3);
    }
}
