//! Newtypes for every id. No id of the fabric travels as a bare integer.

use std::fmt;

use bincode::{Decode, Encode};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Encode, Decode)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

id!(/// A data center. Names (`a`, `b`) live in the global placement group.
    SiteId(u8), "site-");
id!(/// Which of the sets of sites that a code was spread over, in the order in which they came to be.
    Layout(u8), "layout-");
id!(/// One `atoll` process on a host.
    NodeId(u16), "node-");
id!(/// One directory or device that a node manages; unique in the fabric.
    DiskId(u32), "disk-");
id!(/// A disk's life: drawn at random when a directory is formatted, so that an emptied or
    /// swapped disk is never taken for the old one (R2).
    Incarnation(u64), "inc-");
id!(/// One life of a node's process; drawn at its start.
    Boot(u64), "boot-");
id!(/// A virtual disk.
    VolumeId(u32), "vol-");
/// Fencing number of an ownership, one counter a volume, raised only by a committed entry of
/// the global placement group. The high 16 bits are the generation (R11).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Encode, Decode)]
pub struct Epoch(pub u64);

id!(/// Sequence number of a journal record, dense within a volume across epochs.
    Seq(u64), "s");
id!(/// Version of a table or a configuration.
    Version(u64), "v");
id!(/// A fragment's place in its segment: data first, then parity.
    Slot(u8), "slot-");
id!(/// A row of a spread table.
    Row(u16), "row-");
id!(/// Index of a 4 KiB block in a volume.
    BlockNo(u64), "block-");
id!(/// Correlates a reply with its request; unique within the requesting machine's life.
    RequestId(u64), "r");
id!(/// One front end's client of one volume, unique within the node's life.
    ClientId(u64), "client-");

impl RequestId {
    /// The ids of one life of a machine come after this one, so that no answer to an earlier life
    /// is taken for one to this: neither to one of the same process, whose lives are counted, nor
    /// to one of another process of the node, which drew another `boot`. There is room for 2^32
    /// requests a life.
    #[must_use]
    pub fn first_of_life(boot: Boot, life: u64) -> Self {
        Self((boot.0 & 0xffff) << 48 | (life & 0xffff) << 32)
    }
}

/// The bits of an epoch below its generation.
const COUNTER_BITS: u32 = 48;

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// How often the volume was recovered by the operator's word (R11).
    #[must_use]
    pub fn generation(self) -> u64 {
        self.0 >> COUNTER_BITS
    }

    /// The first epoch of the next generation, beyond all of this one; `None` after the last.
    #[must_use]
    pub fn next_generation(self) -> Option<Self> {
        let next = self.generation() + 1;
        (next < 1 << (u64::BITS - COUNTER_BITS)).then_some(Self(next << COUNTER_BITS))
    }
}

/// `e7`; of a later generation `e2:7`.
impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counter = self.0 & ((1 << COUNTER_BITS) - 1);
        match self.generation() {
            0 => write!(f, "e{counter}"),
            generation => write!(f, "e{generation}:{counter}"),
        }
    }
}

impl Seq {
    /// The sequence number after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Version {
    /// The version after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Names one journal record. The order is Raft's: higher epoch first, then longer log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Encode, Decode)]
pub struct Position {
    /// Epoch of the owner that made the record.
    pub epoch: Epoch,
    /// Its place in the log.
    pub seq: Seq,
}

impl Position {
    /// Before every record.
    pub const ZERO: Self = Self {
        epoch: Epoch(0),
        seq: Seq(0),
    };
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.seq)
    }
}

/// A client session: the position of its committed `Open` record (R10).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
pub struct SessionId(pub Position);

/// A disk in one of its lives. Configurations name these, never a bare [`DiskId`] (R2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
pub struct DiskRef {
    /// Which disk.
    pub disk: DiskId,
    /// Which of its lives.
    pub incarnation: Incarnation,
}

impl DiskRef {
    /// No disk that there is: ids begin at 1.
    pub const NONE: Self = Self {
        disk: DiskId(0),
        incarnation: Incarnation(0),
    };
}

impl fmt::Display for DiskRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.disk)
    }
}

/// A front end's client in one of its node's lives: it begins once, and never again after it
/// ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
pub struct ClientRef {
    /// Its node.
    pub node: NodeId,
    /// Which of the node's lives.
    pub boot: Boot,
    /// Which of that life's clients.
    pub client: ClientId,
}

/// A segment: unique without coordination, never reused (R1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
pub struct SegmentId {
    /// The volume that it belongs to.
    pub volume: VolumeId,
    /// The epoch of the owner that closed it.
    pub epoch: Epoch,
    /// That owner's counter; continues over epochs, so that among segments which a root
    /// reaches it is unique by itself.
    pub counter: u32,
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.volume, self.epoch, self.counter)
    }
}

/// One erasure-coded piece of a segment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
pub struct FragmentKey {
    /// The segment.
    pub segment: SegmentId,
    /// The piece.
    pub slot: Slot,
}

/// Which machine of a node a message is for, or from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
pub enum Actor {
    /// The owner of a volume.
    Volume(VolumeId),
    /// The Segment machine beside a volume's owner.
    Segment(VolumeId),
    /// A disk.
    Disk(DiskId),
    /// A front end's client.
    Client(ClientId),
    /// All front ends' clients of a node: knows which of them live.
    Clients,
    /// The Healer: fills the slots that are moved to the node's disks.
    Healer,
}

/// An actor on a node: remote and local ones are addressed alike.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
pub struct Endpoint {
    /// The node.
    pub node: NodeId,
    /// The machine on it.
    pub actor: Actor,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_lives_share_a_request() {
        let lives = [(7, 1), (7, 2), (7, 0xffff), (8, 1), (0xffff, 1)];
        let mut firsts = lives.map(|(boot, life)| RequestId::first_of_life(Boot(boot), life));
        assert_eq!(firsts[1], RequestId(7 << 48 | 2 << 32));
        firsts.sort_unstable();
        assert!(firsts.windows(2).all(|w| w[1].0 - w[0].0 >= 1 << 32));
        // A boot is drawn at random, of 64 bits.
        let drawn = RequestId::first_of_life(Boot(u64::MAX), 1);
        assert_eq!(drawn, RequestId::first_of_life(Boot(0xffff), 1));
    }
}
