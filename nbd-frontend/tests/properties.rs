//! Properties of the session over arbitrary input.
#![allow(missing_docs)]

mod common;

use common::peer::*;
use nbd_frontend::session::{Encryption, Limits};
use proptest::prelude::*;

/// An option that may be sent.
fn option() -> impl Strategy<Value = Vec<u8>> {
    let name = prop::sample::select(vec!["vol", "ro", "", "nothing", "secret"]);
    let query = prop::sample::select(vec!["base:allocation", "base:", "x-y:z", "nonsense"]);
    prop_oneof![
        Just(option_bytes(STRUCTURED, b"")),
        Just(option_bytes(EXTENDED, b"")),
        Just(option_bytes(LIST, b"")),
        Just(option_bytes(STARTTLS, b"data")),
        name.clone()
            .prop_map(|name| option_bytes(INFO, &go(name, &[1, 2, 3]))),
        (name, query, prop::sample::select(vec![SET_META, LIST_META]))
            .prop_map(|(name, query, option)| option_bytes(option, &meta(name, &[query]))),
        (any::<u32>(), prop::collection::vec(any::<u8>(), 0..600))
            .prop_map(|(option, data)| { option_bytes(option | 0x100, &data) }),
    ]
}

#[derive(Clone, Debug)]
struct Command {
    flags: u16,
    command: u16,
    offset: u64,
    length: u64,
}

fn command() -> impl Strategy<Value = Command> {
    let flags = prop_oneof![3 => Just(0), 1 => 0u16..64];
    let length = prop_oneof![
        0u64..10_000,
        Just(0),
        Just(100_000),
        Just(SIZE),
        Just(u32::MAX.into()),
    ];
    (
        flags,
        0u16..10,
        prop_oneof![0..SIZE, Just(0), any::<u64>()],
        length,
    )
        .prop_filter_map("DISC ends it all", |(flags, command, offset, length)| {
            // A payload must be worth sending in a test.
            let length = if command == WRITE || flags & PAYLOAD_LEN != 0 {
                length % 70_000
            } else {
                length
            };
            (command != DISC).then_some(Command {
                flags,
                command,
                offset,
                length,
            })
        })
}

/// A whole conversation, as the client's bytes.
fn conversation() -> impl Strategy<Value = Vec<u8>> {
    let tail = prop::sample::select(vec![true, false]);
    (
        prop::collection::vec(option(), 0..6),
        any::<bool>(),
        prop::collection::vec(command(), 0..12),
        tail,
        any::<u8>(),
    )
        .prop_map(|(options, is_extended, commands, disconnects, fill)| {
            let mut bytes = 3u32.to_be_bytes().to_vec();
            // What was agreed on by chance decides the size of a request's header.
            let mut headers = is_extended;
            for option in options {
                headers |= option[11] == EXTENDED as u8 && option.len() == 16;
                bytes.extend(option);
            }
            if headers {
                bytes.extend(option_bytes(EXTENDED, b""));
                bytes.extend(option_bytes(SET_META, &meta("vol", &["base:allocation"])));
            }
            bytes.extend(option_bytes(GO, &go("vol", &[3])));
            for (cookie, it) in commands.iter().enumerate() {
                let cookie = cookie as u64;
                let payload = if headers {
                    bytes.extend(extended(it.flags, it.command, cookie, it.offset, it.length));
                    it.flags & PAYLOAD_LEN != 0 || it.command == WRITE
                } else {
                    let length = it.length as u32;
                    bytes.extend(compact(it.flags, it.command, cookie, it.offset, length));
                    it.command == WRITE
                };
                if payload {
                    bytes.extend(vec![fill; it.length as usize]);
                }
            }
            if disconnects && headers {
                bytes.extend(extended(0, DISC, 99, 0, 0));
            } else if disconnects {
                bytes.extend(compact(0, DISC, 99, 0, 0));
            }
            bytes
        })
}

/// Plays a conversation in pieces; requests are answered at the end, in order.
fn play(bytes: &[u8], cuts: &[usize]) -> (Vec<u8>, String) {
    let mut peer = Peer::with(Limits::default(), Encryption::Off);
    peer.hold = true;
    let mut at = 0;
    let mut cuts = cuts.iter().cycle();
    while at < bytes.len() {
        let end = (at + cuts.next().copied().unwrap_or(bytes.len())).min(bytes.len());
        if peer.send(&bytes[at..end]) < end - at {
            assert!(
                !peer.session.wants_input(),
                "input is refused only when unwanted"
            );
            break;
        }
        at = end;
    }
    while !peer.held.is_empty() {
        peer.release(0);
    }
    let state = format!(
        "{:?} {}",
        peer.session.closing(),
        peer.session.is_transmitting()
    );
    (peer.out, state)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_split_of_the_input_gives_the_same_output(
        bytes in conversation(),
        cuts in prop::collection::vec(1usize..40_000, 1..20),
        small in prop::collection::vec(1usize..40, 1..20),
    ) {
        let whole = play(&bytes, &[]);
        prop_assert!(whole.1.ends_with("true"), "{}", whole.1);
        prop_assert_eq!(&play(&bytes, &cuts), &whole);
        prop_assert_eq!(&play(&bytes, &small), &whole);
        if bytes.len() < 20_000 {
            prop_assert_eq!(&play(&bytes, &[1]), &whole);
        }
    }

    #[test]
    fn arbitrary_bytes_neither_panic_nor_take_much_memory(
        prefix in conversation(),
        keep in 0usize..400,
        bytes in prop::collection::vec(any::<u8>(), 0..2000),
        encryption in prop::sample::select(vec![
            Encryption::Off, Encryption::Allowed, Encryption::Required,
        ]),
    ) {
        let mut peer = Peer::with(Limits::default(), encryption);
        peer.send(&prefix[..keep.min(prefix.len())]);
        if peer.tls_asked && !peer.session.is_closing() && !peer.session.wants_input() {
            peer.session.tls_started();
        }
        peer.send(&bytes);
        // The read-ahead, one payload, and small change.
        prop_assert!(peer.session.memory() <= (32 << 20) + (256 << 10));
        prop_assert!(peer.session.in_flight() <= 256);
    }

    #[test]
    fn output_can_be_taken_in_any_steps(
        commands in prop::collection::vec((0u64..60, 1u32..70_000), 1..8),
        steps in prop::collection::vec(1usize..5000, 1..10),
    ) {
        let mut peer = Peer::transmitting(&[STRUCTURED], false);
        peer.write(8192, &[3; 40_000]);
        let mut all = Vec::new();
        for (block, length) in &commands {
            all.extend(compact(0, READ, 1, block * 4096, *length));
        }
        peer.send(&all);
        let expected = std::mem::take(&mut peer.out);
        // Again, against a session whose output is taken step by step.
        peer.hold = true;
        peer.send(&all);
        let mut got = Vec::new();
        let mut steps = steps.iter().cycle();
        for (id, request) in std::mem::take(&mut peer.held) {
            let reply = peer.memory.execute(request);
            peer.session.replied(id, reply);
            let mut slices = [std::io::IoSlice::new(&[]); 2];
            let count = peer.session.output().slices(&mut slices);
            let bytes: Vec<u8> = slices[..count].iter().flat_map(|it| it.to_vec()).collect();
            let step = (*steps.next().expect("a cycle")).min(bytes.len());
            got.extend_from_slice(&bytes[..step]);
            peer.session.output_mut().sent(step);
        }
        peer.collect();
        got.append(&mut peer.out);
        prop_assert_eq!(got, expected);
    }
}
