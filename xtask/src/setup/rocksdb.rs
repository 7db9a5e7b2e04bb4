//! RocksDB's static library, built once a machine: it takes 23 minutes of processor, and
//! cargo would spend them again for every target directory and profile.
//!
//! The archive lies in the user's cache; `.cargo/rocksdb.toml`, which `.cargo/config.toml`
//! includes when it is there, points every cargo command of the workspace to it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::command::{Step, heading, root};

const CRATE: &str = "librocksdb-sys";
const ARCHIVE: &str = "librocksdb.a";

/// What every archive begins with.
const MAGIC: &[u8; 8] = b"!<arch>\n";

/// A whole one has 45 MB; less than this is a torn one.
const BYTES_MIN: u64 = 10 << 20;

/// Builds the archive unless it is in the cache, and points cargo to it.
pub(crate) fn ensure() -> anyhow::Result<()> {
    let version = version()?;
    let folder = folder(&version)?;
    if !is_whole(&folder.join(ARCHIVE)) {
        build(&folder, &version)?;
    }
    point_cargo_to(&folder)
}

/// Whether the archive is in the cache and cargo is pointed to it.
pub(super) fn is_built() -> anyhow::Result<bool> {
    let folder = folder(&version()?)?;
    let pointed = fs::read_to_string(pointer())
        .is_ok_and(|found| pointing_to(&folder).is_ok_and(|it| it == found));
    Ok(is_whole(&folder.join(ARCHIVE)) && pointed)
}

/// The version that this workspace is built with.
fn version() -> anyhow::Result<String> {
    let lock = fs::read_to_string(root().join("Cargo.lock")).context("can't read Cargo.lock")?;
    locked_version(&lock).with_context(|| format!("Cargo.lock names no {CRATE}"))
}

/// Where the archive lies.
fn folder(version: &str) -> anyhow::Result<PathBuf> {
    Ok(cache()?.join(format!("rocksdb-{version}-{}", host()?)))
}

/// The version of the crate in a lock file.
fn locked_version(lock: &str) -> Option<String> {
    let mut lines = lock
        .lines()
        .skip_while(|line| *line != format!("name = \"{CRATE}\""));
    lines.next()?;
    let version = lines
        .next()?
        .strip_prefix("version = \"")?
        .strip_suffix('"')?;
    Some(version.to_owned())
}

fn cache() -> anyhow::Result<PathBuf> {
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    let base = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    Ok(base
        .context("neither XDG_CACHE_HOME nor HOME is set")?
        .join("atoll"))
}

fn host() -> anyhow::Result<String> {
    let said = Step::new("rustc", "rustc").args(["-vV"]).output()?;
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_owned())
}

/// Whether it is there and can be one: it is renamed into place only when it is whole.
fn is_whole(archive: &Path) -> bool {
    let mut magic = [0; 8];
    let begins_well = |mut file: File| file.read_exact(&mut magic).is_ok() && magic == *MAGIC;
    let length = fs::metadata(archive).map_or(0, |m| m.len());
    length >= BYTES_MIN && File::open(archive).is_ok_and(begins_well)
}

/// Builds the archive with its own small workspace, so that neither the fabric's features nor
/// its configuration matter, and moves it into place.
fn build(folder: &Path, version: &str) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
    let lock = File::create(folder.join("lock")).context("can't write to the cache")?;
    // Another one may be building just now: its result will do.
    lock.lock().context("can't lock the cache")?;
    if is_whole(&folder.join(ARCHIVE)) {
        return Ok(());
    }
    heading("RocksDB is built once on this machine: about 13 minutes on two processors");
    let project = folder.join("build");
    write_project(&project, version)
        .with_context(|| format!("can't write to {}", project.display()))?;
    let target = project.join("target");
    Step::cargo("building RocksDB")
        .args(["build", "--release", "--target-dir"])
        .args([&target])
        .directory(&project)
        .env("ROCKSDB_COMPILE", "1")
        .run()?;
    let built = find_archive(&target.join("release/build"))?;
    let temporary = folder.join("librocksdb.a.new");
    fs::copy(&built, &temporary).context("can't copy the archive")?;
    File::open(&temporary)
        .and_then(|f| f.sync_all())
        .context("can't sync the archive")?;
    if !is_whole(&temporary) {
        bail!("{} is no archive: what did its build say?", built.display());
    }
    fs::rename(&temporary, folder.join(ARCHIVE)).context("can't move the archive into place")?;
    fs::remove_dir_all(&project).context("can't clear the build's folder")
}

fn write_project(project: &Path, version: &str) -> io::Result<()> {
    fs::create_dir_all(project.join("src"))?;
    fs::write(project.join("src/lib.rs"), "//! Builds RocksDB.\n")?;
    let version = version.split('+').next().unwrap_or(version);
    let manifest = format!(
        "[package]\nname = \"rocksdb-build\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[dependencies]\n\
         {CRATE} = {{ version = \"={version}\", default-features = false, features = [\"bindgen-runtime\"] }}\n\n\
         [workspace]\n"
    );
    fs::write(project.join("Cargo.toml"), manifest)
}

fn find_archive(build: &Path) -> anyhow::Result<PathBuf> {
    let entries = fs::read_dir(build).with_context(|| format!("can't read {}", build.display()))?;
    let candidates = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path().join("out").join(ARCHIVE));
    candidates
        .into_iter()
        .find(|path| is_whole(path))
        .context("the build left no archive")
}

/// The file that points every cargo command of the workspace to the archive.
fn pointer() -> PathBuf {
    root().join(".cargo/rocksdb.toml")
}

fn pointing_to(folder: &Path) -> anyhow::Result<String> {
    let folder = serde_json::to_string(&folder.display().to_string())?;
    Ok(format!(
        "# Written by `cargo xtask`: RocksDB's library, built once on this machine.\n\
         [env]\nROCKSDB_LIB_DIR = {folder}\nROCKSDB_STATIC = \"1\"\n"
    ))
}

/// Writes the pointer, unless it says the same already.
fn point_cargo_to(folder: &Path) -> anyhow::Result<()> {
    let (path, text) = (pointer(), pointing_to(folder)?);
    if fs::read_to_string(&path).is_ok_and(|before| before == text) {
        return Ok(());
    }
    fs::write(&path, text).with_context(|| format!("can't write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::{is_whole, locked_version};

    #[test]
    fn the_version_comes_from_the_lock_file() {
        let lock =
            "[[package]]\nname = \"librocksdb-sys\"\nversion = \"0.19.0+11.8.1\"\nsource = \"x\"\n";
        assert_eq!(locked_version(lock).as_deref(), Some("0.19.0+11.8.1"));
        assert_eq!(
            locked_version("[[package]]\nname = \"rocksdb\"\nversion = \"0.25.0\"\n"),
            None
        );
    }

    #[test]
    fn an_absent_or_torn_archive_is_not_whole() {
        assert!(!is_whole("/nowhere/librocksdb.a".as_ref()));
        assert!(!is_whole(
            concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml").as_ref()
        ));
    }
}
