//! Against what can be computed by hand, and against plain chance.

use std::time::Duration;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

/// Nothing fails, and nothing takes longer than it must.
fn calm(sites: u8, nodes: u16, disks: u16, rows: u16) -> Terms {
    Terms {
        shape: Shape {
            sites,
            nodes,
            disks,
            rows,
            disk_bytes: 1 << 40,
        },
        rates: Rates {
            disk_lost: 0.0,
            rot: 0.0,
            node_outage: 0.0,
            node_lost: 0.0,
            site_outage: 0.0,
            site_lost: 0.0,
        },
        times: Times {
            heal_after: Duration::ZERO,
            replace: Duration::ZERO,
            rebuild_bytes_per_s: Some((1 << 40) / 36_000),
            ..Times::default()
        },
    }
}

/// A small fabric that fails often enough for plain chance to see it.
fn harsh() -> Terms {
    let mut terms = calm(3, 3, 1, 8);
    terms.rates = Rates {
        disk_lost: 1.0,
        rot: 1.0,
        node_outage: 2.0,
        node_lost: 0.2,
        site_outage: 2.0,
        site_lost: 1.0,
    };
    terms.times.heal_after = HOUR;
    terms.times.replace = 20 * HOUR;
    terms.times.replace_site = 100 * HOUR;
    terms
}

fn effort(cycles: u32, forced: bool) -> Effort {
    Effort {
        cycles,
        seed: 7,
        forced,
    }
}

fn code(name: &str) -> Code {
    name.parse().expect("a code")
}

fn estimated(terms: &Terms, name: &str, effort: &Effort) -> Durability {
    estimate(terms, code(name), effort).expect("it can be estimated")
}

/// Within four standard errors, which are small.
fn assert_is(estimate: Estimate, expected: f64) {
    assert!(estimate.relative_error < 0.05, "{estimate:?}");
    let off = (estimate.value / expected - 1.0).abs();
    assert!(
        off < 4.0 * estimate.relative_error + 1e-9,
        "{estimate:?}, not {expected}"
    );
}

/// A mirror of two disks, whose repair takes T: a cycle is lost with 1 - exp(-rate T), so that the
/// mean time to data loss is 1 / (2 rate (1 - exp(-rate T))) + 1 / rate. Where T is exponential with
/// the mean 1 / mu, the same gives the well-known (3 rate + mu) / (2 rate^2).
#[test]
fn a_mirror_is_lost_as_often_as_the_formula_says() {
    for (afr, heal_h) in [(0.02, 0), (0.5, 24)] {
        let mut terms = calm(2, 1, 1, 1);
        terms.rates.disk_lost = afr;
        terms.times.heal_after = heal_h * HOUR;
        let found = estimated(&terms, "rs:1+1", &effort(20_000, true));
        let rate = afr / YEAR_H;
        let repair_h = f64::from(heal_h) + found.rebuild_h;
        let lost = -(-rate * repair_h).exp_m1();
        let mean_h = 1.0 / (2.0 * rate * lost) + 1.0 / rate;
        assert_is(found.loss, -(-YEAR_H / mean_h).exp_m1());
    }
}

/// Three disks that hold a copy each, all rebuilt at once (one a site): 3 rate, then 2 rate
/// within T, then rate within what is left of the first repair, or of the second one.
#[test]
fn three_copies_are_lost_as_often_as_the_leading_term_says() {
    let mut terms = calm(3, 1, 1, 1);
    terms.rates.disk_lost = 0.02;
    let found = estimated(&terms, "rs:1+2", &effort(40_000, true));
    let per_h = 0.02 / YEAR_H;
    // The second falls anywhere in T, and the third into the rest of it: T^2 / 2.
    let a_cycle = 2.0 * per_h * per_h * found.rebuild_h * found.rebuild_h / 2.0;
    let a_year = 3.0 * 0.02 * a_cycle;
    // Terms of the next order are some 1e-4 of it.
    assert_is(found.loss, a_year);
}

#[test]
fn a_site_that_is_away_is_missed_for_its_share_of_the_time() {
    let mut terms = calm(1, 2, 1, 4);
    terms.rates.site_outage = 2.0;
    let found = estimated(&terms, "rs:1+1", &effort(20_000, true));
    let (up_h, away_h) = (YEAR_H / 2.0, 4.0);
    let expected = away_h / (up_h + away_h) * YEAR_H * 60.0;
    assert_is(found.unavailable_min, expected);
    assert_eq!(found.loss.value, 0.0);
}

#[test]
fn forced_failures_find_what_chance_finds() {
    let terms = harsh();
    for name in ["rs:4+2", "geo:2+1"] {
        let forced = estimated(&terms, name, &effort(8_000, true));
        let plain = estimated(&terms, name, &effort(25_000, false));
        let pairs = [
            (forced.loss, plain.loss),
            (forced.unavailable_min, plain.unavailable_min),
        ];
        for (a, b) in pairs {
            assert!(
                a.relative_error < 0.25 && b.relative_error < 0.25,
                "{name}: {a:?} {b:?}"
            );
            let error = (a.relative_error * a.value).hypot(b.relative_error * b.value);
            assert!(
                (a.value - b.value).abs() < 4.0 * error,
                "{name}: {a:?} {b:?}"
            );
        }
    }
}

#[test]
fn a_weaker_code_loses_more() {
    let names = ["rs:4+2", "rs:2+2", "rs:1+2"];
    let terms = Terms::default();
    let effort = effort(1_000, true);
    let found = names.map(|name| estimated(&terms, name, &effort).loss);
    for pair in found.windows(2) {
        assert!(pair[0].low > pair[1].high, "{found:?}");
    }
}

#[test]
fn slower_repair_loses_more() {
    let mut terms = calm(3, 3, 4, 64);
    terms.rates.disk_lost = 0.0157;
    let quick = estimated(&terms, "rs:4+2", &effort(2_000, true)).loss;
    terms.times.rebuild_bytes_per_s = Some((1 << 40) / 360_000);
    let slow = estimated(&terms, "rs:4+2", &effort(2_000, true)).loss;
    // Two more are to fail within the time that is ten times as long.
    assert!(
        slow.low > 30.0 * quick.high && slow.high < 300.0 * quick.low,
        "{slow:?} {quick:?}"
    );
}

#[test]
fn a_seed_decides_everything() {
    let terms = Terms::default();
    let [first, second] = [(); 2].map(|()| estimated(&terms, "rs:4+2", &effort(200, true)));
    assert_eq!(first, second);
}

#[test]
fn rows_lie_as_the_groups_say() {
    let shape = Shape::default();
    let layout = Layout::of(&shape, code("rs:4+2"), 1).expect("it fits");
    assert_eq!(layout.rows.len(), 64);
    for (number, row) in layout.rows.iter().enumerate() {
        let nodes: std::collections::BTreeSet<_> = row.iter().map(|d| layout.node_of(*d)).collect();
        assert_eq!(nodes.len(), 6, "each on a node of its own");
        assert!((0..3).all(|site| layout.held(number, site) == 2));
    }
}

#[test]
fn a_lost_disk_is_rebuilt_apart_from_its_rows() {
    let terms = Terms::default();
    let code = code("rs:4+2");
    let layout = Layout::of(&terms.shape, code, 1).expect("it fits");
    let mut judge = Judge::new(&layout.codec);
    let mut world = world::World::new(&layout, Paces::of(&terms, code));
    world.lose_disk(0, 1e9);
    let lost = world.rebuilds.len();
    assert!(
        lost > 0 && world.jobs(&mut judge).is_empty(),
        "it may come back"
    );
    world.now = 1.0;
    for _ in 0..lost {
        let jobs = world.jobs(&mut judge);
        assert_eq!(jobs.len(), 1, "one after the other");
        let to = world.rebuilds[&jobs[0]].to.expect("it was begun");
        assert_eq!(layout.site_of(to), 0, "in the same site");
        world.end_rebuild(jobs[0]);
    }
    for row in &world.at {
        let nodes: std::collections::BTreeSet<_> = row.iter().map(|d| layout.node_of(*d)).collect();
        assert_eq!(nodes.len(), 6, "each on a node of its own");
    }
    assert!(
        world.rebuilds.is_empty() && !world.is_whole(),
        "the disk is to be replaced"
    );
}

#[test]
fn a_site_lost_leaves_a_flat_code_nothing_to_spare_until_it_is_written_anew() {
    let terms = Terms::default();
    let paces = |code| Paces::of(&terms, code);
    for (name, rewrites) in [("rs:4+2", true), ("rs:1+2", false), ("geo:2+1", false)] {
        let code = code(name);
        let layout = Layout::of(&terms.shape, code, 1).expect("it fits");
        let mut judge = Judge::new(&layout.codec);
        let mut world = world::World::new(&layout, paces(code));
        world.lose_site(1);
        assert_eq!(world.loss(&mut judge), None, "{name}");
        assert_eq!(world.rewritten_at.is_some(), rewrites, "{name}");
        world.lose_disk(0, 1e9);
        let lost = rewrites.then_some(Cause::Site);
        assert_eq!(world.loss(&mut judge), lost, "{name}");
        world.end_rewriting();
        let without_site = world.elsewhere.iter().all(|row| *row == rewrites);
        assert!(without_site && world.loss(&mut judge).is_none(), "{name}");
    }
}

#[test]
fn what_can_not_be_is_refused() {
    let terms = Terms::default();
    let refused = |terms: &Terms, name| estimate(terms, code(name), &effort(10, true)).err();
    assert!(matches!(
        refused(&terms, "rs:8+1"),
        Some(DurabilityError::Code { .. })
    ));
    let mut none = terms;
    none.shape.nodes = 0;
    assert_eq!(refused(&none, "rs:4+2"), Some(DurabilityError::Shape));
    let mut never = terms;
    never.rates.disk_lost = -1.0;
    assert_eq!(refused(&never, "rs:4+2"), Some(DurabilityError::Rates));
    let mut stuck = terms;
    stuck.rates.node_outage = 10_000.0;
    stuck.times.node_outage = 100 * HOUR;
    stuck.rates.disk_lost = 0.0;
    stuck.rates.node_lost = 0.0;
    stuck.rates.site_lost = 0.0;
    assert_eq!(refused(&stuck, "rs:4+2"), Some(DurabilityError::NeverWhole));
}
