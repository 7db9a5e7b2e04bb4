//! What a message is about, and so how urgent it is.

use std::fmt;

/// A message's class: its own queue, its own stream, its own deadline.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Class {
    /// Raft and heartbeats: late ones look like failure.
    Meta,
    /// Journal appends, seals, leases and their answers: a client's write waits for them.
    Journal,
    /// A front end's requests to a volume's owner and the answers.
    Client,
    /// Fragments, repair, recovery: large and patient.
    Bulk,
}

/// One QUIC connection to a peer. Streams of one connection share a congestion window, so
/// that bulk transfers have their own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Lane {
    /// Carries `Meta`, `Journal` and `Client`.
    Main,
    /// Carries `Bulk`.
    Bulk,
}

impl Class {
    /// Every class, most urgent first; the position is [`Class::index`].
    pub const ALL: [Self; 4] = [Self::Meta, Self::Journal, Self::Client, Self::Bulk];

    /// Its place in [`Class::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Meta => 0,
            Self::Journal => 1,
            Self::Client => 2,
            Self::Bulk => 3,
        }
    }

    /// The byte that opens a stream of this class. Never reused for another meaning.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Meta => 1,
            Self::Journal => 2,
            Self::Client => 3,
            Self::Bulk => 4,
        }
    }

    /// The class that a stream's first byte names; `None` if none.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Meta),
            2 => Some(Self::Journal),
            3 => Some(Self::Client),
            4 => Some(Self::Bulk),
            _ => None,
        }
    }

    /// The connection that carries it.
    #[must_use]
    pub const fn lane(self) -> Lane {
        match self {
            Self::Meta | Self::Journal | Self::Client => Lane::Main,
            Self::Bulk => Lane::Bulk,
        }
    }

    /// How many streams of this class a connection carries. With more than one there is no
    /// order between messages.
    #[must_use]
    pub const fn streams(self) -> usize {
        match self {
            Self::Meta | Self::Journal | Self::Client => 1,
            Self::Bulk => 4,
        }
    }

    /// Priority of its stream: buffered bytes of a higher one leave first.
    #[must_use]
    pub const fn priority(self) -> i32 {
        match self {
            Self::Meta => 3,
            Self::Journal => 2,
            Self::Client => 1,
            Self::Bulk => 0,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Meta => "meta",
            Self::Journal => "journal",
            Self::Client => "client",
            Self::Bulk => "bulk",
        })
    }
}

impl Lane {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Main, Self::Bulk];

    /// Its place in [`Lane::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Main => 0,
            Self::Bulk => 1,
        }
    }

    /// The classes that it carries.
    #[must_use]
    pub const fn classes(self) -> &'static [Class] {
        match self {
            Self::Main => &[Class::Meta, Class::Journal, Class::Client],
            Self::Bulk => &[Class::Bulk],
        }
    }
}
