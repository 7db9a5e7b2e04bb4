//! A node that was removed and comes back is told that it was, and so are its clients.

mod dev_fabric;

use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use nbd_frontend::client::Client;
use node::admin::client::Connection;
use node::admin::ping::WaitingFor;
use rustix::process::Signal;

use dev_fabric::{DevFabric, PATIENCE};

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_removed_node_that_returns_says_so_and_holds_no_client() {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let directory = scratch.path().join("fabric");
    let fabric = DevFabric::start(&directory, &["--disks", "1", "--disk-size", "512MiB"]);
    fabric.json("volume create vol --size 16MiB");
    fabric.signal("c3", Signal::KILL);
    until("c3 is removed", || {
        fabric.command("node remove c3").status.success()
    });

    let started = Instant::now();
    fabric.json("node start c3");
    let waits_for = || Connection::open(&directory.join("c3")).map(|c| c.pong.waiting_for);
    until("c3 knows", || {
        waits_for().is_ok_and(|w| w == Some(WaitingFor::Removed))
    });
    println!("it knew after {:?}", started.elapsed());
    let stream = TcpStream::connect(fabric.address("c3")).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    assert!(
        Client::open(stream, "vol").is_err(),
        "nobody serves it here"
    );
    let said = fabric.text("node start c3");
    assert!(said.contains("runs"), "{said}");
    let log = std::fs::read_to_string(directory.join("c3/log")).expect("a log");
    let told = log
        .lines()
        .filter(|line| line.contains("was removed from the fabric"));
    assert_eq!(told.count(), 1, "{log}");
}

/// A token that is lost on its way lets nobody in under a name of their own.
#[test]
fn a_token_is_for_one_name_in_one_site() {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let fabric = scratch.path().join("fabric");
    let fabric = DevFabric::start(&fabric, &["--nodes", "1", "--disks", "1"]);
    let token = fabric.json("token --node c4 --site c");
    let token = token["token"].as_str().expect("a token");
    let join = |node: &str, site: &str| {
        let directory = scratch.path().join(node).join(site);
        let mut command = Command::new(env!("CARGO_BIN_EXE_atoll"));
        command.args(["join", "--token", token, "--node", node, "--site", site]);
        command.args([
            "--quic",
            "127.0.0.1:0",
            "--nbd",
            "127.0.0.1:0",
            "--disk",
            "d1",
        ]);
        command.arg("--dir").arg(directory);
        command.output().expect("it runs")
    };
    for (node, site) in [("c5", "c"), ("c4", "b")] {
        let refused = join(node, site);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success(), "{node} of {site} joined");
        assert!(
            said.contains("another name or site"),
            "{node}, {site}: {said}"
        );
    }
    let joined = join("c4", "c");
    assert!(joined.status.success(), "{joined:?}");
    let used = join("c4", "c");
    assert!(!used.status.success(), "it was used");
}
