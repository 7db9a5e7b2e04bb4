//! A whole disk as its writers left it, and an enemy's edits of it. An edit may put the header's
//! checksum right again: rot never does, but then nothing behind a checksum would be reached.

use std::sync::LazyLock;

use bytes::Bytes;
use disk_store::BLOCK;
use disk_store::catalog::MemCatalog;
use disk_store::file::sim::SimFiles;
use disk_store::file::{File, FileLayer};
use disk_store::fragments::{Fragments, FragmentsConfig};
use disk_store::journal::{Journal, JournalConfig};
use disk_store::superblock::{FabricId, Identity, Superblock, format};
use model::ids::{
    DiskId, Epoch, FragmentKey, Incarnation, Row, SegmentId, Slot, Version, VolumeId,
};
use model::payload::Payload;
use model::spread::RowStamp;
use model::store::{
    Claim, FragmentMeta, FragmentOp, JournalEntry, JournalOp, ScrubMark, SegmentKind, block_sum,
};

use super::envelope::POOL;
use crate::Verdict;
use crate::input::Input;

/// The disk's incarnation.
const ID: u64 = 0x1234_5678_9abc_def0;

/// The volume of its entries and fragments.
pub(super) const VOLUME: VolumeId = VolumeId(7);

pub(super) const JOURNAL: JournalConfig = JournalConfig {
    id: ID,
    file_bytes: 8 * BLOCK,
    files_max: 64,
    spare_files_max: 2,
};

pub(super) const FRAGMENTS: FragmentsConfig = FragmentsConfig {
    id: ID,
    extent_bytes: 8 * BLOCK,
    capacity_bytes: 1 << 20,
    reserve_bytes: 1 << 14,
};

/// The files that edits name by number; the last one there is not.
const PATHS: [&str; 10] = [
    "superblock",
    "journal/mark",
    "journal/file-00000",
    "journal/file-00001",
    "extents/ledger",
    "extents/00000000",
    "extents/00000001",
    "stamps",
    "scrub",
    "extents/00000002",
];

pub(super) const SUPERBLOCK: u8 = 0;
pub(super) const MARK: u8 = 1;
pub(super) const JOURNAL_FILE: u8 = 2;
pub(super) const LEDGER: u8 = 4;
pub(super) const EXTENT: u8 = 5;
pub(super) const STAMPS: u8 = 7;
pub(super) const SCRUB: u8 = 8;

pub(super) fn key(counter: u32) -> FragmentKey {
    FragmentKey {
        segment: SegmentId {
            volume: VOLUME,
            epoch: Epoch(1),
            counter,
        },
        slot: Slot(2),
    }
}

/// A fragment of a block or two.
pub(super) fn put(counter: u32, blocks: u32) -> FragmentOp {
    let data = vec![counter as u8 + 1; (blocks * BLOCK as u32) as usize];
    let sums = (0..).zip(data.chunks(BLOCK as usize));
    let sums = sums.map(|(i, block)| block_sum(key(counter), i, block));
    FragmentOp::Put {
        key: key(counter),
        meta: FragmentMeta {
            pool: POOL,
            segment_bytes: blocks * 4 * BLOCK as u32,
            fragment_bytes: blocks * BLOCK as u32,
            kind: SegmentKind::Data,
        },
        claim: Claim::Client,
        sums: sums.collect(),
        data: Payload::from(Bytes::from(data)),
    }
}

pub(super) fn entry(tag: u8, payload: usize) -> JournalEntry {
    JournalEntry {
        volume: VOLUME,
        header: vec![tag; 5],
        payload: Payload::from(Bytes::from(vec![tag; payload])),
    }
}

static DISK: LazyLock<(SimFiles, MemCatalog)> = LazyLock::new(|| {
    let (files, catalog) = (SimFiles::new(), MemCatalog::new());
    let identity = Identity {
        fabric: FabricId(7),
        disk: DiskId(3),
        incarnation: Incarnation(ID),
        capacity_bytes: 1 << 40,
    };
    format(&files, &identity, JOURNAL).expect("formats");
    let (mut journal, ..) = Journal::open(&files, JOURNAL).expect("opens");
    for (tag, payload) in (1..).zip([0, 100, 4096, 8192, 4095, 0, 4096]) {
        let appended = journal.execute(JournalOp::Append(vec![entry(tag, payload), entry(tag, 9)]));
        appended.expect("appends");
    }
    let opened = Fragments::open(&files, catalog.clone(), FRAGMENTS);
    let (mut fragments, _) = opened.expect("opens");
    let mut execute = |op| fragments.execute(op).expect("the device works");
    for counter in 0..4 {
        execute(put(counter, 1 + counter % 2));
    }
    execute(FragmentOp::Adopt {
        pool: POOL,
        row: Row(5),
        stamp: RowStamp::of([0, 3, 300].map(Version).into_iter()),
    });
    execute(FragmentOp::KeepScrub(ScrubMark {
        cursor: Some(key(1).segment),
        pass_ns: 5,
        pass_bytes: 6,
        passes: 7,
        ..ScrubMark::default()
    }));
    fragments.settle().expect("settles");
    fragments.execute(put(4, 1)).expect("puts");
    let there = files.paths();
    let missing = PATHS
        .iter()
        .filter(|path| !there.contains(&(**path).to_owned()));
    assert_eq!(missing.collect::<Vec<_>>(), [&PATHS[PATHS.len() - 1]]);
    (files, catalog)
});

/// The disk with an input's edits.
pub(super) fn edited(data: &[u8]) -> (SimFiles, MemCatalog) {
    let (files, catalog) = (DISK.0.fork(), DISK.1.fork());
    let mut input = Input::new(data);
    while !input.is_empty() {
        edit(&files, &mut input);
    }
    (files, catalog)
}

const RIGHTED: u8 = 1;
const CUT: u8 = 2;
const LOST: u8 = 4;

/// How, which file, which block, where in it, what.
fn edit(files: &SimFiles, input: &mut Input<'_>) {
    let how = input.u8();
    let path = PATHS[usize::from(input.u8()) % PATHS.len()];
    let (block, at) = (u64::from(input.u8()), u64::from(input.u16()) % BLOCK);
    let length = usize::from(input.u8());
    let bytes = input.take(length);
    if how & LOST != 0 {
        files.lose(path);
        return;
    }
    let file = match files.open(path) {
        Ok(file) => file,
        Err(_) => files.create(path).expect("there was none"),
    };
    if how & CUT != 0 {
        // What is walked through block by block gets no longer than a test can wait.
        let is_walked = path.starts_with("extents/0") || path.starts_with("journal/file");
        let bits = if is_walked { block % 20 } else { block % 42 };
        file.set_len(1 << bits).expect("memory");
    }
    let base = block % 32 * BLOCK;
    file.write_at(base + at, &[Bytes::copy_from_slice(bytes)])
        .expect("memory");
    if how & RIGHTED != 0 {
        put_right(path, &file, base);
    }
}

/// Makes the checksum of the header at `base` that of what it covers.
fn put_right<F: File>(path: &str, file: &F, base: u64) {
    let size = file.size().expect("memory");
    let field = file.read_at(base + 12, 4).expect("memory");
    let claimed = u64::from(u32::from_le_bytes([field[0], field[1], field[2], field[3]]));
    let (base, covered) = match path {
        // Two copies.
        "stamps" if base < size / 2 => (0, (size / 2).min(1 << 20)),
        "stamps" => (size / 2, (size / 2).min(1 << 20)),
        "journal/mark" => (base, 512),
        "superblock" | "scrub" | "extents/ledger" => (base, BLOCK),
        _ => (base, claimed.clamp(BLOCK, 1 << 20)),
    };
    let length = usize::try_from(covered).expect("bounded");
    let covered = file.read_at(base, length).expect("memory");
    if let Some(covered) = covered.get(8..) {
        let sum = model::crc32c(covered).to_le_bytes();
        let sum = Bytes::copy_from_slice(&sum);
        file.write_at(base + 4, &[sum]).expect("memory");
    }
}

/// An edit as an input says it.
pub(super) fn edit_bytes(file: u8, block: u8, at: u16, bytes: &[u8]) -> Vec<u8> {
    let [low, high] = at.to_le_bytes();
    let length = u8::try_from(bytes.len()).expect("a short edit");
    [&[RIGHTED, file, block, low, high, length], bytes].concat()
}

pub(super) fn superblock(data: &[u8]) -> Verdict {
    let (files, _) = edited(data);
    let Ok(opened) = Superblock::open(&files) else {
        return Verdict::Refused;
    };
    let found = opened.identity();
    let again = Superblock::open_as(&files, found.fabric, found.disk, found.incarnation);
    assert!(again.is_ok_and(|again| again.is_current()));
    Verdict::Taken
}

pub(super) fn superblock_seeds() -> Vec<Vec<u8>> {
    let first = |at, bytes: &[u8]| edit_bytes(SUPERBLOCK, 0, at, bytes);
    let both = [first(40, &[1; 8]), edit_bytes(SUPERBLOCK, 1, 40, &[1; 8])].concat();
    vec![Vec::new(), first(32, &[7; 8]), both]
}
