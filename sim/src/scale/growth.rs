//! A site is added: what moves to it, and what would have to.

use model::geometry::{Code, Pool};
use model::ids::SiteId;
use raft_meta::global::PoolEntry;
use raft_meta::node::{AdminCommand, AdminReply};

use super::fabric::{Fabric, admin};
use super::report::{Section, Value};

/// A code that no volume has yet.
const LATER: Code = Code::Rs { k: 6, m: 3 };

pub(super) fn site(fabric: &Fabric) -> Section {
    let mut section = Section::new("add-site", "A site is added, as large as the others");
    let mut grown = fabric.clone();
    grown.add_site(fabric.size.sites);
    grown.assign();
    let moved = fabric.sites.iter().map(|(site, group)| {
        let after = &grown.sites[site].state().slots;
        let before = group.state().slots.iter();
        before
            .filter(|(pool, table)| after[pool] != **table)
            .count()
    });
    section.count("moved", "sites' tables that change", moved.sum());
    let new = SiteId(fabric.size.sites + 1);
    let share = |entry: &PoolEntry| entry.sites.iter().filter(|site| **site == new).count();
    let old: usize = grown.global.state().pools.values().map(share).sum();
    section.count(
        "old-slots",
        "slots of pools that are there which it gets",
        old,
    );
    let even = fabric.stored_bytes() / (u64::from(fabric.size.sites) + 1);
    let what = "would have to move, were old pools spread over it";
    section.put("even-bytes", what, Value::Bytes(even));
    let command = AdminCommand::CreatePool { code: LATER };
    assert_eq!(admin(&mut grown.global, command), AdminReply::Done);
    let later = Pool::of(LATER);
    let entry = &grown.global.state().pools[&later];
    let slots = entry.sites.len();
    let what = format!("slots that it gets of a pool made later ({LATER}, {slots} slots)");
    section.count("new-slots", what, share(entry));
    section
}
