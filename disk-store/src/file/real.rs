//! Real files: synchronous calls, for the disk's own thread.

use std::fs;
use std::io::{ErrorKind, IoSlice};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::direct::{Direct, Written};
use super::{File, FileError, FileLayer, gather};

/// Buffers of one `pwritev` (IOV_MAX of Linux).
const IOVECS_MAX: usize = 1024;

/// Zeros are written in pieces of this size.
const ZERO_PIECE: usize = 1 << 20;

/// A disk's directory on a real file system.
#[derive(Clone, Debug)]
pub struct RealFiles {
    root: Arc<PathBuf>,
}

/// An open real file.
#[derive(Clone, Debug)]
pub struct RealFile {
    file: Arc<fs::File>,
    direct: Option<Arc<Direct>>,
}

fn io(what: &'static str) -> impl Fn(std::io::Error) -> FileError {
    move |error| match error.kind() {
        ErrorKind::NotFound => FileError::NotFound,
        ErrorKind::AlreadyExists => FileError::Exists,
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => FileError::NoSpace,
        _ => FileError::Device {
            what,
            detail: error.to_string(),
        },
    }
}

/// Whether two names or handles are of one file.
pub(super) fn is_one_file(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

impl RealFiles {
    /// The directory `root`, which exists.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            root: Arc::new(root.to_owned()),
        }
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn path(&self, path: &str) -> PathBuf {
        if path.is_empty() {
            self.root.to_path_buf()
        } else {
            self.root.join(path)
        }
    }

    fn opened(&self, path: &str, file: fs::File) -> RealFile {
        RealFile {
            direct: Direct::open(&self.path(path), &file).map(Arc::new),
            file: Arc::new(file),
        }
    }
}

impl FileLayer for RealFiles {
    type File = RealFile;

    fn open(&self, path: &str) -> Result<RealFile, FileError> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.path(path))
            .map_err(io("open"))?;
        Ok(self.opened(path, file))
    }

    fn create(&self, path: &str) -> Result<RealFile, FileError> {
        let mut options = fs::OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create_new(true)
            .open(self.path(path))
            .map_err(io("create"))?;
        Ok(self.opened(path, file))
    }

    fn create_dir(&self, dir: &str) -> Result<(), FileError> {
        match fs::create_dir(self.path(dir)) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => made.map_err(io("mkdir"))?,
        }
        self.sync_dir(super::parent(dir))
    }

    fn list(&self, dir: &str) -> Result<Vec<String>, FileError> {
        let entries = match fs::read_dir(self.path(dir)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(io("list"))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(io("list"))?;
            if entry.file_type().map_err(io("list"))?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn remove(&self, path: &str) -> Result<(), FileError> {
        fs::remove_file(self.path(path)).map_err(io("remove"))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), FileError> {
        fs::rename(self.path(from), self.path(to)).map_err(io("rename"))
    }

    fn sync_dir(&self, dir: &str) -> Result<(), FileError> {
        let dir = fs::File::open(self.path(dir)).map_err(io("open"))?;
        dir.sync_all().map_err(io("fsync of a directory"))
    }

    fn is_current(&self, path: &str, file: &RealFile) -> bool {
        match (fs::metadata(self.path(path)), file.file.metadata()) {
            (Ok(named), Ok(open)) => is_one_file(&named, &open),
            // A device that does not answer says nothing of what is there.
            (Err(error), _) => {
                !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
            }
            (Ok(_), Err(_)) => true,
        }
    }
}

impl RealFile {
    /// Through the system's page cache.
    fn write_cached(&self, offset: u64, chunks: &[Bytes]) -> Result<(), FileError> {
        let mut at = offset;
        for group in chunks.chunks(IOVECS_MAX) {
            let mut slices: Vec<IoSlice<'_>> =
                group.iter().map(|chunk| IoSlice::new(chunk)).collect();
            let mut left = &mut slices[..];
            IoSlice::advance_slices(&mut left, 0);
            while !left.is_empty() {
                match rustix::io::pwritev(&*self.file, left, at) {
                    Ok(0) => {
                        return Err(FileError::Device {
                            what: "write",
                            detail: "wrote nothing".to_owned(),
                        });
                    }
                    Ok(written) => {
                        at += written as u64;
                        IoSlice::advance_slices(&mut left, written);
                    }
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(io("write")(error.into())),
                }
            }
        }
        Ok(())
    }
}

impl File for RealFile {
    fn size(&self) -> Result<u64, FileError> {
        Ok(self.file.metadata().map_err(io("stat"))?.len())
    }

    fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, FileError> {
        let mut buffer = vec![0; len];
        let mut done = 0;
        while done < len {
            match self.file.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(io("read")(error)),
            }
        }
        Ok(Bytes::from(buffer))
    }

    fn write_at(&self, offset: u64, chunks: &[Bytes]) -> Result<(), FileError> {
        let bytes: usize = chunks.iter().map(Bytes::len).sum();
        let Some(direct) = self
            .direct
            .as_ref()
            .filter(|_| Direct::takes(offset, bytes))
        else {
            return self.write_cached(offset, chunks);
        };
        match direct.write_at(offset, chunks).map_err(io("write"))? {
            Written::All => Ok(()),
            Written::Until(at) => {
                let rest = gather(chunks).split_off((at - offset) as usize);
                self.write_cached(at, &[rest])
            }
        }
    }

    fn sync_data(&self) -> Result<(), FileError> {
        self.file.sync_data().map_err(io("fdatasync"))
    }

    fn punch_hole(&self, offset: u64, len: u64) -> Result<(), FileError> {
        use rustix::fs::FallocateFlags;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&*self.file, flags, offset, len).map_err(|e| io("punch")(e.into()))
    }

    fn set_len(&self, len: u64) -> Result<(), FileError> {
        self.file.set_len(len).map_err(io("ftruncate"))
    }

    fn allocate(&self, len: u64) -> Result<(), FileError> {
        use rustix::fs::FallocateFlags;
        self.set_len(0)?;
        // Where there is not so much space, what there is is not taken for the attempt.
        // Not every file system can; the zeros tell.
        let reserved = rustix::fs::fallocate(&*self.file, FallocateFlags::empty(), 0, len);
        if reserved == Err(rustix::io::Errno::NOSPC) {
            return Err(FileError::NoSpace);
        }
        let zeros = Bytes::from(vec![0; ZERO_PIECE]);
        let mut at = 0;
        while at < len {
            let piece = (len - at).min(ZERO_PIECE as u64);
            self.write_at(at, &[zeros.slice(..piece as usize)])?;
            at += piece;
        }
        Ok(())
    }
}
