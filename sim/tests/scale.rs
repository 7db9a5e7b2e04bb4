//! The scale mode, small: what it measures of the machines is as it must be.

use sim::scale::{Report, Size, SizeError, Value, run};

fn small() -> Size {
    Size {
        sites: 5,
        nodes: 40,
        disks: 160,
        volumes: 3000,
        rows: 512,
        ..Size::default()
    }
}

fn measured(size: &Size) -> Report {
    run(size, &mut |_| {}).expect("there is such a fabric")
}

fn count(report: &Report, section: &str, figure: &str) -> u64 {
    match report.value(section, figure) {
        Some(Value::Count(n)) => n,
        other => panic!("{section}.{figure} is {other:?}"),
    }
}

fn ratio(report: &Report, section: &str, figure: &str) -> f64 {
    match report.value(section, figure) {
        Some(Value::Ratio(n)) => n,
        other => panic!("{section}.{figure} is {other:?}"),
    }
}

#[test]
fn volumes_of_a_dead_site_are_served_evenly_by_the_others() {
    let size = small();
    let report = measured(&size);
    let dies = count(&report, "failover", "volumes");
    assert_eq!(dies, u64::from(size.volumes) / u64::from(size.sites));
    assert_eq!(count(&report, "failover", "unserved"), 0);
    let most = count(&report, "failover", "most") as f64;
    assert!(most <= ratio(&report, "failover", "mean") + 1.0, "{most}");
    let assigned = report.value("failover", "assigned");
    let Some(Value::Virtual(assigned)) = assigned else {
        panic!("a time of the virtual clock, not {assigned:?}");
    };
    assert!(assigned.as_secs() < 10, "{assigned:?}");
}

#[test]
fn slots_lie_as_they_must_and_few_move() {
    let report = measured(&small());
    assert_eq!(count(&report, "placement", "bad-rows"), 0);
    assert_eq!(count(&report, "placement", "idle-disks"), 0);
    assert!(ratio(&report, "placement", "usable") > 0.9);
    let even = ratio(&report, "placement", "mean");
    for change in ["lose-disk", "lose-node", "add-disk", "add-node"] {
        let (moved, least) = (
            count(&report, change, "moved"),
            count(&report, change, "least"),
        );
        assert!(
            moved > 0 && count(&report, change, "crowded") == 0,
            "{change}"
        );
        // What is lost moves, what is added gets its share, and hardly anything else does.
        let lacks = if change.starts_with("add") {
            least / 4
        } else {
            0
        };
        let is_due = (least - lacks..=least + least / 8).contains(&moved);
        assert!(is_due, "{change}: {moved} of {least}");
        let most = count(&report, change, "most") as f64;
        assert!(
            most <= even * 1.5,
            "{change}: {most} slots on a disk, {even} are even"
        );
    }
    assert_eq!(
        count(&report, "add-site", "moved"),
        0,
        "slots move within their site only"
    );
    assert!(count(&report, "add-site", "new-slots") > 0);
}

#[test]
fn all_that_is_counted_follows_from_the_seed() {
    let size = small();
    let exact = |report: &Report| -> Vec<_> {
        let all = report.exact().map(|(section, f)| (section, f.clone()));
        all.collect()
    };
    let first = exact(&measured(&size));
    assert!(first.len() > 40);
    assert_eq!(first, exact(&measured(&size)));
}

#[test]
fn there_is_no_fabric_of_uneven_sites() {
    let uneven = Size {
        nodes: 41,
        ..small()
    };
    assert_eq!(run(&uneven, &mut |_| {}), Err(SizeError::Nodes));
    let two = Size {
        sites: 2,
        ..small()
    };
    assert_eq!(run(&two, &mut |_| {}), Err(SizeError::Sites));
}
