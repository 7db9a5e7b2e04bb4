//! Deterministic simulator: world, clock, network, disks, workload, oracle.
