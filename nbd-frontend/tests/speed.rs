//! What a request costs, beside nbdkit's memory plugin. Run by hand, in the release profile:
//! `cargo test --release -p atoll-nbd-frontend --test speed -- --ignored --nocapture`.
#![allow(missing_docs)]

mod common;

use std::process::{Command, Stdio};
use std::time::Duration;

use common::server::Server;
use nbd_frontend::server::Config;

/// Microseconds of processor that a process, or one of its threads, has used.
fn processor_us(task: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{task}/schedstat"));
    let text = text.expect("schedstat");
    text.split(' ')
        .next()
        .and_then(|it| it.parse::<u64>().ok())
        .expect("a number")
        / 1000
}

fn all_threads(process: u32) -> Vec<String> {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).expect("threads");
    threads
        .map(|it| {
            format!(
                "{process}/task/{}",
                it.expect("an entry").file_name().display()
            )
        })
        .collect()
}

/// Requests a second and in all.
fn fio(url: &str, kind: &str, depth: u32) -> (f64, f64) {
    let output = Command::new("fio")
        .args([
            "--name=x",
            "--ioengine=nbd",
            "--bs=4k",
            "--size=64M",
            "--time_based",
        ])
        .args(["--runtime=3", "--output-format=json"])
        .args([
            format!("--uri={url}"),
            format!("--rw={kind}"),
            format!("--iodepth={depth}"),
        ])
        .output()
        .expect("fio must be installed");
    let text = String::from_utf8_lossy(&output.stdout);
    let start = text
        .find('{')
        .expect("fio's report, after what it says about the connection");
    let report: serde_json::Value = serde_json::from_str(&text[start..]).expect("a report");
    let side = &report["jobs"][0][if kind == "randread" { "read" } else { "write" }];
    (
        side["iops"].as_f64().expect("a rate"),
        side["total_ios"].as_f64().expect("a count"),
    )
}

#[test]
#[ignore = "a measurement"]
fn cost_of_a_request() {
    let mine = std::process::id();
    let before = all_threads(mine);
    let server = Server::start(Config::default());
    let thread = all_threads(mine)
        .into_iter()
        .find(|it| !before.contains(it))
        .expect("a thread");
    let mut nbdkit = Command::new("nbdkit")
        .args(["-f", "-p", "19873", "memory", "64M"])
        .stdout(Stdio::null())
        .spawn()
        .expect("nbdkit must be installed");
    std::thread::sleep(Duration::from_millis(500));
    fio(&server.url("vol"), "randwrite", 32); // no holes in either
    fio("nbd://127.0.0.1:19873/", "randwrite", 32);
    for kind in ["randread", "randwrite"] {
        for depth in [1, 4, 32] {
            let start = processor_us(&thread);
            let (rate, count) = fio(&server.url("vol"), kind, depth);
            let cost = (processor_us(&thread) - start) as f64 / count;
            let (other, _) = fio("nbd://127.0.0.1:19873/", kind, depth);
            let ratio = rate / other;
            println!("{kind} qd{depth}: {rate:.0}/s, {cost:.2} us each, {ratio:.2} x nbdkit");
        }
    }
    nbdkit.kill().expect("it runs");
    nbdkit.wait().expect("it ends");
    server.finish();
}
