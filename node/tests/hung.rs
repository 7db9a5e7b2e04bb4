//! A disk that hangs: its file system is frozen under it, so that it neither answers nor fails.
#![cfg(feature = "sim")]

mod dev_fabric;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use dev_fabric::{DevFabric, PATIENCE, PROGRAM};

fn runs(program: &str, args: &[&str]) -> bool {
    let status = Command::new(program).args(args).status();
    status.expect("it is installed").success()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// A file system of its own for a disk.
struct Mounted(PathBuf);

impl Mounted {
    /// Takes over what is in a directory, onto a file system in `image`, at its place.
    fn under(directory: &Path, image: &Path) -> Self {
        let file = fs::File::create(image).expect("an image");
        file.set_len(3 << 30).expect("a sparse file");
        assert!(runs("mkfs.ext4", &["-q", "-F", text(image)]));
        let aside = directory.with_extension("aside");
        fs::rename(directory, &aside).expect("it is put aside");
        fs::create_dir(directory).expect("a mount point");
        assert!(runs("mount", &["-o", "loop", text(image), text(directory)]));
        let mounted = Self(directory.to_owned());
        let all = format!("{}/.", text(&aside));
        assert!(runs("cp", &["-a", &all, text(directory)]));
        fs::remove_dir_all(aside).expect("it is copied");
        mounted
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        runs("umount", &["--lazy", text(&self.0)]);
    }
}

/// Nothing is written to it until this is dropped, and whoever tries waits.
struct Frozen<'a>(&'a Path);

impl<'a> Frozen<'a> {
    fn new(at: &'a Path) -> Self {
        assert!(runs("fsfreeze", &["--freeze", text(at)]));
        Self(at)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        runs("fsfreeze", &["--unfreeze", text(self.0)]);
    }
}

/// Clients go on without a disk that hangs: it is given up, and served again once it let go.
#[test]
#[ignore = "long: cargo xtask test --layer long"]
fn a_disk_that_hangs_is_given_up_and_comes_back() {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let image = scratch.path().join("image");
    // Dropped last: until then a process has files in it.
    let mounted;
    let fabric = DevFabric::start(
        &scratch.path().join("fabric"),
        &["--nodes", "1", "--disks", "2", "--disk-size", "1GiB"],
    );
    fabric.json("volume create vol --size 256MiB --home a");
    fabric.wait_for("status", "/healthy", &json!(true));
    // One that a journal needs.
    let journal = fabric.json("volume show vol")["journal"].clone();
    let mut names = journal.as_array().expect("a list").iter();
    let disk = names.find_map(|name| name.as_str().filter(|name| name.starts_with("b1/")));
    let disk = disk.expect("a replica in site b").to_owned();
    let path = fabric.json(&format!("disk show {disk}"))["path"].clone();
    let path = PathBuf::from(path.as_str().expect("a path"));
    fabric.json("node stop b1");
    mounted = Mounted::under(&path, &image);
    fabric.json("node start b1");
    fabric.wait_for("status", "/healthy", &json!(true));

    let checking = Command::new(PROGRAM)
        .args(["check", &format!("nbd://{}/vol", fabric.address("a1"))])
        .args(["--minutes", "0.8", "--overwrite", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("atoll starts");
    std::thread::sleep(Duration::from_secs(3));
    let frozen = Frozen::new(&mounted.0);
    let began = Instant::now();
    fabric.wait_for("status", "/disks/up", &json!(5));
    let took = began.elapsed();
    println!("given up after {took:?}");
    assert!(took < Duration::from_secs(40), "{took:?}");
    std::thread::sleep(Duration::from_secs(5));
    drop(frozen);
    let output = checking.wait_with_output().expect("it ends");
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    assert_eq!(report["passed"], json!(true), "{report}");
    println!("{report}");

    let log = || fs::read_to_string(fabric.directory("b1").join("log")).expect("a log");
    let began = Instant::now();
    while !log().contains("the disk is served again") {
        assert!(began.elapsed() < PATIENCE, "it is opened again");
        std::thread::sleep(Duration::from_millis(200));
    }
    fabric.wait_for("status", "/healthy", &json!(true));
}
