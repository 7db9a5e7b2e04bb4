//! What a person reads of drains, removals and repairs.

use super::{Style, Tone, size};
use crate::admin::protocol::{Emptying, Left, Lifted, Maintenance, Repair, Safety, SiteSafety};

fn left_in_words(left: &Left) -> String {
    let s = |n: usize| if n == 1 { "" } else { "s" };
    let mut parts = Vec::new();
    if left.slots > 0 {
        let n = usize::try_from(left.slots).unwrap_or(usize::MAX);
        parts.push(format!("{n} slot{} of spreads", s(n)));
    }
    if !left.journals.is_empty() {
        let n = left.journals.len();
        parts.push(format!("{n} journal replica{}", s(n)));
    }
    if !left.volumes_owned.is_empty() {
        let n = left.volumes_owned.len();
        parts.push(format!("{n} owned volume{}", s(n)));
    }
    match left.fragment_bytes {
        Some(0) => {}
        Some(bytes) => parts.push(format!("{} of fragments", size(bytes))),
        None => parts.push("fragments that a silent node does not tell of".to_owned()),
    }
    parts.join(", ")
}

pub(super) fn emptying(emptying: &Emptying) -> String {
    let what = &emptying.what;
    if !emptying.draining {
        return format!("{what} serves");
    }
    match left_in_words(&emptying.left).as_str() {
        "" => format!("{what} is empty"),
        left => format!("{what} is being drained: {left} to move (`atoll status` says how far)"),
    }
}

pub(super) fn maintenance(told: &Maintenance, style: Style) -> String {
    let node = &told.node;
    let Some(wait_s) = told.wait_s else {
        return format!("node {node} serves as any other");
    };
    let wait = span(wait_s.into());
    let then = format!(
        "While it is down, what it holds is waited for {wait} longer than usual. When it is back: \
         `atoll node maintenance {node} --end`."
    );
    if told.safe {
        let head = style.paint(Tone::Good, format!("node {node} may stop"));
        return format!("{head}\n{then}");
    }
    let head = style.paint(
        Tone::Bad,
        format!("node {node} is in maintenance, and may not stop now:"),
    );
    let left = maintenance_left(told).map(|left| format!("\n  on it still: {left}"));
    let reasons = told.reasons.iter().map(|why| format!("\n  {why}"));
    let all: String = left.into_iter().chain(reasons).collect();
    format!("{head}{all}\n{then}")
}

/// What has not left a node in maintenance.
pub(in crate::cli) fn maintenance_left(told: &Maintenance) -> Option<String> {
    let left = Left {
        journals: told.journals.clone(),
        volumes_owned: told.volumes_owned.clone(),
        fragment_bytes: Some(0),
        ..Left::default()
    };
    Some(left_in_words(&left)).filter(|words| !words.is_empty())
}

pub(super) fn safety(safety: &Safety, style: Style) -> String {
    let node = &safety.node;
    if safety.safe {
        return style.paint(Tone::Good, format!("node {node} may stop"));
    }
    let head = style.paint(Tone::Bad, format!("node {node} may not stop now:"));
    let reasons = safety.reasons.iter().map(|why| format!("\n  {why}"));
    format!("{head}{}", reasons.collect::<String>())
}

pub(super) fn site_safety(safety: &SiteSafety, style: Style) -> String {
    let site = &safety.site;
    if safety.safe {
        return style.paint(Tone::Good, format!("site {site} may be fenced"));
    }
    let head = style.paint(Tone::Bad, format!("site {site} may not be fenced now:"));
    let reasons = safety.reasons.iter().map(|why| format!("\n  {why}"));
    format!("{head}{}", reasons.collect::<String>())
}

pub(super) fn lifted(told: &Lifted) -> String {
    let head = match told.lifted.is_empty() {
        true => "no drill fences a site".to_owned(),
        false => format!("the fence around site {} is lifted", told.lifted.join(", ")),
    };
    let silent = match told.silent.is_empty() {
        true => String::new(),
        false => format!(
            "\nno answer from {}: with them it ends by itself, within 3 s",
            told.silent.join(", ")
        ),
    };
    format!("{head}{silent}")
}

/// Seconds, as people tell them.
fn span(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h", seconds.div_ceil(3600)),
    }
}

pub(super) fn repair(repair: &Repair, style: Style) -> String {
    let what = style.paint(Tone::Strong, &repair.what);
    let done = match (repair.total_bytes, repair.total_fragments) {
        (Some(bytes), Some(fragments)) => format!(
            "{} of {} ({} of {fragments} fragments)",
            size(repair.done_bytes),
            size(bytes),
            repair.done_fragments
        ),
        (Some(bytes), None) => format!("{} of {}", size(repair.done_bytes), size(bytes)),
        (None, _) => "being counted".to_owned(),
    };
    let eta = match repair.eta_s {
        Some(seconds) => format!("{} to go", span(seconds)),
        None => "how long is not known yet".to_owned(),
    };
    let to = match repair.slots {
        0 => repair.to.join(", "),
        n => format!("{n} slots to {}", repair.to.join(", ")),
    };
    format!(
        "~ {what}\n  from   {} to {to}\n  done   {done}\n  pace   {}/s, {eta}",
        repair.from,
        size(repair.bytes_per_s)
    )
}
