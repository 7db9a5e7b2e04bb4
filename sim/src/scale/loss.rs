//! A site is lost for good: what lay there, which rows stand how, and what is written anew.

use std::collections::BTreeMap;
use std::time::Duration;

use model::ids::SiteId;
use raft_meta::global::GlobalCommand;

use super::fabric::{CODE, Fabric, POOL};
use super::report::{Section, Value};

/// What segments take while a site is away: as much parity as data (R26).
const AWAY_OVERHEAD: u64 = 2;

pub(super) fn site(fabric: &Fabric) -> Section {
    let size = &fabric.size;
    let title = format!(
        "A site is lost for good, of {} that hold {CODE}",
        size.sites
    );
    let mut section = Section::new("lose-site", title);
    let dead = SiteId(1);
    let entry = &fabric.global.state().pools[&POOL];
    let rows = entry.sites.chunks(usize::from(entry.slots));
    let mut by_loss: BTreeMap<usize, u64> = BTreeMap::new();
    for row in rows {
        let lost = row.iter().filter(|site| **site == dead).count();
        *by_loss.entry(lost).or_default() += 1;
    }
    let slots: u64 = by_loss.iter().map(|(lost, rows)| *lost as u64 * rows).sum();
    section.put("slots", "slots that are lost", Value::Count(slots));
    let slot_bytes = fabric.slot_bytes();
    section.put("bytes", "in them", Value::Bytes(slots * slot_bytes));
    let can_lose = usize::from(CODE.slots() - CODE.data_fragments());
    let weak = by_loss.iter().filter(|(lost, _)| **lost >= can_lose);
    let weak: u64 = weak.map(|(_, rows)| rows).sum();
    section.put(
        "weak",
        "rows with nothing to spare, which owners write anew",
        Value::Count(weak),
    );
    let touched: u64 = by_loss
        .iter()
        .filter(|(lost, _)| **lost > 0)
        .map(|(_, rows)| rows)
        .sum();
    let what = "rows that lack a slot and can lose another: they stay as they are";
    section.put("thin", what, Value::Count(touched - weak));
    let in_row = slot_bytes * u64::from(CODE.data_fragments());
    let written = weak * in_row * AWAY_OVERHEAD;
    section.put(
        "rewritten",
        "bytes that are written anew",
        Value::Bytes(written),
    );
    let each = written / (u64::from(size.sites) - 1);
    let takes = Duration::from_secs_f64(each as f64 / size.link_bytes_per_s as f64);
    let what = "for that, at least, at the pace of the links";
    section.put("rewrite-time", what, Value::Virtual(takes));
    put_pool(fabric, dead, &mut section);
    section
}

/// The pool for new segments.
fn put_pool(fabric: &Fabric, dead: SiteId, section: &mut Section) {
    let mut global = fabric.global.clone();
    let nodes = global.state().nodes.iter();
    let left = nodes.filter(|(_, n)| n.site != dead);
    let candidates = left.map(|(node, _)| *node).collect();
    global.decide(&GlobalCommand::FailSite {
        site: dead,
        candidates,
    });
    let pools = global.state().pools.iter();
    let mut without = pools.filter(|(pool, _)| pool.without == Some(dead));
    let (pool, entry) = without.next().expect("there are sites enough");
    let what = format!("slots of the pool for new segments ({})", pool.code);
    section.count("away-slots", what, entry.sites.len());
}
