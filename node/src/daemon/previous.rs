//! A node's earlier process: one that was killed a moment ago may still hold its sockets, and the
//! locks of its stores, and who starts a node after a disaster does not wait for that.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Names the process, and when it started in ticks since the machine's boot: ids of processes are
/// used again.
const FILE: &str = "process";

/// A killed process has ended by then, unless its disks hang.
const ENDS_WITHIN: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// Waits for the earlier process, and leaves the name of this one, if there is room for it: without,
/// the next one meets what this one still holds.
///
/// # Errors
/// It runs on.
pub(super) fn take_over(directory: &Path) -> Result<()> {
    let path = directory.join(FILE);
    let deadline = Instant::now() + ENDS_WITHIN;
    // A file that says nothing is of a process that died while it wrote it.
    if let Some((pid, started)) = fs::read_to_string(&path).ok().and_then(|said| named(&said)) {
        let is_this = pid == std::process::id();
        while !is_this && started_of(pid) == Some(started) {
            if Instant::now() > deadline {
                bail!("this node runs already, as process {pid}");
            }
            sleep(POLL);
        }
    }
    let pid = std::process::id();
    let started = started_of(pid).context("/proc does not tell of this process")?;
    if let Err(error) = fs::write(&path, format!("{pid} {started}\n")) {
        tracing::warn!(%error, path = %path.display(), "this process is not named for the next one");
    }
    Ok(())
}

fn named(said: &str) -> Option<(u32, u64)> {
    let (pid, started) = said.trim_end().split_once(' ')?;
    Some((pid.parse().ok()?, started.parse().ok()?))
}

/// When a process started; `None` if there is none, or if all that is left of it is its exit
/// status.
fn started_of(pid: u32) -> Option<u64> {
    alive_since(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The same by its line in /proc (proc_pid_stat(5): after the name come the state, the number of
/// threads as the 17th after that, and the start as the 19th). The first thread of a process that
/// is killed may end before others, which still hold what is open: until then it counts them.
fn alive_since(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    let state = fields.next()?;
    let threads: u64 = fields.nth(16)?.parse().ok()?;
    let started = fields.nth(1)?.parse().ok()?;
    let is_over = matches!(state, "Z" | "X") && threads <= 1;
    (!is_over).then_some(started)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_that_ends_is_waited_for() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut child = Command::new("sleep").arg("0.3").spawn().expect("sleep");
        let started = started_of(child.id()).expect("it runs");
        let said = format!("{} {started}\n", child.id());
        fs::write(directory.path().join(FILE), said).expect("a file");
        // It is not reaped until after that, as by an init that is busy.
        take_over(directory.path()).expect("it ended");
        assert!(started_of(child.id()).is_none());
        child.wait().expect("it ended");
        // And by itself it is not in its own way.
        take_over(directory.path()).expect("it is this one");
    }

    #[test]
    fn a_process_is_not_over_before_all_its_threads_are() {
        let stat = |state: &str, threads: u32| {
            format!(
                "77 (a) Z b) {state} 1 77 77 0 -1 4194560 9 0 0 0 5 6 0 0 20 0 {threads} 0 4321 0 0\n"
            )
        };
        assert_eq!(alive_since(&stat("S", 1)), Some(4321));
        assert_eq!(alive_since(&stat("Z", 1)), None);
        assert_eq!(alive_since(&stat("Z", 3)), Some(4321), "two threads run");
        assert_eq!(alive_since(&stat("X", 0)), None);
        let own = fs::read_to_string("/proc/self/stat").expect("this process");
        assert_eq!(alive_since(&own), started_of(std::process::id()));
    }

    /// As a file system that is full would.
    #[test]
    fn a_name_that_can_not_be_written_keeps_nobody_from_starting() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::create_dir(directory.path().join(FILE)).expect("in its place");
        take_over(directory.path()).expect("it goes on");
    }

    #[test]
    fn another_process_of_the_same_id_is_none_of_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let parent = std::os::unix::process::parent_id();
        let started = started_of(parent).expect("it runs");
        let said = format!("{parent} {}\n", started + 1);
        fs::write(directory.path().join(FILE), said).expect("a file");
        let began = Instant::now();
        take_over(directory.path()).expect("it is another one");
        assert!(began.elapsed() < ENDS_WITHIN / 2);
    }
}
