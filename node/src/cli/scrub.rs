//! Scrubs, as a person reads them.

use super::render::{self, size};
use super::style::{Style, Tone};
use crate::admin::scrub::{DiskScrub, Scrub, Scrubs};

/// Seconds as people say them.
fn time(seconds: u64) -> String {
    let (day, hour, minute) = (86_400, 3_600, 60);
    match seconds {
        s if s >= 2 * day => format!("{} d", s / day),
        s if s >= 2 * hour => format!("{} h", s / hour),
        s if s >= 2 * minute => format!("{} min", s / minute),
        s => format!("{s} s"),
    }
}

/// In a list of disks.
pub(super) fn in_short(scrub: Option<&Scrub>, style: Style) -> String {
    match scrub {
        None => "?".to_owned(),
        Some(scrub) if scrub.flagged => style.paint(Tone::Bad, format!("{} rotted", scrub.found)),
        Some(scrub) if scrub.rotten > 0 => {
            style.paint(Tone::Warning, format!("{} rotten", scrub.rotten))
        }
        Some(scrub) if scrub.running => format!("{}%", scrub.percent()),
        Some(scrub) if scrub.passes == 0 => style.paint(Tone::Quiet, "none yet"),
        Some(_) => style.paint(Tone::Good, "clean"),
    }
}

pub(super) fn table(scrubs: &Scrubs, style: Style) -> String {
    let row = |of: &DiskScrub| {
        let unknown = || "?".to_owned();
        let told = |tell: &dyn Fn(&Scrub) -> String| of.scrub.as_ref().map_or_else(unknown, tell);
        [
            of.disk.clone(),
            of.site.clone(),
            in_short(of.scrub.as_ref(), style),
            told(&|s| format!("{} of {}", size(s.pass_bytes), size(s.held_bytes))),
            told(&|s| match (s.eta_s, s.next_in_s) {
                (Some(eta), _) => format!("ends in {}", time(eta)),
                (None, Some(next)) => format!("next in {}", time(next)),
                (None, None) => String::new(),
            }),
            told(&|s| s.passes.to_string()),
            told(&|s| s.found.to_string()),
            told(&|s| s.repaired.to_string()),
            told(&|s| s.restored.to_string()),
        ]
    };
    let rows = scrubs.disks.iter().map(row).collect();
    let head = [
        "disk", "site", "is", "verified", "pass", "passes", "rotted", "repaired", "restored",
    ];
    render::table(head, &[5, 6, 7, 8], rows)
}
