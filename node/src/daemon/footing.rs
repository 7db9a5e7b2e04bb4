//! The directory under a node's feet: a node whose directory was deleted, renamed or swapped while it
//! runs goes on to write to files that nobody finds again, and what its voter promises there is gone with
//! the process (R2, in spirit). So it looks, as each of its disks does, and ends.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::config::CONFIG;
use super::voter::META;

/// The status of a process that ended for this, as sysexits.h has it for a file of the system's that is
/// missing.
pub const EXIT_GONE: i32 = 72;

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// It is gone if so many looks in a row say so: whoever edits a file may put another one in its place.
const LOOKS: u32 = 3;

/// A directory that is open: as long as it is, no other one gets its number.
struct Held {
    path: PathBuf,
    directory: File,
}

impl Held {
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            directory: File::open(path)?,
        })
    }

    /// Whether its path certainly leads elsewhere, or nowhere.
    fn is_gone(&self) -> bool {
        match (fs::metadata(&self.path), self.directory.metadata()) {
            (Ok(named), Ok(held)) => (named.dev(), named.ino()) != (held.dev(), held.ino()),
            (Err(error), _) => is_missing(&error),
            (Ok(_), Err(_)) => false,
        }
    }
}

/// A device that does not answer says nothing of what is there.
fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// What a node stands on.
struct Footing {
    directories: [Held; 2],
    config: PathBuf,
}

impl Footing {
    fn of(directory: &Path) -> io::Result<Self> {
        Ok(Self {
            directories: [Held::open(directory)?, Held::open(&directory.join(META))?],
            config: directory.join(CONFIG),
        })
    }

    /// What is gone of it.
    fn gone(&self) -> Option<&Path> {
        let gone = self.directories.iter().find(|held| held.is_gone());
        let is_gone = |path: &&PathBuf| fs::metadata(path).is_err_and(|e| is_missing(&e));
        let config = || Some(&self.config).filter(is_gone);
        gone.map(|held| &held.path)
            .or_else(config)
            .map(PathBuf::as_path)
    }
}

/// Looks after the directory of this node, whose metadata logs are open, as long as the process lives,
/// and ends it with [`EXIT_GONE`].
///
/// # Errors
/// The directory can't be opened, or there is no thread to be had.
pub(super) fn look_after(directory: &Path) -> io::Result<()> {
    let footing = Footing::of(directory)?;
    let look = move || {
        let mut missed = 0;
        loop {
            thread::sleep(LOOK_EVERY);
            let gone = footing.gone();
            missed = gone.map_or(0, |_| missed + 1);
            if let Some(path) = gone.filter(|_| missed >= LOOKS) {
                tracing::error!(
                    path = %path.display(),
                    "this node's directory was deleted, moved or replaced under it: what it promises would be lost, so it stops"
                );
                std::process::exit(EXIT_GONE);
            }
        }
    };
    thread::Builder::new().name("footing".into()).spawn(look)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{CONFIG, Footing, META, Path, fs};

    fn made(directory: &Path) {
        fs::create_dir_all(directory.join(META)).expect("made");
        fs::write(directory.join(CONFIG), "{}").expect("written");
    }

    #[test]
    fn what_is_deleted_moved_or_replaced_is_gone() {
        let scratch = tempfile::tempdir().expect("a directory");
        let node = scratch.path().join("a1");
        let aside = scratch.path().join("aside");
        made(&node);
        let footing = Footing::of(&node).expect("opened");
        assert_eq!(footing.gone(), None);

        // Its files change, and are replaced, in the course of things.
        fs::write(node.join("node.json.new"), "{} ").expect("written");
        fs::rename(node.join("node.json.new"), node.join(CONFIG)).expect("renamed");
        fs::write(node.join(META).join("mark"), "").expect("written");
        assert_eq!(footing.gone(), None);

        fs::remove_file(node.join(CONFIG)).expect("removed");
        assert_eq!(footing.gone(), Some(&*node.join(CONFIG)));
        made(&node);
        assert_eq!(footing.gone(), None);

        fs::rename(node.join(META), &aside).expect("renamed");
        assert_eq!(footing.gone(), Some(&*node.join(META)));
        made(&node);
        assert_eq!(footing.gone(), Some(&*node.join(META)), "it is another one");
        fs::remove_dir(node.join(META)).expect("removed");
        fs::rename(&aside, node.join(META)).expect("renamed");
        assert_eq!(footing.gone(), None);

        fs::remove_dir_all(&node).expect("removed");
        assert_eq!(footing.gone(), Some(&*node));
        made(&node);
        assert_eq!(footing.gone(), Some(&*node), "it was made anew");
    }
}
