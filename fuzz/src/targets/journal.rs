//! The journal's files and its mark.

use disk_store::journal::Journal;
use model::store::{JournalDone, JournalOp};

use super::disk::{JOURNAL, JOURNAL_FILE, MARK, edit_bytes, edited, entry};
use crate::Verdict;

pub(super) fn run(data: &[u8]) -> Verdict {
    let (files, _) = edited(data);
    let Ok((mut journal, entries, _)) = Journal::open(&files, JOURNAL) else {
        return Verdict::Refused;
    };
    for entry in entries {
        let Ok(JournalDone::Read(payloads)) = journal.execute(JournalOp::Read(vec![entry.at]))
        else {
            return Verdict::Refused;
        };
        let lengths = payloads.iter().flatten().map(bytes::Bytes::len);
        assert!(
            lengths
                .into_iter()
                .all(|length| length == entry.at.payload_len as usize)
        );
    }
    let added = entry(0xee, 4096);
    if journal
        .execute(JournalOp::Append(vec![added.clone()]))
        .is_err()
    {
        return Verdict::Refused;
    }
    journal.settle().expect("memory");
    drop(journal);
    // What was appended after that is there, whatever lies before it.
    let (mut journal, entries, _) = match Journal::open(&files, JOURNAL) {
        Ok(opened) => opened,
        Err(error) => {
            // Each opening counts on, and one that may not says so.
            assert!(error.detail.contains("run out"), "{error:?}");
            return Verdict::Refused;
        }
    };
    let last = entries.last().expect("one was appended");
    assert_eq!((last.volume, &last.header), (added.volume, &added.header));
    let done = journal.execute(JournalOp::Read(vec![last.at]));
    assert_eq!(
        done,
        Ok(JournalDone::Read(vec![Some(
            added.payload.chunks().concat().into()
        )]))
    );
    Verdict::Taken
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let number = |n: u64| n.to_le_bytes();
    let head = |at, n| edit_bytes(JOURNAL_FILE, 0, at, &number(n));
    vec![
        Vec::new(),
        head(48, 9),
        head(40, 1 << 15),
        [head(64, 1), head(72, 0)].concat(),
        [head(80, 3), head(88, 1 << 40)].concat(),
        edit_bytes(JOURNAL_FILE, 1, 100, &[0, 0, 0, 1]),
        edit_bytes(JOURNAL_FILE, 1, 104, &[0xff; 8]),
        edit_bytes(MARK, 0, 24, &number(4)),
        edit_bytes(MARK, 1, 32, &number(1 << 50)),
    ]
}
