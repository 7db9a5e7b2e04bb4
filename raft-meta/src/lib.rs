//! Site group and global placement group as deterministic state machines on raft-rs.
