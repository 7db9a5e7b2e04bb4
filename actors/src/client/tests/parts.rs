use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

use super::*;

fn ranges(request: Request) -> Vec<(u64, u64)> {
    let of = |piece: Piece| match piece.what {
        What::Zero { offset, length, .. } | What::Status { offset, length } => (offset, length),
        What::Read { offset, length } => (offset, u64::from(length)),
        What::Write { offset, data, .. } => (offset, data.len() as u64),
    };
    Pieces::of(Tag(1), request).map(of).collect()
}

fn zero(offset: u64, length: u64, allocate: bool) -> Request {
    Request::Zero {
        offset,
        length,
        allocate,
    }
}

#[test]
fn zeros_that_stay_allocated_are_cut_as_they_are_sent() {
    let part = ZERO_PART_BYTES_MAX;
    let cut = [(5, part - 5), (part, part), (2 * part, 7)];
    assert_eq!(ranges(zero(5, 2 * part + 2, true)), cut);
    // A hole costs no leaf.
    assert_eq!(ranges(zero(5, 1 << 50, false)), [(5, 1 << 50)]);
    let (offset, length) = (0, 1 << 60);
    assert_eq!(ranges(Request::Trim { offset, length }), [(0, 1 << 60)]);
    // The largest volume's: more pieces than memory would have room for.
    let mut all = Pieces::of(Tag(1), zero(0, u64::MAX, true));
    assert_eq!(all.total(), u64::MAX / part + 1);
    assert!(all.next().is_some() && all.are_zeros() && all.mutates());
}

proptest! {
    /// The pieces are all of a request, in order, each of its size, and as many as it says.
    #[test]
    fn pieces_are_all_of_it(offset in 0_u64..1 << 30, length in 0_u32..64 << 20) {
        let request = Request::Read { offset, length };
        let count = Pieces::of(Tag(1), request.clone()).total();
        let all = ranges(request);
        prop_assert_eq!(all.len() as u64, count);
        let mut at = offset;
        for (start, length) in all {
            prop_assert_eq!(start, at);
            at += length;
            prop_assert!(length <= PART_BYTES_MAX as u64);
        }
        prop_assert_eq!(at, offset + u64::from(length));
    }

    #[test]
    fn no_range_is_too_much(offset in any::<u64>(), length in any::<u64>(), allocate in any::<bool>()) {
        let mut pieces = Pieces::of(Tag(1), zero(offset, length, allocate));
        prop_assert!(pieces.total() >= 1 && pieces.next().is_some());
    }
}
