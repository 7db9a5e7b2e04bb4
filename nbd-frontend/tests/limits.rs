//! The transmission phase: bounds, payload buffers, ends of a session.
#![allow(missing_docs)]

mod common;

use std::io::IoSlice;

use bytes::Bytes;
use common::peer::*;
use model::block::{Chunk, Reply, Request};
use nbd_frontend::export::ListedExport;
use nbd_frontend::session::{CloseReason, Effect, Encryption, Limits, Session};

#[test]
fn a_disconnect_waits_for_what_is_in_flight() {
    for end in ["disc", "eof", "stop"] {
        let mut peer = Peer::transmitting(&[], false);
        peer.hold = true;
        peer.send(&compact(0, FLUSH, 1, 0, 0));
        match end {
            "disc" => {
                let mut bytes = compact(0, DISC, 2, 0, 0);
                bytes.extend(compact(0, FLUSH, 3, 0, 0)); // not to be looked at
                peer.send(&bytes);
            }
            "eof" => peer.session.end_of_input(),
            _ => peer.session.shut_down(),
        }
        assert!(!peer.session.wants_input() && peer.session.is_closing());
        assert_eq!(peer.session.closing(), None);
        assert_eq!(peer.held.len(), 1);
        peer.release(0);
        assert_eq!(error_of(&peer.messages(0)), 0);
        assert!(peer.session.closing().is_some());
    }
}

#[test]
fn a_bad_request_magic_drops_the_connection() {
    let mut peer = Peer::transmitting(&[], false);
    peer.send(&extended(0, FLUSH, 1, 0, 0)); // was not agreed on
    assert_eq!(peer.session.closing(), Some(CloseReason::Magic));
}

#[test]
fn requests_in_flight_are_bounded() {
    let limits = Limits {
        requests_max: 4,
        bytes_max: 1 << 20,
        read_ahead: 4096,
    };
    let mut peer = Peer::with(limits, Encryption::Off);
    peer.send(&3u32.to_be_bytes());
    peer.out.clear();
    peer.go("vol");
    peer.hold = true;
    let flush = compact(0, FLUSH, 1, 0, 0);
    let many: Vec<u8> = flush.repeat(1000);
    let taken = peer.send(&many);
    assert_eq!(peer.held.len(), 4);
    assert!(!peer.session.wants_input() && taken <= 4096);
    peer.release(0);
    peer.send(&many[taken..]);
    assert_eq!(peer.held.len(), 4, "one more came in");
}

/// Sends options over and over, and takes no reply: how many bytes were taken, and what waits.
fn options_unread(session: &mut Session, option: &[u8], count: usize) -> (usize, usize) {
    let exports: Vec<ListedExport> = (0..500)
        .map(|n| ListedExport {
            name: format!("{n:0200}"),
            description: String::new(),
        })
        .collect();
    let mut taken = 0;
    let options = option.repeat(count);
    loop {
        let mut effects = Vec::new();
        let step = session.receive(&options[taken..], &mut effects);
        taken += step;
        if effects.contains(&Effect::List) {
            session.listed(Ok(exports.clone()));
        } else if step == 0 {
            return (taken, session.output().len());
        }
    }
}

#[test]
fn replies_to_options_that_nobody_takes_are_bounded() {
    let with_data = option_bytes(0x1234, &[7; 100]);
    for (encryption, option) in [
        (Encryption::Off, option_bytes(0x1234, b"")),
        (Encryption::Off, with_data),
        (Encryption::Off, option_bytes(LIST, b"")),
        (Encryption::Off, option_bytes(INFO, b"?")),
        (Encryption::Required, option_bytes(LIST, b"")),
    ] {
        let mut session = Session::new(Limits::default(), encryption);
        session.receive(&3u32.to_be_bytes(), &mut Vec::new());
        let waiting = session.output().len();
        session.output_mut().sent(waiting);
        let (taken, waiting) = options_unread(&mut session, &option, 100_000);
        assert!(!session.wants_input() && taken < 100_000 * option.len());
        assert!(waiting <= 256 << 10, "{waiting} bytes wait");
        assert!(session.memory() <= 1 << 20, "{}", session.memory());
        // Once they are taken, it goes on.
        session.output_mut().sent(waiting);
        let (_, waiting) = options_unread(&mut session, &option, 100_000);
        assert!(waiting > 0);
    }
}

#[test]
fn a_list_that_is_too_long_is_refused() {
    for (count, name, verdict) in [(1000, 255, ACK), (5000, 255, TOO_BIG), (16_385, 1, TOO_BIG)] {
        let mut session = Session::new(Limits::default(), Encryption::Off);
        session.receive(&3u32.to_be_bytes(), &mut Vec::new());
        session.receive(&option_bytes(LIST, b""), &mut Vec::new());
        let export = ListedExport {
            name: "n".repeat(name),
            description: String::new(),
        };
        session.listed(Ok(vec![export; count]));
        let mut slices = [IoSlice::new(&[])];
        session.output().slices(&mut slices);
        let head = slices[0].len()
            - if verdict == ACK {
                8
            } else {
                "too big".len() + 8
            };
        assert_eq!(slices[0][head..head + 4], verdict.to_be_bytes());
        assert!(session.output().len() <= 2 << 20);
    }
}

#[test]
fn bytes_in_flight_are_bounded_also_in_unsent_replies() {
    let limits = Limits {
        requests_max: 1000,
        bytes_max: 64 << 10,
        read_ahead: 4096,
    };
    let mut session = Session::new(limits, Encryption::Off);
    let mut effects = Vec::new();
    session.receive(&3u32.to_be_bytes(), &mut effects);
    session.receive(&option_bytes(GO, &go("vol", &[])), &mut effects);
    session.opened(Ok(info("vol", false)));
    effects.clear();
    let reads: Vec<u8> = compact(0, READ, 1, 0, 32 << 10).repeat(10);
    session.receive(&reads, &mut effects);
    assert_eq!(effects.len(), 2);
    for effect in std::mem::take(&mut effects) {
        let Effect::Submit { id, .. } = effect else {
            panic!("reads only")
        };
        session.replied(id, Reply::Data(vec![Chunk::Zeros(32 << 10)]));
    }
    session.advance(&mut effects);
    assert!(
        effects.is_empty() && !session.wants_input(),
        "the client has to take its replies"
    );
    let waiting = session.output().len();
    session.output_mut().sent(waiting);
    session.advance(&mut effects);
    assert_eq!(effects.len(), 2);
}

#[test]
fn nothing_is_taken_up_without_credit() {
    let mut peer = Peer::transmitting(&[], false);
    peer.session.grant(64 << 10);
    peer.hold = true;
    let mut write = compact(0, WRITE, 1, 0, 40_000);
    write.extend(vec![7; 40_000]);
    assert_eq!(peer.send(&write), write.len());
    let held = peer.session.held();
    assert!((40_000..41_000).contains(&held), "{held} bytes are held");
    for (command, length) in [(WRITE, 40_000), (READ, 40_000), (CACHE, 40_000)] {
        peer.send(&compact(0, command, 2, 0, length));
        let lacks = peer.session.lacks().expect("more is needed");
        assert!(!peer.session.wants_input() && peer.held.len() == 1);
        assert!(
            (80_000..82_000).contains(&lacks),
            "{lacks} bytes are needed"
        );
        if command == WRITE {
            // With enough, it goes on where it was.
            peer.session.grant(lacks);
            peer.send(&vec![8; 40_000]);
            assert_eq!((peer.held.len(), peer.session.lacks()), (2, None));
            peer.release(1);
            peer.session.grant(64 << 10);
        } else {
            peer.release(0);
            peer.send(b"");
            assert_eq!(peer.session.lacks(), None, "what was held is free");
        }
    }
    peer.release(0);
    assert_eq!(peer.session.held(), 0);
}

/// Credit is not what it waits for then: a shell would hand it out, and get it back, for ever.
#[test]
fn who_has_to_take_replies_first_lacks_no_credit() {
    let limits = Limits {
        bytes_max: 64 << 10,
        ..Limits::default()
    };
    let mut peer = Peer::with(limits, Encryption::Off);
    peer.send(&3u32.to_be_bytes());
    peer.out.clear();
    peer.option(STRUCTURED, b"");
    peer.go("vol");
    peer.session.grant(64 << 10);
    let mut effects = Vec::new();
    let read = |length| compact(0, READ, 1, 0, length);
    peer.session.receive(&read(60_000), &mut effects);
    peer.session.receive(&read(40_000), &mut effects);
    assert!(peer.session.lacks().is_some() && effects.len() == 1);
    let Some(Effect::Submit { id, .. }) = effects.pop() else {
        panic!("a read")
    };
    // In so many pieces, the reply is longer than the limit.
    let piece = || [Chunk::Data(Bytes::from(vec![7; 199])), Chunk::Zeros(1)];
    let pieces = (0..300).flat_map(|_| piece()).collect();
    peer.session.replied(id, Reply::Data(pieces));
    peer.session.advance(&mut effects);
    assert!(peer.session.output().len() > limits.bytes_max);
    assert!(peer.session.lacks().is_none() && effects.is_empty());
    assert!(!peer.session.wants_input());
    let waiting = peer.session.output().len();
    peer.session.output_mut().sent(waiting);
    peer.session.advance(&mut effects);
    assert_eq!(effects.len(), 1, "it goes on where it was");
}

#[test]
fn a_large_payload_is_read_into_its_own_buffer() {
    let mut peer = Peer::transmitting(&[], false);
    peer.hold = true;
    let data: Vec<u8> = (0..400_000u32).map(|i| (i / 7) as u8).collect();
    let mut bytes = compact(0, WRITE, 1, 0, data.len() as u32);
    bytes.extend(&data);
    assert_eq!(peer.send(&bytes), bytes.len());
    let (id, request) = peer.held.remove(0);
    assert_eq!(
        request,
        Request::Write {
            offset: 0,
            data: Bytes::from(data)
        }
    );
    peer.reply(id, Reply::Done);
    assert_eq!(error_of(&peer.messages(0)), 0);
}
