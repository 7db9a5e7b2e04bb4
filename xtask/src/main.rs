//! One command surface.
fn main() {}
