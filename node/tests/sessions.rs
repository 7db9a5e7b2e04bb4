//! A front end's node dies with a client, on real processes: its session stays open for as long
//! as it might come back, and is closed once another life of the node is there (R10).
#![cfg(feature = "sim")]

mod dev_fabric;

use std::net::TcpStream;
use std::time::Duration;

use nbd_frontend::client::Client;
use rustix::process::Signal;
use serde_json::json;

use dev_fabric::DevFabric;

fn attach(fabric: &DevFabric, node: &str) -> Client<TcpStream> {
    let stream = TcpStream::connect(fabric.address(node)).expect("the node serves NBD");
    let patience = Some(dev_fabric::PATIENCE);
    stream.set_read_timeout(patience).expect("a socket");
    Client::open(stream, "vol").expect("the volume is served")
}

#[test]
fn the_sessions_of_a_node_that_was_killed_are_closed_once_it_is_back() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let fabric = DevFabric::start(&scratch.path().join("fabric"), &["--disk-size", "256MiB"]);
    fabric.json("volume create vol --size 16MiB --home a");
    let sessions = |n: u64| fabric.wait_for("volume show vol", "/stats/sessions", &json!(n));

    // The owner is where the first client is; the others are elsewhere.
    let mut stays = attach(&fabric, "a1");
    stays.write(0, &[1; 4096], false).expect("it is written");
    let mut dies = [attach(&fabric, "b1"), attach(&fabric, "b1")];
    for (client, at) in dies.iter_mut().zip([4096, 8192]) {
        client.write(at, &[2; 4096], false).expect("it is written");
    }
    sessions(3);

    fabric.signal("b1", Signal::KILL);
    for client in &mut dies {
        client
            .write(0, &[3; 4096], false)
            .expect_err("its node is dead");
    }
    // It is found dead after a second or two. That is no end: it might only be cut off.
    std::thread::sleep(Duration::from_secs(5));
    sessions(3);
    fabric.json("node start b1");
    sessions(1);

    // A live one's is left alone, and a client that comes back is as good as any.
    stays
        .write(0, &[4; 4096], false)
        .expect("its session is open");
    let mut back = attach(&fabric, "b1");
    back.write(4096, &[5; 4096], false)
        .expect("its session is open");
    sessions(2);
    drop((stays, back));
    sessions(0);
}
