//! What a state costs beside its commands: snapshots, restarts, views, and who reads the views.

use std::time::Instant;

use actors::host::Host;
use model::ids::NodeId;
use model::machine::Machine;
use model::time::Time;
use raft_meta::MetaNode;
use raft_meta::message::GroupId;
use raft_meta::node::{Config, Effect};
use raft_meta::replica::Replica;

use super::fabric::Fabric;
use super::report::{Report, Section, Value};
use super::voters::loaded;

pub(super) fn measure(fabric: &Fabric, report: &mut Report) {
    let mut section = Section::new("snapshot", "Snapshots of the global placement group");
    let begun = Instant::now();
    let snapshot = fabric.global.replica.snapshot();
    section.put("encode", "encode", Value::Wall(begun.elapsed()));
    let bytes = snapshot.state.len() as u64;
    section.put("bytes", "bytes", Value::Bytes(bytes));
    let volumes = fabric.global.state().volumes.len() as u64;
    section.put(
        "volume-bytes",
        "bytes a volume",
        Value::Bytes(bytes / volumes),
    );
    let begun = Instant::now();
    let own: Replica<raft_meta::global::GlobalState> =
        Replica::restore_own(&snapshot).expect("its own snapshot");
    section.put("decode", "decode", Value::Wall(begun.elapsed()));
    assert_eq!(
        own.state(),
        fabric.global.state(),
        "a snapshot is the state"
    );
    drop(own);
    let travels = Replica::<raft_meta::global::GlobalState>::restore(&snapshot).is_ok();
    let what = "whether it may come from a peer, as one message (1: yes)";
    section.put("travels", what, Value::Count(u64::from(travels)));
    drop(snapshot);
    report.add(section);
    report.add(views(fabric));
}

fn views(fabric: &Fabric) -> Section {
    let mut section = Section::new("view", "A node's view of it all");
    let node = NodeId(1);
    let site = fabric.identity(node).site;
    let logs = vec![
        (GroupId::Global, loaded(&fabric.global.replica)),
        (GroupId::Site(site), loaded(&fabric.sites[&site].replica)),
    ];
    let mut now = Time(1_000_000_000);
    let begun = Instant::now();
    let (identity, config) = (fabric.identity(node), Config::default());
    let meta = MetaNode::start(identity, config, Vec::new(), logs, 1, now);
    let mut meta = meta.expect("its own logs");
    section.put(
        "restart",
        "a node starts from its logs",
        Value::Wall(begun.elapsed()),
    );
    let mut out = Vec::new();
    let begun = Instant::now();
    meta.tick(now, &mut out);
    section.put(
        "build",
        "make the view, after any change",
        Value::Wall(begun.elapsed()),
    );
    let view = out.into_iter().find_map(|effect| match effect {
        Effect::View(view) => Some(view),
        _ => None,
    });
    let view = view.expect("a state makes a view");
    now += std::time::Duration::from_millis(1);
    let mut host = Host::new(node, view.clone());
    let mut start = Vec::new();
    host.view(now, view.clone(), &mut start);
    section.count(
        "started",
        "volumes that a restarted node starts",
        start.len(),
    );
    let begun = Instant::now();
    host.view(now, view.clone(), &mut start);
    section.put(
        "host",
        "its Host reads a view",
        Value::Wall(begun.elapsed()),
    );
    let begun = Instant::now();
    let tombstones = view.volumes.values().filter(|v| v.deleted).count();
    section.put(
        "tombstones",
        "each of its disks looks for tombstones in it",
        Value::Wall(begun.elapsed()),
    );
    assert_eq!(tombstones, 0, "nothing was deleted");
    let begun = Instant::now();
    let none = view.volume_named("no such volume");
    section.put(
        "named",
        "a volume is looked up by its name",
        Value::Wall(begun.elapsed()),
    );
    assert_eq!(none, None);
    section
}
