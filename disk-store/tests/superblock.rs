//! A directory is the disk that it says it is, or it is nothing (R2).

mod common;

use common::{ID, journal_config};
use disk_store::file::sim::SimFiles;
use disk_store::journal::Journal;
use disk_store::superblock::{FabricId, Identity, Superblock, SuperblockError, format};
use model::ids::{DiskId, Incarnation};
use model::store::ScanVerdict;

fn identity() -> Identity {
    Identity {
        fabric: FabricId(7),
        disk: DiskId(3),
        incarnation: Incarnation(ID),
        capacity_bytes: 1 << 40,
    }
}

#[test]
fn formatted_opened_swapped_emptied() {
    let mut files = SimFiles::new();
    assert_eq!(
        Superblock::open(&files).err(),
        Some(SuperblockError::Missing)
    );
    format(&files, &identity(), journal_config()).expect("formats");
    assert_eq!(
        format(&files, &identity(), journal_config()),
        Err(SuperblockError::InUse)
    );
    files.crash(0);
    let disk = Superblock::open_as(&files, FabricId(7), DiskId(3), Incarnation(ID)).expect("opens");
    assert_eq!(disk.identity(), identity());
    let other = Superblock::open_as(&files, FabricId(7), DiskId(3), Incarnation(1)).err();
    assert_eq!(other, Some(SuperblockError::Foreign { found: identity() }));
    assert!(disk.is_current());
    files.wipe();
    assert!(!disk.is_current(), "an emptied directory is found out");
}

#[test]
fn one_rotten_copy_costs_nothing() {
    let files = SimFiles::new();
    format(&files, &identity(), journal_config()).expect("formats");
    for offset in 0..4096 {
        let hurt = files.fork();
        hurt.flip_bit("superblock", offset, 1);
        assert_eq!(
            Superblock::open(&hurt).map(|disk| disk.identity()).ok(),
            Some(identity())
        );
        hurt.flip_bit("superblock", offset + 4096, 1);
        assert_eq!(
            Superblock::open(&hurt).err(),
            Some(SuperblockError::Damaged)
        );
    }
}

#[test]
fn a_format_that_power_loss_interrupts_is_all_or_nothing() {
    let mut points = 0;
    for point in 0..40 {
        for tear in 0..10 {
            let mut files = SimFiles::new();
            files.halt_after(point);
            let done = format(&files, &identity(), journal_config());
            files.crash(tear);
            match Superblock::open(&files) {
                Ok(_) => {}
                Err(error) => {
                    assert_eq!((done.is_ok(), error), (false, SuperblockError::Missing));
                    format(&files, &identity(), journal_config()).expect("formats again");
                }
            }
            let (_, entries, verdict) = Journal::open(&files, journal_config()).expect("opens");
            assert_eq!((entries.len(), verdict), (0, ScanVerdict::Whole));
            points += 1;
        }
    }
    assert_eq!(points, 400);
}
