//! Power goes off at every single write, sync and name change of a scripted run, and what
//! was not synced lands in part. Whatever was acknowledged is there afterwards, bit for bit;
//! whatever was released or deleted stays away; nothing counts as damaged (R8).

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{
    Rng, SimFragments, SimJournal, append, entry, fetch, fragments_config, is_good, journal_config,
    key, put, tag_of,
};
use disk_store::catalog::MemCatalog;
use disk_store::file::sim::SimFiles;
use disk_store::fragments::Fragments;
use disk_store::journal::Journal;
use model::store::{EntryAt, FragmentDone, FragmentOp, JournalDone, JournalOp, ScanVerdict};

/// What was promised.
#[derive(Clone, Default)]
struct Promises {
    /// Acknowledged entries by tag: payload length, and where they lie.
    entries: BTreeMap<u64, (usize, EntryAt)>,
    /// Entries of an append that was not answered.
    maybe: BTreeMap<u64, usize>,
    /// Entries in files that were released.
    released: BTreeSet<u64>,
    /// Entries in files whose release was not answered.
    maybe_released: BTreeSet<u64>,
    fragments: BTreeMap<u64, usize>,
    maybe_put: BTreeMap<u64, usize>,
    maybe_deleted: BTreeMap<u64, usize>,
    deleted: BTreeMap<u64, usize>,
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<(u64, usize)>),
    Release,
    Put(Vec<(u64, usize)>),
    Delete(Vec<u64>),
    SettleJournal,
    RestJournal,
    SettleFragments,
}

fn script(seed: u64, steps: usize) -> Vec<Step> {
    let mut rng = Rng(seed);
    let mut tag = seed * 10_000;
    let mut stored = Vec::new();
    let mut out = Vec::new();
    for _ in 0..steps {
        out.push(match rng.below(12) {
            0..=4 => {
                let count = 1 + rng.below(3);
                let lens = [0, 100, 4096, 4097, 8192];
                Step::Append(
                    (0..count)
                        .map(|_| {
                            tag += 1;
                            (tag, lens[rng.below(5) as usize])
                        })
                        .collect(),
                )
            }
            5 => Step::Release,
            6..=8 => {
                let puts: Vec<_> = (0..1 + rng.below(2))
                    .map(|_| {
                        tag += 1;
                        (tag, 1 + rng.below(4) as usize)
                    })
                    .collect();
                stored.extend(puts.iter().map(|(n, _)| *n));
                Step::Put(puts)
            }
            9 | 10 => {
                let count = (rng.below(3) as usize).min(stored.len());
                Step::Delete(
                    (0..count)
                        .map(|_| stored.swap_remove(rng.below(stored.len() as u64) as usize))
                        .collect(),
                )
            }
            _ => match rng.below(3) {
                0 => Step::SettleJournal,
                1 => Step::RestJournal,
                _ => Step::SettleFragments,
            },
        });
    }
    out
}

/// Runs the script until it ends or the power is off; true if it ended.
fn run(
    journal: &mut SimJournal,
    fragments: &mut SimFragments,
    steps: &[Step],
    p: &mut Promises,
) -> bool {
    steps.iter().all(|step| match step {
        Step::Append(entries) => {
            p.maybe.extend(entries.iter().copied());
            let batch = entries.iter().map(|&(tag, len)| entry(tag, len)).collect();
            let Ok(places) = append(journal, batch) else {
                return false;
            };
            for (&(tag, len), at) in entries.iter().zip(places) {
                p.maybe.remove(&tag);
                p.entries.insert(tag, (len, at));
            }
            true
        }
        Step::Release => {
            let before = journal.current_file();
            let gone: Vec<u64> = p
                .entries
                .iter()
                .filter(|(_, (_, at))| at.file < before)
                .map(|(tag, _)| *tag)
                .collect();
            p.maybe_released.extend(gone.iter().copied());
            if journal.execute(JournalOp::ReleaseBefore(before)) != Ok(JournalDone::Released) {
                return false;
            }
            for tag in gone {
                p.entries.remove(&tag);
                p.released.insert(tag);
            }
            p.maybe_released.clear();
            true
        }
        Step::Put(puts) => {
            p.maybe_put.extend(puts.iter().copied());
            let ops = puts.iter().map(|&(n, blocks)| put(n, blocks)).collect();
            let Ok(done) = fragments.execute_batch(ops) else {
                return false;
            };
            for (&(n, blocks), done) in puts.iter().zip(done) {
                p.maybe_put.remove(&n);
                assert_eq!(done, FragmentDone::Stored);
                p.fragments.insert(n, blocks);
            }
            true
        }
        Step::Delete(keys) => {
            for n in keys {
                let blocks = p
                    .fragments
                    .remove(n)
                    .expect("the script deletes what it stored");
                p.maybe_deleted.insert(*n, blocks);
            }
            let op = FragmentOp::Delete {
                keys: keys.iter().map(|n| key(*n)).collect(),
            };
            if fragments.execute(op).is_err() {
                return false;
            }
            p.deleted.append(&mut p.maybe_deleted);
            true
        }
        Step::SettleJournal => journal.settle().is_ok(),
        Step::RestJournal => journal.rest().is_ok(),
        Step::SettleFragments => fragments.settle().is_ok(),
    })
}

fn check(
    files: &SimFiles,
    catalog: &MemCatalog,
    p: &Promises,
    context: &str,
) -> (SimJournal, SimFragments) {
    let (mut journal, scanned, verdict) =
        Journal::open(files, journal_config()).expect("the device works");
    assert_eq!(
        verdict,
        ScanVerdict::Whole,
        "{context}: nothing was damaged"
    );
    let places: Vec<EntryAt> = scanned.iter().map(|entry| entry.at).collect();
    let payloads = common::read(&mut journal, places);
    let tags: Vec<u64> = scanned.iter().map(|entry| tag_of(&entry.header)).collect();
    assert!(tags.is_sorted(), "{context}: in the order of appending");
    for (tag, payload) in tags.iter().zip(payloads) {
        assert!(
            !p.released.contains(tag),
            "{context}: entry {tag} was released"
        );
        let len = p
            .entries
            .get(tag)
            .map(|(len, _)| *len)
            .or(p.maybe.get(tag).copied());
        let len = len.unwrap_or_else(|| panic!("{context}: entry {tag} was never appended"));
        assert_eq!(
            payload,
            Some(common::bytes_of(*tag, len)),
            "{context}: entry {tag}"
        );
    }
    for (tag, (_, at)) in &p.entries {
        let found = scanned.iter().find(|entry| tag_of(&entry.header) == *tag);
        match found {
            Some(found) => assert_eq!(found.at, *at, "{context}: entry {tag} stays where it was"),
            None => assert!(
                p.maybe_released.contains(tag),
                "{context}: entry {tag} is lost"
            ),
        }
    }
    let (mut fragments, _) = common::open_fragments(files, catalog);
    for (n, blocks) in &p.fragments {
        let found = fetch(&mut fragments, *n, *blocks);
        assert!(
            found.is_some_and(|ranges| is_good(&ranges, *n)),
            "{context}: fragment {n} is lost"
        );
    }
    for (n, blocks) in p.maybe_put.iter().chain(&p.maybe_deleted) {
        // A put or delete that was not answered happened or not: nothing in between.
        if let Some(ranges) = fetch(&mut fragments, *n, *blocks) {
            assert!(is_good(&ranges, *n), "{context}: fragment {n} is torn");
        }
    }
    for (n, blocks) in &p.deleted {
        assert_eq!(
            fetch(&mut fragments, *n, *blocks),
            None,
            "{context}: fragment {n} is back"
        );
    }
    let mut listed = 0;
    for volume in 0..3 {
        let op = FragmentOp::List {
            volume: model::ids::VolumeId(volume),
            after: None,
            limit: 1000,
        };
        let Ok(FragmentDone::Keys(keys)) = fragments.execute(op) else {
            panic!("{context}: list")
        };
        listed += keys.len();
    }
    let most = p.fragments.len() + p.maybe_put.len() + p.maybe_deleted.len();
    assert!(
        (p.fragments.len()..=most).contains(&listed),
        "{context}: {listed} keys"
    );
    (journal, fragments)
}

/// What recovery showed as there is there for good.
fn adopt(p: &mut Promises, fragments: &mut SimFragments) {
    for (n, blocks) in std::mem::take(&mut p.maybe_put)
        .into_iter()
        .chain(std::mem::take(&mut p.maybe_deleted))
    {
        if fetch(fragments, n, blocks).is_some() {
            p.fragments.insert(n, blocks);
        } else {
            p.deleted.insert(n, blocks);
        }
    }
}

fn formatted() -> (SimFiles, MemCatalog) {
    let files = SimFiles::new();
    let catalog = MemCatalog::new();
    Journal::create(&files, journal_config()).expect("creates");
    Fragments::open(&files, catalog.clone(), fragments_config()).expect("opens");
    (files, catalog)
}

#[test]
fn every_crash_point_of_a_run() {
    let mut points = 0;
    let mut crashes = 0_u64;
    for seed in 1..=3 {
        let steps = script(seed, 70);
        let (files, catalog) = formatted();
        let total = {
            let (files, catalog) = (files.fork(), catalog.fork());
            let (mut journal, mut fragments) =
                check(&files, &catalog, &Promises::default(), "dry run");
            let before = files.ops();
            assert!(run(
                &mut journal,
                &mut fragments,
                &steps,
                &mut Promises::default()
            ));
            files.ops() - before
        };
        for point in 0..=total {
            points += 1;
            let (base, base_catalog) = (files.fork(), catalog.fork());
            let mut promises = Promises::default();
            let (mut journal, mut fragments) = check(&base, &base_catalog, &promises, "start");
            base.halt_after(point);
            let ended = run(&mut journal, &mut fragments, &steps, &mut promises);
            // (Some last operations, such as a hole, may fail without harm.)
            assert!(ended || point < total);
            for tear in 0..4 {
                crashes += 1;
                let context = format!("script {seed}, crash point {point}, tear {tear}");
                let (mut files, catalog) = (base.fork(), base_catalog.fork());
                files.crash(tear * 7919 + point);
                catalog.crash(tear + point);
                crash_again(&files, &catalog, &promises, tear + point, &context);
                let mut promises = promises.clone();
                let (mut journal, mut fragments) = check(&files, &catalog, &promises, &context);
                adopt(&mut promises, &mut fragments);
                // Life goes on, on top of what the crash left.
                let more = script(900 + tear, 6);
                assert!(
                    run(&mut journal, &mut fragments, &more, &mut promises),
                    "{context}"
                );
                drop((journal, fragments));
                files.crash(tear + 3);
                catalog.crash(tear + 3);
                check(
                    &files,
                    &catalog,
                    &promises,
                    &format!("{context}, then a second crash"),
                );
            }
        }
    }
    println!(
        "{points} crash points, {crashes} crashes, each with a crash in its recovery and one after"
    );
    assert!(points > 400, "{points} crash points");
}

/// Power goes off once more, while the store recovers.
fn crash_again(files: &SimFiles, catalog: &MemCatalog, p: &Promises, at: u64, context: &str) {
    let (mut files, catalog) = (files.fork(), catalog.fork());
    files.halt_after(at % 12);
    let _ = Journal::open(&files, journal_config());
    let _ = Fragments::open(&files, catalog.clone(), fragments_config());
    files.crash(at + 1);
    catalog.crash(at + 1);
    check(
        &files,
        &catalog,
        p,
        &format!("{context}, crashed again in recovery"),
    );
}

/// The process dies, the system lives; what the next one finds in the cache and hands out
/// must survive a power loss right after.
#[test]
fn what_a_new_process_finds_is_durable() {
    for seed in 20..24 {
        let steps = script(seed, 40);
        for point in (0..200).step_by(5) {
            let (mut files, catalog) = formatted();
            let mut promises = Promises::default();
            let (mut journal, mut fragments) = check(&files, &catalog, &promises, "start");
            files.halt_after(point);
            run(&mut journal, &mut fragments, &steps, &mut promises);
            files.kill();
            let context = format!("script {seed}, killed at {point}");
            let (mut journal, found, _) = Journal::open(&files, journal_config()).expect("opens");
            let (mut fragments, _) = common::open_fragments(&files, &catalog);
            adopt(&mut promises, &mut fragments);
            if point % 2 == 0 {
                // What it then writes survives, too, whatever file it is in.
                let more = script(900 + seed, 12);
                assert!(
                    run(&mut journal, &mut fragments, &more, &mut promises),
                    "{context}"
                );
                files.crash(seed + point);
                catalog.crash(seed + point);
            } else {
                files.crash(seed + point);
                catalog.crash(seed + point);
                let again = Journal::open(&files, journal_config()).expect("opens");
                assert_eq!((found, ScanVerdict::Whole), (again.1, again.2), "{context}");
            }
            check(&files, &catalog, &promises, &context);
        }
    }
}
