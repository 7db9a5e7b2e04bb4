//! Option haggling: what servers get wrong, one test a line.
#![allow(missing_docs)]

mod common;

use common::peer::*;
use nbd_frontend::session::{CloseReason, Encryption, Limits};

fn types(replies: &[OptionReply]) -> Vec<u32> {
    replies.iter().map(|reply| reply.1).collect()
}

/// Size and flags of the NBD_INFO_EXPORT among replies.
fn export_info(replies: &[OptionReply]) -> (u64, u16) {
    let item = replies
        .iter()
        .find(|it| it.1 == REP_INFO && it.2[..2] == [0, 0]);
    let mut at = &item.expect("NBD_INFO_EXPORT is mandatory").2[2..];
    assert_eq!(at.len(), 10);
    (u64_of(&mut at), u16_of(&mut at))
}

#[test]
fn unknown_client_flags_drop_the_connection() {
    let mut peer = Peer::with(Limits::default(), Encryption::Off);
    peer.send(&7u32.to_be_bytes());
    assert_eq!(peer.session.closing(), Some(CloseReason::ClientFlags));
    assert!(!peer.session.wants_input());
}

#[test]
fn a_client_of_the_old_newstyle_may_only_not_encrypt() {
    let mut peer = Peer::with(Limits::default(), Encryption::Allowed);
    peer.send(&0u32.to_be_bytes());
    peer.out.clear();
    assert_eq!(peer.verdict(STARTTLS, b""), POLICY);
    let mut peer = Peer::with(Limits::default(), Encryption::Required);
    peer.send(&0u32.to_be_bytes());
    assert_eq!(peer.session.closing(), Some(CloseReason::ClientFlags));
}

#[test]
fn abort_is_acknowledged_and_its_payload_ignored() {
    for data in [&b""[..], b"whatever"] {
        let mut peer = Peer::new(Encryption::Required);
        assert_eq!(peer.verdict(ABORT, data), ACK);
        assert_eq!(peer.session.closing(), Some(CloseReason::Done));
    }
}

#[test]
fn options_that_take_no_data_are_invalid_with_data() {
    for option in [LIST, STARTTLS, STRUCTURED, EXTENDED] {
        let mut peer = Peer::new(Encryption::Allowed);
        assert_eq!(peer.verdict(option, b"x"), INVALID, "{option}");
        assert!(!peer.tls_asked);
        assert_eq!(types(&peer.option(LIST, b"")), [SERVER, SERVER, ACK]);
    }
}

#[test]
fn an_unknown_options_data_is_consumed() {
    let mut peer = Peer::new(Encryption::Off);
    assert_eq!(peer.verdict(4, b""), UNSUP);
    assert_eq!(peer.verdict(0x1234_5678, &vec![0x49; 1 << 20]), UNSUP);
    assert_eq!(types(&peer.option(LIST, b"")), [SERVER, SERVER, ACK]);
    assert!(peer.session.memory() < 16 << 10);
}

#[test]
fn option_data_is_bounded() {
    let mut peer = Peer::new(Encryption::Off);
    assert_eq!(peer.verdict(GO, &vec![0; 40 << 10]), TOO_BIG);
    let mut header = option_bytes(99, b"");
    header[12..].copy_from_slice(&u32::MAX.to_be_bytes());
    peer.send(&header);
    assert_eq!(peer.session.closing(), Some(CloseReason::TooLarge));
}

#[test]
fn a_bad_magic_number_drops_the_connection() {
    let mut peer = Peer::new(Encryption::Off);
    peer.send(b"IHAVEOPQ\0\0\0\x03\0\0\0\0");
    assert_eq!(peer.session.closing(), Some(CloseReason::Magic));
}

#[test]
fn starttls_wipes_what_was_negotiated() {
    let mut peer = Peer::new(Encryption::Allowed);
    peer.option(STRUCTURED, b"");
    peer.option(SET_META, &meta("vol", &["base:allocation"]));
    assert_eq!(peer.verdict(STARTTLS, b""), ACK);
    assert!(peer.tls_asked && !peer.session.wants_input());
    peer.session.tls_started();
    // A second one is invalid.
    assert_eq!(peer.verdict(STARTTLS, b""), INVALID);
    // Structured replies and contexts are gone.
    assert_eq!(
        peer.verdict(SET_META, &meta("vol", &["base:allocation"])),
        INVALID
    );
    let (_, flags) = export_info(&peer.option(INFO, &go("vol", &[])));
    assert_eq!(flags & (1 << 7), 0, "DF needs structured replies");
    peer.go("vol");
    assert_eq!(peer.errno(0, STATUS, 0, 4096), EINVAL);
}

#[test]
fn clear_text_after_starttls_is_not_taken_into_tls() {
    let mut peer = Peer::new(Encryption::Allowed);
    let mut bytes = option_bytes(STARTTLS, b"");
    bytes.extend(option_bytes(STRUCTURED, b""));
    peer.send(&bytes);
    assert_eq!(peer.session.closing(), Some(CloseReason::ClearText));
}

#[test]
fn without_tls_starttls_is_refused() {
    let mut peer = Peer::new(Encryption::Off);
    assert_eq!(peer.verdict(STARTTLS, b""), POLICY);
}

#[test]
fn forced_tls_answers_nothing_else() {
    let mut peer = Peer::new(Encryption::Required);
    for (option, data) in [
        (LIST, vec![]),
        (LIST, b"data".to_vec()),
        (INFO, go("vol", &[])),
        (GO, go("vol", &[])),
        (STRUCTURED, vec![]),
        (EXTENDED, vec![]),
        (LIST_META, meta("vol", &[])),
        (12345, b"data".to_vec()),
    ] {
        assert_eq!(peer.verdict(option, &data), TLS_REQD, "{option}");
    }
    assert_eq!(peer.verdict(STARTTLS, b"x"), INVALID);
    peer.send(&option_bytes(EXPORT_NAME, b"vol"));
    assert_eq!(peer.session.closing(), Some(CloseReason::Refused));
    assert!(peer.out.is_empty());
}

#[test]
fn forced_tls_opens_up_inside() {
    let mut peer = Peer::new(Encryption::Required);
    assert_eq!(peer.verdict(STARTTLS, b""), ACK);
    peer.session.tls_started();
    assert_eq!(types(&peer.option(LIST, b"")), [SERVER, SERVER, ACK]);
    peer.go("vol");
}

#[test]
fn zeros_follow_export_name_but_never_go() {
    for (flags, zeros) in [(1u32, 124), (3, 0)] {
        let mut peer = Peer::with(Limits::default(), Encryption::Off);
        peer.send(&flags.to_be_bytes());
        peer.out.clear();
        peer.send(&option_bytes(EXPORT_NAME, b"vol"));
        assert_eq!(peer.out.len(), 10 + zeros);
        assert_eq!(u64_of(&mut &peer.out[..]), SIZE);

        let mut peer = Peer::with(Limits::default(), Encryption::Off);
        peer.send(&flags.to_be_bytes());
        peer.out.clear();
        peer.go("vol"); // which parses every byte
        assert!(peer.out.is_empty());
    }
}

#[test]
fn export_name_of_nothing_drops_the_connection() {
    for name in [&b"nothing"[..], b"secret", b"\xff\xfe", &[b'a'; 5000]] {
        let mut peer = Peer::new(Encryption::Off);
        peer.send(&option_bytes(EXPORT_NAME, name));
        assert_eq!(peer.session.closing(), Some(CloseReason::Refused));
        assert!(peer.out.is_empty());
    }
}

#[test]
fn info_and_go_agree() {
    for negotiate in [&[][..], &[STRUCTURED], &[EXTENDED]] {
        let mut peer = Peer::new(Encryption::Off);
        for option in negotiate {
            peer.option(*option, b"");
        }
        let data = go("", &[1, 2, 3, 77]);
        let about = peer.option(INFO, &data);
        let gone = peer.option(GO, &data);
        assert_eq!(types(&about), [REP_INFO, REP_INFO, REP_INFO, REP_INFO, ACK]);
        let bodies = |replies: &[OptionReply]| -> Vec<Vec<u8>> {
            replies.iter().map(|reply| reply.2.clone()).collect()
        };
        assert_eq!(bodies(&about), bodies(&gone));
        assert_eq!(about[1].2, b"\0\x01vol");
        assert_eq!(about[2].2, b"\0\x02export vol");
        assert_eq!(about[3].2, [0, 3, 0, 0, 0, 1, 0, 0, 16, 0, 2, 0, 0, 0]);
        // DF, and only then, with structured or extended replies.
        let (size, flags) = export_info(&about);
        assert_eq!(size, SIZE);
        let df = if negotiate.is_empty() { 0 } else { 1 << 7 };
        assert_eq!(flags, 0b1100_0110_1101 | df);
    }
}

#[test]
fn go_without_requests_gets_the_mandatory_answer_only() {
    let mut peer = Peer::new(Encryption::Off);
    assert_eq!(types(&peer.option(GO, &go("vol", &[]))), [REP_INFO, ACK]);
}

#[test]
fn multi_conn_and_read_only_are_told_as_the_export_says() {
    let mut peer = Peer::new(Encryption::Off);
    let (_, vol) = export_info(&peer.option(INFO, &go("vol", &[])));
    let (_, ro) = export_info(&peer.option(INFO, &go("ro", &[])));
    assert_eq!(vol & (1 << 8 | 1 << 1), 0);
    assert_eq!(ro & (1 << 8 | 1 << 1), 1 << 8 | 1 << 1);
    assert_eq!(
        ro & (1 << 5 | 1 << 6 | 1 << 11),
        0,
        "no trim, no zeroes on a read-only export"
    );
}

#[test]
fn unknown_and_forbidden_exports_are_refused_and_the_client_may_go_on() {
    let mut peer = Peer::new(Encryption::Off);
    assert_eq!(peer.verdict(GO, &go("nothing", &[])), UNKNOWN);
    assert_eq!(peer.verdict(INFO, &go("secret", &[])), POLICY);
    peer.go("vol");
}

#[test]
fn malformed_info_is_invalid() {
    let mut peer = Peer::new(Encryption::Off);
    let mut long = go("vol", &[]);
    long[0] = 0x7f; // a name longer than the option
    let mut trailing = go("vol", &[1]);
    trailing.push(0);
    let mut short = go("vol", &[1, 2]);
    short.pop();
    for data in [
        &b""[..],
        &[0, 0, 0],
        &long,
        &trailing,
        &short,
        &go(&"x".repeat(5000), &[]),
    ] {
        assert_eq!(peer.verdict(GO, data), INVALID);
    }
    assert_eq!(peer.verdict(INFO, b"\0\0\0\x02\xff\xff\0\0"), INVALID);
    peer.go("vol");
}

#[test]
fn meta_contexts_need_structured_replies() {
    for option in [LIST_META, SET_META] {
        let mut peer = Peer::new(Encryption::Off);
        assert_eq!(
            peer.verdict(option, &meta("vol", &["base:allocation"])),
            INVALID
        );
    }
}

#[test]
fn meta_contexts_are_listed_and_selected() {
    let mut peer = Peer::new(Encryption::Off);
    peer.option(STRUCTURED, b"");
    let mut names = |option, queries: &[&str]| -> Vec<String> {
        let replies = peer.option(option, &meta("vol", queries));
        assert_eq!(replies.last().expect("a reply").1, ACK);
        let found = &replies[..replies.len() - 1];
        found
            .iter()
            .map(|it| String::from_utf8(it.2[4..].to_vec()).expect("UTF-8"))
            .collect()
    };
    let found = ["base:allocation".to_owned()];
    assert_eq!(names(LIST_META, &[]), found);
    assert_eq!(names(LIST_META, &["base:"]), found);
    assert_eq!(
        names(LIST_META, &["base:allocation", "base:allocation"]),
        found
    );
    assert!(names(LIST_META, &["x-unknown:leaf", "base:other", "nonsense"]).is_empty());
    assert!(names(SET_META, &[]).is_empty());
    assert!(
        names(SET_META, &["base:"]).is_empty(),
        "a wildcard selects nothing"
    );
    assert!(names(SET_META, &["qemu:dirty-bitmap:x"]).is_empty());
    assert_eq!(names(SET_META, &["qemu:x", "base:allocation"]), found);
    assert_eq!(peer.verdict(LIST_META, &meta("nothing", &[])), UNKNOWN);
}

#[test]
fn set_meta_replaces_the_old_set_even_on_failure() {
    let failures: [(Vec<u8>, u32); 5] = [
        (meta("nothing", &["base:allocation"]), UNKNOWN),
        (b"\0\0\0\xff".to_vec(), INVALID),
        (vec![], INVALID),
        (vec![0; 40 << 10], TOO_BIG),
        (meta("vol", &[]), ACK),
    ];
    for (data, expected) in failures {
        let mut peer = Peer::new(Encryption::Off);
        peer.option(STRUCTURED, b"");
        assert_eq!(
            peer.option(SET_META, &meta("vol", &["base:allocation"]))
                .len(),
            2
        );
        assert_eq!(peer.verdict(SET_META, &data), expected);
        peer.go("vol");
        assert_eq!(peer.errno(0, STATUS, 0, 4096), EINVAL);
    }
}

#[test]
fn a_context_holds_for_its_own_export_only() {
    let mut peer = Peer::new(Encryption::Off);
    peer.option(STRUCTURED, b"");
    peer.option(SET_META, &meta("ro", &["base:allocation"]));
    // Listing changes nothing.
    peer.option(LIST_META, &meta("vol", &["base:allocation"]));
    peer.go("vol");
    assert_eq!(peer.errno(0, STATUS, 0, 4096), EINVAL);
}

#[test]
fn extended_headers_take_precedence() {
    let mut peer = Peer::new(Encryption::Off);
    assert_eq!(peer.verdict(STRUCTURED, b""), ACK);
    assert_eq!(peer.verdict(EXTENDED, b""), ACK);
    assert_eq!(peer.verdict(STRUCTURED, b""), EXT_REQD);
    peer.send(&option_bytes(EXPORT_NAME, b"vol"));
    assert_eq!(peer.session.closing(), Some(CloseReason::Refused));
}

#[test]
fn a_list_of_too_many_exports_is_refused() {
    use nbd_frontend::export::{LIST_MAX, ListedExport};
    use nbd_frontend::session::Session;
    let mut session = Session::new(Limits::default(), Encryption::Off);
    let mut effects = Vec::new();
    session.receive(&3u32.to_be_bytes(), &mut effects);
    session.receive(&option_bytes(LIST, b""), &mut effects);
    let export = ListedExport {
        name: "v".to_owned(),
        description: String::new(),
    };
    let before = session.output().len();
    session.listed(Ok(vec![export; LIST_MAX + 1]));
    assert!(session.output().len() - before < 64);
}
