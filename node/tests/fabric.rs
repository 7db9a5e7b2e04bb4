//! A real fabric of a few real nodes, under real clients: `atoll dev`, the command line,
//! libnbd's and qemu's tools.

mod dev_fabric;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use dev_fabric::{DevFabric, PATIENCE};

/// Of each disk.
const DISK: [&str; 2] = ["--disk-size", "512MiB"];

const VOLUME_BYTES: usize = 16 << 20;

/// On a real disk: the temporary directory may be memory.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory")
}

fn start(directory: &Path, more: &[&str]) -> DevFabric {
    DevFabric::start(directory, &[&DISK[..], more].concat())
}

fn client(program: &str, arguments: &[&str]) -> Output {
    Command::new("timeout")
        .arg("60")
        .arg(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .output()
        .unwrap_or_else(|error| panic!("{program} must be installed: {error}"))
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = client(program, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}\n{said}",
        output.status
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn fails(program: &str, arguments: &[&str]) -> String {
    let output = client(program, arguments);
    assert!(!output.status.success(), "{program} {arguments:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn image(path: &Path) {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let bytes: Vec<u8> = (0..VOLUME_BYTES).map(|_| next()).collect();
    fs::write(path, bytes).expect("written");
}

/// What a server in the clear answers to GO: the reply's type.
fn go_in_the_clear(address: SocketAddr) -> u32 {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a bound");
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).expect("a greeting");
    let mut hello = Vec::new();
    hello.extend(3_u32.to_be_bytes());
    hello.extend(b"IHAVEOPT");
    hello.extend(7_u32.to_be_bytes());
    hello.extend(9_u32.to_be_bytes());
    hello.extend(3_u32.to_be_bytes());
    hello.extend(b"vol\0\0");
    stream.write_all(&hello).expect("sent");
    let mut reply = [0; 20];
    stream.read_exact(&mut reply).expect("a reply");
    u32::from_be_bytes(reply[12..16].try_into().expect("four bytes"))
}

const REP_INFO: u32 = 3;
const REP_ERR_TLS_REQD: u32 = (1 << 31) + 5;

fn url(scheme: &str, address: SocketAddr, certificates: Option<&Path>) -> String {
    let parameter = certificates.map(|dir| format!("?tls-certificates={}", dir.display()));
    format!("{scheme}://{address}/vol{}", parameter.unwrap_or_default())
}

#[test]
fn nbd_is_encrypted_as_the_command_line_says() {
    let scratch = scratch();
    let small = ["--nodes", "1", "--disks", "1"];
    let directory = scratch.path().join("fabric");
    let with = |tls: &[&str]| start(&directory, &[&small[..], tls].concat());
    let (certificates, anonymous) = (scratch.path().join("kvm7"), scratch.path().join("nobody"));
    let (source, back) = (scratch.path().join("source"), scratch.path().join("back"));
    image(&source);
    let (source, back) = (
        source.to_str().expect("UTF-8"),
        back.to_str().expect("UTF-8"),
    );

    let fabric = with(&["--nbd-tls", "require", "--nbd-tls-verify-peer"]);
    fabric.json("volume create vol --size 16MiB");
    let out = certificates.display();
    let made = fabric.json(&format!("nbd client-cert --out {out} --name kvm7"));
    assert_eq!(made["name"], "kvm7");
    let again = fabric.command(&format!("nbd client-cert --out {out}"));
    assert!(!again.status.success(), "a key is never overwritten");
    fs::create_dir(&anonymous).expect("a directory");
    fs::copy(
        certificates.join("ca-cert.pem"),
        anonymous.join("ca-cert.pem"),
    )
    .expect("copied");

    for node in ["a1", "b1", "c1"] {
        let address = fabric.address(node);
        let secure = url("nbds", address, Some(&certificates));
        let about: Value =
            serde_json::from_str(&run("nbdinfo", &["--json", &secure])).expect("json");
        assert_eq!(about["TLS"], true, "{node}");
        assert_eq!(about["exports"][0]["export-size"], VOLUME_BYTES);
        assert_eq!(go_in_the_clear(address), REP_ERR_TLS_REQD);
        fails("nbdinfo", &[&url("nbd", address, None)]);
        fails("nbdinfo", &[&url("nbds", address, Some(&anonymous))]);
        fails("nbdinfo", &["--list", &format!("nbd://{address}")]);
    }
    let by_name = format!(
        "nbds://localhost:{}/vol?tls-certificates={out}",
        fabric.address("a1").port()
    );
    run("nbdinfo", &[&by_name]);
    let secure = |node: &str| url("nbds", fabric.address(node), Some(&certificates));
    run("nbdcopy", &["--connections=4", source, &secure("a1")]);
    run("nbdcopy", &["--connections=4", &secure("c1"), back]);
    run("cmp", &[source, back]);
    let object = format!("tls-creds-x509,id=t,endpoint=client,dir={out}");
    let port = fabric.address("b1").port();
    let options = format!("driver=nbd,host=127.0.0.1,port={port},export=vol,tls-creds=t");
    let raw = format!("driver=file,filename={source}");
    let compare = [
        "compare",
        "--object",
        &object,
        "--image-opts",
        &raw,
        &options,
    ];
    run("qemu-img", &compare);

    // Nobody is trusted for having a certificate of some other authority, or for another name.
    let other = start(
        &scratch.path().join("other"),
        &["--sites", "1", "--nodes", "1"],
    );
    let foreign = scratch.path().join("foreign");
    other.json(&format!("nbd client-cert --out {}", foreign.display()));
    drop(other);
    let address = fabric.address("a1");
    fails("nbdinfo", &[&url("nbds", address, Some(&foreign))]);
    fs::copy(
        certificates.join("ca-cert.pem"),
        foreign.join("ca-cert.pem"),
    )
    .expect("copied");
    fails("nbdinfo", &[&url("nbds", address, Some(&foreign))]);
    drop(fabric);

    let fabric = with(&["--nbd-tls", "on"]);
    let address = fabric.address("b1");
    assert_eq!(go_in_the_clear(address), REP_INFO);
    for allowed in [
        url("nbd", address, None),
        url("nbds", address, Some(&anonymous)),
        url("nbds", address, Some(&certificates)),
    ] {
        run("nbdinfo", &[&allowed]);
    }
    drop(fabric);

    let fabric = with(&[]);
    let address = fabric.address("b1");
    run("nbdinfo", &[&url("nbd", address, None)]);
    fails("nbdinfo", &[&url("nbds", address, Some(&certificates))]);
}

#[test]
fn figures_of_every_node_are_told_by_any_and_the_silent_are_named() {
    let scratch = scratch();
    let fabric = start(
        &scratch.path().join("fabric"),
        &["--nodes", "2", "--disks", "1"],
    );
    let source = scratch.path().join("source");
    image(&source);
    let source = source.to_str().expect("UTF-8");
    fabric.json("volume create vol --size 16MiB");
    let idle = fabric.json("volume show vol");
    assert_eq!(
        (&idle["state"], &idle["owner"]),
        (&json!("idle"), &Value::Null)
    );
    let vol = url("nbd", fabric.address("b1"), None);
    run("nbdcopy", &[source, &vol]);
    fabric.json("volume move vol --to b2");
    run("nbdcopy", &[&vol, "null:"]);

    let size = json!(VOLUME_BYTES);
    let deadline = Instant::now() + PATIENCE;
    let listed = loop {
        let listed = fabric.json("volume list");
        if listed["volumes"][0]["untrimmed_bytes"] == 0
            && listed["volumes"][0]["logical_bytes"] == size
        {
            break listed;
        }
        assert!(Instant::now() < deadline, "{listed:#}");
        std::thread::sleep(Duration::from_millis(100));
    };
    let listed = &listed["volumes"][0];
    for (key, value) in [
        ("name", json!("vol")),
        ("owner", json!("b2")),
        ("home", json!("a")),
        ("state", json!("serving")),
        ("size_bytes", size),
    ] {
        assert_eq!(listed[key], value, "{key}");
    }
    assert!(listed["stored_bytes"].as_u64().expect("a number") >= 3 * VOLUME_BYTES as u64 / 2);
    let sum = |list: &Value, key: &str| -> u64 {
        let list = list.as_array().expect("a list");
        list.iter()
            .map(|item| item[key].as_u64().expect("a number"))
            .sum()
    };
    let disks = fabric.json("disk list")["disks"].clone();
    assert!(sum(&disks, "used_bytes") >= 3 * VOLUME_BYTES as u64 / 2);
    let sites = fabric.json("site list")["sites"].clone();
    assert_eq!(sum(&sites, "used_bytes"), sum(&disks, "used_bytes"));
    assert_eq!(fabric.json("disk show b2/d1")["site"], "b");

    // Reading filled the owner's cache, and only there.
    run("nbdcopy", &[&vol, "null:"]);
    let dropped = fabric.json("cache drop");
    let of = |node: &str| {
        let nodes = dropped["nodes"].as_array().expect("nodes");
        let node = nodes.iter().find(|n| n["node"] == node);
        node.expect("a node")["dropped_bytes"].as_u64()
    };
    assert_eq!(of("a1"), Some(0));
    assert!(of("b2").expect("a number") > 0, "{dropped}");
    assert_eq!(dropped["dropped_bytes"].as_u64(), of("b2"));
    assert_eq!(fabric.json("cache drop")["dropped_bytes"], 0);

    fabric.signal("b2", Signal::STOP);
    // Before its owner's silence is decided upon: afterwards it has another one.
    let shown = fabric.json("volume show vol");
    if shown["owner"] == "b2" {
        assert_eq!(
            (&shown["state"], &shown["stats"]),
            (&json!("unknown"), &Value::Null)
        );
        assert_eq!(shown["stats_missing"], "its owner b2 does not answer");
        assert_eq!(shown["untrimmed_bytes"], Value::Null);
    }
    let disks = fabric.json("disk list");
    assert_eq!(disks["unreachable"], json!(["b2"]));
    let of_b2 = fabric.json("node show b2");
    assert_eq!(of_b2["used_bytes"], Value::Null);
    assert!(fabric.text("node list").contains("no answer from b2"));
    fabric.wait_for_degraded(&["node b2"]);
    fabric.signal("b2", Signal::CONT);
    fabric.wait_for_degraded(&[]);
}

#[test]
fn what_is_degraded_is_told_and_goes_when_it_is_well_again() {
    let scratch = scratch();
    let directory = scratch.path().join("fabric");
    let fabric = start(&directory, &["--nodes", "2", "--disks", "1"]);
    fabric.json("volume create vol --size 16MiB");
    fabric.wait_for_degraded(&[]);

    fabric.json("node stop c2");
    let status = fabric.wait_for_degraded(&["node c2"]);
    assert_eq!(status["nodes"], json!({ "up": 5, "of": 6 }));
    for key in ["why", "doing"] {
        let text = status["degraded"][0][key].as_str().expect("a text");
        assert!(!text.is_empty(), "{key}");
    }
    fabric.json("node start c2");
    fabric.wait_for_degraded(&[]);

    fabric.json("site stop c");
    let status = fabric.wait_for_degraded(&["site c"]);
    assert_eq!(status["sites"], json!({ "up": 2, "of": 3 }));
    let text = fabric.text("status");
    assert!(text.contains("why    none of its nodes answers"), "{text}");
    fabric.json("site stop b");
    let status = fabric.wait_for_degraded(&["fabric", "site b", "site c"]);
    assert_eq!(status["sites"], json!({ "up": 1, "of": 3 }));
    fabric.json("site start b");
    fabric.json("site start c");
    fabric.wait_for_degraded(&[]);

    let disk = fabric.json("disk show a2/d1");
    fs::remove_dir_all(disk["path"].as_str().expect("a path")).expect("removed");
    let what = format!("disk {}", disk["name"].as_str().expect("a name"));
    let status = fabric.wait_for_degraded(&[&what]);
    assert_eq!(status["disks"], json!({ "up": 5, "of": 6 }));
    let doing = status["degraded"][0]["doing"].as_str().expect("a text");
    assert!(doing.contains("restart the node"), "{doing}");
}

/// The first site goes with all that it had, the first node and its authority among them.
#[test]
fn a_lost_site_is_made_anew() {
    let scratch = scratch();
    let directory = scratch.path().join("fabric");
    let mut fabric = start(&directory, &["--nodes", "2", "--disks", "1"]);
    fabric.json("volume create vol --size 16MiB --home b");
    let source = scratch.path().join("image");
    image(&source);
    let source = source.to_str().expect("a name");
    run(
        "nbdcopy",
        &[source, &url("nbd", fabric.address("b1"), None)],
    );

    fabric.json("site stop a");
    for node in ["a1", "a2"] {
        fs::remove_dir_all(directory.join(node)).expect("removed");
    }
    let copy = scratch.path().join("copy");
    let same = |fabric: &DevFabric, node: &str| {
        let copy = copy.to_str().expect("a name");
        run("nbdcopy", &[&url("nbd", fabric.address(node), None), copy]);
        run("cmp", &[source, copy]);
    };
    same(&fabric, "c1");
    fabric.json("site start a");
    let status = fabric.json("status");
    assert_eq!(status["nodes"], json!({ "up": 6, "of": 6 }));
    assert_eq!(status["sites"], json!({ "up": 3, "of": 3 }));
    same(&fabric, "a2");
    // What the site held is rebuilt: with another one away nothing can be read without it.
    fabric.wait_for_degraded(&[]);
    fabric.json("site stop b");
    same(&fabric, "a2");
    fabric.json("site start b");
    fabric.wait_for_degraded(&[]);

    // Another one goes while nothing runs: the fabric is found, and the site is made anew.
    let pid = i32::try_from(fabric.process.id())
        .ok()
        .and_then(Pid::from_raw);
    kill_process(pid.expect("a pid"), Signal::TERM).expect("ours");
    fabric.process.wait().expect("it ends");
    fs::remove_dir_all(directory.join("c2")).expect("removed");
    drop(fabric);
    let fabric = start(&directory, &[]);
    same(&fabric, "a1");
    same(&fabric, "c2");
}

/// R20 on real processes: a disk's directory goes, its fragments are rebuilt on the site's other
/// disks, and then the site's next loss costs nothing.
#[test]
fn what_a_lost_disk_held_is_rebuilt_before_the_next_loss() {
    let scratch = scratch();
    let directory = scratch.path().join("fabric");
    let fabric = start(&directory, &["--heal-after", "3"]);
    fabric.json("volume create vol --size 16MiB");
    fabric.wait_for_degraded(&[]);
    let (written, read) = (scratch.path().join("written"), scratch.path().join("read"));
    image(&written);
    let at = |node: &str| url("nbd", fabric.address(node), None);
    let path = |path: &Path| path.to_str().expect("a path").to_owned();
    run("nbdcopy", &["--flush", &path(&written), &at("b1")]);
    let wait = |what: &str, holds: &dyn Fn() -> bool| {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            assert!(
                Instant::now() < deadline,
                "{what}: {:#}",
                fabric.json("status")
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    wait("the journal is drained", &|| {
        fabric.json("volume show vol")["stats"]["untrimmed_bytes"] == json!(0)
    });

    let disk = fabric.json("disk show a1/d1");
    fs::remove_dir_all(disk["path"].as_str().expect("a path")).expect("removed");
    let what = format!("disk {}", disk["name"].as_str().expect("a name"));
    let move_off = format!("move off {what}");
    let degraded = || {
        fabric.json("status")["degraded"]
            .as_array()
            .expect("a list")
            .clone()
    };
    wait("its slots are moved", &|| {
        degraded().iter().any(|d| d["what"] == json!(move_off))
    });
    // Nothing counts on it any more, and the node has another one.
    fabric.wait_for_degraded(&[]);

    fabric.json("node stop a2");
    fabric.json("cache drop");
    run("nbdcopy", &[&at("c1"), &path(&read)]);
    assert!(fs::read(&read).expect("read") == fs::read(&written).expect("written"));
}

/// A volume is made smaller and larger while it is served: what was cut off is gone, what is left
/// is not, and who connects next sees the new size and can write there.
#[test]
fn what_was_cut_off_is_zeros_when_the_volume_grows_again() {
    let scratch = scratch();
    let small = ["--nodes", "1", "--disks", "1"];
    let fabric = start(&scratch.path().join("fabric"), &small);
    let (source, back) = (scratch.path().join("source"), scratch.path().join("back"));
    image(&source);
    let written = fs::read(&source).expect("it was written");
    let (source, back_path) = (
        source.to_str().expect("UTF-8"),
        back.to_str().expect("UTF-8"),
    );
    fabric.json("volume create vol --size 16MiB");
    let at = |node: &str| url("nbd", fabric.address(node), None);
    run("nbdcopy", &[source, &at("b1")]);

    let half = VOLUME_BYTES / 2;
    let cut = |size: &str| {
        let shown = fabric.json(&format!("volume resize vol --size {size}"));
        shown["size_bytes"].as_u64().expect("a number") as usize
    };
    let read = |node: &str| {
        run("nbdcopy", &[&at(node), back_path]);
        let bytes = fs::read(&back).expect("it was read");
        fs::remove_file(&back).expect("it is there");
        bytes
    };
    assert_eq!(cut("8MiB"), half);
    assert!(read("c1") == written[..half], "what is left is as it was");
    assert_eq!(cut("16MiB"), VOLUME_BYTES);
    let grown = read("c1");
    assert!(grown[..half] == written[..half] && grown.len() == VOLUME_BYTES);
    assert!(grown[half..].iter().all(|byte| *byte == 0));

    // All of it is written again, what is new too.
    run("nbdcopy", &[source, &at("a1")]);
    assert!(read("b1") == written);
    assert_eq!((cut("4MiB"), cut("12MiB")), (half / 2, half / 2 * 3));
    let grown = read("a1");
    assert!(grown[..half / 2] == written[..half / 2] && grown.len() == half / 2 * 3);
    assert!(grown[half / 2..].iter().all(|byte| *byte == 0));
    let wrong = fabric.command("volume resize vol --size 1000");
    assert!(!wrong.status.success(), "no whole number of blocks");
}
