//! `cargo xtask fuzz`: the targets of decoders, for longer than the property layer feeds them.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};

use crate::command::{Step, root};

/// Where targets are: a package, the test that feeds its targets, and their corpora.
struct Home {
    package: &'static str,
    test: &'static str,
    corpora: &'static str,
}

const HOMES: [Home; 1] = [Home {
    package: "atoll-fuzz",
    test: "corpora",
    corpora: "fuzz/corpus",
}];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this target, such as `journal`.
    target: Option<String>,
    /// How long each target is fed.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// The order of the mutations; another one each time unless it is given.
    #[arg(long)]
    seed: Option<u32>,
}

/// Feeds one target, or each in turn. An input that a target does not stand is added to its
/// corpus.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let seed = args.seed.unwrap_or(now.subsec_nanos());
    println!("mutations in order {seed}: --seed {seed} repeats it");
    let mut fed = 0;
    for home in &HOMES {
        for target in targets(&root().join(home.corpora))? {
            if args.target.as_ref().is_none_or(|asked| *asked == target) {
                feed(home, &target, args.seconds, seed)?;
                fed += 1;
            }
        }
    }
    match &args.target {
        Some(target) if fed == 0 => {
            bail!("no target {target}; each has a directory in {}", places())
        }
        _ => Ok(()),
    }
}

fn places() -> String {
    HOMES.map(|home| home.corpora).join(", ")
}

/// Each target has a corpus.
fn targets(corpora: &Path) -> anyhow::Result<Vec<String>> {
    let dirs = std::fs::read_dir(corpora).with_context(|| corpora.display().to_string())?;
    let name = |dir: std::io::Result<std::fs::DirEntry>| Ok(dir?.file_name());
    let mut names: Vec<_> = dirs.map(name).collect::<std::io::Result<_>>()?;
    names.sort_unstable();
    let name = |name: std::ffi::OsString| name.to_string_lossy().into_owned();
    Ok(names.into_iter().map(name).collect())
}

fn feed(home: &Home, target: &str, seconds: u64, seed: u32) -> anyhow::Result<()> {
    Step::cargo(&format!("fuzz: {target}, {seconds} s"))
        .args(["test", "--release", "--quiet", "--package", home.package])
        .args(["--test", home.test, "--", "--exact", target, "--nocapture"])
        .env("ATOLL_FUZZ_SECONDS", seconds.to_string())
        .env("ATOLL_FUZZ_SEED", seed.to_string())
        .run()
}

#[cfg(test)]
mod tests {
    use super::{HOMES, targets};
    use crate::command::root;

    #[test]
    fn every_home_has_targets() {
        for home in &HOMES {
            let targets = targets(&root().join(home.corpora)).expect("corpora");
            assert!(!targets.is_empty(), "{}", home.corpora);
        }
    }
}
