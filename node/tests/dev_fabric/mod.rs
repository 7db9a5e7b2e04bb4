//! `atoll dev` as the tests of real processes use it.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nbd_frontend::client::Client;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// The program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_atoll");

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// Removes a directory with all that is in it.
pub(crate) fn remove(directory: &Path) {
    // What runs may make a file in it meanwhile.
    let gone = (0..50).any(|_| {
        let _ = fs::remove_dir_all(directory);
        !directory.exists()
    });
    assert!(gone, "{} can't be removed", directory.display());
}

/// A running fabric; dropping it stops it, and so does the test's end, whatever ends it.
pub(crate) struct DevFabric {
    pub(crate) process: Child,
    directory: PathBuf,
    ready: Value,
}

impl DevFabric {
    /// Starts one, or the one that is there, and waits until it serves.
    pub(crate) fn start(directory: &Path, more: &[&str]) -> Self {
        Self::start_under(&[], directory, more)
    }

    /// The same by a program that runs another one, such as `prlimit` with its arguments.
    pub(crate) fn start_under(by: &[&str], directory: &Path, more: &[&str]) -> Self {
        let said = directory.with_extension("said");
        let mut process = Command::new("setpriv")
            .args(["--pdeathsig", "TERM"])
            .args(by)
            .args([PROGRAM, "dev", "--json", "--dir"])
            .arg(directory)
            .args(more)
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&said).expect("a file"))
            .spawn()
            .expect("the supervisor starts");
        let stdout = process.stdout.take().expect("a pipe");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        // Whatever happens from here on, it is stopped.
        let mut fabric = Self {
            process,
            directory: directory.to_owned(),
            ready: Value::Null,
        };
        fabric.ready = serde_json::from_str(&line).unwrap_or_else(|e| {
            let said = fs::read_to_string(&said).unwrap_or_default();
            panic!("no ready line ({e}): {line:?}\n{said}")
        });
        fabric
    }

    /// What the supervisor told people.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(self.directory.with_extension("said")).expect("a file")
    }

    /// What a node keeps.
    pub(crate) fn directory(&self, node: &str) -> PathBuf {
        self.directory.join(node)
    }

    /// What the ready line says of a node.
    fn node(&self, name: &str) -> &Value {
        let sites = self.ready["sites"].as_array().expect("sites");
        let nodes = sites.iter().map(|s| s["nodes"].as_array().expect("nodes"));
        let mut nodes = nodes.flatten();
        nodes.find(|n| n["name"] == name).expect("a node")
    }

    /// The names of all nodes.
    pub(crate) fn nodes(&self) -> Vec<String> {
        let sites = self.ready["sites"].as_array().expect("sites").iter();
        let nodes = sites.flat_map(|s| s["nodes"].as_array().expect("nodes"));
        nodes
            .map(|n| n["name"].as_str().expect("a name").to_owned())
            .collect()
    }

    /// A node's process.
    pub(crate) fn pid(&self, node: &str) -> Pid {
        let pid = self.node(node)["pid"].as_i64().expect("a pid");
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        pid.expect("a pid")
    }

    /// Starts a site or a node (`node start a1`) whose processes ended, and takes note of the new ones.
    pub(crate) fn start_again(&mut self, line: &str) {
        let told = self.json(line);
        let started = told["nodes"].as_array().expect("nodes");
        let sites = self.ready["sites"].as_array_mut().expect("sites");
        let nodes = sites.iter_mut().map(|s| s["nodes"].as_array_mut());
        for node in nodes.flat_map(|n| n.expect("nodes")) {
            if let Some(now) = started.iter().find(|n| n["name"] == node["name"]) {
                node["pid"] = now["pid"].clone();
            }
        }
    }

    /// Ends it as Ctrl-C does, and waits until it has.
    pub(crate) fn stop(mut self) {
        self.signal_supervisor(Signal::INT);
        let ended = self.process.wait().expect("it ends");
        assert!(ended.success(), "a clean stop ends with {ended}");
    }

    fn signal_supervisor(&mut self, signal: Signal) {
        // Only of a process that is still ours.
        if matches!(self.process.try_wait(), Ok(None)) {
            let pid = i32::try_from(self.process.id()).ok();
            let pid = pid.and_then(Pid::from_raw).expect("a pid");
            let _ = kill_process(pid, signal);
        }
    }

    /// Where a node serves NBD.
    pub(crate) fn address(&self, node: &str) -> SocketAddr {
        let text = self.node(node)["nbd"].as_str().expect("an address");
        text.parse().expect("an address")
    }

    /// Where a node serves iSCSI.
    pub(crate) fn iscsi(&self, node: &str) -> SocketAddr {
        let text = self.node(node)["iscsi"].as_str().expect("an address");
        text.parse().expect("an address")
    }

    /// A connection to a volume through a node, whose answers are awaited with patience.
    pub(crate) fn attach(&self, node: &str, volume: &str) -> Client<TcpStream> {
        let stream = TcpStream::connect(self.address(node)).expect("the node serves NBD");
        stream.set_nodelay(true).expect("a socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        Client::open(stream, volume).expect("the volume is served")
    }

    /// Sends a signal to a node's process.
    pub(crate) fn signal(&self, node: &str, signal: Signal) {
        kill_process(self.pid(node), signal).expect("a node of this test");
    }

    /// Asks the fabric by the command line, whatever comes of it.
    pub(crate) fn command(&self, line: &str) -> Output {
        let mut command = Command::new(PROGRAM);
        command.arg("--dir").arg(&self.directory);
        command.args(line.split(' ')).output().expect("it runs")
    }

    /// What a command says.
    pub(crate) fn text(&self, line: &str) -> String {
        let output = self.command(line);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What a command says to programs.
    pub(crate) fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.text(&format!("{line} --json"))).expect("json")
    }

    /// What a command that is refused says.
    pub(crate) fn refused(&self, line: &str) -> String {
        let output = self.command(line);
        assert!(!output.status.success(), "{line} was done");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Waits until `path` of what a command says is `value`.
    pub(crate) fn wait_for(&self, line: &str, path: &str, value: &Value) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let told = self.json(line);
            if told.pointer(path) == Some(value) {
                return;
            }
            assert!(Instant::now() < deadline, "{path} of {line}: {told:#}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// What is degraded, once it is that.
    pub(crate) fn wait_for_degraded(&self, expected: &[&str]) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.json("status");
            let degraded = status["degraded"].as_array().expect("a list").clone();
            let whats: Vec<&str> = degraded.iter().filter_map(|d| d["what"].as_str()).collect();
            assert_eq!(status["healthy"], json!(degraded.is_empty()));
            if whats == expected {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "expected {expected:?}: {status:#}"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for DevFabric {
    fn drop(&mut self) {
        self.signal_supervisor(Signal::TERM);
        let _ = self.process.wait();
    }
}
