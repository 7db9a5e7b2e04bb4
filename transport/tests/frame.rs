//! Framing and names: any split of the bytes decodes the same; hostile bytes are an error.

use bytes::Bytes;
use model::ids::NodeId;
use proptest::collection::vec;
use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
use transport::class::{Class, Lane};
use transport::frame::{Decoder, Frame, FrameError, Limits, PREFIX_BYTES, prefix};
use transport::name::FabricId;

const SMALL: Limits = Limits {
    header_bytes_max: 100,
    payload_bytes_max: 300,
    marked: false,
};

fn encode(frames: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (header, payload) in frames {
        out.extend(prefix(0, header.len(), payload.len(), SMALL).expect("within limits"));
        out.extend(header);
        out.extend(payload);
    }
    out
}

fn decode(stream: &[u8], cuts: &[usize]) -> Result<Vec<Frame>, FrameError> {
    let mut decoder = Decoder::new(SMALL);
    let mut frames = Vec::new();
    let whole = Bytes::copy_from_slice(stream);
    let mut at = 0;
    let mut cuts = cuts.iter().cycle();
    while at < whole.len() {
        let len = cuts.next().copied().unwrap_or(1).min(whole.len() - at);
        decoder.push(whole.slice(at..at + len));
        at += len;
        while let Some(frame) = decoder.next_frame()? {
            frames.push(frame);
        }
    }
    assert!(decoder.at_boundary(), "whole frames went in");
    Ok(frames)
}

proptest! {
    #[test]
    fn any_split_decodes_the_same(
        frames in vec((vec(any::<u8>(), 0..=100), vec(any::<u8>(), 0..=300)), 0..12),
        cuts in vec(1_usize..700, 1..20),
    ) {
        let got = decode(&encode(&frames), &cuts).expect("well-formed");
        prop_assert_eq!(got.len(), frames.len());
        for (got, (header, payload)) in got.iter().zip(&frames) {
            prop_assert_eq!(&got.header[..], &header[..]);
            prop_assert_eq!(&got.payload[..], &payload[..]);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_claims_allocate_nothing(
        pieces in vec(vec(any::<u8>(), 0..40), 0..40),
    ) {
        let mut decoder = Decoder::new(Limits::FABRIC);
        let mut first_error = None;
        for piece in pieces {
            decoder.push(Bytes::from(piece));
            loop {
                match decoder.next_frame() {
                    Ok(Some(_)) => prop_assert!(first_error.is_none()),
                    Ok(None) => { prop_assert!(first_error.is_none()); break }
                    Err(error) => {
                        prop_assert_eq!(*first_error.get_or_insert(error), error);
                        break;
                    }
                }
            }
        }
    }

    #[test]
    fn lengths_over_the_limit_fail_before_any_body(header in any::<u32>(), payload in any::<u32>()) {
        let mut bytes = header.to_le_bytes().to_vec();
        bytes.extend(payload.to_le_bytes());
        let mut decoder = Decoder::new(SMALL);
        decoder.push(Bytes::from(bytes));
        let within = header <= 100 && payload <= 300;
        let empty = header == 0 && payload == 0;
        match decoder.next_frame() {
            Ok(None) => prop_assert!(within && !empty),
            Ok(Some(_)) => prop_assert!(empty),
            Err(_) => prop_assert!(!within),
        }
        let sent = prefix(
            0,
            usize::try_from(header).expect("64-bit"),
            usize::try_from(payload).expect("64-bit"),
            SMALL,
        );
        prop_assert_eq!(sent.is_ok(), within);
    }

    #[test]
    fn node_names_have_one_spelling(id in any::<u16>(), junk in "[a-z0-9.-]{0,24}") {
        let fabric: FabricId = "blue-1".parse().expect("valid");
        let other: FabricId = "blue-2".parse().expect("valid");
        let name = fabric.node_name(NodeId(id));
        prop_assert_eq!(fabric.node_of(&name), Some(NodeId(id)));
        prop_assert_eq!(other.node_of(&name), None);
        if let Some(node) = fabric.node_of(&junk) {
            prop_assert_eq!(fabric.node_name(node), junk);
        }
        let padded = name.replace("node-", "node-0");
        prop_assert_eq!(fabric.node_of(&padded), None);
    }
}

#[test]
fn a_payload_never_shares_the_received_buffer() {
    let bytes = Bytes::from(encode(&[
        (vec![1; 10], vec![2; 20]),
        (vec![3; 5], Vec::new()),
    ]));
    let range = bytes.as_ptr_range();
    let mut decoder = Decoder::new(SMALL);
    decoder.push(bytes.clone());
    let frame = decoder.next_frame().expect("well-formed").expect("whole");
    assert!(
        range.contains(&frame.header.as_ptr()),
        "the header is a slice"
    );
    assert!(
        !range.contains(&frame.payload.as_ptr()),
        "the payload is gathered"
    );
    assert_eq!(frame.header.len() + frame.payload.len() + PREFIX_BYTES, 38);
}

#[test]
fn fabric_ids_are_dns_labels() {
    for good in ["a", "blue", "x-1", &"a".repeat(32)] {
        let id: FabricId = good.parse().expect(good);
        assert_eq!(FabricId::of_authority(&id.authority_name()), Some(id));
    }
    for bad in ["", "-a", "a-", "A", "a.b", "a b", &"a".repeat(33), "é"] {
        assert!(bad.parse::<FabricId>().is_err(), "{bad}");
    }
}

#[test]
fn class_codes_round_trip() {
    for class in Class::ALL {
        assert_eq!(Class::from_code(class.code()), Some(class));
        assert_eq!(Class::ALL[class.index()], class);
        assert!(class.lane().classes().contains(&class));
    }
    assert_eq!(Class::from_code(0), None);
    assert!(
        Lane::ALL
            .iter()
            .map(|lane| lane.classes().len())
            .sum::<usize>()
            == 4
    );
}
