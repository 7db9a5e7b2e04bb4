//! `cargo xtask bench`: fio on the fabric, beside qemu-nbd and nbdkit in the same run.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::command::{Step, heading, paint};
use crate::fabric::{Fabric, fresh_directory};
use crate::{layers, setup};

const VOLUME: &str = "bench";
const VOLUME_BYTES: u64 = 1 << 30;

/// What was written is drained by then.
const DRAIN_MAX: Duration = Duration::from_secs(120);

/// A server that is compared is up by then.
const PEER_START_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Seconds for each measurement.
    #[arg(long, default_value_t = 8)]
    seconds: u32,
    /// The emulated round trip of the second fabric.
    #[arg(long, default_value = "20ms")]
    wan_rtt: String,
}

/// A measurement: what fio is told.
struct Job {
    name: &'static str,
    rw: &'static str,
    block: &'static str,
    depth: &'static str,
}

/// Sequential writing comes first: what is read later was written.
const JOBS: [Job; 6] = [
    Job {
        name: "1 MiB write, sequential",
        rw: "write",
        block: "1M",
        depth: "8",
    },
    Job {
        name: "1 MiB read, sequential",
        rw: "read",
        block: "1M",
        depth: "8",
    },
    Job {
        name: "4 KiB write, depth 1",
        rw: "randwrite",
        block: "4k",
        depth: "1",
    },
    Job {
        name: "4 KiB write, depth 32",
        rw: "randwrite",
        block: "4k",
        depth: "32",
    },
    Job {
        name: "4 KiB read, depth 1",
        rw: "randread",
        block: "4k",
        depth: "1",
    },
    Job {
        name: "4 KiB read, depth 32",
        rw: "randread",
        block: "4k",
        depth: "32",
    },
];

/// What a job showed.
#[derive(Clone, Copy, Debug)]
struct Figure {
    operations_per_second: f64,
    mib_per_second: f64,
    median_us: f64,
    /// Bytes that the client moved.
    bytes: u64,
}

/// Runs it.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    setup::for_running()?;
    layers::build()?;
    let scratch = fresh_directory("bench");
    fs::create_dir_all(&scratch).context("can't make a directory")?;
    let result = columns(args, &scratch);
    drop(fs::remove_dir_all(&scratch));
    print_table(&result?);
    Ok(())
}

fn columns(args: &Args, scratch: &Path) -> anyhow::Result<Vec<(String, Vec<Figure>)>> {
    let mut columns = Vec::new();
    let wan = ["--wan-rtt", args.wan_rtt.as_str()];
    let fabrics: [(String, &[&str]); 2] = [
        ("atoll".into(), &[]),
        (format!("atoll {}", args.wan_rtt), &wan),
    ];
    for (name, more) in fabrics {
        heading(&format!("measuring {name}"));
        let fabric = Fabric::start(scratch.join(name.replace(' ', "-")), more)?;
        fabric.atoll(&format!("volume create {VOLUME} --size {VOLUME_BYTES}"))?;
        let address = fabric
            .sites
            .first()
            .and_then(|s| s.nodes.first())
            .context("no node")?
            .nbd;
        let uri = format!("nbd://{address}/{VOLUME}");
        let figures = measure(&uri, args.seconds, Some(&fabric))?;
        columns.push((name.clone(), figures));
        report_fabric(&name, &fabric);
    }
    heading("measuring qemu-nbd and nbdkit");
    let peer = Peer::qemu_nbd(scratch)?;
    columns.push(("qemu-nbd".into(), measure(&peer.uri, args.seconds, None)?));
    drop(peer);
    let peer = Peer::nbdkit_memory()?;
    columns.push((
        "nbdkit memory".into(),
        measure(&peer.uri, args.seconds, None)?,
    ));
    Ok(columns)
}

/// Memory, and bytes that are stored.
fn report_fabric(name: &str, fabric: &Fabric) {
    let memory = fabric.memory();
    let most = memory
        .iter()
        .map(|(_, bytes)| bytes >> 20)
        .max()
        .unwrap_or(0);
    println!("  {name}: at most {most} MiB resident a node");
    let shown = fabric.atoll(&format!("volume show {VOLUME}")).ok();
    if let Some(stored) = shown.and_then(|v| v["stored_bytes"].as_u64()) {
        println!("  {name}: {} MiB are stored", stored >> 20);
    }
}

/// Bytes that crossed between sites, where an emulator counts them.
fn wan_bytes(fabric: &Fabric) -> Option<u64> {
    let links = fabric.atoll("link list").ok()?;
    let passed = links["links"]
        .as_array()?
        .iter()
        .filter_map(|l| l["bytes_passed"].as_u64());
    Some(passed.sum())
}

/// Waits until what was written lies in segments, and nothing of it only in journals.
fn wait_until_drained(fabric: &Fabric) -> anyhow::Result<()> {
    let deadline = Instant::now() + DRAIN_MAX;
    loop {
        let shown = fabric.atoll(&format!("volume show {VOLUME}"))?;
        if shown["untrimmed_bytes"] == 0 {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("not drained after {} s: {shown}", DRAIN_MAX.as_secs());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Every job; of a fabric whose links are counted, what each written byte costs on them too.
fn measure(uri: &str, seconds: u32, fabric: Option<&Fabric>) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for job in &JOBS {
        let before = fabric.and_then(wan_bytes);
        let figure = job.run(uri, seconds).with_context(|| job.name)?;
        if let (Some(fabric), Some(before)) = (fabric.filter(|_| job.writes()), before) {
            wait_until_drained(fabric)?;
            let crossed = wan_bytes(fabric).context("the links are not counted any more")? - before;
            println!(
                "  {}: {:.2} bytes crossed between sites for each byte written",
                job.name,
                ratio(crossed, figure.bytes)
            );
        }
        figures.push(figure);
    }
    Ok(figures)
}

#[allow(clippy::cast_precision_loss, reason = "for people")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / (whole as f64).max(1.0)
}

impl Job {
    fn writes(&self) -> bool {
        self.rw.ends_with("write")
    }

    fn run(&self, uri: &str, seconds: u32) -> anyhow::Result<Figure> {
        let text = Step::new("fio", "fio")
            .args([
                "--name=x",
                "--ioengine=nbd",
                "--output-format=json",
                "--time_based",
                "--randrepeat=1",
            ])
            .args([
                format!("--uri={uri}"),
                format!("--runtime={seconds}"),
                format!("--size={VOLUME_BYTES}"),
            ])
            .args([
                format!("--rw={}", self.rw),
                format!("--bs={}", self.block),
                format!("--iodepth={}", self.depth),
            ])
            .output()?;
        figure(&text, self.writes()).context("fio's output is not what it was")
    }
}

/// Reads fio's JSON, which may follow lines for people.
fn figure(text: &str, is_write: bool) -> Option<Figure> {
    let json: Value = serde_json::from_str(text.get(text.find('{')?..)?).ok()?;
    let side = &json["jobs"][0][if is_write { "write" } else { "read" }];
    Some(Figure {
        operations_per_second: side["iops"].as_f64()?,
        mib_per_second: side["bw_bytes"].as_f64()? / f64::from(1 << 20),
        median_us: side["clat_ns"]["percentile"]["50.000000"].as_f64()? / 1e3,
        bytes: side["io_bytes"].as_u64()?,
    })
}

fn print_table(columns: &[(String, Vec<Figure>)]) {
    print!("\n{:<26}", "");
    for (name, _) in columns {
        print!("{:>24}", paint("1", name));
    }
    println!();
    for (row, job) in JOBS.iter().enumerate() {
        print!("{:<26}", job.name);
        for (_, figures) in columns {
            let figure = figures[row];
            let cell = match job.block {
                "1M" => format!("{:.0} MiB/s", figure.mib_per_second),
                _ => format!(
                    "{:.0}/s {:.0} us",
                    figure.operations_per_second, figure.median_us
                ),
            };
            print!("{cell:>24}");
        }
        println!();
    }
}

/// A server that is compared; dropping it stops it.
struct Peer {
    process: Child,
    uri: String,
}

impl Peer {
    fn qemu_nbd(scratch: &Path) -> anyhow::Result<Self> {
        let image: PathBuf = scratch.join("qemu.raw");
        File::create(&image)?.set_len(VOLUME_BYTES)?;
        let port = free_port()?;
        let mut command = Command::new("qemu-nbd");
        command.args([
            "--persistent",
            "--shared=8",
            "--format=raw",
            "--bind=127.0.0.1",
            "--port",
            &port.to_string(),
        ]);
        Self::start(command.arg(&image), port, "")
    }

    fn nbdkit_memory() -> anyhow::Result<Self> {
        let port = free_port()?;
        let mut command = Command::new("nbdkit");
        command.args([
            "--foreground",
            "--ipaddr=127.0.0.1",
            "--port",
            &port.to_string(),
            "memory",
        ]);
        Self::start(command.arg(VOLUME_BYTES.to_string()), port, "")
    }

    fn start(command: &mut Command, port: u16, export: &str) -> anyhow::Result<Self> {
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let process =
            process.with_context(|| format!("can't start {}", command.get_program().display()))?;
        let mut peer = Self {
            process,
            uri: format!("nbd://127.0.0.1:{port}/{export}"),
        };
        let deadline = Instant::now() + PEER_START_MAX;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if Instant::now() > deadline || peer.process.try_wait()?.is_some() {
                bail!("{} does not serve", command.get_program().display());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(peer)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

#[cfg(test)]
mod tests {
    use super::figure;

    #[test]
    fn fio_is_understood() {
        let text = r#"note: both iodepth >= 1
        {"jobs":[{"write":{"iops":100.5,"bw_bytes":1048576,"io_bytes":8388608,"clat_ns":{"percentile":{"50.000000":2500}}},"read":{}}]}"#;
        let figure = figure(text, true).expect("a figure");
        assert!((figure.operations_per_second - 100.5).abs() < 1e-9);
        assert!((figure.mib_per_second - 1.0).abs() < 1e-9);
        assert!((figure.median_us - 2.5).abs() < 1e-9);
        assert_eq!(figure.bytes, 8 << 20);
        assert!(super::figure("fio: failed", true).is_none());
    }
}
