//! Bytes flip anywhere in what disks hold: in fragments, in journal files, in catalogs; on one disk or on all
//! disks of a site, under running processes or dead ones. Each time everything reads back, and becomes
//! whole by itself before the next one. A seed decides where; it is printed, and `ATOLL_ROT_SEED`
//! gives it again.

mod dev_fabric;
mod disk_files;
mod filled;
mod real_clients;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;

use disk_files::{Place, Sealed};
use filled::{Filled, PATIENCE};
use real_clients::Chance;

const SITES: [&str; 3] = ["a", "b", "c"];

/// Each site is hit twice, and so many disks are hit alone. A disk on which 8 fragments rotted is told
/// as a bad one for good, so no disk has more than that: 2 of its site's, 2 x 2 of its own.
const DISKS_HIT: u64 = 2;

/// Bytes flipped in each disk's journal files, and in its catalog's.
const FLIPS: u64 = 3;

/// Tries to hit what is not zeros: files are prepared, and sparse.
const AIMS: u64 = 50;

/// Whose disks are hit, by names of nodes, and the one disk if not all.
#[derive(Debug)]
struct Victim {
    nodes: Vec<String>,
    disk: Option<usize>,
    /// The processes are killed first.
    dead: bool,
}

impl Victim {
    fn site(&self) -> &str {
        &self.nodes[0][..1]
    }

    fn nodes(&self) -> Vec<&str> {
        self.nodes.iter().map(String::as_str).collect()
    }

    fn disks(&self, filled: &Filled) -> Vec<PathBuf> {
        let disks = disks(filled, &self.nodes);
        match self.disk {
            Some(disk) => vec![disks[disk].clone()],
            None => disks,
        }
    }

    fn start_line(&self) -> String {
        match &self.nodes[..] {
            [node] => format!("node start {node}"),
            _ => format!("site start {}", self.site()),
        }
    }

    /// A node of another site, which is not hit.
    fn witness(&self) -> String {
        let other = SITES.iter().find(|s| **s != self.site());
        format!("{}1", other.expect("three sites"))
    }
}

/// The directories of these nodes' disks.
fn disks(filled: &Filled, nodes: &[String]) -> Vec<PathBuf> {
    let of_node = |node: &String| disk_files::disks(&filled.fabric.directory(node));
    nodes.iter().flat_map(of_node).collect()
}

/// All that are hit, in an order that chance decides.
fn victims(chance: &mut Chance) -> Vec<Victim> {
    let whole = |site: &str, dead| Victim {
        nodes: (1..=3).map(|n| format!("{site}{n}")).collect(),
        disk: None,
        dead,
    };
    let mut victims: Vec<Victim> = SITES
        .iter()
        .flat_map(|site| [whole(site, false), whole(site, true)])
        .collect();
    for n in 0..DISKS_HIT {
        let site = SITES[chance.below(3) as usize];
        victims.push(Victim {
            nodes: vec![format!("{site}{}", 1 + chance.below(3))],
            disk: Some(chance.below(2) as usize),
            dead: n % 2 == 0,
        });
    }
    for last in (1..victims.len()).rev() {
        victims.swap(last, chance.below(last as u64 + 1) as usize);
    }
    victims
}

/// A fragment that was damaged.
struct Rotten {
    disk: PathBuf,
    name: [u8; 17],
    write_number: [u8; 8],
}

/// Volume, epoch, counter and slot.
fn name(fragment: &Sealed) -> [u8; 17] {
    fragment.head[48..65].try_into().expect("17 bytes")
}

fn write_number(fragment: &Sealed) -> [u8; 8] {
    fragment.head[40..48].try_into().expect("8 bytes")
}

impl Rotten {
    /// A byte in the header or in the data of a fragment of a disk.
    fn flip(disk: &Path, chance: &mut Chance) -> Option<Self> {
        let fragments = disk_files::fragments(disk);
        let of = chance.below((fragments.len() as u64).max(1));
        let hit = fragments.get(of as usize)?;
        let within = match chance.below(3) {
            0 => 0..hit.area,
            _ => hit.area..hit.bytes,
        };
        let offset = within.start as u64 + chance.below((within.len() as u64).max(1));
        let place = Place {
            offset: hit.start.offset + offset,
            ..hit.start.clone()
        };
        println!(
            "    {place:?}, byte {offset} of a fragment of {}",
            hit.bytes
        );
        place.flip();
        Some(Self {
            disk: disk.to_owned(),
            name: name(hit),
            write_number: write_number(hit),
        })
    }

    /// It is there anew, on this disk or on another one if this one was given up; or its segment is gone,
    /// and nobody has another fragment of it.
    fn is_mended(&self, all_disks: &[PathBuf]) -> bool {
        let fragments = all_disks.iter().flat_map(|disk| {
            disk_files::fragments(disk)
                .into_iter()
                .map(move |f| (disk, f))
        });
        let old = |disk: &PathBuf, f: &Sealed| {
            *disk == self.disk && (name(f) == self.name && write_number(f) == self.write_number)
        };
        let mut is_needed = false;
        for (_, fragment) in fragments.filter(|(disk, f)| !old(disk, f)) {
            if name(&fragment) == self.name {
                return true;
            }
            is_needed |= name(&fragment)[..16] == self.name[..16];
        }
        !is_needed
    }
}

/// Flips a byte anywhere in one of these files, rather in what was written than in zeros.
fn flip_anywhere(files: &[PathBuf], chance: &mut Chance) {
    let file = &files[chance.below(files.len() as u64) as usize];
    let bytes = file.metadata().map_or(0, |about| about.len());
    if bytes == 0 {
        return;
    }
    let Ok(open) = File::open(file) else {
        // It was removed meanwhile: it is not needed any more.
        return;
    };
    let is_written = |offset: &u64| {
        let mut around = [0; 64];
        let read = open.read_at(&mut around, offset / 64 * 64);
        read.is_ok_and(|n| around[..n].iter().any(|byte| *byte != 0))
    };
    let mut aims = std::iter::repeat_with(|| chance.below(bytes)).take(AIMS as usize);
    let offset = aims.find(is_written);
    let offset = offset.unwrap_or_else(|| chance.below(bytes));
    let place = Place {
        file: file.clone(),
        offset,
    };
    let there = place.flip_if_there();
    println!("    {place:?} of {bytes}, there: {there}");
}

/// Flips a byte in one of a disk's batches, if there is any: its journal files are mostly zeros.
fn flip_in_batch(disk: &Path, chance: &mut Chance) {
    let batches = disk_files::journal(disk).into_iter().flat_map(|(_, b)| b);
    let batches: Vec<Sealed> = batches.collect();
    let of = chance.below((batches.len() as u64).max(1));
    if let Some(batch) = batches.get(of as usize) {
        let place = Place {
            offset: batch.start.offset + chance.below(batch.bytes as u64),
            ..batch.start.clone()
        };
        let there = place.flip_if_there();
        println!(
            "    {place:?}, in a batch of {}, there: {there}",
            batch.bytes
        );
    }
}

/// Damages a disk, in the three places at once.
fn damage(disk: &Path, fragments: u64, chance: &mut Chance) -> Vec<Rotten> {
    for _ in 0..FLIPS {
        flip_in_batch(disk, chance);
    }
    for what in ["journal", "catalog"] {
        let mut files = disk_files::files(&disk.join(what));
        // What RocksDB tells people is read by nobody.
        files.retain(|file| file.is_file() && !file.to_string_lossy().contains("/LOG"));
        for _ in 0..FLIPS {
            flip_anywhere(&files, chance);
        }
    }
    let flips = (0..fragments).filter_map(|_| Rotten::flip(disk, chance));
    flips.collect()
}

/// Scrubs until all that rotted is there anew.
fn until_mended(filled: &Filled, rotten: &[Rotten], when: &str) {
    let all_disks = disks(filled, &filled.fabric.nodes());
    let began = Instant::now();
    loop {
        filled.fabric.json("scrub start");
        std::thread::sleep(std::time::Duration::from_secs(2));
        let left: Vec<&Rotten> = rotten.iter().filter(|r| !r.is_mended(&all_disks)).collect();
        if left.is_empty() {
            return;
        }
        let disks: Vec<&Path> = left.iter().map(|r| r.disk.as_path()).collect();
        assert!(
            began.elapsed() < PATIENCE,
            "{when}: still rotten, on {disks:?}: {:#}",
            filled.fabric.json("scrub status")
        );
    }
}

fn round(filled: &mut Filled, victim: &Victim, chance: &mut Chance) {
    let when = format!("bytes flipped on {victim:?}");
    // What journals hold is needed, or what fragments hold.
    filled.write();
    let is_drained = chance.below(2) == 0;
    if is_drained {
        filled.drained();
    }
    println!("{when}, drained: {is_drained}");
    let witness = victim.witness();
    if victim.dead {
        filled.kill(&victim.nodes());
    }
    let fragments = if victim.disk.is_some() { 2 } else { 1 };
    let mut rotten = Vec::new();
    for disk in victim.disks(filled) {
        rotten.extend(damage(&disk, fragments, chance));
    }
    filled.reads_back(&witness, &when);
    if !victim.dead {
        // Or what nobody reads now would be found rotten when another site is.
        filled.kill(&victim.nodes());
    }
    filled.fabric.start_again(&victim.start_line());
    filled.reads_back(&witness, &when);
    let took = filled.becomes_whole(&when);
    until_mended(filled, &rotten, &when);
    filled.becomes_whole(&when);
    filled.reads_back(&victim.nodes[0], &when);
    println!(
        "    whole after {took:?}, {} fragments were rotten",
        rotten.len()
    );
}

#[test]
#[ignore = "long: cargo xtask test --layer long"]
fn bytes_flip_anywhere_within_the_budget_of_faults() {
    let given = std::env::var("ATOLL_ROT_SEED").ok();
    let now = || SystemTime::now().duration_since(UNIX_EPOCH);
    let seed = given.map_or_else(
        || now().map_or(1, |since| since.as_secs()),
        |seed| seed.parse().expect("ATOLL_ROT_SEED is a number"),
    );
    println!("ATOLL_ROT_SEED={seed}");
    let mut chance = Chance::new(seed);
    let mut filled = Filled::new(24);
    for victim in victims(&mut chance) {
        round(&mut filled, &victim, &mut chance);
    }
    // No fault is left anywhere: any site may be lost.
    for (site, other) in SITES.iter().zip(["b3", "c3", "a3"]) {
        filled.fabric.json(&format!("site stop {site}"));
        filled.reads_back(other, &format!("without site {site}, seed {seed}"));
        filled.fabric.start_again(&format!("site start {site}"));
        filled.fabric.wait_for("status", "/healthy", &json!(true));
        filled.becomes_whole("all sites are there");
    }
}
