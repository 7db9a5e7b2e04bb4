//! What lies in a disk's directory, found by what `docs/disk-format.md` says, and damaged.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Everything begins at a multiple of it.
const BLOCK: usize = 4096;

/// A place in a file.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) file: PathBuf,
    pub(crate) offset: u64,
}

impl Place {
    pub(crate) fn new(file: &Path, offset: usize) -> Self {
        Self {
            file: file.to_owned(),
            offset: offset as u64,
        }
    }

    /// Inverts the byte.
    pub(crate) fn flip(&self) {
        assert!(self.flip_if_there(), "{self:?} is not there");
    }

    /// Inverts the byte; false if the file is gone, as one that is not needed any more may be under a
    /// running process.
    pub(crate) fn flip_if_there(&self) -> bool {
        let file = match File::options().read(true).write(true).open(&self.file) {
            Err(e) if e.kind() == ErrorKind::NotFound => return false,
            file => file.unwrap_or_else(|e| panic!("{self:?}: {e}")),
        };
        let mut byte = [0];
        file.read_exact_at(&mut byte, self.offset).expect("a byte");
        file.write_all_at(&[!byte[0]], self.offset)
            .expect("written");
        file.sync_all().expect("synced");
        true
    }
}

/// A header, and what comes after it.
#[derive(Debug)]
pub(crate) struct Sealed {
    /// Where it begins.
    pub(crate) start: Place,
    /// Bytes of the header area, and with the data.
    pub(crate) area: usize,
    pub(crate) bytes: usize,
    /// Its first bytes.
    pub(crate) head: [u8; 80],
    /// A byte of the header.
    pub(crate) header: Place,
    /// A byte in the middle of the data; of the header if there is none.
    pub(crate) data: Place,
}

/// The directories of a node's disks.
pub(crate) fn disks(node: &Path) -> Vec<PathBuf> {
    files(&node.join("disks"))
}

/// The files of a directory, by name.
pub(crate) fn files(directory: &Path) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    let mut files: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
    files.sort_unstable();
    files
}

fn name(file: &Path) -> &str {
    file.file_name()
        .and_then(|n| n.to_str())
        .expect("UTF-8, as all that atoll makes")
}

fn u32_at(block: &[u8], at: usize) -> usize {
    u32::from_le_bytes(block[at..at + 4].try_into().expect("four bytes")) as usize
}

/// What begins with `magic` and ends after as many bytes as `data_bytes` says of its first block
/// and its header's length.
fn sealed(file: &Path, magic: &[u8; 4], data_bytes: impl Fn(&[u8], usize) -> usize) -> Vec<Sealed> {
    let bytes = fs::read(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let mut found = Vec::new();
    let mut at = 0;
    while at + BLOCK <= bytes.len() {
        let block = &bytes[at..at + BLOCK];
        let area = u32_at(block, 12);
        let is_header = block.starts_with(magic) && area > 0 && area.is_multiple_of(BLOCK);
        if !is_header {
            at += BLOCK;
            continue;
        }
        let data = data_bytes(block, area);
        if at + area + data > bytes.len() {
            // It is being written.
            break;
        }
        let middle = if data == 0 { 70 } else { area + data / 2 };
        found.push(Sealed {
            start: Place::new(file, at),
            area,
            bytes: area + data,
            head: block[..80].try_into().expect("80 bytes"),
            header: Place::new(file, at + 70),
            data: Place::new(file, at + middle),
        });
        at += area + data;
    }
    found
}

/// A disk's fragments.
pub(crate) fn fragments(disk: &Path) -> Vec<Sealed> {
    let extents = files(&disk.join("extents")).into_iter();
    let extents = extents.filter(|f| name(f).bytes().all(|b| b.is_ascii_digit()));
    let data_bytes = |block: &[u8], _| u32_at(block, 68) * BLOCK;
    extents
        .flat_map(|extent| sealed(&extent, b"ATFR", data_bytes))
        .collect()
}

/// Each journal file of a disk, with its batches.
pub(crate) fn journal(disk: &Path) -> Vec<(PathBuf, Vec<Sealed>)> {
    let journal = files(&disk.join("journal")).into_iter();
    let journal = journal.filter(|f| name(f).starts_with("file-"));
    // A batch's length includes its header area.
    let data_bytes = |block: &[u8], area: usize| u32_at(block, 40).saturating_sub(area);
    journal
        .map(|file| {
            let batches = sealed(&file, b"ATJB", data_bytes);
            (file, batches)
        })
        .collect()
}

/// A kind of RocksDB's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum CatalogFile {
    Table,
    Log,
    Manifest,
    Current,
    Options,
}

impl CatalogFile {
    pub(crate) const ALL: [Self; 5] = [
        Self::Table,
        Self::Log,
        Self::Manifest,
        Self::Current,
        Self::Options,
    ];

    fn is(self, file: &Path) -> bool {
        let name = name(file);
        match self {
            Self::Table => name.ends_with(".sst"),
            Self::Log => name.ends_with(".log"),
            Self::Manifest => name.starts_with("MANIFEST"),
            Self::Current => name == "CURRENT",
            Self::Options => name.starts_with("OPTIONS"),
        }
    }
}

/// The middle of each file of this kind in a disk's catalog, if the file is not empty.
pub(crate) fn catalog(disk: &Path, kind: CatalogFile) -> Vec<Place> {
    let files = files(&disk.join("catalog")).into_iter();
    let middle = |file: PathBuf| {
        let bytes = usize::try_from(file.metadata().ok()?.len()).ok()?;
        (bytes > 0).then(|| Place::new(&file, bytes / 2))
    };
    files.filter(|f| kind.is(f)).filter_map(middle).collect()
}
