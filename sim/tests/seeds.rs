//! The slice of seeds that every change must pass. Optimized builds only: `cargo xtask test`
//! runs it so.

use std::time::Duration;

use actors::planted::Bug;
use sim::campaign::shown;
use sim::plan::Plan;
use sim::plan::topology::Topology;
use sim::run::{Failure, Options, Outcome, differs, run};

/// Each planted bug must show within so many seeds; most do within a few.
const CAUGHT_WITHIN: u64 = 500;

fn seed(seed: u64) -> Outcome {
    run(&Plan::draw(seed), Options::default())
}

fn assert_pass(of: impl Iterator<Item = (u64, Plan)>) {
    let fails = |(seed, plan): (u64, Plan)| {
        let failure = run(&plan, Options::default()).failure?;
        Some((seed, plan.topology, failure))
    };
    let failed: Vec<(u64, Topology, Failure)> = of.filter_map(fails).collect();
    assert!(
        failed.is_empty(),
        "replay with `cargo xtask sim --seed N`: {failed:?}"
    );
}

/// Which seed, counted from 1, shows a bug.
fn caught_in(bug: Bug) -> Option<u64> {
    (1..=CAUGHT_WITHIN).find(|seed| shown(&Plan::for_bug(bug, *seed), bug).is_some())
}

#[test]
fn a_run_that_fails_by_itself_shows_no_bug() {
    let shows = |plan: &Plan| shown(plan, Bug::ShortRead).is_some();
    let seed = (1..=20).find(|seed| shows(&Plan::draw(*seed)));
    let mut plan = Plan::draw(seed.expect("a bug of every read shows soon"));
    // Nothing can go on so soon after a fault, whatever is planted.
    plan.expect.rto = Some(Duration::from_nanos(1));
    plan.expect.written = Some(u64::MAX);
    assert!(run(&plan, Options::default()).failure.is_some());
    assert!(!shows(&plan));
}

#[test]
fn two_hundred_seeds_pass() {
    assert_pass((1..=200).map(|seed| (seed, Plan::draw(seed))));
}

/// Seeds that showed a fault of the product or of the simulator once, by what they showed: on the
/// fabric that they showed it on. (A change of the swarm gives them other runs; they are kept all
/// the same.)
#[test]
fn regression_seeds_pass() {
    // Replica and owner stepped on the spot after a mismatch: 200,000 messages a second.
    let mismatch_storm = [32];
    // The global group's voters changed one by one, through sets that a site's loss stops.
    let voters_in_transition = [2705];
    // Two nodes named each other as leader, and every redirect sent every ask again.
    let redirect_storm = [3751];
    // With two sites found away, the last one got two voters of four.
    let half_the_voters = [5857];
    // An owner began with the global record's checkpoint, whose record's place it did not
    // know, and no replica took a reset with it.
    let backstop_reset = [5024, 20559, 20799, 21489];
    // A set of replicas was adopted before its new member had joined; then a site was lost.
    let adopted_empty = [20544];
    // Merging a patch's base ended a drain's wait, and on an idle volume nobody took it on.
    let idle_merge = [19, 85];
    // Records of sessions alone kept the audit from beginning.
    let audit_never_began = [33, 95];
    // A leader that had applied its own removal went on leading, and raft-rs panicked.
    let removed_leader = [346, 1439];
    // Every opening said anew that there was damage before it: a journal that was healed was
    // damaged again after the next restart, and two at once are too many.
    let damage_said_again = [934, 1258, 1733];
    // A disk that was taken out was lost for good; one that stood still began too late.
    let of_the_simulator = [99153670759777981, 280];
    // The operator forgot that a node was lost for good, and waited for its disk; a node that is in
    // no group was told of the first one alone, and found nobody when that was lost.
    let of_a_lost_node = [64, 114, 355];
    // What a site's return left misplaced stayed so where other rows of its pool were at risk, or
    // where it could not be read when it was to be written anew.
    let misplaced = [640, 229];
    // A grant that came after its release was counted.
    let released = [339];
    // What was published left pieces of what it covered in the journals, which were lost then.
    let partial_backstop = [426, 790];
    // A second recovery with loss began before anybody had served after the first one.
    let recovered_twice = [961];
    // On narrow links, what was late was asked for again and again, and made all the rest late.
    let asked_again = [174, 541];
    let drawn = of_a_lost_node.into_iter().chain(misplaced).chain(released);
    let drawn = drawn.chain(partial_backstop).chain(recovered_twice);
    let drawn = drawn.chain(asked_again);
    assert_pass(drawn.map(|seed| (seed, Plan::draw(seed))));
    let all: [&[u64]; 11] = [
        &removed_leader,
        &damage_said_again,
        &of_the_simulator,
        &backstop_reset,
        &adopted_empty,
        &idle_merge,
        &audit_never_began,
        &mismatch_storm,
        &voters_in_transition,
        &redirect_storm,
        &half_the_voters,
    ];
    let seeds = all.into_iter().flatten();
    assert_pass(seeds.map(|seed| (*seed, Plan::draw_on(*seed, Topology::default()))));
}

/// A volume that fills the fabric is freed by a trim of its own: of data that was stored long
/// before, or of all, what waits for room included.
#[test]
fn a_crowded_fabric_is_freed_by_a_trim() {
    for seed in 1..=4 {
        let outcome = run(&Plan::crowded(seed), Options::default());
        assert_eq!(outcome.failure, None, "seed {seed}: {:?}", outcome.report);
    }
}

/// What a full fabric holds can be overwritten, again and again, without more room.
#[test]
fn a_crowded_fabric_takes_overwrites() {
    for seed in 1..=4 {
        let outcome = run(&Plan::overwritten(seed), Options::default());
        assert_eq!(outcome.failure, None, "seed {seed}: {:?}", outcome.report);
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [1, 7, 32, 95, 1000] {
        let (plan, options) = (Plan::draw(seed), Options::default());
        let first = run(&plan, options);
        assert_eq!(differs(&plan, options, &first), None, "seed {seed}");
    }
    assert_ne!(seed(1).trace_hash, seed(2).trace_hash);
}

#[test]
fn the_workload_is_no_idle_one() {
    let outcomes: Vec<Outcome> = (1..=20).map(seed).collect();
    let operations: u64 = outcomes.iter().map(|o| o.operations).sum();
    let checked: u64 = outcomes.iter().map(|o| o.checked).sum();
    let faults: usize = outcomes.iter().map(|o| o.faults.len()).sum();
    assert!(operations > 4000, "{operations} operations");
    assert!(checked > 40_000, "{checked} sector reads checked");
    assert!(faults > 40, "{faults} faults");
}

macro_rules! mutants {
    ($($name:ident: $bug:ident,)*) => {
        $(
            #[test]
            fn $name() {
                assert!(caught_in(Bug::$bug).is_some(), "{:?} escaped {CAUGHT_WITHIN} seeds", Bug::$bug);
            }
        )*

        /// No bug is left without its test.
        #[test]
        fn every_planted_bug_is_looked_for() {
            let looked_for = [$(Bug::$bug,)*];
            assert!(Bug::ALL.iter().all(|(bug, _, _)| looked_for.contains(bug)));
        }
    };
}

mutants! {
    finish_early_is_caught: FinishEarly,
    drained_takes_is_caught: DrainedTakes,
    drop_drained_is_caught: DropDrained,
    remove_full_is_caught: RemoveFull,
    repeat_epoch_is_caught: RepeatEpoch,
    restart_counter_is_caught: RestartCounter,
    unknown_counts_is_caught: UnknownCounts,
    early_trim_is_caught: EarlyTrim,
    adopt_shortest_is_caught: AdoptShortest,
    adopt_longest_is_caught: AdoptLongest,
    foreign_prefix_is_caught: ForeignPrefix,
    read_uncommitted_is_caught: ReadUncommitted,
    no_epoch_start_is_caught: NoEpochStart,
    skip_seal_is_caught: SkipSeal,
    ack_by_one_is_caught: AckByOne,
    lease_by_one_is_caught: LeaseByOne,
    old_set_alone_is_caught: OldSetAlone,
    adopt_behind_is_caught: AdoptBehind,
    two_in_one_site_is_caught: TwoInOneSite,
    expired_lease_is_caught: ExpiredLease,
    lost_promise_is_caught: LostPromise,
    recover_unfenced_is_caught: RecoverUnfenced,
    recover_forever_is_caught: RecoverForever,
    recover_hasty_is_caught: RecoverHasty,
    recover_keeps_sessions_is_caught: RecoverKeepsSessions,
    hasty_seal_is_caught: HastySeal,
    forgotten_lease_is_caught: ForgottenLease,
    late_lease_is_caught: LateLease,
    ignored_epoch_is_caught: IgnoredEpoch,
    lost_fsync_is_caught: LostFsync,
    ack_before_sync_is_caught: AckBeforeSync,
    damage_is_torn_is_caught: DamageIsTorn,
    unsynced_extent_is_caught: UnsyncedExtent,
    silent_ledger_is_caught: SilentLedger,
    forget_session_is_caught: ForgetSession,
    untabled_sessions_is_caught: UntabledSessions,
    known_at_once_is_caught: KnownAtOnce,
    renumbered_retry_is_caught: RenumberedRetry,
    silent_ended_is_caught: SilentEnded,
    unasked_clients_is_caught: UnaskedClients,
    evicted_session_is_caught: EvictedSession,
    patch_order_is_caught: PatchOrder,
    kept_edges_is_caught: KeptEdges,
    unjournaled_trim_is_caught: UnjournaledTrim,
    kept_tail_is_caught: KeptTail,
    stale_end_is_caught: StaleEnd,
    delta_order_is_caught: DeltaOrder,
    forgotten_leaf_is_caught: ForgottenLeaf,
    early_delete_is_caught: EarlyDelete,
    early_reference_is_caught: EarlyReference,
    forgotten_reference_is_caught: ForgottenReference,
    patch_base_is_caught: PatchBase,
    lost_reference_is_caught: LostReference,
    left_segment_is_caught: LeftSegment,
    condemn_own_is_caught: CondemnOwn,
    endless_patience_is_caught: EndlessPatience,
    healed_in_maintenance_is_caught: HealedInMaintenance,
    spare_own_is_caught: SpareOwn,
    reused_id_is_caught: ReusedId,
    refused_overwrite_is_caught: RefusedOverwrite,
    no_reserve_is_caught: NoReserve,
    held_overwrite_is_caught: HeldOverwrite,
    held_space_is_caught: HeldSpace,
    full_disk_is_caught: FullDisk,
    unchecked_fragment_is_caught: UncheckedFragment,
    crowded_voters_is_caught: CrowdedVoters,
    weak_index_is_caught: WeakIndex,
    trim_alone_is_caught: TrimAlone,
    no_pool_of_left_is_caught: NoPoolOfLeft,
    left_at_risk_is_caught: LeftAtRisk,
    left_unread_is_caught: LeftUnread,
    away_counts_is_caught: AwayCounts,
    blind_move_is_caught: BlindMove,
    stray_copy_is_caught: StrayCopy,
    dropped_patch_is_caught: DroppedPatch,
    never_left_is_caught: NeverLeft,
    left_for_good_is_caught: LeftForGood,
    crowded_node_is_caught: CrowdedNode,
    crowded_site_is_caught: CrowdedSite,
    stays_put_is_caught: StaysPut,
    never_spread_is_caught: NeverSpread,
    swinging_spread_is_caught: SwingingSpread,
    crowded_move_is_caught: CrowdedMove,
    wrong_status_is_caught: WrongStatus,
    short_status_is_caught: ShortStatus,
    short_read_is_caught: ShortRead,
    blind_scrub_is_caught: BlindScrub,
    unmissed_fragment_is_caught: UnmissedFragment,
    lingering_mend_is_caught: LingeringMend,
    wrong_slot_is_caught: WrongSlot,
    unscaled_sum_is_caught: UnscaledSum,
    trusted_disk_is_caught: TrustedDisk,
}
