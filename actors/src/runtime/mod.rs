//! The actix shells: they carry out what the machines decide (send to an `Addr` or over QUIC,
//! disk I/O on the disk's own threads, timers), and decide nothing.
//!
//! A node's actors share one arbiter: an await across arbiters costs 10 us, a `do_send` on one
//! 80 ns. Disk I/O and metadata have threads of their own.

mod client;
mod clock;
mod disk;
mod driver;
mod heal;
mod segment;
mod switchboard;
mod volume;

pub use client::{ClientActor, ClientHandle, Submit};
pub use clock::boottime;
pub use disk::{
    Closing, Device, DiskActor, DiskFigures, DiskStores, FragmentStore, GetFigures, JournalStore,
    ReplicaSeen,
};
pub use heal::{GetHealing, HealedPort, Healing};
pub use switchboard::{
    AttachDisk, Dropped, GetReplicas, GetStats, Inbound, MetaAnswer, MetaPort, OpenClient,
    OpenError, Opening, Reopen, ShutDown, StartScrub, Switchboard, SwitchboardConfig, ViewChanged,
};
