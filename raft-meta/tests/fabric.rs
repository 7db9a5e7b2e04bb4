//! Whole fabrics of metadata machines on virtual time.

mod harness;

use model::geometry::{Code, Pool};
use model::ids::{NodeId, SiteId};
use model::meta::{MetaReply, MetaRequest, Refusal};
use model::placement::Presence;
use raft_meta::GroupId;

use harness::{MS, World};

#[test]
fn bootstrap_by_joins_then_a_volume() {
    let mut w = World::fabric(1, 3);
    // R21: one voter a site; every site's group has three.
    let sites: Vec<_> = w.voters(GroupId::Global).iter().map(|n| w.site_of(*n)).collect();
    assert_eq!(sites.len(), 3);
    for site in (1..=3).map(SiteId) {
        assert!(sites.contains(&site));
        assert_eq!(w.voters(GroupId::Site(site)).len(), 3);
    }
    let v = w.create_volume(NodeId(9), "vol", SiteId(2));
    assert!(v.clean && v.owner.is_none());
    let claimed = w.claim(NodeId(5), &v);
    assert_eq!(claimed.epoch, v.epoch.next());
    assert!(!claimed.clean);
    let owner = claimed.owner.expect("an owner");
    assert_eq!((owner.node, owner.boot), (NodeId(5), Some(w.hosts[&NodeId(5)].identity.boot)));
    // Another node may not.
    let request =
        MetaRequest::Claim { volume: v.id, expected: claimed.epoch, node: NodeId(6) };
    let refused = w.request(NodeId(6), request);
    assert!(matches!(refused, MetaReply::Refused { reason: Refusal::NotYours, .. }));
    // Every node sees the volume and the complete tables.
    w.run(1500 * MS);
    for host in w.hosts.values() {
        let view = host.view.as_ref().expect("a view");
        assert_eq!(view.volumes[&v.id], claimed);
        for code in [v.code, Code::INDEX] {
            let table = &view.pools[&Pool { code, without: None }];
            assert!(table.disks.iter().all(Option::is_some));
        }
    }
}
