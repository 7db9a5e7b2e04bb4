//! What befalls a disk, and what that costs.

use std::fmt;

/// What befalls a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ill {
    /// It is taken out, and back at the end with its old state.
    Pulled,
    /// It answers nothing until the end, and then does what it was asked.
    Hung,
    /// It is lost for good, and another one is added.
    Wiped,
    /// Writes to it fail until its node restarts, at the end.
    Failing,
    /// Its fragments can't be read until the end.
    Unreadable,
    /// It takes no fragments until the end.
    Full,
    /// Bits of some of its fragments flipped.
    RottenFragments,
    /// Bits of its journal flipped; its node restarts at the end, or does not.
    RottenJournal {
        /// Whether it does.
        restart: bool,
    },
    /// All files of its journal are gone; its node restarts at the end.
    LostJournal,
    /// Its next write of a fragment went so many bytes further on, or was lost if that is 0.
    MisdirectedFragment(u64),
    /// Its next write of the journal went so many bytes further on, or was lost if that is 0;
    /// its node restarts at the end.
    MisdirectedJournal(u64),
}

impl fmt::Display for Ill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pulled => "is taken out",
            Self::Hung => "hangs",
            Self::Wiped => "is lost for good",
            Self::Failing => "fails writes",
            Self::Unreadable => "can't read fragments",
            Self::Full => "is full",
            Self::RottenFragments => "has fragments that rotted",
            Self::RottenJournal { .. } => "has a journal that rotted",
            Self::LostJournal => "loses its journal",
            Self::MisdirectedFragment(0) => "loses its next write of a fragment",
            Self::MisdirectedFragment(_) => "writes its next fragment elsewhere",
            Self::MisdirectedJournal(0) => "loses its next write of the journal",
            Self::MisdirectedJournal(_) => "writes the journal elsewhere next",
        })
    }
}

impl Ill {
    /// Whether fragments are lost: they count against the budget (R24) until they are repaired.
    #[must_use]
    pub fn costs_fragments(self) -> bool {
        matches!(
            self,
            // What can't be read while a disk is opened is taken for not there.
            Self::Wiped | Self::Unreadable | Self::RottenFragments | Self::MisdirectedFragment(_)
        )
    }

    /// Whether a journal's replica counts for nothing until it is refilled or replaced (R8).
    #[must_use]
    pub fn costs_journal(self) -> bool {
        matches!(
            self,
            Self::Wiped
                | Self::LostJournal
                | Self::RottenJournal { .. }
                | Self::MisdirectedJournal(_)
        )
    }
}
