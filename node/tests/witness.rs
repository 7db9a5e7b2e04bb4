//! Two sites with data and a witness: any one of the three may go, and with one data site left what is
//! written goes on there if the operator has it so (R22).

mod dev_fabric;
mod filled;
mod real_clients;

use rustix::process::Signal;
use serde_json::{Value, json};

use filled::Filled;

fn lose(filled: &Filled, site: &str) {
    for n in 1..=3 {
        filled.fabric.signal(&format!("{site}{n}"), Signal::KILL);
    }
    filled.fabric.json(&format!("site stop {site}"));
    // Through a site that is left.
    filled.fabric.wait_for("status", "/healthy", &json!(false));
}

fn used(filled: &Filled, site: &str) -> u64 {
    let disks = filled.fabric.json("disk list");
    let disks = disks["disks"].as_array().expect("a list").iter();
    let of_site = disks.filter(|d| d["site"] == json!(site));
    of_site.filter_map(|d| d["used_bytes"].as_u64()).sum()
}

#[test]
fn any_of_two_data_sites_and_a_witness_may_go() {
    let filled = Filled::prepared(32, "rs:2+2", |fabric| {
        let told = fabric.json("site witness c");
        assert_eq!(told["sites"][0]["witness"], json!("stall"), "{told:#}");
    });
    let home = filled
        .fabric
        .refused("volume create other --size 1MiB --home c --code rs:2+2");
    assert!(home.contains("witness"), "{home}");
    let late = filled.fabric.refused("site witness c --end");
    assert!(late.contains("before the first volume"), "{late}");
    let wide = filled
        .fabric
        .refused("volume create other --size 1MiB --home a --code rs:4+2");
    assert!(wide.contains("does not fit"), "{wide}");
    filled.drained();
    assert_eq!(used(&filled, "c"), 0, "no data lies at the witness");
    assert!(used(&filled, "a") > 32 << 20 && used(&filled, "b") > 32 << 20);
    let shown = filled.fabric.json("volume show vol");
    let journal: Vec<&Value> = shown["journal"].as_array().expect("disks").iter().collect();
    assert!(
        journal
            .iter()
            .any(|disk| disk.as_str().is_some_and(|d| d.starts_with('c'))),
        "a journal does: {shown:#}"
    );

    // Without the witness all goes on as before: what is written is drained into both sites.
    lose(&filled, "c");
    filled.write();
    filled
        .fabric
        .wait_for("volume show vol", "/untrimmed_bytes", &json!(0));
    filled.reads_back("b2", "without the witness");
    filled.fabric.json("site start c");
    filled.becomes_whole("the witness is back");

    // Without a data site what is written stays in two journals; then the operator has it drained.
    lose(&filled, "b");
    filled.write();
    filled.reads_back("a2", "without site b");
    let stalled = filled.fabric.json("volume show vol");
    assert!(
        stalled["untrimmed_bytes"].as_u64() >= Some(32 << 20),
        "{stalled:#}"
    );
    filled.fabric.json("site witness c --one-left write");
    filled
        .fabric
        .wait_for("volume show vol", "/untrimmed_bytes", &json!(0));
    filled.reads_back("a3", "drained into site a alone");
    filled.fabric.json("site start b");
    filled.becomes_whole("site b is back");

    // All of it is in both again: the other one may go.
    filled.fabric.json("site stop a");
    filled.reads_back("b1", "without site a");
}
