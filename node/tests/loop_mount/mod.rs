//! A volume as a Linux file system: `nbdfuse` makes it a file, a loop device that file a disk, ext4
//! lies on that.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::real_clients::{output, run_within};

/// Writing back what is cached, on a busy machine, just after a disaster.
const PATIENCE: Duration = Duration::from_secs(120);

/// Undoes all once its input ends, whatever ended the test. Aborting FUSE comes first: what waits
/// for a fabric that is gone gets an error, and nothing keeps the others.
const JANITOR: &str = r#"cat >/dev/null
umount --force "$1"
umount "$2" || umount --lazy "$2"
umount --lazy "$1""#;

/// A volume through one front end, as a file; dropping it undoes it and what is mounted on it.
pub(crate) struct LoopMount {
    nbdfuse: Child,
    janitor: Child,
    fuse: PathBuf,
    mounted: PathBuf,
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

impl LoopMount {
    /// Attaches the volume at `uri`, with its mount points in `scratch`.
    pub(crate) fn attach(scratch: &Path, uri: &str) -> Self {
        let [fuse, mounted] = ["fuse", "ext4"].map(|name| scratch.join(name));
        for directory in [&fuse, &mounted] {
            fs::create_dir_all(directory).expect("a mount point");
        }
        // In a session of its own: what is sent to the test's processes does not reach it.
        let janitor = Command::new("setsid")
            .args(["sh", "-c", JANITOR, "janitor"])
            .args([&fuse, &mounted])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("setsid is there");
        let nbdfuse = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "nbdfuse"])
            .args([text(&fuse.join("disk")), uri])
            .spawn()
            .expect("nbdfuse is there");
        let mut attached = Self {
            nbdfuse,
            janitor,
            fuse,
            mounted,
        };
        let deadline = Instant::now() + PATIENCE;
        while !attached.disk().exists() {
            let ended = attached.nbdfuse.try_wait().expect("a child");
            assert!(ended.is_none(), "nbdfuse of {uri} ended: {ended:?}");
            assert!(Instant::now() < deadline, "nbdfuse of {uri} shows no file");
            std::thread::sleep(Duration::from_millis(20));
        }
        attached
    }

    /// The volume.
    fn disk(&self) -> PathBuf {
        self.fuse.join("disk")
    }

    /// Makes an empty file system.
    pub(crate) fn format(&self) {
        run_within(PATIENCE, "mkfs.ext4", &["-q", "-F", text(&self.disk())]);
    }

    /// Mounts the file system; where. The loop device goes when it is not mounted any more.
    pub(crate) fn mount(&self) -> &Path {
        let (disk, mounted) = (self.disk(), text(&self.mounted));
        run_within(PATIENCE, "mount", &["-o", "loop", text(&disk), mounted]);
        &self.mounted
    }

    /// Where it is mounted.
    pub(crate) fn mounted(&self) -> &Path {
        &self.mounted
    }

    /// Cuts it from the volume: whatever waits gets an error.
    pub(crate) fn abort(&self) {
        // It says that it is busy: all that is wanted is done by then.
        output(PATIENCE, "umount", &["--force", text(&self.fuse)]);
    }

    /// Writes all back, and takes it down.
    pub(crate) fn unmount(&self) {
        run_within(PATIENCE, "umount", &[text(&self.mounted)]);
    }

    /// Finds nothing to mend in a file system that is not mounted.
    pub(crate) fn assert_clean(&self, when: &str) {
        let found = output(PATIENCE, "e2fsck", &["-fn", text(&self.disk())]);
        assert!(
            found.status.success(),
            "{when}, e2fsck -fn: {}\n{}{}",
            found.status,
            String::from_utf8_lossy(&found.stdout),
            String::from_utf8_lossy(&found.stderr)
        );
    }
}

impl Drop for LoopMount {
    fn drop(&mut self) {
        drop(self.janitor.stdin.take());
        let _ = self.janitor.wait();
        // It ended with its mount; one that never mounted has not.
        let _ = self.nbdfuse.kill();
        let _ = self.nbdfuse.wait();
    }
}
