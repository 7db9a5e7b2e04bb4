//! Erasure codes as geometries: how many fragments, which are data, which site holds which.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use bincode::{Decode, Encode};
use thiserror::Error;

use crate::ids::{Layout, SiteId, Slot};

/// At most this many fragments a segment.
pub const SLOTS_MAX: u8 = 64;

/// Upper bound of a segment's data, before coding.
pub const SEGMENT_BYTES_MAX: usize = 4 << 20;

/// A segment's erasure code.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
pub enum Code {
    /// `rs:k+m`: flat Reed-Solomon over all sites, at most m fragments a site.
    Rs {
        /// Data fragments.
        k: u8,
        /// Parity fragments.
        m: u8,
    },
    /// `geo:k+m` over `sites` sites: sites - 1 data columns and one XOR column, each coded
    /// k+m within its site. Slots are numbered column by column: column c holds slots
    /// `c * (k + m) .. (c + 1) * (k + m)`, its k data (or XOR) fragments first.
    Geo {
        /// Inner data fragments a site.
        k: u8,
        /// Inner parity fragments a site.
        m: u8,
        /// Number of sites (columns), at least 2.
        sites: u8,
    },
}

impl Code {
    /// The code of index segments of a volume whose own is flat (R25): two a site of three.
    pub const INDEX: Self = Self::Rs { k: 2, m: 4 };

    /// The code of index segments of a volume of this code (R25): every site can read the index
    /// by itself. That of a `geo` volume has as many fragments a site as its data, any k of which
    /// suffice: a lost disk's are rebuilt within the site, as its data is.
    #[must_use]
    pub fn index(self) -> Self {
        match self {
            Self::Rs { .. } => Self::INDEX,
            Self::Geo { k, .. } => Self::Rs {
                k,
                m: self.slots().saturating_sub(k),
            },
        }
    }

    /// Whether it is a code: of at least one data and one parity fragment, and of no more slots
    /// than there may be.
    #[must_use]
    pub fn is_sound(self) -> bool {
        let (k, m, columns) = match self {
            Self::Rs { k, m } => (k, m, 1),
            Self::Geo { k, m, sites } => (k, m, if sites < 2 { 0 } else { sites }),
        };
        let slots = (u32::from(k) + u32::from(m)) * u32::from(columns);
        k > 0 && m > 0 && (1..=u32::from(SLOTS_MAX)).contains(&slots)
    }

    /// Fragments a segment.
    #[must_use]
    pub fn slots(self) -> u8 {
        match self {
            // What is decoded may be anything: it is no sound code then, and no panic.
            Self::Rs { k, m } => k.saturating_add(m),
            Self::Geo { k, m, sites } => k.saturating_add(m).saturating_mul(sites),
        }
    }

    /// Into how many equal data fragments a segment's data is cut.
    #[must_use]
    pub fn data_fragments(self) -> u8 {
        match self {
            Self::Rs { k, .. } => k,
            Self::Geo { k, sites, .. } => k * (sites - 1),
        }
    }

    /// From how many others a lost fragment is rebuilt, as long as little is lost.
    #[must_use]
    pub fn rebuilt_from(self) -> u8 {
        match self {
            Self::Rs { k, .. } | Self::Geo { k, .. } => k,
        }
    }

    /// The slot that holds data fragment `i` (systematic).
    ///
    /// # Panics
    /// If `i` is not a data fragment of this code.
    #[must_use]
    pub fn data_slot(self, i: u8) -> Slot {
        assert!(i < self.data_fragments());
        match self {
            Self::Rs { .. } => Slot(i),
            Self::Geo { k, m, .. } => Slot(i / k * (k + m) + i % k),
        }
    }

    /// How many fragments one site may hold: the loss of a whole site stays decodable.
    #[must_use]
    pub fn slots_per_site_max(self) -> u8 {
        match self {
            Self::Rs { m, .. } => m,
            Self::Geo { k, m, .. } => k + m,
        }
    }

    /// Bytes stored per byte of data, times 1000.
    #[must_use]
    pub fn overhead_permille(self) -> u32 {
        u32::from(self.slots()) * 1000 / u32::from(self.data_fragments())
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rs { k, m } => write!(f, "rs:{k}+{m}"),
            Self::Geo { k, m, .. } => write!(f, "geo:{k}+{m}"),
        }
    }
}

/// A code's name does not parse.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("'{0}' is no code: write rs:K+M (such as rs:4+2) or geo:K+M (such as geo:2+1)")]
pub struct CodeParseError(String);

/// Parses `rs:4+2` and `geo:2+1`; the latter for three sites (see [`Code::over_sites`]).
impl FromStr for Code {
    type Err = CodeParseError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let fail = || CodeParseError(s.to_owned());
        let (family, widths) = s.split_once(':').ok_or_else(fail)?;
        let (k, m) = widths.split_once('+').ok_or_else(fail)?;
        let k: u8 = k.parse().map_err(|_| fail())?;
        let m: u8 = m.parse().map_err(|_| fail())?;
        let in_range = (1..=32).contains(&k) && (1..=16).contains(&m);
        match family {
            "rs" if in_range => Ok(Self::Rs { k, m }),
            "geo" if in_range && (k + m) * 3 <= SLOTS_MAX => Ok(Self::Geo { k, m, sites: 3 }),
            _ => Err(fail()),
        }
    }
}

impl Code {
    /// The same code over another number of sites (only `geo` cares).
    #[must_use]
    pub fn over_sites(self, sites: u8) -> Self {
        match self {
            Self::Geo { k, m, .. } => Self::Geo { k, m, sites },
            rs @ Self::Rs { .. } => rs,
        }
    }
}

/// A pool: the segments of one geometry share one spread table. Another size or another set
/// of sites is another pool (R23).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
pub struct Pool {
    /// The code.
    pub code: Code,
    /// The site that was away when the pool was made, and holds nothing of it (R26).
    pub without: Option<SiteId>,
    /// Over which of the sets of sites that there were.
    pub layout: Layout,
}

impl Pool {
    /// The first pool of a code, over all sites that there are.
    #[must_use]
    pub const fn of(code: Code) -> Self {
        Self {
            code,
            without: None,
            layout: Layout(0),
        }
    }

    /// All pools of its code, and without the same site, by layout: the last one is what new
    /// segments go to.
    #[must_use]
    pub fn layouts(self) -> RangeInclusive<Self> {
        let at = |layout| Self { layout, ..self };
        at(Layout(0))..=at(Layout(u8::MAX))
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(site) = self.without {
            write!(f, " without {site}")?;
        }
        match self.layout {
            Layout(0) => Ok(()),
            Layout(layout) => write!(f, ", layout {layout}"),
        }
    }
}
