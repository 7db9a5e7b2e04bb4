//! Erasure codes over sites and block checksums; pure.
