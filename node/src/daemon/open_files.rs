//! How many files the process may have open: a disk or the metadata log that can't open one has
//! failed, and so clients' connections never take what they need.

use disk_store::fragments::FragmentsConfig;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::config::DiskConfig;

/// What a node needs beside its disks and NBD's connections: the metadata logs, sockets, 64 admin
/// connections, files of its directory.
const NODE: u64 = 192;

/// What a disk needs beside its extents: 256 tables of its catalog, and 64 files of its journal (4 GiB
/// that could not be trimmed), each open twice, once past the page cache.
const DISK: u64 = 256 + 2 * 64;

/// Where the limit is too low for all of that, one connection in so many files is taken.
const FILES_TO_CONNECTIONS: u64 = 4;

/// Raises the soft limit to the hard one, and returns what may be open; `None` if there is no bound.
pub(super) fn raise() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return current;
    }
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::warn!(%error, ?current, ?maximum, "the limit of open files is not raised");
            current
        }
    }
}

/// How many of the files that may be open are kept from connections.
fn reserve(disks: &[DiskConfig]) -> u64 {
    let of_disk = |disk: &DiskConfig| {
        let extent_bytes = FragmentsConfig::new(0, disk.size.0).extent_bytes;
        DISK + 2 * disk.size.0.div_ceil(extent_bytes)
    };
    NODE + disks.iter().map(of_disk).sum::<u64>()
}

/// How many connections may be open at once under a limit, of those that are wanted.
pub(super) fn connections(limit: Option<u64>, disks: &[DiskConfig], wanted: usize) -> usize {
    let Some(limit) = limit else {
        return wanted;
    };
    let reserve = reserve(disks);
    let least = limit / FILES_TO_CONNECTIONS;
    let left = limit.saturating_sub(reserve);
    if left < least {
        tracing::warn!(
            limit,
            reserve,
            "few files may be open: raise the hard limit (`ulimit -Hn`) by the difference at least, or disks may fail"
        );
    }
    let left = usize::try_from(left.max(least)).unwrap_or(usize::MAX);
    wanted.min(left)
}

#[cfg(test)]
mod tests {
    use super::{DISK, DiskConfig, NODE, connections, reserve};
    use crate::units::ByteSize;

    fn disks(count: usize) -> Vec<DiskConfig> {
        let disk = |n| DiskConfig {
            name: format!("d{n}"),
            path: format!("disks/d{n}").into(),
            size: ByteSize(8 << 30),
        };
        (0..count).map(disk).collect()
    }

    #[test]
    fn connections_are_what_disks_leave() {
        let disks = disks(2);
        let reserve = reserve(&disks);
        assert_eq!(reserve, NODE + 2 * (DISK + 16));
        for limit in [reserve * 2, reserve + 1024, reserve + 500, 2048] {
            let most = connections(Some(limit), &disks, 1024) as u64;
            assert!(most > 0 && most + reserve <= limit, "{most} of {limit}");
        }
        assert_eq!(connections(None, &disks, 1024), 1024);
        assert_eq!(connections(Some(1 << 20), &disks, 1024), 1024);
    }

    #[test]
    fn a_low_limit_leaves_most_to_disks() {
        assert_eq!(connections(Some(256), &disks(2), 1024), 64);
        assert_eq!(connections(Some(1024), &disks(3), 1024), 256);
    }
}
