//! Whether what is left of a row is enough, by the codec's own word.

use std::collections::BTreeMap;

use coding::{Codec, SlotSet};

/// Remembers what the codec said.
#[derive(Clone, Debug)]
pub(super) struct Judge {
    codec: Codec,
    known: BTreeMap<SlotSet, bool>,
}

impl Judge {
    pub(super) fn new(codec: &Codec) -> Self {
        Self {
            codec: codec.clone(),
            known: BTreeMap::new(),
        }
    }

    /// Whether the row can be read without these.
    pub(super) fn bears(&mut self, without: SlotSet) -> bool {
        let codec = &self.codec;
        let judged = self.known.entry(without);
        *judged.or_insert_with(|| codec.decodable(codec.all().without(without)))
    }
}
