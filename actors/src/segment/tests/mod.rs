//! A Segment machine before scripted disks on a virtual clock.

mod deletes;
mod random;
mod reads;
mod world;
mod writes;
