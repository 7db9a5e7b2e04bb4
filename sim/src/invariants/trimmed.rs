//! The journal drains: a published checkpoint covers everything (R3).

use super::Served;

pub(super) fn check(served: &Served) -> Option<String> {
    let bytes = served.stats.untrimmed_bytes;
    (bytes > 0).then(|| format!("journal trimmed: {bytes} bytes are not"))
}
