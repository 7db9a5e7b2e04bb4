//! `atoll check` against other servers: one that keeps its word through a kill, and one that
//! does not.
#![cfg(feature = "sim")]

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// A server process; dropping it kills it.
struct Server(Child);

impl Server {
    /// Starts one, and waits until it listens.
    fn start(program: &str, arguments: &[&str], address: SocketAddr) -> Self {
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let server = Self(child.unwrap_or_else(|e| panic!("{program}: {e}")));
        let until = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < until, "{program} does not listen");
            thread::sleep(Duration::from_millis(20));
        }
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("it is bound")
}

/// Begins a check of a few seconds.
fn check(address: SocketAddr) -> Child {
    Command::new(env!("CARGO_BIN_EXE_atoll"))
        .args(["check", &format!("nbd://{address}/"), "--minutes", "0.1"])
        .args(["--bytes", "1MiB", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("atoll starts")
}

fn report(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"))
}

/// Kills the server in the middle of a check, and starts it again.
fn through_a_kill(start: impl Fn() -> Server, address: SocketAddr) -> Output {
    let server = start();
    let check = check(address);
    thread::sleep(Duration::from_secs(2));
    drop(server);
    thread::sleep(Duration::from_millis(500));
    let _again = start();
    check.wait_with_output().expect("it ends")
}

#[test]
fn a_server_that_dies_and_keeps_its_word_passes() {
    let address = free_address();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let image = directory.path().join("disk");
    let file = std::fs::File::create(&image).expect("a file");
    file.set_len(4 << 20).expect("a sparse file");
    let (port, image) = (address.port().to_string(), image.display().to_string());
    let start = || {
        // One request after the other: a file system lets a read see half of a sector that is being
        // written.
        let arguments = [
            "-f",
            "-i",
            "127.0.0.1",
            "-p",
            &port,
            "--filter=noparallel",
            "file",
            &image,
            "serialize=all-requests",
        ];
        Server::start("nbdkit", &arguments, address)
    };
    let output = through_a_kill(start, address);
    let report = report(&output);
    assert!(output.status.success(), "{report}");
    assert_eq!(
        (&report["passed"], &report["bytes_lost"]),
        (&true.into(), &0.into())
    );
    assert!(report["operations"].as_u64() > Some(200), "{report}");
    assert!(
        report["timeline"].to_string().contains("serves again"),
        "{report}"
    );
}

#[test]
fn a_server_that_forgets_is_caught() {
    let address = free_address();
    let port = address.port().to_string();
    let start = || {
        let arguments = ["-f", "-i", "127.0.0.1", "-p", &port, "memory", "4M"];
        Server::start("nbdkit", &arguments, address)
    };
    let output = through_a_kill(start, address);
    let report = report(&output);
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert_eq!(report["passed"], false);
    assert!(report["bytes_lost"].as_u64() > Some(0), "{report}");
}

#[test]
fn precious_data_is_not_overwritten() {
    let address = free_address();
    let port = address.port().to_string();
    let arguments = [
        "-f",
        "-i",
        "127.0.0.1",
        "-p",
        &port,
        "data",
        "data=1 2 3",
        "size=1M",
    ];
    let _server = Server::start("nbdkit", &arguments, address);
    let output = check(address).wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("--overwrite"),
        "{said}"
    );
}
