//! What a person reads of a reply, and what `--json` prints of it.

use comfy_table::{CellAlignment, Table};
use model::ids::Epoch;
use serde_json::{Value, json};

#[path = "lifecycle.rs"]
mod lifecycle;
pub(super) use lifecycle::maintenance_left;

use super::style::{Style, Tone};
use crate::admin::client::Told;
use crate::admin::ping::WaitingFor;
use crate::admin::protocol::{
    CacheDropped, Condition, Disks, Fault, Journal, Nodes, OneLeft, Reply, Sites, Status, Syncs,
    UpOf, Volume, VolumeState, VolumeStats, Volumes,
};
use crate::admin::recovery::in_a_line;
use crate::dev::control::{Link, Process};
use crate::units::ByteSize;

/// The reply's JSON: its body, and which nodes did not answer where every node was asked.
#[must_use]
pub fn json(told: &Told, every_node: bool) -> Value {
    let whole = serde_json::to_value(&told.reply).unwrap_or_default();
    let mut body = whole.get("body").cloned().unwrap_or_default();
    match &told.reply {
        Reply::Volume(_) => spread_stats(&mut body),
        Reply::Volumes(_) => {
            let volumes = body.get_mut("volumes").and_then(Value::as_array_mut);
            volumes.into_iter().flatten().for_each(spread_stats);
        }
        _ => {}
    }
    if let (true, Some(body)) = (every_node, body.as_object_mut()) {
        body.insert("unreachable".into(), json!(told.unreachable));
    }
    body
}

/// The sizes in a volume's stats stand beside its others too: null where they are unknown,
/// never zero.
fn spread_stats(volume: &mut Value) {
    for name in ["logical_bytes", "stored_bytes", "untrimmed_bytes"] {
        let value = volume.get("stats").and_then(|stats| stats.get(name));
        let value = value.cloned().unwrap_or_default();
        if let Some(volume) = volume.as_object_mut() {
            volume.insert(name.into(), value);
        }
    }
}

/// The reply as text.
#[must_use]
pub fn human(told: &Told, style: Style) -> String {
    let mut text = match &told.reply {
        Reply::Pong(pong) => format!(
            "node {} {}",
            pong.node,
            if pong.ready { "serves" } else { "is starting" }
        ),
        Reply::Token(token) => token.token.clone(),
        Reply::Volume(volume) => one_volume(volume, style),
        Reply::Volumes(volumes) => many_volumes(volumes, style),
        Reply::Recovery(recovery) => super::recovery::recovery(recovery, style),
        Reply::Deleted(deleted) => format!("volume {} is deleted", deleted.deleted),
        Reply::Removed(removed) => format!(
            "node {} is gone for good: `atoll join` makes a new one",
            removed.removed
        ),
        Reply::DiskRemoved(disk) => format!("disk {} is gone for good", disk.removed_disk),
        Reply::Emptying(emptying) => lifecycle::emptying(emptying),
        Reply::Maintenance(told) => lifecycle::maintenance(told, style),
        Reply::Safety(safety) => lifecycle::safety(safety, style),
        Reply::SiteSafety(safety) => lifecycle::site_safety(safety, style),
        Reply::Fenced(fenced) => format!("site {} is fenced", fenced.site),
        Reply::Lifted(lifted) => lifecycle::lifted(lifted),
        Reply::Sites(sites) => many_sites(sites, style),
        Reply::Nodes(nodes) => many_nodes(nodes, style),
        Reply::Disks(disks) => many_disks(disks, style),
        Reply::Scrubs(scrubs) => super::scrub::table(scrubs, style),
        Reply::IscsiTarget(target) => super::iscsi::target(target),
        Reply::IscsiTargets(list) => super::iscsi::targets(list),
        Reply::IscsiSessions(list) => super::iscsi::sessions(list),
        Reply::IscsiUnmapped(of) => format!("volume {} is no target any more", of.unmapped),
        Reply::Status(status) => one_status(status, style),
        Reply::CacheDropped(dropped) => many_caches(dropped),
        Reply::NbdCertificate(signed) => signed.certificate.trim_end().to_owned(),
        Reply::Syncs(syncs) => many_syncs(syncs),
        Reply::Journal(journal) => many_files(journal, style),
    };
    let (silent, so) = match &told.reply {
        Reply::Volumes(list) => (&list.unreachable, MISSING),
        Reply::Sites(list) => (&list.unreachable, MISSING),
        Reply::Nodes(list) => (&list.unreachable, MISSING),
        Reply::Disks(list) => (&list.unreachable, MISSING),
        Reply::Scrubs(list) => (&list.unreachable, MISSING),
        Reply::IscsiSessions(list) => (&list.unreachable, MISSING),
        Reply::CacheDropped(list) => (&list.unreachable, ": their caches may be as they were"),
        _ => (&told.unreachable, ""),
    };
    if !silent.is_empty() {
        let line = format!("\n\nno answer from {}{so}", silent.join(", "));
        text.push_str(&style.paint(Tone::Warning, line));
    }
    text
}

/// What it means for a list that nodes were silent.
const MISSING: &str = ": what only they know is shown as '?' (`atoll status` says more)";

/// A size that only a silent node knows.
fn known_size(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "?".to_owned(), size)
}

/// A table without borders; the columns named in `right` are aligned to the right.
pub(crate) fn table<const N: usize>(
    head: [&str; N],
    right: &[usize],
    rows: Vec<[String; N]>,
) -> String {
    let mut table = Table::new();
    table
        .load_preset(comfy_table::presets::NOTHING)
        .set_header(head.map(str::to_uppercase));
    table.add_rows(rows);
    for index in 0..N {
        if let Some(column) = table.column_mut(index) {
            column.set_padding((0, 2));
            if right.contains(&index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

/// Names and values, one a line.
fn sheet(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let line = |(name, value): &(&str, String)| format!("{name:<width$}  {value}");
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

pub(crate) fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

fn condition(condition: Condition, style: Style) -> String {
    match condition {
        Condition::Up => style.paint(Tone::Good, "up"),
        Condition::Suspect => style.paint(Tone::Warning, "suspect"),
        Condition::Away => style.paint(Tone::Bad, "away"),
        Condition::Lost => style.paint(Tone::Bad, "lost"),
    }
}

/// A condition, and whether the operator has it emptied.
fn condition_of(is: Condition, draining: bool, style: Style) -> String {
    let drains = match draining {
        true => style.paint(Tone::Warning, ", draining"),
        false => String::new(),
    };
    format!("{}{drains}", condition(is, style))
}

fn owner(volume: &Volume, style: Style) -> String {
    let tone = match volume.state {
        VolumeState::Idle => Tone::Quiet,
        _ => Tone::Warning,
    };
    let none = || style.paint(tone, "none");
    volume.owner.clone().unwrap_or_else(none)
}

fn state(volume: &Volume, style: Style) -> String {
    match volume.state {
        VolumeState::Idle => style.paint(Tone::Quiet, "idle"),
        VolumeState::Serving => style.paint(Tone::Good, "serving"),
        VolumeState::Starting => style.paint(Tone::Warning, "starting"),
        VolumeState::Unknown => style.paint(Tone::Bad, "unknown"),
    }
}

fn one_volume(volume: &Volume, style: Style) -> String {
    let mut rows = vec![
        ("volume", style.paint(Tone::Strong, &volume.name)),
        ("size", size(volume.size_bytes)),
        ("code", volume.code.clone()),
        ("home", volume.home.clone()),
        ("state", state(volume, style)),
        ("owner", owner(volume, style)),
        ("epoch", Epoch(volume.epoch).to_string()),
        ("journal", volume.journal.join(", ")),
    ];
    if let Some(recovered) = &volume.recovered {
        let line = in_a_line(recovered);
        rows.push(("recovered", style.paint(Tone::Bad, line)));
    }
    match (&volume.stats, &volume.stats_missing) {
        (Some(stats), _) => {
            rows.extend([
                ("logical", size(stats.logical_bytes)),
                ("stored", size(stats.stored_bytes)),
                ("untrimmed", size(stats.untrimmed_bytes)),
                ("sessions", stats.sessions.to_string()),
            ]);
            if let Some(current) = stats.replicas_current {
                let of = volume.journal.len();
                rows.push((
                    "replicas",
                    format!("{current} of {of} hold all that is committed"),
                ));
            }
        }
        (None, why) => {
            let why = why.as_deref().unwrap_or("nobody told");
            let line = format!("unknown: {why}");
            rows.push(("figures", style.paint(Tone::Warning, line)));
        }
    }
    sheet(&rows)
}

fn many_volumes(volumes: &Volumes, style: Style) -> String {
    if volumes.volumes.is_empty() {
        return "no volumes yet: `atoll volume create NAME --size 1GiB` makes one".into();
    }
    let row = |v: &Volume| {
        let of_stats = |get: fn(&VolumeStats) -> u64| known_size(v.stats.as_ref().map(get));
        [
            v.name.clone(),
            size(v.size_bytes),
            v.code.clone(),
            v.home.clone(),
            owner(v, style),
            state(v, style),
            of_stats(|s| s.logical_bytes),
            of_stats(|s| s.stored_bytes),
            of_stats(|s| s.untrimmed_bytes),
        ]
    };
    let rows = volumes.volumes.iter().map(row).collect();
    table(
        [
            "volume",
            "size",
            "code",
            "home",
            "owner",
            "is",
            "logical",
            "stored",
            "untrimmed",
        ],
        &[1, 6, 7, 8],
        rows,
    )
}

fn many_caches(dropped: &CacheDropped) -> String {
    let rows = dropped
        .nodes
        .iter()
        .map(|n| [n.node.clone(), size(n.dropped_bytes)]);
    let nodes = table(["node", "dropped"], &[1], rows.collect());
    let all = size(dropped.dropped_bytes);
    format!("{nodes}\n\ndropped {all} of cached blocks")
}

fn many_sites(sites: &Sites, style: Style) -> String {
    let rows = sites.sites.iter().map(|s| {
        let mut is = condition(s.condition, style);
        is += match s.witness {
            Some(OneLeft::Stall) => ", witness",
            Some(OneLeft::Write) => ", witness (writes go on with one data site)",
            None => "",
        };
        [
            s.name.clone(),
            is,
            s.nodes.join(", "),
            s.volumes_owned.to_string(),
            known_size(s.used_bytes),
            size(s.capacity_bytes),
        ]
    });
    table(
        ["site", "is", "nodes", "volumes", "used", "of"],
        &[3, 4, 5],
        rows.collect(),
    )
}

fn many_nodes(nodes: &Nodes, style: Style) -> String {
    let rows = nodes.nodes.iter().map(|n| {
        let mut is = condition_of(n.condition, n.draining, style);
        if n.maintenance_s.is_some() {
            is += &style.paint(Tone::Warning, ", in maintenance");
        }
        [
            n.name.clone(),
            n.site.clone(),
            is,
            n.quic.clone(),
            n.nbd.clone(),
            n.volumes_owned.to_string(),
            known_size(n.used_bytes),
            size(n.capacity_bytes),
            known_size(n.cache_bytes),
        ]
    });
    table(
        [
            "node",
            "site",
            "is",
            "quic (udp)",
            "nbd (tcp)",
            "volumes",
            "used",
            "of",
            "cached",
        ],
        &[5, 6, 7, 8],
        rows.collect(),
    )
}

fn many_disks(disks: &Disks, style: Style) -> String {
    let rows = disks.disks.iter().map(|d| {
        let mut is = condition_of(d.condition, d.draining, style);
        is += match d.fault {
            Some(Fault::Rots) => " (it corrupts data)",
            Some(Fault::Slow) => " (it is slow)",
            None => "",
        };
        [
            d.name.clone(),
            d.site.clone(),
            is,
            known_size(d.used_bytes),
            size(d.capacity_bytes),
            super::scrub::in_short(d.scrub.as_ref(), style),
            d.path.clone().unwrap_or_else(|| "?".to_owned()),
        ]
    });
    table(
        ["disk", "site", "is", "used", "of", "scrub", "path"],
        &[3, 4],
        rows.collect(),
    )
}

fn one_status(status: &Status, style: Style) -> String {
    let count = |n: UpOf| {
        let tone = if n.up == n.of { Tone::Good } else { Tone::Bad };
        style.paint(tone, format!("{}/{}", n.up, n.of))
    };
    let counts = [
        ("sites", status.sites),
        ("nodes", status.nodes),
        ("disks", status.disks),
        ("volumes", status.volumes),
    ];
    let counts = counts
        .map(|(name, n)| format!("{name} {}", count(n)))
        .join("   ");
    let verdict = match status.healthy {
        true => style.paint(Tone::Good, "healthy"),
        false => style.paint(Tone::Bad, "degraded"),
    };
    let mut text = format!(
        "{verdict}   {counts}   {}",
        style.paint(Tone::Quiet, format!("(seen by {})", status.seen_by))
    );
    for degraded in &status.degraded {
        let mark = style.paint(Tone::Bad, "!");
        let what = style.paint(Tone::Strong, &degraded.what);
        text.push_str(&format!(
            "\n\n{mark} {what}\n  why    {}\n  doing  {}",
            degraded.why, degraded.doing
        ));
    }
    for note in &status.notes {
        text.push_str(&format!(
            "\n\n{}",
            style.paint(Tone::Warning, format!("note: {note}"))
        ));
    }
    match status.at_risk_bytes {
        Some(0) => {}
        Some(bytes) => text.push_str(&format!(
            "\n\nat risk: {} of segments would not survive the next loss",
            size(bytes)
        )),
        None => text.push_str("\n\nat risk: not counted yet"),
    }
    for repair in &status.repairs {
        text.push_str("\n\n");
        text.push_str(&lifecycle::repair(repair, style));
    }
    text
}

fn many_syncs(syncs: &Syncs) -> String {
    let rows = syncs
        .disks
        .iter()
        .map(|d| [d.disk.clone(), d.site.clone(), d.journal_syncs.to_string()]);
    table(["disk", "site", "journal syncs"], &[2], rows.collect())
}

fn many_files(journal: &Journal, style: Style) -> String {
    let rows = journal.files.iter().map(|f| {
        let state = match f.trimmed {
            true => style.paint(Tone::Quiet, "trimmed"),
            false => "in use".into(),
        };
        [f.disk.clone(), state, size(f.bytes), f.path.clone()]
    });
    table(["disk", "is", "size", "path"], &[2], rows.collect())
}

/// Processes that were started or stopped.
#[must_use]
pub fn processes(processes: &[Process]) -> String {
    let line = |p: &Process| match (p.pid, p.waits_for) {
        (Some(pid), None) => format!("node {} runs (pid {pid})", p.name),
        (Some(pid), Some(lacks @ WaitingFor::Removed)) => {
            format!(
                "node {} runs (pid {pid}), and will not serve: it waits for {lacks}",
                p.name
            )
        }
        (Some(pid), Some(lacks)) => format!(
            "node {} runs (pid {pid}), and does not serve yet: it waits for {lacks} (start other nodes, or mend links)",
            p.name
        ),
        (None, _) => format!("node {} is stopped", p.name),
    };
    processes.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Links, each direction.
#[must_use]
pub fn links(links: &[Link], style: Style) -> String {
    let millis = |us: u64| format!("{}.{:01} ms", us / 1000, us % 1000 / 100);
    let rows = links.iter().map(|l| {
        let is = match l.cut {
            true => style.paint(Tone::Bad, "cut"),
            false => style.paint(Tone::Good, "open"),
        };
        let limit = match l.bytes_per_second {
            0 => "none".into(),
            limit => format!("{}/s", size(limit)),
        };
        let loss = format!("{}.{:04}%", l.loss_ppm / 10_000, l.loss_ppm % 10_000);
        let (delay, jitter) = (millis(l.delay_us), millis(l.jitter_us));
        [
            format!("{} -> {}", l.from, l.to),
            is,
            delay,
            jitter,
            loss,
            limit,
            size(l.bytes_passed),
        ]
    });
    table(
        ["link", "is", "delay", "jitter", "loss", "limit", "passed"],
        &[2, 3, 4, 5, 6],
        rows.collect(),
    )
}
