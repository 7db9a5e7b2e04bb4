//! What is kept for each ordered pair of small numbers: sites', or nodes' ids.

/// A square table that grows.
#[derive(Clone, Default, Debug)]
pub(crate) struct Pairs<T> {
    side: usize,
    cells: Vec<T>,
}

impl<T: Copy + Default> Pairs<T> {
    /// What is kept for a pair, if anything ever was.
    pub(crate) fn get(&self, from: usize, to: usize) -> Option<&T> {
        (from.max(to) < self.side).then(|| &self.cells[from * self.side + to])
    }

    /// What is kept for a pair; the default at first.
    pub(crate) fn at(&mut self, from: usize, to: usize) -> &mut T {
        if from.max(to) >= self.side {
            self.grow(from.max(to) + 1);
        }
        &mut self.cells[from * self.side + to]
    }

    /// Everything that is kept.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.cells.iter_mut()
    }

    fn grow(&mut self, least: usize) {
        let side = least.next_power_of_two();
        let mut cells = vec![T::default(); side * side];
        for (i, cell) in self.cells.iter().enumerate() {
            cells[i / self.side * side + i % self.side] = *cell;
        }
        (self.side, self.cells) = (side, cells);
    }
}

#[cfg(test)]
mod tests {
    use super::Pairs;

    #[test]
    fn a_pair_keeps_its_own_when_the_table_grows() {
        let mut pairs = Pairs::default();
        for (from, to) in [(0, 3), (3, 0), (9, 2), (2, 40)] {
            *pairs.at(from, to) = from * 100 + to;
        }
        for (from, to) in [(0, 3), (3, 0), (9, 2), (2, 40)] {
            assert_eq!(pairs.get(from, to), Some(&(from * 100 + to)));
        }
        assert_eq!((pairs.get(2, 9), pairs.get(64, 0)), (Some(&0), None));
    }
}
