//! Whom a fault leaves alone: who must be served while it lasts.

use std::collections::{BTreeMap, BTreeSet};

/// Sites that a fault leaves alone, of those that there are with their nodes: some node of each
/// still runs (`gone` are those that do not), and nothing parts it (`cut` are directions
/// between sites) from any other site that the fault leaves in the world, unless a third one
/// passes on what they say (R27).
#[must_use]
pub fn left_alone<S: Clone + Ord, N: PartialEq>(
    sites: &BTreeMap<S, Vec<N>>,
    gone: &[N],
    cut: &[(S, S)],
) -> BTreeSet<S> {
    let runs = |(_, nodes): &(&S, &Vec<N>)| nodes.iter().any(|n| !gone.contains(n));
    let up: BTreeSet<S> = sites.iter().filter(runs).map(|(s, _)| s.clone()).collect();
    let parted = |a: &S, b: &S| {
        cut.iter()
            .any(|(x, y)| (x, y) == (a, b) || (x, y) == (b, a))
    };
    // Who hears nobody is out of the world.
    let hears = |s: &&S| cut.is_empty() || up.iter().any(|o| o != *s && !parted(s, o));
    let world: BTreeSet<S> = up.iter().filter(hears).cloned().collect();
    let relayed = |a: &S, b: &S| {
        let between = |t: &S| t != a && t != b && !parted(a, t) && !parted(t, b);
        world.iter().any(between)
    };
    let reaches = |a: &S, b: &S| a == b || !parted(a, b) || relayed(a, b);
    let whole = |s: &&S| world.iter().all(|o| reaches(s, o));
    world.iter().filter(whole).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::{BTreeMap, left_alone};

    fn sites() -> BTreeMap<char, Vec<u32>> {
        BTreeMap::from([('a', vec![1, 2]), ('b', vec![3, 4]), ('c', vec![5, 6])])
    }

    fn left(gone: &[u32], cut: &[(char, char)]) -> String {
        left_alone(&sites(), gone, cut).into_iter().collect()
    }

    #[test]
    fn a_site_with_a_node_left_is_served_and_one_without_is_not() {
        assert_eq!(left(&[1], &[]), "abc");
        assert_eq!(left(&[1, 2], &[]), "bc");
        assert_eq!(left(&[1, 2, 3, 4, 5, 6], &[]), "");
    }

    #[test]
    fn a_cut_site_is_out_of_the_world_and_a_cut_link_leaves_all() {
        assert_eq!(left(&[], &[('a', 'b'), ('a', 'c')]), "bc");
        assert_eq!(
            left(&[], &[('a', 'b'), ('b', 'a'), ('a', 'c'), ('c', 'a')]),
            "bc"
        );
        assert_eq!(left(&[], &[('a', 'b')]), "abc");
        assert_eq!(
            left(&[5, 6], &[('a', 'b')]),
            "",
            "nobody is left to pass it on"
        );
    }
}
