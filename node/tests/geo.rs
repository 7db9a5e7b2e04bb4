//! A volume of code `geo:2+1` with a drained journal loses a whole site, whichever it is, and one disk in each
//! other site: everything reads back, whether the others ran on or all was killed and started again; it
//! becomes whole, and another site may go.

mod dev_fabric;
mod filled;
mod real_clients;

use std::path::PathBuf;
use std::time::Instant;

use rustix::process::Signal;
use serde_json::{Value, json};

use dev_fabric::remove;
use filled::{Filled, PATIENCE};

/// What becomes of the others meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Others {
    RunOn,
    /// Every process is killed before, and started again.
    Restart,
}

/// A disk of a site that holds no journal of any volume, and its directory.
fn disk_without_journal(filled: &Filled, site: &str) -> (String, PathBuf) {
    let syncs = filled.fabric.json("debug syncs");
    let shown = filled.fabric.json("volume show vol");
    let journal = shown["journal"].as_array().expect("disks");
    let idle = |d: &&Value| {
        d["site"] == json!(site) && d["journal_syncs"] == json!(0) && !journal.contains(&d["disk"])
    };
    let disk = syncs["disks"].as_array().expect("a list").iter().find(idle);
    let name = disk.expect("most disks hold none")["disk"].as_str();
    let name = name.expect("its name").to_owned();
    let disk = filled.fabric.json(&format!("disk show {name}"));
    (name, disk["path"].as_str().expect("a path").into())
}

fn nodes_of(site: &str) -> Vec<String> {
    (1..=3).map(|n| format!("{site}{n}")).collect()
}

/// Loses `site` and a disk in each other one, for good.
fn stands_the_loss(site: &str, others: Others) {
    let when = format!("site {site} and a disk in each other one lost ({others:?})");
    let mut filled = Filled::coded(32, "geo:2+1");
    filled.drained();
    let left: Vec<&str> = ["a", "b", "c"].into_iter().filter(|s| *s != site).collect();
    let lost: Vec<_> = left
        .iter()
        .map(|s| disk_without_journal(&filled, s))
        .collect();
    match others {
        Others::RunOn => {
            for node in nodes_of(site) {
                filled.fabric.signal(&node, Signal::KILL);
            }
            filled.fabric.json(&format!("site stop {site}"));
        }
        Others::Restart => filled.kill_all(),
    }
    for node in nodes_of(site) {
        remove(&filled.fabric.directory(&node));
    }
    for (_, path) in &lost {
        remove(path);
    }
    if others == Others::Restart {
        filled.start();
    }
    // Whatever is read from here on comes from what is left in the two others.
    let began = Instant::now();
    filled.reads_back(&format!("{}2", left[0]), &when);
    println!("{when}: read back within {:?}", began.elapsed());

    // The site is made anew, all is rebuilt, and another one may go.
    if others == Others::RunOn {
        filled.fabric.json(&format!("site start {site}"));
    }
    for (name, _) in &lost {
        let began = Instant::now();
        let line = format!("disk remove {name} --force");
        while !filled.fabric.command(&line).status.success() {
            assert!(began.elapsed() < PATIENCE, "{when}: {name} is not empty");
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
    }
    let took = filled.becomes_whole(&when);
    println!("{when}: whole after {took:?}");
    filled.fabric.json(&format!("site stop {}", left[0]));
    filled.reads_back(
        &format!("{site}1"),
        &format!("{when}, and site {}", left[0]),
    );
}

#[test]
fn the_loss_of_a_site() {
    stands_the_loss("c", Others::RunOn);
}

#[test]
#[ignore = "long: cargo xtask test --layer long"]
fn the_loss_of_the_owners_site() {
    stands_the_loss("a", Others::RunOn);
}

#[test]
#[ignore = "long: cargo xtask test --layer long"]
fn the_loss_of_a_site_while_all_is_dead() {
    stands_the_loss("c", Others::Restart);
}

#[test]
#[ignore = "long: cargo xtask test --layer long"]
fn the_loss_of_the_founders_site_while_all_is_dead() {
    stands_the_loss("a", Others::Restart);
}
