use std::collections::BTreeMap;

use model::ids::{Incarnation, NodeId, SiteId, VolumeId};
use model::placement::{Alone, Presence, SiteRole, View};
use raft_meta::GroupId;
use raft_meta::message::{MemberId, Members};
use transport::fence::{DrillId, Standing};

use super::reasons;
use crate::daemon::admin::show::Heard;
use crate::daemon::admin::status::status;
use crate::daemon::admin::status::tests::view;
use crate::daemon::peers::{Figures, VolumeFigures};

const B: SiteId = SiteId(2);

fn members(nodes: &[u16]) -> Members {
    let member = |node: &u16| MemberId::new(NodeId(*node), Incarnation(1));
    Members::of_voters(nodes.iter().map(member).collect())
}

fn groups(global: &[u16]) -> BTreeMap<GroupId, Members> {
    BTreeMap::from([
        (GroupId::Global, members(global)),
        (GroupId::Site(B), members(&[21])),
    ])
}

/// What all nodes tell, the owner of the one volume with that many replicas in step.
fn figures(in_step: u64) -> BTreeMap<NodeId, Figures> {
    let serving = VolumeFigures {
        serving: true,
        leads: true,
        replicas: 3,
        replicas_current: 2,
        replicas_in_step: in_step,
        ..VolumeFigures::default()
    };
    let mut all: BTreeMap<NodeId, Figures> = [11, 12, 21, 22, 31, 32]
        .map(|id| (NodeId(id), Figures::default()))
        .into();
    let owner = all.get_mut(&NodeId(11)).expect("it is there");
    owner.volumes.insert(VolumeId(1), serving);
    all
}

fn why(view: &View, heard: &Heard, global: &[u16], site: SiteId) -> String {
    reasons(view, heard, &groups(global), (site, "a1")).join("; ")
}

#[test]
fn a_site_is_fenced_where_all_is_whole_and_bears_it() {
    let (view, all) = (view(), Heard::of(figures(3), vec![]));
    let global = [11, 21, 22, 31, 32];
    // That a replica is behind by what is on its way does not count.
    assert_eq!(why(&view, &all, &global, B), "");
    let two_of_three = why(&view, &all, &[21, 22, 31], B);
    assert!(
        two_of_three.contains("1 of its 3 voters would answer without site b"),
        "{two_of_three}"
    );
    let lags = Heard::of(figures(2), vec![]);
    let lags = why(&view, &lags, &global, B);
    assert!(
        lags.contains("2 of its 3 journal replicas would serve, of which 1 may lag"),
        "{lags}"
    );
}

#[test]
fn a_site_is_not_fenced_beside_anything_else_that_is_missing() {
    let global = [11, 21, 31];
    let silent = Heard::of(figures(3), vec![NodeId(32)]);
    let told = why(&view(), &silent, &global, B);
    assert!(told.contains("node c2"), "{told}");

    let mut parted = view();
    parted.sites.get_mut(&SiteId(3)).expect("there").presence = Presence::Down;
    let all = Heard::of(figures(3), vec![]);
    let told = why(&parted, &all, &global, B);
    assert!(told.contains("fewer than two"), "{told}");

    let mut witness = view();
    let alone = Alone::Stall;
    witness.sites.get_mut(&B).expect("there").role = SiteRole::Witness { alone };
    let told = why(&witness, &all, &global, B);
    assert!(told.contains("witness"), "{told}");
}

#[test]
fn a_fence_is_told_by_status_and_keeps_others_from_theirs() {
    let view = view();
    let mut told = figures(3);
    for (node, ends_in_ms) in [(11, 900), (31, 2100)] {
        let fence = Standing {
            drill: DrillId(7),
            site: B,
            ends_in_ms,
            left_ms: 41_000,
        };
        told.get_mut(&NodeId(node)).expect("there").fence = Some(fence);
    }
    let heard = Heard::of(told, vec![]);
    let status = status(&view, &heard, &groups(&[11, 21, 31]), "a1");
    let [first] = &status.degraded[..] else {
        panic!("one fence, told once: {:?}", status.degraded)
    };
    assert!(!status.healthy && first.what == "drill at site b");
    assert!(
        first.doing.contains("over 3 s after") && first.doing.contains("in 41 s"),
        "{}",
        first.doing
    );
    let busy = why(&view, &heard, &[11, 21, 31], SiteId(3));
    assert!(busy.contains("drill at site b"), "{busy}");
}
