//! Builders shared by the tests.
#![allow(dead_code, unreachable_pub, missing_docs)]

use bytes::Bytes;
use disk_store::catalog::MemCatalog;
use disk_store::file::sim::SimFiles;
use disk_store::fragments::{Fragments, FragmentsConfig, Recovery};
use disk_store::journal::{Journal, JournalConfig};
use model::geometry::{Code, Pool};
use model::ids::{Epoch, FragmentKey, SegmentId, Slot, VolumeId};
use model::payload::Payload;
use model::store::{
    Claim, DeviceError, FragmentDone, FragmentMeta, FragmentOp, JournalDone, JournalEntry,
    JournalOp, SegmentKind, block_sum,
};

pub const ID: u64 = 0x1234_5678_9abc_def0;
pub const BLOCK: usize = 4096;

pub type SimJournal = Journal<SimFiles>;
pub type SimFragments = Fragments<SimFiles, MemCatalog>;

pub fn journal_config() -> JournalConfig {
    JournalConfig {
        id: ID,
        file_bytes: 12 * BLOCK as u64,
        files_max: 64,
        spare_files_max: 2,
    }
}

pub fn fragments_config() -> FragmentsConfig {
    FragmentsConfig {
        id: ID,
        extent_bytes: 16 * BLOCK as u64,
        capacity_bytes: 1 << 20,
        reserve_bytes: 1 << 14,
    }
}

/// A deterministic source of test choices.
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// `len` bytes that name their origin.
pub fn bytes_of(tag: u64, len: usize) -> Bytes {
    let mut rng = Rng(tag.wrapping_mul(0x1000_0001));
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        out.extend_from_slice(&rng.next().to_le_bytes());
    }
    out.truncate(len);
    Bytes::from(out)
}

pub fn entry(tag: u64, len: usize) -> JournalEntry {
    JournalEntry {
        volume: VolumeId(tag as u32 % 7),
        header: tag.to_le_bytes().to_vec(),
        payload: Payload::from(bytes_of(tag, len)),
    }
}

pub fn tag_of(header: &[u8]) -> u64 {
    u64::from_le_bytes(header.try_into().expect("test headers are tags"))
}

pub fn append(
    journal: &mut SimJournal,
    entries: Vec<JournalEntry>,
) -> Result<Vec<model::store::EntryAt>, DeviceError> {
    match journal.execute(JournalOp::Append(entries))? {
        JournalDone::Appended { places, .. } => Ok(places),
        JournalDone::Full(_) => Err(DeviceError {
            what: "journal append",
            detail: "no space".to_owned(),
        }),
        other => panic!("{other:?}"),
    }
}

pub fn read(journal: &mut SimJournal, places: Vec<model::store::EntryAt>) -> Vec<Option<Bytes>> {
    match journal.execute(JournalOp::Read(places)) {
        Ok(JournalDone::Read(payloads)) => payloads,
        other => panic!("{other:?}"),
    }
}

pub fn key(n: u64) -> FragmentKey {
    let segment = SegmentId {
        volume: VolumeId(n as u32 % 3),
        epoch: Epoch(1),
        counter: n as u32,
    };
    FragmentKey {
        segment,
        slot: Slot((n % 6) as u8),
    }
}

pub fn meta(blocks: usize, kind: SegmentKind) -> FragmentMeta {
    FragmentMeta {
        pool: Pool::of(Code::Rs { k: 4, m: 2 }),
        segment_bytes: (blocks * 4 * BLOCK) as u32,
        fragment_bytes: (blocks * BLOCK) as u32,
        kind,
    }
}

pub fn sums(key: FragmentKey, data: &[u8]) -> Vec<u32> {
    (0..)
        .zip(data.chunks(BLOCK))
        .map(|(block, bytes)| block_sum(key, block, bytes))
        .collect()
}

pub fn put(n: u64, blocks: usize) -> FragmentOp {
    put_tagged(n, n, blocks)
}

pub fn put_tagged(n: u64, tag: u64, blocks: usize) -> FragmentOp {
    let data = bytes_of(tag, blocks * BLOCK);
    FragmentOp::Put {
        key: key(n),
        meta: meta(blocks, SegmentKind::Data),
        claim: Claim::Client,
        sums: sums(key(n), &data),
        data: data.into(),
    }
}

pub fn get_all(n: u64, blocks: usize) -> FragmentOp {
    FragmentOp::Get {
        key: key(n),
        ranges: (0..blocks)
            .map(|b| ((b * BLOCK) as u32, BLOCK as u32))
            .collect(),
    }
}

/// The fragment's bytes if all of it is good; `None` if there is no such fragment.
pub fn fetch(store: &mut SimFragments, n: u64, blocks: usize) -> Option<Vec<Option<Bytes>>> {
    match store.execute(get_all(n, blocks)).expect("the device works") {
        FragmentDone::Data { ranges, .. } => Some(ranges),
        FragmentDone::NotFound => None,
        other => panic!("{other:?}"),
    }
}

pub fn is_good(ranges: &[Option<Bytes>], tag: u64) -> bool {
    let want = bytes_of(tag, ranges.len() * BLOCK);
    ranges
        .iter()
        .enumerate()
        .all(|(i, range)| range.as_deref() == Some(&want[i * BLOCK..(i + 1) * BLOCK]))
}

pub fn open_fragments(files: &SimFiles, catalog: &MemCatalog) -> (SimFragments, Recovery) {
    Fragments::open(files, catalog.clone(), fragments_config()).expect("opens")
}
