//! A stream of frames between nodes: prefix, mark, header, payload.

use bytes::Bytes;
use model::ids::NodeId;
use model::wire;
use transport::frame::{Decoder, Frame, FrameError, Limits, prefix};
use transport::paths::{Leg, Mark, Sounding};

use crate::Verdict;
use crate::input::Input;

/// All frames of a stream that comes in pieces, and how it ends.
fn frames(stream: &[u8], piece: usize) -> (Vec<Frame>, Result<bool, FrameError>) {
    let mut decoder = Decoder::new(Limits::FABRIC);
    let mut frames = Vec::new();
    for piece in stream.chunks(piece) {
        decoder.push(Bytes::copy_from_slice(piece));
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(decoder.next_frame(), Err(error), "an error is final");
                    return (frames, Err(error));
                }
            }
        }
    }
    (frames, Ok(decoder.at_boundary()))
}

pub(super) fn run(data: &[u8]) -> Verdict {
    let mut input = Input::new(data);
    let piece = 1 + usize::from(input.u8());
    let stream = input.rest();
    let (whole, end) = frames(stream, stream.len().max(1));
    let (cut, end_cut) = frames(stream, piece);
    assert_eq!((&whole, end), (&cut, end_cut), "pieces make no difference");
    let mut taken = end == Ok(true);
    for frame in whole {
        let mut header = frame.header;
        let Ok(mark) = Mark::take(frame.mark, &mut header) else {
            taken = false;
            continue;
        };
        assert_eq!(mark.bits(), frame.mark);
        if mark.sounding {
            taken &= wire::decode::<Sounding>(&header).is_ok();
        }
    }
    Verdict::of(taken)
}

fn framed(mark: Mark, header: &[u8], payload: &[u8]) -> Vec<u8> {
    let node = mark.node();
    let node = node.as_ref().map_or(&[][..], |node| &node[..]);
    let length = node.len() + header.len();
    let prefix = prefix(mark.bits(), length, payload.len(), Limits::FABRIC);
    [&prefix.expect("short")[..], node, header, payload].concat()
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let sounding = wire::encode(&Sounding::Ask { sent: 1 << 40 });
    let mark = |leg, sounding| Mark { leg, sounding };
    let stream = [
        framed(Mark::DIRECT, b"header", b"payload"),
        framed(mark(Leg::For(NodeId(3)), false), b"", b"p"),
        framed(mark(Leg::Of(NodeId(300)), true), &sounding, b""),
        framed(Mark::DIRECT, b"", b""),
    ];
    let streams = stream.iter().cloned().chain([stream.concat()]);
    streams.map(|stream| [vec![4], stream].concat()).collect()
}
