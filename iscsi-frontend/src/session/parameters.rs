//! Operational parameters and how they are negotiated (RFC 7143, 6.2 and 13).

use super::input::Digests;
use super::text::Keys;

/// Bytes of data in one PDU that we take.
pub(super) const RECEIVE_BYTES: u32 = 256 << 10;
/// Bytes of data in one PDU before anything else is agreed on (RFC 7143, 13.12).
pub(super) const LOGIN_BYTES: u32 = 8192;
/// Bytes of one sequence of data that we like.
const BURST_BYTES: u32 = 1 << 20;
/// Bytes of data that may come unasked.
const FIRST_BURST_BYTES: u32 = 256 << 10;
/// The ranges of numbers (RFC 7143, 13.12 to 13.14).
const BYTES_MIN: u32 = 512;
const BYTES_MAX: u32 = (1 << 24) - 1;

/// What was agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parameters {
    pub(super) digests: Digests,
    pub(super) initial_r2t: bool,
    pub(super) immediate_data: bool,
    pub(super) max_burst: u32,
    pub(super) first_burst: u32,
    /// What the initiator takes in one PDU.
    pub(super) send_max: u32,
}

/// What holds if nothing is said.
impl Default for Parameters {
    fn default() -> Self {
        Self {
            digests: Digests::default(),
            initial_r2t: true,
            immediate_data: true,
            max_burst: 256 << 10,
            first_burst: 64 << 10,
            send_max: LOGIN_BYTES,
        }
    }
}

const REJECT: &str = "Reject";
const YES: &str = "Yes";
const NO: &str = "No";

/// Keys of the login phase that are no subject of this.
const HANDLED_ELSEWHERE: [&str; 11] = [
    "InitiatorName",
    "InitiatorAlias",
    "TargetName",
    "SessionType",
    "AuthMethod",
    "CHAP_A",
    "CHAP_I",
    "CHAP_C",
    "CHAP_N",
    "CHAP_R",
    "TargetAlias",
];

impl Parameters {
    /// Takes what an initiator offers, and answers each key.
    pub(super) fn negotiate(&mut self, offered: &Keys, answers: &mut Keys) {
        for (key, value) in offered.iter() {
            if HANDLED_ELSEWHERE.contains(&key) {
                continue;
            }
            if let Some(answer) = self.answer(key, value) {
                answers.push(key, answer);
            }
        }
        // RFC 7143, 13.14.
        self.first_burst = self.first_burst.min(self.max_burst);
    }

    fn answer(&mut self, key: &str, value: &str) -> Option<String> {
        let rejected = || Some(REJECT.to_owned());
        match key {
            "HeaderDigest" => Some(digest(value, &mut self.digests.header)),
            "DataDigest" => Some(digest(value, &mut self.digests.data)),
            "InitialR2T" => boolean(value).map_or_else(rejected, |theirs| {
                // OR, and we don't mind.
                self.initial_r2t = theirs;
                Some(yes_or_no(theirs))
            }),
            "ImmediateData" => boolean(value).map_or_else(rejected, |theirs| {
                // AND, and we like it.
                self.immediate_data = theirs;
                Some(yes_or_no(theirs))
            }),
            // Declared, not negotiated: there is no answer.
            "MaxRecvDataSegmentLength" => match bytes(value) {
                Some(theirs) => {
                    self.send_max = theirs;
                    None
                }
                None => rejected(),
            },
            "MaxBurstLength" => bytes(value).map_or_else(rejected, |theirs| {
                self.max_burst = theirs.min(BURST_BYTES);
                Some(self.max_burst.to_string())
            }),
            "FirstBurstLength" => bytes(value).map_or_else(rejected, |theirs| {
                self.first_burst = theirs.min(FIRST_BURST_BYTES);
                Some(self.first_burst.to_string())
            }),
            "MaxConnections" | "MaxOutstandingR2T" => {
                number(value, 1..=65_535).map_or_else(rejected, |_| Some("1".into()))
            }
            "ErrorRecoveryLevel" => {
                number(value, 0..=2).map_or_else(rejected, |_| Some("0".into()))
            }
            // The longer of both.
            "DefaultTime2Wait" => number(value, 0..=3600)
                .map_or_else(rejected, |theirs| Some(theirs.max(2).to_string())),
            // The shorter of both: no task outlives its connection.
            "DefaultTime2Retain" => {
                number(value, 0..=3600).map_or_else(rejected, |_| Some("0".into()))
            }
            // OR, and we like order.
            "DataPDUInOrder" | "DataSequenceInOrder" => {
                boolean(value).map_or_else(rejected, |_| Some(YES.into()))
            }
            "TaskReporting" => Some("RFC3720".into()),
            "IFMarker" | "OFMarker" => boolean(value).map_or_else(rejected, |_| Some(NO.into())),
            _ => Some("NotUnderstood".into()),
        }
    }
}

fn yes_or_no(yes: bool) -> String {
    if yes { YES } else { NO }.to_owned()
}

fn boolean(value: &str) -> Option<bool> {
    match value {
        YES => Some(true),
        NO => Some(false),
        _ => None,
    }
}

/// A number, decimal or hexadecimal (RFC 7143, 6.1).
fn number(value: &str, within: std::ops::RangeInclusive<u32>) -> Option<u32> {
    let hex = value
        .strip_prefix("0x")
        .or_else(|| value.strip_prefix("0X"));
    let number = match hex {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => value.parse(),
    };
    number.ok().filter(|n| within.contains(n))
}

fn bytes(value: &str) -> Option<u32> {
    number(value, BYTES_MIN..=BYTES_MAX)
}

/// The first of a list that we know (RFC 7143, 6.2.1).
fn digest(list: &str, on: &mut bool) -> String {
    let known = list.split(',').find(|v| matches!(*v, "None" | "CRC32C"));
    if let Some(known) = known {
        *on = known == "CRC32C";
    }
    known.unwrap_or(REJECT).to_owned()
}

#[cfg(test)]
mod tests {
    use super::{Keys, Parameters};

    fn answers(offered: &str) -> (Parameters, String) {
        let mut parameters = Parameters::default();
        let offered = Keys::parse(offered.replace(' ', "\0").as_bytes()).expect("sound");
        let mut answers = Keys::default();
        parameters.negotiate(&offered, &mut answers);
        let text = String::from_utf8(answers.bytes()).expect("text");
        (parameters, text.trim_end_matches('\0').replace('\0', " "))
    }

    #[test]
    fn each_kind_of_key() {
        let (agreed, said) = answers("HeaderDigest=CRC32C,None DataDigest=None InitialR2T=No");
        assert_eq!(said, "HeaderDigest=CRC32C DataDigest=None InitialR2T=No");
        assert!(agreed.digests.header && !agreed.digests.data && !agreed.initial_r2t);
        let (agreed, said) = answers("MaxRecvDataSegmentLength=0x10000 MaxBurstLength=16776192");
        assert_eq!(
            (agreed.send_max, &said[..]),
            (65536, "MaxBurstLength=1048576")
        );
        let (_, said) = answers("X-com.example=1 ErrorRecoveryLevel=2 MaxConnections=8");
        assert_eq!(
            said,
            "X-com.example=NotUnderstood ErrorRecoveryLevel=0 MaxConnections=1"
        );
    }

    #[test]
    fn what_is_out_of_range_is_rejected() {
        let (agreed, said) = answers("MaxBurstLength=1 ImmediateData=Maybe HeaderDigest=MD5");
        assert_eq!(
            said,
            "MaxBurstLength=Reject ImmediateData=Reject HeaderDigest=Reject"
        );
        assert_eq!(agreed, Parameters::default());
    }

    #[test]
    fn the_first_burst_is_no_longer_than_a_burst() {
        let (agreed, _) = answers("FirstBurstLength=262144 MaxBurstLength=4096");
        assert_eq!((agreed.first_burst, agreed.max_burst), (4096, 4096));
    }
}
