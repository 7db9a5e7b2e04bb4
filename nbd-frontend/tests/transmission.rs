//! The transmission phase: what servers get wrong, one test a line.
#![allow(missing_docs)]

mod common;

use bytes::Bytes;
use common::peer::*;
use model::block::{Allocation, BlockError, Chunk, Extent, Reply, Request};
use nbd_frontend::session::{CloseReason, Effect, Encryption, Limits, Session};

const MODES: [&[u32]; 2] = [&[], &[STRUCTURED]];

/// Content of a structured read's reply, put together: bytes, and (kind, length) of each chunk.
fn content(messages: &[Message], start: u64, length: usize) -> (Vec<u8>, Vec<(u16, usize)>) {
    let mut bytes = vec![0xee; length];
    let mut kinds = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        let Message::Chunk {
            flags, kind, data, ..
        } = message
        else {
            panic!("a read gets chunks only: {message:?}");
        };
        assert_eq!(
            *flags,
            u16::from(index + 1 == messages.len()),
            "DONE on the last one"
        );
        let mut at = &data[..];
        let first = (u64_of(&mut at) - start) as usize;
        if *kind == OFFSET_HOLE {
            let size = u32_of(&mut at) as usize;
            bytes[first..first + size].fill(0);
            kinds.push((*kind, size));
        } else {
            assert_eq!(*kind, OFFSET_DATA);
            bytes[first..first + at.len()].copy_from_slice(at);
            kinds.push((*kind, at.len()));
        }
    }
    (bytes, kinds)
}

/// The extents of the one status chunk.
fn extents(messages: &[Message]) -> Vec<(u64, u64)> {
    let [
        Message::Chunk {
            flags: 1,
            kind,
            data,
            ..
        },
    ] = messages
    else {
        panic!("one chunk per context: {messages:?}");
    };
    let mut at = &data[..];
    assert_eq!(u32_of(&mut at), 1, "the context's id");
    let mut found = Vec::new();
    if *kind == BLOCK_STATUS_EXT {
        let count = u32_of(&mut at) as usize;
        assert_eq!(at.len(), count * 16);
        while !at.is_empty() {
            found.push((u64_of(&mut at), u64_of(&mut at)));
        }
    } else {
        assert_eq!(*kind, BLOCK_STATUS);
        while !at.is_empty() {
            found.push((u32_of(&mut at).into(), u32_of(&mut at).into()));
        }
    }
    found
}

#[test]
fn simple_replies_carry_data_and_spelled_out_zeros() {
    let mut peer = Peer::transmitting(&[], false);
    let ok = Message::Simple {
        error: 0,
        cookie: 7,
        data: vec![],
    };
    assert_eq!(peer.write(4096, &[5; 4096]), [ok]);
    let mut expected = vec![0; 4096];
    expected.extend([5; 4096]);
    expected.extend(vec![0; 100_000]);
    let length = expected.len() as u32;
    let reply = Message::Simple {
        error: 0,
        cookie: 7,
        data: expected,
    };
    assert_eq!(peer.request(0, READ, 0, length), [reply]);
}

#[test]
fn structured_reads_tell_holes() {
    let mut peer = Peer::transmitting(&[STRUCTURED], false);
    peer.write(4096, &[5; 8192]);
    let (bytes, kinds) = content(&peer.request(0, READ, 100, 20_000), 100, 20_000);
    assert_eq!(
        kinds,
        [
            (OFFSET_HOLE, 3996),
            (OFFSET_DATA, 8192),
            (OFFSET_HOLE, 7812)
        ]
    );
    assert!(bytes[..3996].iter().all(|it| *it == 0) && bytes[3996..12188] == [5; 8192]);
    assert!(bytes[12188..].iter().all(|it| *it == 0));
}

#[test]
fn df_gets_one_chunk_up_to_the_largest_read() {
    let mut peer = Peer::transmitting(&[STRUCTURED], false);
    peer.write(4096, &[5; 8192]);
    for length in [65_536, SIZE as u32] {
        let (bytes, kinds) = content(&peer.request(DF, READ, 0, length), 0, length as usize);
        assert_eq!(kinds, [(OFFSET_DATA, length as usize)]);
        assert_eq!(bytes[4095..4097], [0, 5]);
    }
    // Nothing but a hole is one chunk by itself.
    let (_, kinds) = content(&peer.request(DF, READ, 65536, 65536), 65536, 65536);
    assert_eq!(kinds, [(OFFSET_HOLE, 65536)]);
    // Without structured replies DF was not offered.
    assert_eq!(
        Peer::transmitting(&[], false).errno(DF, READ, 0, 512),
        EINVAL
    );
}

#[test]
fn structured_read_errors_are_structured() {
    let mut peer = Peer::transmitting(&[STRUCTURED], false);
    for (flags, offset, length, errno) in [
        (0x4000, 0, 1, EINVAL),
        (0, SIZE, 1, EINVAL),
        (NO_HOLE, 0, 1, EINVAL),
    ] {
        let reply = peer.request(flags, READ, offset, length);
        let [
            Message::Chunk {
                flags: 1,
                kind: ERROR,
                cookie: 7,
                data,
                ..
            },
        ] = &reply[..]
        else {
            panic!("{reply:?}");
        };
        let mut at = &data[..];
        assert_eq!(
            (u32_of(&mut at), u16_of(&mut at) as usize),
            (errno, at.len())
        );
        assert!(std::str::from_utf8(at).is_ok());
    }
    // An empty read is a success without content.
    let reply = peer.request(0, READ, 0, 0);
    assert!(matches!(
        &reply[..],
        [Message::Chunk {
            flags: 1,
            kind: NONE,
            ..
        }]
    ));
}

#[test]
fn errors_are_the_ones_of_the_protocol() {
    for mode in MODES {
        let mut peer = Peer::transmitting(mode, false);
        let end = SIZE;
        assert_eq!(error_of(&peer.write(end - 1, b"xy")), ENOSPC);
        assert_eq!(error_of(&peer.write(u64::MAX, b"xy")), ENOSPC);
        assert_eq!(peer.errno(0, ZERO, end - 4096, 8192), ENOSPC);
        assert_eq!(peer.errno(FAST_ZERO, ZERO, 0, u32::MAX), ENOSPC);
        for command in [READ, TRIM, CACHE, STATUS] {
            assert_eq!(peer.errno(0, command, end - 1, 2), EINVAL, "{command}");
            assert_eq!(
                peer.errno(0, command, u64::MAX, u32::MAX),
                EINVAL,
                "{command}"
            );
        }
        assert_eq!(
            peer.errno(0, STATUS, 0, 4096),
            EINVAL,
            "no context was selected"
        );
        assert_eq!(peer.errno(0, 99, 0, 0), EINVAL, "unknown command");
        assert_eq!(
            peer.errno(0, 8, 0, 1 << 20),
            EINVAL,
            "RESIZE is not offered"
        );
        assert_eq!(peer.errno(0, FLUSH, 1, 0), EINVAL);
        for (command, flags) in [
            (TRIM, NO_HOLE),
            (FLUSH, DF),
            (CACHE, REQ_ONE),
            (ZERO, REQ_ONE),
        ] {
            assert_eq!(peer.errno(flags, command, 0, 0), EINVAL, "{command}");
        }
        assert_eq!(
            peer.errno(PAYLOAD_LEN, READ, 0, 1),
            EINVAL,
            "for extended headers only"
        );
    }
}

#[test]
fn read_only_exports_refuse_mutations() {
    for mode in MODES {
        let mut peer = Peer::on("ro", mode, false);
        assert_eq!(error_of(&peer.write(0, &[1; 512])), EPERM);
        for command in [TRIM, ZERO] {
            for (flags, length) in [(0, 0), (FUA, 512), (0, u32::MAX)] {
                assert_eq!(peer.errno(flags, command, 0, length), EPERM);
            }
        }
        assert_eq!(peer.errno(0, FLUSH, 0, 0), 0);
        assert_eq!(peer.errno(0, READ, 0, 512), 0);
    }
}

#[test]
fn a_refused_writes_payload_is_consumed() {
    let mut peer = Peer::on("ro", &[], false);
    // The payload looks like a request.
    let bait = compact(0, DISC, 1, 0, 0);
    assert_eq!(error_of(&peer.write(0, &bait)), EPERM);
    let mut peer = Peer::transmitting(&[], false);
    assert_eq!(error_of(&peer.write(SIZE, &bait)), ENOSPC);
    let mut bytes = compact(0x8000, WRITE, 3, 0, bait.len() as u32);
    bytes.extend(&bait);
    peer.send(&bytes);
    assert_eq!(error_of(&peer.messages(0)), EINVAL);
    assert_eq!(peer.errno(0, FLUSH, 0, 0), 0);
}

#[test]
fn an_oversized_write_is_consumed_or_taken_for_an_attack() {
    let limits = Limits::default();
    let mut session = Session::new(limits, Encryption::Off);
    let mut effects = Vec::new();
    session.receive(&3u32.to_be_bytes(), &mut effects);
    session.receive(&option_bytes(GO, &go("vol", &[])), &mut effects);
    let mut large = info("vol", false);
    large.size = 1 << 40;
    session.opened(Ok(large));
    effects.clear();
    let length: u32 = (32 << 20) + 1;
    session.receive(&compact(0, WRITE, 3, 0, length), &mut effects);
    let piece = vec![0; 1 << 20];
    let before = session.output().len();
    for _ in 0..32 {
        assert_eq!(session.receive(&piece, &mut effects), piece.len());
    }
    assert_eq!(session.output().len(), before);
    assert!(
        session.memory() < 1 << 20,
        "a refused payload needs no memory"
    );
    session.receive(&[0], &mut effects);
    assert_eq!(
        session.output().len(),
        before + 16,
        "EINVAL after the payload"
    );
    assert!(effects.is_empty());
    session.receive(&compact(0, READ, 3, 0, length), &mut effects);
    assert!(effects.is_empty(), "EOVERFLOW");
    session.receive(&compact(0, WRITE, 3, 0, u32::MAX), &mut effects);
    assert_eq!(session.closing(), Some(CloseReason::TooLarge));
}

#[test]
fn oversize_is_the_only_overflow() {
    for mode in [STRUCTURED, EXTENDED] {
        let mut session = Session::new(Limits::default(), Encryption::Off);
        let mut peer = Vec::new();
        session.receive(&3u32.to_be_bytes(), &mut peer);
        session.receive(&option_bytes(mode, b""), &mut peer);
        session.receive(&option_bytes(GO, &go("vol", &[])), &mut peer);
        let mut large = info("vol", false);
        large.size = 1 << 40;
        session.opened(Ok(large));
        peer.clear();
        let length = (32 << 20) + 1;
        let before = session.output().len();
        session.output_mut().sent(before);
        let (read, largest, zero) = if mode == EXTENDED {
            (
                extended(DF, READ, 3, 0, length),
                extended(DF, READ, 3, 0, length - 1),
                extended(FAST_ZERO, ZERO, 4, 0, 1 << 39),
            )
        } else {
            (
                compact(DF, READ, 3, 0, length as u32),
                compact(DF, READ, 3, 0, length as u32 - 1),
                compact(FAST_ZERO, ZERO, 4, 0, u32::MAX),
            )
        };
        session.receive(&read, &mut peer);
        let mut slices = [std::io::IoSlice::new(&[]); 1];
        session.output().slices(&mut slices);
        assert_eq!(error_of(&parse(&slices[0], 0)), EOVERFLOW);
        session.receive(&zero, &mut peer);
        session.receive(&largest, &mut peer);
        let lengths: Vec<u64> = peer
            .iter()
            .map(|effect| match effect {
                Effect::Submit {
                    request: Request::Zero { length, .. },
                    ..
                } => *length,
                Effect::Submit {
                    request: Request::Read { length, .. },
                    ..
                } => (*length).into(),
                other => panic!("{other:?}"),
            })
            .collect();
        let zeroed = if mode == EXTENDED {
            1 << 39
        } else {
            u32::MAX.into()
        };
        assert_eq!(lengths, [zeroed, 32 << 20], "zeroing has no limit");
    }
}

#[test]
fn fua_is_accepted_on_every_command() {
    let mut peer = Peer::transmitting(&[STRUCTURED], true);
    for command in [READ, TRIM, CACHE, ZERO, STATUS] {
        assert_eq!(peer.errno(FUA, command, 0, 4096), 0, "{command}");
    }
    assert_eq!(peer.errno(FUA, FLUSH, 0, 0), 0);
    let mut bytes = compact(FUA, WRITE, 7, 0, 3);
    bytes.extend(b"abc");
    peer.send(&bytes);
    assert_eq!(error_of(&peer.messages(0)), 0);
}

#[test]
fn requests_of_length_zero_do_no_harm() {
    for mode in MODES {
        let mut peer = Peer::transmitting(mode, !mode.is_empty());
        for command in [READ, TRIM, CACHE, ZERO] {
            assert_eq!(peer.errno(0, command, SIZE, 0), 0, "{command}");
        }
        assert_eq!(error_of(&peer.write(0, b"")), 0);
        assert_eq!(
            peer.errno(0, STATUS, 0, 0),
            EINVAL,
            "it could not make progress"
        );
        assert_eq!(peer.errno(0, FLUSH, 0, 0), 0);
    }
}

#[test]
fn zeroes_and_trims_do_what_they_say() {
    let mut peer = Peer::transmitting(&[STRUCTURED], true);
    peer.write(0, &[9; 16 << 10]);
    assert_eq!(peer.errno(0, TRIM, 0, 4096), 0);
    assert_eq!(peer.errno(NO_HOLE | FAST_ZERO, ZERO, 4096, 4096), 0);
    assert_eq!(peer.errno(0, ZERO, 8192, 100), 0);
    let found = extents(&peer.request(0, STATUS, 0, 32 << 10));
    assert_eq!(found, [(4096, 3), (4096, 2), (8192, 0), (16 << 10, 3)]);
    let (bytes, _) = content(&peer.request(0, READ, 0, 16 << 10), 0, 16 << 10);
    assert!(bytes[..8292].iter().all(|it| *it == 0) && bytes[8292..] == [9; 8092]);
}

#[test]
fn a_status_never_reaches_past_the_request() {
    let mut peer = Peer::transmitting(&[STRUCTURED], true);
    peer.write(0, &[9; 8192]);
    assert_eq!(extents(&peer.request(REQ_ONE, STATUS, 0, 100)), [(100, 0)]);
    assert_eq!(
        extents(&peer.request(REQ_ONE, STATUS, 0, 65536)),
        [(8192, 0)]
    );
    assert_eq!(
        extents(&peer.request(0, STATUS, 4000, 65536)),
        [(4192, 0), (61344, 3)]
    );
    // A volume that tells more than it was asked, piecemeal.
    peer.hold = true;
    peer.send(&compact(0, STATUS, 7, 0, 10_000));
    let (id, _) = peer.held.remove(0);
    let hole = |length| Extent {
        length,
        state: Allocation::Hole,
    };
    let data = Extent {
        length: 5000,
        state: Allocation::Data,
    };
    peer.reply(
        id,
        Reply::Status(vec![hole(0), hole(4000), hole(2000), data, hole(1 << 50)]),
    );
    assert_eq!(extents(&peer.messages(0)), [(6000, 3), (4000, 0)]);
    // One that tells nothing broke its contract.
    peer.send(&compact(0, STATUS, 7, 0, 10_000));
    let (id, _) = peer.held.remove(0);
    peer.reply(id, Reply::Status(vec![hole(0)]));
    assert_eq!(error_of(&peer.messages(0)), EIO);
}

#[test]
fn a_status_has_a_bounded_number_of_extents() {
    let mut session = Session::new(Limits::default(), Encryption::Off);
    let mut effects = Vec::new();
    session.receive(&3u32.to_be_bytes(), &mut effects);
    session.receive(&option_bytes(STRUCTURED, b""), &mut effects);
    session.receive(
        &option_bytes(SET_META, &meta("v", &["base:allocation"])),
        &mut effects,
    );
    session.looked_up(Ok(info("v", false)));
    session.receive(&option_bytes(GO, &go("v", &[])), &mut effects);
    session.opened(Ok(nbd_frontend::export::ExportInfo {
        size: 1 << 40,
        ..info("v", false)
    }));
    let before = session.output().len();
    effects.clear();
    session.receive(&compact(0, STATUS, 7, 0, u32::MAX), &mut effects);
    let Some(Effect::Submit { id, .. }) = effects.pop() else {
        panic!("a status is submitted")
    };
    let states = [Allocation::Data, Allocation::Hole];
    let all = (0..(1 << 16) + 5).map(|i| Extent {
        length: 512,
        state: states[i % 2],
    });
    session.replied(id, Reply::Status(all.collect()));
    assert_eq!(session.output().len() - before, 20 + 4 + (8 << 16));
}

#[test]
fn replies_may_come_in_any_order() {
    let mut peer = Peer::transmitting(&[], false);
    peer.write(0, &[1; 4096]);
    peer.hold = true;
    for cookie in 0..3 {
        peer.send(&compact(0, READ, cookie, cookie * 4096, 4096));
    }
    for index in [2, 0, 0] {
        peer.release(index);
    }
    let cookies: Vec<u64> = peer
        .messages(4096)
        .iter()
        .map(|message| match message {
            Message::Simple {
                error: 0,
                cookie,
                data,
            } => {
                assert_eq!(data[0], u8::from(*cookie == 0));
                *cookie
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(cookies, [2, 0, 1]);
}

#[test]
fn a_volumes_errors_have_their_numbers() {
    let cases = [
        (READ, BlockError::Unreadable, EIO),
        (READ, BlockError::OutOfRange, EINVAL),
        (READ, BlockError::NoSpace, EIO),
        (ZERO, BlockError::NoSpace, ENOSPC),
        (ZERO, BlockError::OutOfRange, ENOSPC),
        (ZERO, BlockError::ReadOnly, EPERM),
        (TRIM, BlockError::OutOfRange, EINVAL),
        (TRIM, BlockError::NoVolume, ESHUTDOWN),
        (FLUSH, BlockError::NoVolume, ESHUTDOWN),
    ];
    for mode in MODES {
        for (command, error, errno) in cases {
            let mut peer = Peer::transmitting(mode, false);
            peer.hold = true;
            let length = if command == FLUSH { 0 } else { 512 };
            peer.send(&compact(0, command, 7, 0, length));
            let (id, _) = peer.held.remove(0);
            peer.reply(id, Reply::Error(error));
            assert_eq!(error_of(&peer.messages(0)), errno, "{command} {error}");
        }
    }
}

#[test]
fn an_answer_that_does_not_add_up_is_an_error() {
    let bad = [
        Reply::Data(vec![Chunk::Zeros(511)]),
        Reply::Data(vec![Chunk::Data(Bytes::from_static(&[0; 513]))]),
        Reply::Data(vec![Chunk::Zeros(u64::MAX), Chunk::Zeros(513)]),
        Reply::Data(vec![]),
        Reply::Done,
        Reply::Status(vec![]),
    ];
    for mode in MODES {
        for reply in bad.clone() {
            let mut peer = Peer::transmitting(mode, false);
            peer.hold = true;
            peer.send(&compact(0, READ, 7, 0, 512));
            let (id, _) = peer.held.remove(0);
            peer.reply(id, reply);
            assert_eq!(error_of(&peer.messages(0)), EIO);
        }
    }
}

#[test]
fn a_lost_session_drops_the_connection() {
    let mut peer = Peer::transmitting(&[], false);
    peer.hold = true;
    peer.send(&compact(0, FLUSH, 1, 0, 0));
    peer.send(&compact(0, ZERO, 2, 0, 512));
    let (id, _) = peer.held.remove(1);
    peer.reply(id, Reply::Error(BlockError::NoSession));
    assert_eq!(peer.session.closing(), Some(CloseReason::NoSession));
    // A straggler is harmless and says nothing.
    peer.release(0);
    assert!(peer.out.is_empty());
    assert_eq!(peer.session.closing(), Some(CloseReason::NoSession));
}

#[test]
fn extended_headers_work_all_the_way() {
    let mut peer = Peer::transmitting(&[EXTENDED], true);
    let done = |offset| Message::Chunk {
        flags: 1,
        kind: NONE,
        cookie: 7,
        offset: Some(offset),
        data: vec![],
    };
    let mut bytes = extended(PAYLOAD_LEN, WRITE, 7, 4096, 4096);
    bytes.extend([5; 4096]);
    peer.send(&bytes);
    assert_eq!(peer.messages(0), [done(4096)]);
    assert_eq!(peer.extended(FUA, FLUSH, 0, 0), [done(0)]);
    assert_eq!(peer.extended(0, CACHE, 0, SIZE), [done(0)]);
    let reply = peer.extended(0, READ, 2048, 6144);
    assert!(matches!(
        &reply[..],
        [
            Message::Chunk {
                offset: Some(2048),
                ..
            },
            _
        ]
    ));
    let (content, kinds) = content(&reply, 2048, 6144);
    assert_eq!(kinds, [(OFFSET_HOLE, 2048), (OFFSET_DATA, 4096)]);
    assert_eq!(content[2047..2049], [0, 5]);
    let found = extents(&peer.extended(0, STATUS, 0, SIZE));
    assert_eq!(found, [(4096, 3), (4096, 0), (SIZE - 8192, 3)]);
    assert_eq!(
        extents(&peer.extended(REQ_ONE, STATUS, 0, SIZE)),
        [(4096, 3)]
    );
    // Errors, and lengths of 64 bits.
    assert_eq!(error_of(&peer.extended(0, TRIM, 0, 1 << 40)), EINVAL);
    assert_eq!(error_of(&peer.extended(0, ZERO, 1, u64::MAX)), ENOSPC);
    assert_eq!(error_of(&peer.extended(0, ZERO, 0, u64::MAX)), ENOSPC);
    assert_eq!(error_of(&peer.extended(0, READ, 0, u64::MAX)), EINVAL);
    assert_eq!(error_of(&peer.extended(0, TRIM, 0, 8192)), 0);
    // qemu's client forgets the flag of a write; a payload on others is consumed.
    let mut bytes = extended(FUA, WRITE, 7, 0, 4096);
    bytes.extend([6; 4096]);
    peer.send(&bytes);
    assert_eq!(peer.messages(0), [done(0)]);
    for command in [READ, STATUS, TRIM, 99] {
        let mut bytes = extended(PAYLOAD_LEN, command, 7, 0, 32);
        bytes.extend(extended(0, DISC, 7, 0, 0));
        peer.send(&bytes);
        assert_eq!(error_of(&peer.messages(0)), EINVAL);
    }
    assert_eq!(peer.extended(0, FLUSH, 0, 0), [done(0)]);
    peer.send(&extended(PAYLOAD_LEN, WRITE, 7, 0, (32 << 20) + 1));
    assert_eq!(peer.session.closing(), Some(CloseReason::TooLarge));
}
