//! NBD server: protocol session (pure) and TCP server (feature server).
