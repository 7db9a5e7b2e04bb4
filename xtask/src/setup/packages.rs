//! Debian packages: for building RocksDB, and real clients for the tests.

use std::process::Command;

use anyhow::{Context, bail};

use crate::command::Step;

/// What is needed, and for what.
const PACKAGES: [(&str, &str); 11] = [
    ("g++", "RocksDB"),
    ("clang", "RocksDB's bindings"),
    ("libclang-dev", "RocksDB's bindings"),
    ("libnbd-bin", "nbdcopy, nbdinfo"),
    ("python3-libnbd", "nbdsh"),
    ("libiscsi-bin", "iscsi-test-cu, iscsi-ls, iscsi-inq"),
    ("nbdkit", "comparison in bench"),
    ("fio", "verified load"),
    ("e2fsprogs", "file systems in tests"),
    ("qemu-utils", "qemu-img, qemu-io, qemu-nbd"),
    ("strace", "counting durable syncs"),
];

/// Installs those that are missing.
pub(crate) fn install() -> anyhow::Result<()> {
    let missing = missing()?;
    if missing.is_empty() {
        return Ok(());
    }
    let command = format!(
        "apt-get install -y --no-install-recommends {}",
        missing.join(" ")
    );
    let is_root = rustix::process::geteuid().is_root();
    let has_sudo = !is_root
        && Command::new("sudo")
            .args(["-n", "true"])
            .output()
            .is_ok_and(|o| o.status.success());
    if !is_root && !has_sudo {
        bail!(
            "packages are missing, and this user may not install them; as root, run:\n  {command}"
        );
    }
    let apt = |name: &str, args: &[&str]| {
        let program = if is_root { "apt-get" } else { "sudo" };
        let step = Step::new(name, program).env("DEBIAN_FRONTEND", "noninteractive");
        if is_root {
            step.args(args)
        } else {
            step.args(["-n", "apt-get"]).args(args)
        }
    };
    apt("package lists", &["update", "-q"]).run()?;
    let mut args = vec!["install", "-y", "-q", "--no-install-recommends"];
    args.extend(&missing);
    apt(&format!("installing {}", missing.join(", ")), &args).run()
}

pub(super) fn missing() -> anyhow::Result<Vec<&'static str>> {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${Package} ${db:Status-Status}\n"])
        .args(PACKAGES.map(|(name, _)| name))
        .output()
        .context("this needs Debian (or a system with dpkg): can't run dpkg-query")?;
    Ok(not_installed(&String::from_utf8_lossy(&output.stdout)))
}

/// Packages that a listing does not call installed.
fn not_installed(listing: &str) -> Vec<&'static str> {
    let is_installed = |name: &str| {
        listing
            .lines()
            .any(|line| line == format!("{name} installed"))
    };
    PACKAGES
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| !is_installed(name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{PACKAGES, not_installed};

    #[test]
    fn only_installed_counts() {
        let listing: String = PACKAGES
            .iter()
            .map(|(name, _)| format!("{name} installed\n"))
            .collect();
        assert!(not_installed(&listing).is_empty());
        let listing = listing
            .replace("fio installed", "fio config-files")
            .replace("strace installed\n", "");
        assert_eq!(not_installed(&listing), ["fio", "strace"]);
    }
}
