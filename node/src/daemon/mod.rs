//! One node: what it is ([`config`]).

pub mod config;
