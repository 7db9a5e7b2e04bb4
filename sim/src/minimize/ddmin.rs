//! Delta debugging of a list.

/// The part of a list without which `fails` says no: removes chunks, ever smaller ones, as long
/// as what is left still fails. `fails` is not asked about the whole list.
pub fn ddmin<T: Clone>(items: &[T], mut fails: impl FnMut(&[T]) -> bool) -> Vec<T> {
    let mut kept = items.to_vec();
    let mut chunk = kept.len().div_ceil(2);
    while chunk > 0 && !kept.is_empty() {
        let mut from = 0;
        let mut removed = false;
        while from < kept.len() {
            let to = (from + chunk).min(kept.len());
            let rest: Vec<T> = kept[..from].iter().chain(&kept[to..]).cloned().collect();
            if fails(&rest) {
                kept = rest;
                removed = true;
            } else {
                from = to;
            }
        }
        if !removed || chunk > kept.len() {
            chunk = if chunk == 1 {
                0
            } else {
                chunk.div_ceil(2).min(kept.len().max(1))
            };
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::ddmin;

    proptest! {
        #[test]
        fn what_is_needed_is_what_is_left(needed in proptest::collection::btree_set(0_u32..100, 0..6), n in 0_u32..100) {
            let items: Vec<u32> = (0..100).collect();
            let mut asked = 0;
            let left = ddmin(&items, |kept| {
                asked += 1;
                needed.iter().all(|x| kept.contains(x))
            });
            prop_assert_eq!(left, needed.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(asked < 2000, true);
            prop_assert_eq!(ddmin(&items[..n as usize], |_| true), Vec::<u32>::new());
        }

        #[test]
        fn it_ends_whatever_is_said(answers in proptest::collection::vec(any::<bool>(), 64), n in 0_usize..40) {
            let items: Vec<usize> = (0..n).collect();
            let mut i = 0;
            ddmin(&items, |_| { i += 1; answers[i % answers.len()] });
            prop_assert_eq!(i < 10_000, true);
        }
    }
}
