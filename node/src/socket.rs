//! Unix sockets under directories of any depth: an address holds 107 bytes, a path may be
//! longer, so the directory is opened and named by its descriptor.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Opens the directory of `path` and gives a short path that is good while the `File` lives.
fn through_descriptor(path: &Path) -> io::Result<(File, PathBuf)> {
    let invalid = || {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            "a socket needs a file name in a directory",
        )
    };
    let name = path.file_name().ok_or_else(invalid)?;
    let parent = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let directory = File::open(parent)?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
    Ok((directory, short))
}

/// Listens at `path`; a socket left behind by a process that died is replaced. The caller
/// holds the directory's lock, so that no living listener is ever replaced.
///
/// # Errors
/// What the file system says.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    let (_directory, short) = through_descriptor(path)?;
    match fs::remove_file(&short) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    UnixListener::bind(short)
}

/// Connects to the listener at `path`.
///
/// # Errors
/// What the kernel says: `ConnectionRefused` or `NotFound` when nobody listens there.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    let (_directory, short) = through_descriptor(path)?;
    UnixStream::connect(short)
}

#[cfg(test)]
mod tests {
    use std::fs;

    #[test]
    fn a_path_longer_than_an_address_works() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let deep = root.path().join("x".repeat(120)).join("y".repeat(120));
        fs::create_dir_all(&deep).expect("directories");
        let path = deep.join("admin.sock");
        assert!(super::connect(&path).is_err(), "nobody listens yet");
        drop(super::bind(&path).expect("bind"));
        let listener = super::bind(&path).expect("bind over a dead socket");
        super::connect(&path).expect("connect");
        listener.accept().expect("accept");
    }
}
