use model::ids::Epoch;
use proptest::prelude::{Strategy, any, prop, prop_oneof, proptest};

use super::*;

fn at(seq: usize) -> Position {
    Position {
        epoch: Epoch(3),
        seq: Seq(seq as u64),
    }
}

fn client(n: u8) -> ClientRef {
    ClientRef {
        node: NodeId(u16::from(n % 4) * (u16::MAX / 3)),
        boot: Boot(u64::from(n / 4 % 2)),
        client: ClientId(u64::from(n / 8)),
    }
}

/// What an owner may journal, by what is open then.
#[derive(Clone, Debug)]
enum Op {
    Open(u8),
    Close(u8),
    Write { of: u8, ahead: u64, answered: bool },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        (0..16_u8).prop_map(Op::Open),
        any::<u8>().prop_map(Op::Close),
        (any::<u8>(), 0..4_u64, any::<bool>()).prop_map(|(of, ahead, answered)| Op::Write {
            of,
            ahead,
            answered
        }),
    ];
    prop::collection::vec(op, 1..60)
}

/// The record of an op, if it makes sense.
fn record(sessions: &Sessions, op: &Op, seq: usize) -> Option<RecordHead> {
    let nth = |n: u8| {
        sessions
            .open
            .iter()
            .nth(usize::from(n) % sessions.len().max(1))
    };
    let body = match op {
        Op::Open(n) if sessions.of(client(*n)).is_none() => RecordBody::Open(client(*n)),
        Op::Open(_) => return None,
        Op::Close(n) => RecordBody::Close(*nth(*n)?.0),
        Op::Write {
            of,
            ahead,
            answered,
        } => {
            let (session, known) = nth(*of)?;
            let n = known.low + ahead;
            let low = if *answered { n } else { known.low };
            let part = Part {
                session: *session,
                n,
                low,
            };
            RecordBody::Zero {
                part,
                offset: 0,
                length: 1,
                allocate: false,
            }
        }
    };
    Some(RecordHead {
        position: at(seq),
        body,
        payload_len: 0,
    })
}

proptest! {
    /// A next owner begins with a checkpoint's table and the records after it: wherever that is
    /// cut, it has the sessions, and knows whose they are.
    #[test]
    fn a_table_and_the_records_after_it_are_all_records(ops in ops(), cut in 0..60_usize) {
        let mut all = Sessions::default();
        let mut records = Vec::new();
        let mut table = None;
        for op in ops {
            if records.len() == cut {
                table = Some(all.encode(at(cut)));
            }
            if let Some(record) = record(&all, &op, records.len() + 1) {
                all.follow(&record);
                records.push(record);
            }
        }
        let from = if table.is_some() { cut } else { 0 };
        let mut next = Sessions::decode(&table.unwrap_or_default()).expect("its own bytes");
        for record in &records[from..] {
            next.follow(record);
        }
        let end = at(records.len());
        assert_eq!(next.encode(end), all.encode(end));
        let open: Vec<SessionId> = all.open.keys().copied().collect();
        for session in open {
            for n in 1..80 {
                let part = Part { session, n, low: n };
                let (one, other) = (next.admit(part), all.admit(part));
                let known = |a| matches!(a, Admission::Known(_));
                assert!(one == other || known(one) && known(other), "{part:?}: {one:?}, {other:?}");
            }
        }
        let nodes: Vec<NodeId> = all.nodes().collect();
        assert!(nodes.is_sorted_by(|a, b| a < b));
        let by_node = nodes.iter().flat_map(|node| all.clients_of(*node));
        assert!(by_node.eq(all.clients()));
        for client in all.clients() {
            let session = all.of(client).expect("it has one");
            assert!(all.is_open(session));
            assert_eq!(all.open[&session].client, client);
        }
    }

    /// Bytes that no owner wrote make an error, or a table that holds together.
    #[test]
    fn a_table_of_any_bytes_holds_together(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        if let Ok(sessions) = Sessions::decode(&bytes) {
            assert!(sessions.clients().all(|c| sessions.of(c).is_some_and(|s| sessions.is_open(s))));
        }
    }
}

#[test]
fn two_rows_of_one_client_or_one_session_are_one() {
    let session = |seq| SessionId(at(seq));
    let rows: Vec<Row> = vec![
        (session(1), client(1), 1, Vec::new()),
        (session(2), client(1), 1, Vec::new()),
        (session(2), client(2), 1, Vec::new()),
    ];
    let sessions = Sessions::decode(&wire::encode(&rows)).expect("rows");
    assert_eq!(sessions.of(client(2)), Some(session(2)));
    assert_eq!((sessions.of(client(1)), sessions.len()), (None, 1));
}

#[test]
fn parts_of_any_number_are_judged() {
    let session = SessionId(at(1));
    let rows: Vec<Row> = vec![(session, client(1), 1, Vec::new())];
    let mut sessions = Sessions::decode(&wire::encode(&rows)).expect("rows");
    for (low, n) in [
        (0, 0),
        (2, 1),
        (1, u64::MAX),
        (u64::MAX, u64::MAX),
        (u64::MAX - 1, u64::MAX),
    ] {
        let part = Part { session, n, low };
        assert_eq!(sessions.admit(part), Admission::OutOfWindow, "{part:?}");
    }
}

/// Sessions of clients that had as many parts in flight as may be, of the largest numbers: there
/// is no table that a replica does not take.
#[test]
fn the_largest_table_fits_a_record() {
    let covers = Position {
        epoch: Epoch(u64::MAX),
        seq: Seq(u64::MAX),
    };
    let low = u64::MAX / 2;
    let mut sessions = Sessions::default();
    // One more than there may be: bytes of a disk may say so.
    for i in 0..=SESSIONS_MAX as u64 {
        let client = ClientRef {
            node: NodeId(u16::MAX),
            boot: Boot(u64::MAX),
            client: ClientId(u64::MAX - i),
        };
        let ahead = (0..PARTS_IN_FLIGHT_MAX).rev().step_by(2);
        let session = Session {
            client,
            low,
            journaled: ahead.map(|i| (low + i, covers.seq)).collect(),
        };
        let seq = Seq(u64::MAX - i);
        sessions.insert(SessionId(Position { seq, ..covers }), session);
    }
    let table = sessions.encode(covers);
    assert!(table.len() <= TABLE_BYTES_MAX, "{} bytes", table.len());
    let mut read = Sessions::decode(&table).expect("its own bytes");
    assert_eq!((read.len(), read.encode(covers)), (SESSIONS_MAX, table));
    let session = SessionId(covers);
    let mut admit = |ahead| {
        read.admit(Part {
            session,
            n: low + ahead,
            low,
        })
    };
    assert_eq!(admit(PARTS_IN_FLIGHT_MAX - 1), Admission::Known(COVERED));
    assert_eq!(admit(PARTS_IN_FLIGHT_MAX - 2), Admission::New);
}
