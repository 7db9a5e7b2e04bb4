//! The network half on the loopback interface.
#![allow(
    clippy::disallowed_methods,
    reason = "these tests run on the real clock"
)]

mod authority;
mod delivery;
mod fence;
mod fixture;
mod join;
mod relay;
mod security;
mod ways;
