//! A node's directory while `atoll init` or `atoll join` makes it.
//!
//! **Invariant:** a node is what one of them wrote from its first file to its last, the configuration, or
//! it is none: what an interrupted one left is neither taken over nor in the way.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;
use transport::net::ca;

use super::config::{CONFIG, ConfigError, NodeConfig};
use super::identity::{IDENTITY, NodeIdentity};
use super::nbd_tls;
use super::voter::META;

/// How a file is called until it is whole.
const PARTIAL: &str = "new";

/// A node can't be made in a directory.
#[derive(Debug, Error)]
pub(super) enum MakingError {
    /// One was made there.
    #[error("{} is a node already: start it with `atoll --dir {} run`", .0.display(), .0.display())]
    Made(PathBuf),
    /// One was made there, and what it promised is there still.
    #[error(
        "{} was a node, and has lost its {CONFIG}: put that back; or give the node up, and use an empty directory",
        .0.display()
    )]
    Headless(PathBuf),
    /// The file system failed.
    #[error("{}: {source}", .path.display())]
    File {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The last files can't be written.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// A directory in which a node is being made, by nobody else at the same time.
#[derive(Debug)]
pub(super) struct Making<'a> {
    directory: &'a Path,
    _lock: File,
}

impl<'a> Making<'a> {
    /// Begins in a directory, which exists, once nobody else makes a node there. Of a node that is
    /// made nothing is touched.
    ///
    /// # Errors
    /// [`MakingError::Made`], [`MakingError::Headless`], [`MakingError::File`].
    pub(super) fn begin(directory: &'a Path) -> Result<Self, MakingError> {
        let lock = File::open(directory).map_err(failed(directory))?;
        lock.lock().map_err(failed(directory))?;
        if is_there(&directory.join(CONFIG))? {
            return Err(MakingError::Made(directory.to_owned()));
        }
        // Only a node that was made has started.
        if is_there(&directory.join(META))? {
            return Err(MakingError::Headless(directory.to_owned()));
        }
        for name in written() {
            clear(&directory.join(&name))?;
        }
        Ok(Self {
            directory,
            _lock: lock,
        })
    }

    /// Writes the last two files: from then on it is made.
    ///
    /// # Errors
    /// [`MakingError::Config`].
    pub(super) fn finish(
        self,
        identity: &NodeIdentity,
        config: &NodeConfig,
    ) -> Result<(), MakingError> {
        identity.save(self.directory)?;
        Ok(config.save(self.directory)?)
    }
}

/// Waits until nobody makes a node in a directory, if there is one.
///
/// # Errors
/// It can't be opened or locked.
pub(crate) fn wait(directory: &Path) -> io::Result<()> {
    match File::open(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        opened => opened?.lock(),
    }
}

/// All that is written into a directory before the node is made.
fn written() -> impl Iterator<Item = String> {
    let whole = ca::FILES
        .into_iter()
        .chain(nbd_tls::FILES)
        .chain([IDENTITY]);
    let partial = whole.clone().chain([CONFIG]);
    let partial = partial.map(|name| format!("{name}.{PARTIAL}"));
    whole.map(str::to_owned).chain(partial)
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> MakingError + '_ {
    move |source| MakingError::File {
        path: path.to_owned(),
        source,
    }
}

fn is_there(path: &Path) -> Result<bool, MakingError> {
    path.try_exists().map_err(failed(path))
}

fn clear(path: &Path) -> Result<(), MakingError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
