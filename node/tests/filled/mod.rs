//! A fabric with a volume that holds what is known, which is damaged, and must become whole.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;

use crate::dev_fabric::DevFabric;
use crate::real_clients::{noise, run, scratch, uri};

/// All is rebuilt within it, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A fabric with a volume that holds what is known.
pub(crate) struct Filled {
    // Before the directory that it lies in.
    pub(crate) fabric: DevFabric,
    scratch: TempDir,
    data: Vec<u8>,
}

impl Filled {
    /// Writes so many MiB through the owner, at home in site a.
    pub(crate) fn new(mib: usize) -> Self {
        Self::coded(mib, "rs:4+2")
    }

    /// The same, in some code.
    pub(crate) fn coded(mib: usize, code: &str) -> Self {
        Self::prepared(mib, code, |_| ())
    }

    /// The same, on a fabric that is prepared before.
    pub(crate) fn prepared(mib: usize, code: &str, prepare: impl FnOnce(&DevFabric)) -> Self {
        let scratch = scratch();
        let directory = scratch.path().join("fabric");
        let options = ["--disk-size", "1GiB", "--heal-after", "3"];
        let fabric = DevFabric::start(&directory, &options);
        prepare(&fabric);
        let create = format!("volume create vol --size {mib}MiB --home a --code {code}");
        fabric.json(&create);
        let data = noise(1, mib << 20);
        let filled = Self {
            fabric,
            scratch,
            data,
        };
        filled.write();
        filled
    }

    /// Acknowledged, durable, and as yet in journals alone.
    pub(crate) fn write(&self) {
        let source = self.scratch.path().join("source");
        fs::write(&source, &self.data).expect("a file");
        let to = uri(&self.fabric, "a1", "vol");
        // Each request too short to go past the journal.
        let how = ["--flush", "--request-size=32768"];
        run("nbdcopy", &[&how[..], &[text(&source), &to]].concat());
    }

    /// Everything is in segments, and nothing is repaired or moved.
    pub(crate) fn drained(&self) {
        self.fabric
            .wait_for("volume show vol", "/untrimmed_bytes", &json!(0));
        self.becomes_whole("before anything was damaged");
    }

    pub(crate) fn kill(&self, nodes: &[&str]) {
        for node in nodes {
            self.fabric.signal(node, Signal::KILL);
        }
        // Until their supervisor knows it.
        for node in nodes {
            self.fabric.json(&format!("node stop {node}"));
        }
    }

    /// Kills every process of the fabric at once.
    pub(crate) fn kill_all(&mut self) {
        for node in self.fabric.nodes() {
            self.fabric.signal(&node, Signal::KILL);
        }
        self.fabric.process.kill().expect("it ran");
        self.fabric.process.wait().expect("it ended");
    }

    /// Starts what was killed altogether.
    pub(crate) fn start(&mut self) {
        let directory = self.scratch.path().join("fabric");
        self.fabric = DevFabric::start(&directory, &["--heal-after", "3"]);
    }

    pub(crate) fn reads_back(&self, node: &str, when: &str) {
        self.fabric.json("cache drop");
        let back = self.scratch.path().join("back");
        run("nbdcopy", &[&uri(&self.fabric, node, "vol"), text(&back)]);
        let read = fs::read(&back).expect("it was copied");
        fs::remove_file(&back).expect("it is there");
        let wrong = self.data.iter().zip(&read).position(|(a, b)| a != b);
        assert!(
            wrong.is_none() && read.len() == self.data.len(),
            "{when}, through {node}: {} bytes of {}, the first wrong one at {wrong:?}",
            read.len(),
            self.data.len()
        );
    }

    pub(crate) fn becomes_whole(&self, when: &str) -> Duration {
        let began = Instant::now();
        loop {
            let status = self.fabric.json("status");
            let shown = self.fabric.json("volume show vol");
            let is_whole = status["healthy"] == json!(true)
                && status["repairs"] == json!([])
                && status["at_risk_bytes"] == json!(0)
                // All of them, or nobody serves it, and no journal is needed.
                && (shown["stats"]["replicas_current"] == json!(3) || shown["state"] == "idle");
            if is_whole {
                return began.elapsed();
            }
            assert!(
                began.elapsed() < PATIENCE,
                "{when}, it is not whole again after {PATIENCE:?}: {status:#}\n{shown:#}"
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// All is there, becomes whole by itself, and is there without another site.
    pub(crate) fn assert_mends(&self, when: &str) {
        self.reads_back("b1", when);
        let took = self.becomes_whole(when);
        println!("{when}: whole after {took:?}");
    }

    /// What site c holds is not needed: what was damaged is right again.
    pub(crate) fn assert_stands_another_loss(&self, when: &str) {
        self.fabric.json("site stop c");
        self.reads_back("b2", &format!("{when}, mended, without site c"));
    }
}
