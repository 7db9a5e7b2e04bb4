//! A fabric is founded once: whoever founds it again, under whatever name, is heard by nobody.

mod harness;

use model::ids::{NodeId, SiteId};
use raft_meta::node::MetaNode;
use raft_meta::{MemoryLog, RaftLog};

use harness::{MS, World};

#[test]
fn a_second_founding_changes_nobodys_view() {
    for seed in 400..410 {
        let mut w = World::fabric(seed, 2);
        let founder = NodeId(1);
        let volume = w.create_volume(NodeId(2), "v", SiteId(1)).id;
        w.run(1000 * MS);
        w.crash(founder);
        let config = w.config.clone();
        let host = w.hosts.get_mut(&founder).expect("a host");
        let mut log = MemoryLog::default();
        log.write(&MetaNode::found(&host.identity, "site1", &config))
            .expect("memory");
        host.log = log;
        w.start(founder);
        for _ in 0..100 {
            w.run(50 * MS);
            for node in w.live().into_iter().filter(|n| *n != founder) {
                let view = w.hosts[&node].view.as_ref().expect("a view");
                assert!(view.sites.len() == 3, "seed {seed}: {node}");
                assert!(w.seen(node, volume).is_some(), "seed {seed}: {node}");
            }
        }
    }
}
