//! The cores pull in no runtime: asked a crate at a time, because building the workspace at
//! once unifies features and hides leaks.

use anyhow::bail;

use crate::command::Step;

/// Crates whose default features are pure.
const CORES: [&str; 8] = [
    "model",
    "coding",
    "raft-meta",
    "transport",
    "disk-store",
    "actors",
    "nbd-frontend",
    "sim",
];

/// What none of them may reach.
const BANNED: [&str; 9] = [
    "tokio",
    "actix",
    "actix-rt",
    "quinn",
    "rocksdb",
    "librocksdb-sys",
    "rustls",
    "mio",
    "socket2",
];

/// Checks every core.
pub(crate) fn check() -> anyhow::Result<()> {
    let mut leaks = Vec::new();
    for core in CORES {
        let package = format!("atoll-{core}");
        let args = [
            "tree",
            "--package",
            &package,
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ];
        let tree = Step::cargo("cargo tree").args(args).output()?;
        leaks.extend(banned_in(&tree).into_iter().map(|name| {
            format!("{package} reaches {name}; see: cargo tree -p {package} -e normal -i {name}")
        }));
    }
    if leaks.is_empty() {
        return Ok(());
    }
    bail!("cores are not pure:\n  {}", leaks.join("\n  "));
}

fn banned_in(tree: &str) -> Vec<&'static str> {
    let has = |name: &&str| {
        tree.lines()
            .any(|line| line.split(' ').next() == Some(name))
    };
    BANNED.into_iter().filter(has).collect()
}

#[cfg(test)]
mod tests {
    use super::banned_in;

    #[test]
    fn a_leak_is_seen_and_a_namesake_is_not() {
        let clean = "atoll-model v0.1.0 (/x)\ntokio-util-lookalike v1.0.0\nbytes v1.12.0\n";
        assert!(banned_in(clean).is_empty());
        let leaking = "atoll-model v0.1.0 (/x)\ntokio v1.54.0\n";
        assert_eq!(banned_in(leaking), ["tokio"]);
    }
}
