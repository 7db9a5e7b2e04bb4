//! A file system on a volume, through disasters: ext4 over a loop device over `nbdfuse`. A tree of
//! files is copied in, then `fsx` runs and files are written and synced, while something happens.
//! Afterwards, seen through another front end, the file system is clean, and all that was synced is
//! there.

mod dev_fabric;
mod disk_files;
mod loop_mount;
mod real_clients;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use dev_fabric::{DevFabric, remove};
use disk_files::{CatalogFile, Place};
use loop_mount::LoopMount;
use real_clients::{noise, output, run_within, scratch, uri};

/// Until work goes on after a disaster, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// What was copied in before: the sources of these.
const TREE: [&str; 4] = ["docs", "node", "actors", "sim"];

/// Synced before a disaster, and again after it.
const FILES: u64 = 25;

/// Longer than a journal's block: a file is data, an inode and a name.
const FILE_BYTES: usize = 40_000;

/// So many operations are a run; then it begins anew with another seed.
const FSX_OPERATIONS: &str = "400";

/// What reaches the volume: what is synced, and read again after the page cache forgot it.
const FSX: &str = "flen = 4194304
[weights]
close_open = 1
read = 10
write = 10
mapread = 5
mapwrite = 5
truncate = 2
fsync = 3
fdatasync = 3
posix_fallocate = 2
punch_hole = 2
sendfile = 2
posix_fadvise = 8
copy_file_range = 2
";

/// How long a stall is watched.
const STALL: Duration = Duration::from_secs(5);

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn kill(fabric: &DevFabric, nodes: &[&str]) {
    for node in nodes {
        fabric.signal(node, Signal::KILL);
    }
}

/// Work on a mounted file system.
struct Work<'m> {
    at: &'m Path,
    stop: AtomicBool,
    /// Files that were written and synced: 0 up to this one, without it.
    synced: AtomicU64,
}

impl<'m> Work<'m> {
    fn new(at: &'m Path) -> Self {
        fs::create_dir(at.join("synced")).expect("a directory");
        Self {
            at,
            stop: AtomicBool::new(false),
            synced: AtomicU64::new(0),
        }
    }

    /// Writes one file after the other, each durable before the next one, until it is stopped or
    /// the volume is lost.
    fn write_files(&self) -> io::Result<()> {
        let directory = self.at.join("synced");
        while !self.stop.load(Ordering::Relaxed) {
            let number = self.synced.load(Ordering::Relaxed);
            let mut file = File::create(directory.join(number.to_string()))?;
            file.write_all(&noise(number, FILE_BYTES))?;
            file.sync_all()?;
            File::open(&directory)?.sync_all()?;
            self.synced.store(number + 1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Runs `fsx` again and again, until it is stopped or a run fails; the last one, and how many.
    fn exercise(&self, scratch: &Path) -> (Output, u64) {
        let (config, file) = (scratch.join("fsx.toml"), self.at.join("exercised"));
        fs::write(&config, FSX).expect("a file");
        let mut runs = 0;
        loop {
            let seed = (runs + 1).to_string();
            let of_run = ["-N", FSX_OPERATIONS, "-S", &seed, "-P", text(scratch)];
            let about = ["-f", text(&config), text(&file)];
            let run = output(2 * PATIENCE, "fsx", &[&of_run[..], &about].concat());
            runs += 1;
            if self.stop.load(Ordering::Relaxed) || !run.status.success() {
                return (run, runs);
            }
        }
    }

    fn synced(&self) -> u64 {
        self.synced.load(Ordering::Relaxed)
    }

    /// Waits until so many more files were synced; how long that took.
    fn goes_on(&self, when: &str) -> Duration {
        let (from, began) = (self.synced(), Instant::now());
        while self.synced() < from + FILES {
            assert!(
                began.elapsed() < PATIENCE,
                "{when}, only {} files were written and synced in {PATIENCE:?}",
                self.synced() - from
            );
            thread::sleep(Duration::from_millis(20));
        }
        began.elapsed()
    }

    /// Nothing is synced for a while, but for what was on its way.
    fn stalls(&self, when: &str) {
        thread::sleep(Duration::from_secs(1));
        let from = self.synced();
        thread::sleep(STALL);
        assert_eq!(self.synced(), from, "{when}, files were synced");
    }
}

/// A fabric with a file system on its volume.
struct Stage {
    // Before the directory that it lies in.
    fabric: DevFabric,
    scratch: tempfile::TempDir,
}

impl Stage {
    /// Starts the fabric; a volume of site a.
    fn start(options: &[&str]) -> Self {
        let scratch = scratch();
        let options = [&["--disk-size", "1GiB"], options].concat();
        let fabric = DevFabric::start(&scratch.path().join("fabric"), &options);
        fabric.json("volume create vol --size 192MiB --home a");
        Self { fabric, scratch }
    }

    fn attach(&self, node: &str) -> LoopMount {
        LoopMount::attach(self.scratch.path(), &uri(&self.fabric, node, "vol"))
    }

    /// Attached through a node of another site than the owner's a1, with the tree copied in.
    fn prepare(&self, node: &str) -> LoopMount {
        let attached = self.attach(node);
        self.fabric.json("volume move vol --to a1");
        self.fabric
            .wait_for("volume show vol", "/owner", &json!("a1"));
        attached.format();
        let mounted = attached.mount();
        let tree = mounted.join("tree");
        fs::create_dir(&tree).expect("a directory");
        for from in self.sources() {
            run_within(PATIENCE, "cp", &["-a", text(&from), text(&tree)]);
        }
        fs::write(tree.join("noise"), noise(u64::MAX, 16 << 20)).expect("written");
        run_within(PATIENCE, "sync", &["-f", text(mounted)]);
        attached
    }

    fn sources(&self) -> [PathBuf; TREE.len()] {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        TREE.map(|name| workspace.join(name))
    }

    /// What was synced is there, seen through `node`, and the file system is clean.
    fn assert_whole(&self, node: &str, synced: u64) {
        let attached = self.attach(node);
        let mounted = attached.mount();
        for from in self.sources() {
            let to = mounted
                .join("tree")
                .join(from.file_name().expect("it has a name"));
            let same = ["-r", "--no-dereference", text(&from), text(&to)];
            run_within(PATIENCE, "diff", &same);
        }
        let read = |path: &Path| fs::read(path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        let copied = read(&mounted.join("tree/noise"));
        assert!(copied == noise(u64::MAX, 16 << 20), "the large file");
        for number in 0..synced {
            let path = mounted.join("synced").join(number.to_string());
            assert!(read(&path) == noise(number, FILE_BYTES), "{path:?} differs");
        }
        attached.unmount();
        attached.assert_clean(&format!("through {node}"));
    }
}

/// Works through `node` while `disaster` comes and goes; all must be right then, through
/// `afterwards` too.
fn survives(
    options: &[&str],
    node: &str,
    afterwards: &str,
    disaster: impl FnOnce(&DevFabric, &Work<'_>),
) {
    let stage = Stage::start(options);
    let attached = stage.prepare(node);
    let work = Work::new(attached.mounted());
    thread::scope(|scope| {
        let files = scope.spawn(|| work.write_files());
        let exercise = scope.spawn(|| work.exercise(stage.scratch.path()));
        let weathered = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            work.goes_on("before anything happened");
            disaster(&stage.fabric, &work);
            work.goes_on("after all that happened");
        }));
        work.stop.store(true, Ordering::Relaxed);
        if let Err(why) = weathered {
            // What waits for the fabric would wait on, and this for it.
            attached.abort();
            std::panic::resume_unwind(why);
        }
        let written = files.join().expect("no panic");
        written.expect("every file is written and synced");
        let (last, runs) = exercise.join().expect("no panic");
        assert!(
            last.status.success(),
            "run {runs} of fsx: {}\n{}{}",
            last.status,
            String::from_utf8_lossy(&last.stdout),
            String::from_utf8_lossy(&last.stderr)
        );
        println!("{} files synced, {runs} runs of fsx", work.synced());
    });
    attached.unmount();
    attached.assert_clean(&format!("through {node}"));
    let synced = work.synced();
    drop(attached);
    stage.assert_whole(afterwards, synced);
}

#[test]
#[ignore = "long: cargo xtask test --layer long"]
fn the_owner_is_killed() {
    survives(&[], "b1", "c2", |fabric, work| {
        kill(fabric, &["a1"]);
        let took = work.goes_on("after the owner was killed");
        println!("{FILES} files after the kill took {took:?}");
    });
}

#[test]
#[ignore = "long: cargo xtask test --layer long"]
fn the_owners_site_is_killed() {
    survives(&[], "b1", "c2", |fabric, work| {
        kill(fabric, &["a1", "a2", "a3"]);
        let took = work.goes_on("after the owner's site was killed");
        println!("{FILES} files after the kill took {took:?}");
    });
}

#[test]
#[ignore = "long: cargo xtask test --layer long"]
fn two_sites_are_killed_and_one_returns() {
    survives(&[], "c1", "b2", |fabric, work| {
        kill(fabric, &["a1", "a2", "a3", "b1", "b2", "b3"]);
        work.stalls("with two sites of three killed");
        fabric.json("site start b");
        let took = work.goes_on("after one of two killed sites returned");
        println!("{FILES} files after the return took {took:?}");
    });
}

#[test]
#[ignore = "long: cargo xtask test --layer long"]
fn a_link_is_cut() {
    survives(&["--wan"], "b1", "c2", |fabric, work| {
        for cut in [
            "link cut a b",
            "link cut a b --one-way",
            "link cut b a --one-way",
        ] {
            fabric.json(cut);
            let took = work.goes_on(&format!("after {cut}"));
            println!("{FILES} files after {cut} took {took:?}");
            fabric.json("link heal");
            work.goes_on("after link heal");
        }
    });
}

const SITE_A: [&str; 3] = ["a1", "a2", "a3"];

/// Lost disks are rebuilt on others so soon.
const HEALS: [&str; 2] = ["--heal-after", "3"];

#[test]
#[ignore = "long: cargo xtask test --layer long"]
fn two_sites_are_killed_and_the_owners_returns() {
    survives(&[], "c1", "a2", |fabric, work| {
        kill(fabric, &["a1", "a2", "a3", "b1", "b2", "b3"]);
        work.stalls("with two sites of three killed");
        fabric.json("site start a");
        let took = work.goes_on("after the owner's site returned");
        println!("{FILES} files after the return took {took:?}");
    });
}

#[test]
#[ignore = "long: cargo xtask test --layer long"]
fn the_owner_sleeps() {
    survives(&[], "b1", "a1", |fabric, work| {
        fabric.signal("a1", Signal::STOP);
        let slept = Instant::now();
        let took = work.goes_on("after the owner was stopped");
        println!("{FILES} files while it slept took {took:?}");
        thread::sleep(Duration::from_secs(15).saturating_sub(slept.elapsed()));
        fabric.signal("a1", Signal::CONT);
    });
}

#[test]
#[ignore = "long: cargo xtask test --layer long"]
fn all_links_of_the_owners_site_are_cut() {
    survives(&["--wan"], "b1", "a2", |fabric, work| {
        for cuts in [
            ["link cut a b", "link cut a c"],
            ["link cut a b --one-way", "link cut a c --one-way"],
            ["link cut b a --one-way", "link cut c a --one-way"],
        ] {
            for cut in cuts {
                fabric.json(cut);
            }
            let took = work.goes_on(&format!("after {cuts:?}"));
            println!("{FILES} files after {cuts:?} took {took:?}");
            fabric.json("link heal");
            let healed = Instant::now();
            // It is not known at once that the site is back.
            while !fabric.command("volume move vol --to a1").status.success() {
                assert!(healed.elapsed() < PATIENCE, "a1 can't own it again");
                thread::sleep(Duration::from_millis(200));
            }
            work.goes_on("after link heal");
        }
    });
}

#[test]
#[ignore = "long: cargo xtask test --layer long"]
fn the_owners_sites_directory_is_deleted() {
    survives(&HEALS, "b1", "a2", |fabric, work| {
        for node in SITE_A {
            remove(&fabric.directory(node));
        }
        let took = work.goes_on("after a site's directory was deleted under it");
        println!("{FILES} files without the directory took {took:?}");
        fabric.json("site stop a");
        work.goes_on("after its processes were stopped");
        fabric.json("site start a");
        work.goes_on("after it was made anew");
        fabric.wait_for("status", "/healthy", &json!(true));
    });
}

#[test]
#[ignore = "long: cargo xtask test --layer long"]
fn a_journals_disks_directory_is_deleted() {
    survives(&HEALS, "b1", "c2", |fabric, work| {
        let shown = fabric.json("volume show vol");
        let disk = shown["journal"][0].as_str().expect("a disk").to_owned();
        let told = fabric.json(&format!("disk show {disk}"));
        remove(Path::new(told["path"].as_str().expect("a path")));
        let took = work.goes_on(&format!("after the directory of {disk} was deleted"));
        println!("{FILES} files without it took {took:?}");
        fabric.wait_for("volume show vol", "/stats/replicas_current", &json!(3));
    });
}

/// Flips bytes on each disk of the owner's site: first under its processes, then while they are
/// dead. `flip` is told which time it is, so as not to put a byte right again.
fn bytes_flip(flip: impl Fn(&Path, usize)) {
    survives(&HEALS, "b1", "a2", |fabric, work| {
        let flip_all = |time| {
            let disks = SITE_A.map(|node| disk_files::disks(&fabric.directory(node)));
            disks.iter().flatten().for_each(|disk| flip(disk, time));
        };
        flip_all(0);
        fabric.json("cache drop");
        work.goes_on("after bytes flipped under running processes");
        kill(fabric, &SITE_A);
        flip_all(1);
        work.goes_on("after the owner's site was killed");
        fabric.json("site start a");
        work.goes_on("after it returned with flipped bytes");
        fabric.wait_for("status", "/healthy", &json!(true));
    });
}

#[test]
#[ignore = "long: cargo xtask test --layer long"]
fn bytes_flip_in_fragments() {
    bytes_flip(|disk, time| {
        // Two each time: a disk on which 8 rotted is told as a bad one.
        let fragments = disk_files::fragments(disk);
        let nth = |n: usize| fragments.get(fragments.len() * n / 5);
        if let (Some(one), Some(other)) = (nth(1 + time), nth(3 + time)) {
            one.data.flip();
            other.header.flip();
        }
    });
}

#[test]
#[ignore = "long: cargo xtask test --layer long"]
fn bytes_flip_in_journal_files() {
    bytes_flip(|disk, time| {
        for (file, batches) in disk_files::journal(disk) {
            match batches.get(batches.len() * (1 + time) / 3) {
                Some(batch) => batch.data.flip(),
                None => Place { file, offset: 8192 }.flip(),
            }
        }
    });
}

#[test]
#[ignore = "long: cargo xtask test --layer long"]
fn bytes_flip_in_catalogs() {
    bytes_flip(|disk, time| {
        for kind in [CatalogFile::Table, CatalogFile::Log, CatalogFile::Manifest] {
            for mut place in disk_files::catalog(disk, kind) {
                place.offset = place.offset.saturating_sub(time as u64);
                place.flip();
            }
        }
    });
}

/// The client ends with the fabric here: what it had not synced may be gone.
#[test]
#[ignore = "long: cargo xtask test --layer long"]
fn every_process_is_killed() {
    let mut stage = Stage::start(&[]);
    let attached = stage.prepare("b1");
    let work = Work::new(attached.mounted());
    thread::scope(|scope| {
        let files = scope.spawn(|| work.write_files());
        let exercise = scope.spawn(|| work.exercise(stage.scratch.path()));
        let began = Instant::now();
        while work.synced() < FILES && began.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(20));
        }
        for node in stage.fabric.nodes() {
            stage.fabric.signal(&node, Signal::KILL);
        }
        attached.abort();
        work.stop.store(true, Ordering::Relaxed);
        // Each may have ended in an error.
        let _ = (files.join(), exercise.join());
    });
    assert!(work.synced() >= FILES, "only {} files", work.synced());
    let synced = work.synced();
    drop(attached);
    println!("{synced} files were synced");
    stage.fabric.process.kill().expect("it ran");
    stage.fabric.process.wait().expect("it ended");
    let directory = stage.scratch.path().join("fabric");
    stage.fabric = DevFabric::start(&directory, &[]);
    stage.assert_whole("c2", synced);
}
