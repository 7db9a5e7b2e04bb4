//! The journal alone: costs, recycling, damage, hostile bytes.

mod common;

use common::{BLOCK, SimJournal, append, bytes_of, entry, journal_config, read, tag_of};
use disk_store::file::FileLayer;
use disk_store::file::sim::{Fault, SimFiles};
use disk_store::journal::{Journal, JournalConfig};
use model::store::{JournalDone, JournalOp, JournalRoom, ScanVerdict, ScannedEntry};
use proptest::prelude::{ProptestConfig, any, prop, proptest};

fn created() -> (SimFiles, SimJournal) {
    let files = SimFiles::new();
    let journal = Journal::create(&files, journal_config()).expect("creates");
    (files, journal)
}

fn open(files: &SimFiles) -> (SimJournal, Vec<ScannedEntry>, ScanVerdict) {
    Journal::open(files, journal_config()).expect("opens")
}

/// A journal of several files with `entries` single appends of assorted lengths.
fn filled(entries: u64) -> (SimFiles, SimJournal) {
    let (files, mut journal) = created();
    for tag in 0..entries {
        append(
            &mut journal,
            vec![entry(tag, [4096, 0, 700, 8192][tag as usize % 4])],
        )
        .expect("appends");
    }
    (files, journal)
}

#[test]
fn an_append_is_one_write_and_one_fdatasync() {
    let (files, mut journal) = created();
    journal.settle().expect("settles");
    let (syncs, made) = (journal.syncs(), journal.files().len());
    let mut appends = 50;
    for round in 0..50 {
        let before = (journal.syncs(), files.ops());
        append(
            &mut journal,
            (0..4).map(|i| entry(round * 4 + i, 4096)).collect(),
        )
        .expect("appends");
        assert_eq!(journal.syncs() - before.0, 1);
        // The batch, the fdatasync, the mark: unless it began a file that was not prepared.
        let current = journal.current_file();
        if files.ops() - before.1 > 3 {
            append(&mut journal, vec![entry(999, 0)]).expect("appends");
            assert_eq!(journal.current_file(), current);
            appends += 1;
        }
        journal.settle().expect("settles");
    }
    // A file that is made is synced as well.
    let made = (journal.files().len() - made) as u64;
    assert!(made > 0 && journal.syncs() - syncs == appends + made);
}

#[test]
fn block_payloads_are_aligned() {
    let (_, mut journal) = created();
    let places = append(
        &mut journal,
        vec![entry(1, 10), entry(2, 4096), entry(3, 4095), entry(4, 8192)],
    )
    .expect("appends");
    assert!(places[1].offset.is_multiple_of(4096) && places[3].offset.is_multiple_of(4096));
    let payloads = read(&mut journal, places);
    for (payload, (tag, len)) in payloads
        .iter()
        .zip([(1, 10), (2, 4096), (3, 4095), (4, 8192)])
    {
        assert_eq!(payload.as_ref(), Some(&bytes_of(tag, len)));
    }
}

#[test]
fn a_batch_longer_than_a_file_rolls_on() {
    let (files, mut journal) = created();
    let places =
        append(&mut journal, (0..30).map(|tag| entry(tag, 4096)).collect()).expect("appends");
    assert!(places.last().expect("30").file > places[0].file);
    drop(journal);
    let (mut journal, scanned, verdict) = open(&files);
    assert_eq!(verdict, ScanVerdict::Whole);
    assert_eq!(
        scanned
            .iter()
            .map(|e| tag_of(&e.header))
            .collect::<Vec<_>>(),
        (0..30).collect::<Vec<_>>()
    );
    assert!(read(&mut journal, places).iter().all(Option::is_some));
    // What no file holds is refused without harm.
    let error = append(&mut journal, vec![entry(1, 12 * BLOCK)]).expect_err("too long");
    assert!(error.detail.contains("longer"));
    assert!(!journal.has_failed());
    append(&mut journal, vec![entry(31, 11 * BLOCK)]).expect("a whole file");
}

#[test]
fn recycled_files_never_show_old_entries() {
    let (files, mut journal) = created();
    let mut live: Vec<u64> = Vec::new();
    let mut first_of_file = std::collections::BTreeMap::new();
    for tag in 0..400 {
        let at = append(
            &mut journal,
            vec![entry(tag, [4096, 100, 0][tag as usize % 3])],
        )
        .expect("appends")[0];
        first_of_file.entry(at.file).or_insert(tag);
        live.push(tag);
        if tag % 17 == 0 {
            let before = journal.current_file();
            journal
                .execute(JournalOp::ReleaseBefore(before))
                .expect("releases");
            live.retain(|tag| *tag >= first_of_file[&before]);
        }
        if tag % 13 == 0 {
            drop(journal);
            let (again, scanned, verdict) = open(&files);
            journal = again;
            assert_eq!(verdict, ScanVerdict::Whole);
            assert_eq!(
                scanned
                    .iter()
                    .map(|e| tag_of(&e.header))
                    .collect::<Vec<_>>(),
                live
            );
        }
    }
    assert!(
        journal.files().len() <= 8,
        "files are recycled: {:?}",
        journal.files()
    );
}

/// A hole shows in its place at every opening: what was appended after it is sound, whenever
/// that was, and however often it was opened since.
#[test]
fn a_hole_stays_where_it_is() {
    let (files, journal) = filled(9);
    drop(journal);
    assert!(files.flip_bit("journal/file-00000", 2 * 4096 + 20, 1));
    let mut before = None;
    for tag in 100..104 {
        let (mut journal, _, verdict) = open(&files);
        assert_eq!(verdict, ScanVerdict::Damaged);
        let place = journal.damage_before();
        assert!(place.is_some() && before.is_none_or(|before| before == place));
        before = Some(place);
        append(&mut journal, vec![entry(tag, 4096)]).expect("appends");
    }
}

#[test]
fn a_journal_at_rest_keeps_no_more_files_than_a_new_one() {
    let (files, mut journal) = created();
    journal.settle().expect("settles");
    let new = journal.files().len();
    let mut kept = Vec::new();
    for tag in 0..60 {
        kept = append(&mut journal, vec![entry(tag, 4096)]).expect("appends");
    }
    let before = journal.current_file();
    journal
        .execute(JournalOp::ReleaseBefore(before))
        .expect("releases");
    journal.settle().expect("settles");
    let after_burst = journal.files().len();
    journal.rest().expect("rests");
    assert!(
        after_burst > new && journal.files().len() == new,
        "{after_burst} files after a burst, {:?} at rest, {new} when new",
        journal.files()
    );
    assert_eq!(read(&mut journal, kept), vec![Some(bytes_of(59, 4096))]);
    for tag in 60..90 {
        append(&mut journal, vec![entry(tag, 4096)]).expect("the next burst makes files again");
    }
    drop(journal);
    let (_, scanned, verdict) = open(&files);
    assert_eq!(verdict, ScanVerdict::Whole);
    assert!(scanned.iter().any(|e| tag_of(&e.header) == 59));
}

#[test]
fn a_full_journal_refuses_and_releasing_helps() {
    let files = SimFiles::new();
    let config = JournalConfig {
        files_max: 2,
        ..journal_config()
    };
    let mut journal = Journal::create(&files, config).expect("creates");
    let mut tag = 0;
    while append(&mut journal, vec![entry(tag, 4096)]).is_ok() {
        tag += 1;
    }
    assert!(!journal.has_failed() && tag > 5);
    let before = journal.current_file();
    journal
        .execute(JournalOp::ReleaseBefore(before))
        .expect("releases");
    append(&mut journal, vec![entry(tag, 4096)]).expect("there is room again");
}

#[test]
fn a_failed_fdatasync_retires_the_journal() {
    let (files, mut journal) = filled(3);
    files.inject(Fault::SyncError("journal/file".to_owned()));
    append(&mut journal, vec![entry(9, 4096)]).expect_err("the sync failed");
    files.clear_faults();
    append(&mut journal, vec![entry(10, 4096)]).expect_err("never tried again");
    journal
        .execute(JournalOp::Read(Vec::new()))
        .expect_err("nothing works");
    assert!(journal.has_failed());
}

/// Every byte of every header and payload, the last batch's included: a flipped bit is found,
/// counts as damage, and never shows as other bytes.
#[test]
fn every_flipped_byte_is_damage() {
    let (files, mut journal) = filled(9);
    journal.settle().expect("settles");
    drop(journal);
    let (_, scanned, _) = open(&files.fork());
    let paths: Vec<String> = files
        .paths()
        .into_iter()
        .filter(|p| p.contains("file-"))
        .collect();
    let mut found_damage = 0;
    let mut flips = 0;
    for path in &paths {
        let len = files.len_of(path).expect("is there");
        for offset in (0..len).filter(|o| o % 4096 < 140 || o % 97 == 0) {
            for lost_power in [false, true] {
                let mut hurt = files.fork();
                assert!(hurt.flip_bit(path, offset, (offset % 8) as u8));
                if lost_power {
                    hurt.crash(offset)
                } else {
                    hurt.kill()
                }
                let (mut journal, again, verdict) = open(&hurt);
                flips += 1;
                let places = again.iter().map(|e| e.at).collect();
                let payloads = read(&mut journal, places);
                let all_good = payloads.iter().all(Option::is_some);
                for (entry, payload) in again.iter().zip(payloads) {
                    let before = scanned
                        .iter()
                        .find(|e| e.at == entry.at)
                        .expect("no entry is invented");
                    assert_eq!(before, entry);
                    if let Some(payload) = payload {
                        assert_eq!(
                            payload,
                            bytes_of(tag_of(&entry.header), entry.at.payload_len as usize)
                        );
                    }
                }
                match verdict {
                    ScanVerdict::Damaged => {
                        found_damage += 1;
                        assert!(journal.damage_before().is_some());
                        // It stays known until its file is released.
                        drop(journal);
                        assert_eq!(
                            open(&hurt).2,
                            ScanVerdict::Damaged,
                            "{path} {offset} {lost_power}"
                        );
                    }
                    ScanVerdict::Whole => {
                        assert!(
                            all_good && again == scanned,
                            "{path} at {offset}: loss without a word"
                        );
                    }
                }
            }
        }
    }
    println!("{flips} flips, {found_damage} found to matter");
    assert!(found_damage > 1000);
}

#[test]
fn an_unsettled_last_batch_is_known_after_a_process_died() {
    let (mut files, journal) = filled(2);
    drop(journal);
    files.kill();
    let (_, scanned, _) = open(&files.fork());
    let last = scanned.last().expect("two").at;
    let at = last.offset - 4096; // its header
    assert!(files.flip_bit("journal/file-00000", at, 3));
    assert_eq!(open(&files).2, ScanVerdict::Damaged);
}

#[test]
fn lost_and_misdirected_writes_are_damage() {
    for fault in [
        Fault::LoseNextWrite("journal/file".to_owned()),
        Fault::MisdirectNextWrite {
            path: "journal/file".to_owned(),
            by: 4096,
        },
    ] {
        let (mut files, mut journal) = filled(1);
        files.inject(fault);
        append(&mut journal, vec![entry(50, 700)]).expect("the device says so");
        append(&mut journal, vec![entry(51, 0)]).expect("appends");
        files.crash(0);
        assert_eq!(open(&files).2, ScanVerdict::Damaged);
    }
}

/// The first write of a file's later lap is lost, and an old batch lies intact in its place: those
/// of the later lap that follow within it are found, and with them that one is missing.
#[test]
fn a_released_batch_hides_no_later_lap() {
    for seed in 0..12 {
        let (mut files, mut journal) = created();
        // Long batches: one a file, so that each covers most of it.
        let long = |tag| entry(tag, 8 * BLOCK);
        for tag in 0..4 {
            append(&mut journal, vec![long(tag)]).expect("appends");
        }
        let released = journal.current_file();
        let op = JournalOp::ReleaseBefore(released);
        journal.execute(op).expect("releases");
        files.inject(Fault::LoseNextWrite("journal/file".to_owned()));
        append(&mut journal, vec![entry(40, 3 * BLOCK)]).expect("the device says so");
        assert_ne!(
            journal.current_file(),
            released,
            "it begins a recycled file"
        );
        assert!(!files.has_faults(), "its write was lost");
        for tag in 50..53 {
            append(&mut journal, vec![entry(tag, 0)]).expect("appends");
        }
        drop(journal);
        files.crash(seed);
        let (_, scanned, verdict) = open(&files);
        assert_eq!(verdict, ScanVerdict::Damaged, "seed {seed}");
        let tags: Vec<u64> = scanned.iter().map(|e| tag_of(&e.header)).collect();
        assert!(tags.ends_with(&[50, 51, 52]), "seed {seed}: {tags:?}");
    }
}

#[test]
fn a_vanished_journal_is_damage() {
    let (mut files, journal) = filled(5);
    drop(journal);
    files.wipe();
    files.crash(0);
    let (mut journal, scanned, verdict) = open(&files);
    assert_eq!((scanned.len(), verdict), (0, ScanVerdict::Damaged));
    append(&mut journal, vec![entry(1, 0)]).expect("a damaged replica still promises");
}

#[test]
fn damage_is_forgotten_once_its_files_are_released() {
    let (files, journal) = filled(6);
    drop(journal);
    assert!(files.flip_bit("journal/file-00000", 4096 + 20, 1));
    let (mut journal, _, verdict) = open(&files);
    assert_eq!(verdict, ScanVerdict::Damaged);
    let start = journal.current_file();
    let mut tag = 100;
    while journal.current_file() == start {
        append(&mut journal, vec![entry(tag, 4096)]).expect("appends");
        tag += 1;
    }
    let before = journal.current_file();
    journal
        .execute(JournalOp::ReleaseBefore(before))
        .expect("releases");
    assert_eq!(open(&files).2, ScanVerdict::Whole);
}

#[test]
fn another_lifes_batches_do_not_pass() {
    let (files, journal) = filled(3);
    drop(journal);
    let config = JournalConfig {
        id: 99,
        ..journal_config()
    };
    let (_, scanned, verdict) = Journal::open(&files, config).expect("opens");
    assert_eq!((scanned.len(), verdict), (0, ScanVerdict::Damaged));
}

/// A device without space for another file: it is told while half a file is left, an append that
/// finds no place is refused and handed back, releases pass, and then there is room again.
#[test]
fn a_full_device_refuses_without_harm() {
    let (mut files, mut journal) = created();
    files.set_capacity(Some(files.allocated() + 40 * BLOCK as u64));
    let (mut tag, mut told_at, mut lefts) = (0, None, Vec::new());
    let refused = loop {
        tag += 1;
        match journal.execute(JournalOp::Append(vec![entry(tag, 4096)])) {
            Ok(JournalDone::Appended {
                room: JournalRoom::Left(left),
                ..
            }) => {
                told_at.get_or_insert(tag);
                lefts.push(left);
            }
            Ok(JournalDone::Appended { .. }) => assert_eq!(told_at, None),
            Ok(JournalDone::Full(refused)) => break refused,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused, vec![entry(tag, 4096)]);
    // Two blocks each.
    assert!(
        told_at.is_some_and(|at| (2..=3).contains(&(tag - at))),
        "{told_at:?} of {tag}"
    );
    let each = 2 * BLOCK as u64;
    assert!(lefts.windows(2).all(|w| w[0] - w[1] == each), "{lefts:?}");
    assert!(lefts.last().is_some_and(|left| *left < each), "{lefts:?}");
    let is_short = |room| matches!(room, JournalRoom::Left(left) if left < each);
    let prepared = journal.execute(JournalOp::Prepare);
    assert!(matches!(prepared, Ok(JournalDone::Prepared(room)) if is_short(room)));
    assert!(!journal.has_failed());
    // It can be opened, too.
    drop(journal);
    files.kill();
    let (mut journal, scanned, verdict) = open(&files);
    assert_eq!(
        (scanned.len() as u64, verdict),
        (tag - 1, ScanVerdict::Whole)
    );
    assert!(is_short(journal.room()), "it is told from the first on");
    let before = journal.current_file();
    let released = journal.execute(JournalOp::ReleaseBefore(before));
    assert_eq!(released, Ok(JournalDone::Released));
    append(&mut journal, refused).expect("there is room again");
    drop(journal);
    let (_, scanned, verdict) = open(&files);
    assert_eq!(verdict, ScanVerdict::Whole);
    assert_eq!(scanned.last().map(|e| tag_of(&e.header)), Some(tag));
}

/// An append that spans files is refused whole.
#[test]
fn a_full_device_takes_an_append_whole_or_not_at_all() {
    let (files, mut journal) = created();
    files.set_capacity(Some(files.allocated() + 14 * BLOCK as u64));
    let entries: Vec<_> = (0..30).map(|tag| entry(tag, 4096)).collect();
    let done = journal.execute(JournalOp::Append(entries.clone()));
    assert_eq!(done, Ok(JournalDone::Full(entries)));
    drop(journal);
    assert_eq!(open(&files).1, vec![]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_files_never_panic(
        contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9000), 0..4),
        mark in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let files = SimFiles::new();
        for (i, bytes) in contents.iter().enumerate() {
            files.put_file(&format!("journal/file-{i:05}"), bytes);
        }
        files.put_file("journal/mark", &mark);
        let (mut journal, scanned, verdict) = open(&files);
        assert_eq!((scanned.len(), verdict), (0, ScanVerdict::Damaged));
        append(&mut journal, vec![entry(1, 100)]).expect("works on");
    }

    /// Valid journals with several fields overwritten, and the header's checksum made right
    /// again, so that the parser behind it is reached.
    #[test]
    fn resealed_headers_never_panic(
        edits in prop::collection::vec((0_u64..5, 8_usize..200, any::<u64>(), any::<bool>()), 1..5),
    ) {
        use disk_store::file::{File, FileLayer};
        let (files, journal) = filled(5);
        drop(journal);
        let file = files.open("journal/file-00000").expect("is there");
        let all = file.read_at(0, 12 * BLOCK).expect("reads");
        let mut all = all.to_vec();
        for (nth, field, value, is_small) in edits {
            let heads: Vec<usize> = (0..12).map(|b| b * BLOCK).filter(|at| &all[*at..at + 4] == b"ATJB").collect();
            let at = heads[nth as usize % heads.len()];
            let value = if is_small { value % 5000 } else { value };
            all[at + field..at + field + 4].copy_from_slice(&(value as u32).to_le_bytes());
            let sum = model::crc32c(&all[at + 8..at + BLOCK]);
            all[at + 4..at + 8].copy_from_slice(&sum.to_le_bytes());
        }
        files.put_file("journal/file-00000", &all);
        let (mut journal, scanned, _) = open(&files);
        let places = scanned.iter().map(|e| e.at).collect();
        read(&mut journal, places);
        append(&mut journal, vec![entry(1, 100)]).expect("works on");
    }
}

/// R2: what is written to a file that was deleted would be gone with the process.
#[test]
fn free_files_that_were_deleted_under_it_are_not_written_to() {
    let (files, mut journal) = filled(60);
    let current = journal.current_file();
    let released = journal.execute(JournalOp::ReleaseBefore(current));
    released.expect("releases");
    let free: Vec<String> = {
        let all = journal.files().into_iter();
        all.filter(|f| f.file.is_none()).map(|f| f.path).collect()
    };
    assert!(!free.is_empty());
    for path in &free {
        files.remove(path).expect("it is there");
    }
    assert!(journal.is_current(), "none of those that it needs");
    for tag in 100..160 {
        append(&mut journal, vec![entry(tag, 4096)]).expect("appends");
    }
    assert!(journal.is_current() && !journal.has_failed());
    journal.rest().expect("nothing failed");
    drop(journal);
    let (_, scanned, verdict) = open(&files);
    assert_eq!(verdict, ScanVerdict::Whole);
    let tags: Vec<u64> = scanned.iter().map(|e| tag_of(&e.header)).collect();
    assert!(tags.ends_with(&(100..160).collect::<Vec<_>>()), "{tags:?}");
}

#[test]
fn a_live_file_that_was_deleted_is_missed() {
    let (files, journal) = filled(60);
    assert!(journal.is_current());
    let live = journal.files().into_iter().find(|f| f.file.is_some());
    files.remove(&live.expect("one").path).expect("it is there");
    assert!(!journal.is_current());
}

#[test]
fn a_spare_file_that_was_deleted_is_given_back() {
    let (files, mut journal) = filled(60);
    let current = journal.current_file();
    let released = journal.execute(JournalOp::ReleaseBefore(current));
    released.expect("releases");
    let free = journal.files().into_iter().filter(|f| f.file.is_none());
    for path in free.map(|f| f.path).collect::<Vec<_>>() {
        files.remove(&path).expect("it is there");
    }
    journal.rest().expect("nothing failed");
    append(&mut journal, vec![entry(1, 4096)]).expect("appends");
}
