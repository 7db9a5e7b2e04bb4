//! What a state costs beside its commands: snapshots, restarts, views, and who reads the views.

use std::sync::Arc;
use std::time::Duration;

use actors::host::Host;
use model::ids::NodeId;
use model::machine::Machine;
use model::placement::View;
use model::time::Time;
use raft_meta::MetaNode;
use raft_meta::global::GlobalState;
use raft_meta::message::GroupId;
use raft_meta::node::{Config, Effect};
use raft_meta::replica::Replica;

use super::fabric::Fabric;
use super::gauge::timed;
use super::report::{Report, Section, Value};
use super::voters::loaded;

pub(super) fn measure(fabric: &Fabric, report: &mut Report) {
    report.add(snapshot(fabric));
    report.add(views(fabric));
}

fn snapshot(fabric: &Fabric) -> Section {
    let mut section = Section::new("snapshot", "Snapshots of the global placement group");
    let (snapshot, took) = timed(|| fabric.global.replica.snapshot());
    section.put("encode", "encode", Value::Wall(took));
    let bytes = snapshot.state.len() as u64;
    section.put("bytes", "bytes", Value::Bytes(bytes));
    let volumes = fabric.global.state().volumes.len() as u64;
    section.put(
        "volume-bytes",
        "bytes a volume",
        Value::Bytes(bytes / volumes),
    );
    let (own, took) = timed(|| Replica::<GlobalState>::restore_own(&snapshot));
    section.put("decode", "decode", Value::Wall(took));
    let own = own.expect("its own snapshot");
    assert_eq!(
        own.state(),
        fabric.global.state(),
        "a snapshot is the state"
    );
    let travels = Replica::<GlobalState>::restore(&snapshot).is_ok();
    let what = "whether it may come from a peer, as one message (1: yes)";
    section.count("travels", what, usize::from(travels));
    section
}

fn views(fabric: &Fabric) -> Section {
    let mut section = Section::new("view", "A node's view of it all");
    let node = NodeId(1);
    let site = fabric.identity(node).site;
    let logs = vec![
        (GroupId::Global, loaded(&fabric.global.replica)),
        (GroupId::Site(site), loaded(&fabric.sites[&site].replica)),
    ];
    let now = Time(1_000_000_000);
    let (identity, config) = (fabric.identity(node), Config::default());
    let (meta, took) = timed(|| MetaNode::start(identity, config, Vec::new(), logs, 1, now));
    section.put("restart", "a node starts from its logs", Value::Wall(took));
    let mut meta = meta.expect("its own logs");
    let mut out = Vec::new();
    let ((), took) = timed(|| meta.tick(now, &mut out));
    section.put(
        "build",
        "make the view, after any change",
        Value::Wall(took),
    );
    let view = out.into_iter().find_map(|effect| match effect {
        Effect::View(view) => Some(view),
        _ => None,
    });
    let view = view.expect("a state makes a view");
    readers(fabric, &view, &mut section);
    section
}

/// The next view, in which one volume changed.
fn next(fabric: &Fabric, view: &Arc<View>) -> Arc<View> {
    let mut next = View::clone(view);
    let last = fabric.global.state().volumes.values().last();
    let record = last.expect("there is a volume").clone();
    next.volumes.insert(record.id, record);
    Arc::new(next)
}

fn readers(fabric: &Fabric, view: &Arc<View>, section: &mut Section) {
    let now = Time(1_000_000_000) + Duration::from_secs(1);
    let mut start = Vec::new();
    let empty = Arc::new(View::default());
    let mut host = Host::new(NodeId(1), empty);
    let ((), took) = timed(|| host.view(now, Arc::clone(view), &mut start));
    section.count(
        "started",
        "volumes that a restarted node starts",
        start.len(),
    );
    section.put(
        "host-first",
        "its Host reads the first view",
        Value::Wall(took),
    );
    let next = next(fabric, view);
    let ((), took) = timed(|| host.view(now, Arc::clone(&next), &mut start));
    section.put("host", "its Host reads the next one", Value::Wall(took));
    let unlike = || {
        next.volumes
            .unlike(&view.volumes)
            .filter(|v| v.deleted)
            .count()
    };
    let (tombstones, took) = timed(unlike);
    let what = "each of its disks looks for tombstones in it";
    section.put("tombstones", what, Value::Wall(took));
    assert_eq!(tombstones, 0, "nothing was deleted");
    let (none, took) = timed(|| view.volume_named("no such volume"));
    section.put(
        "named",
        "a volume is looked up by its name",
        Value::Wall(took),
    );
    assert_eq!(none, None);
}
