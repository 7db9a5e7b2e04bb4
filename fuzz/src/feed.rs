//! Feeds a target: seeds, the kept corpus, then mutations of both, in an order that a number
//! decides.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use crate::mutate::{Choices, mutated};
use crate::{Target, Verdict, check};

/// How long a target is fed, and in which order. On a slow machine fewer mutations are run, in the
/// same order.
#[derive(Clone, Copy, Debug)]
pub struct Meal {
    /// No longer than this.
    pub time: Duration,
    /// No more mutations than this.
    pub mutations: usize,
    /// Another order for each number.
    pub seed: u64,
}

impl Meal {
    /// What the tests feed: about 15 targets share two processors for some seconds.
    pub const SHORT: Self = Self {
        time: Duration::from_millis(700),
        mutations: 20_000,
        seed: 0,
    };

    /// What `cargo xtask fuzz` asks for, or [`Meal::SHORT`].
    fn asked() -> Self {
        let Some(seconds) = asked("ATOLL_FUZZ_SECONDS") else {
            return Self::SHORT;
        };
        Self {
            time: Duration::from_secs(seconds),
            mutations: usize::MAX,
            seed: asked("ATOLL_FUZZ_SEED").unwrap_or(0),
        }
    }
}

fn asked(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|e| panic!("{variable}: {e}")))
}

/// An input that a target does not stand.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// The input.
    pub input: Vec<u8>,
    /// What the target died of.
    pub why: String,
}

/// Mutations that were taken are mutated on; so many are kept.
const TAKEN_MAX: usize = 1024;

/// Feeds mutations of some inputs until one is found that the target does not stand; says how many
/// that were. What is taken is fed on: it got further than what was refused.
pub fn hunt(
    target: &Target,
    inputs: &[Vec<u8>],
    meal: Meal,
    mut before_each: impl FnMut(&[u8]),
) -> (usize, Option<Found>) {
    let started = Instant::now();
    let name = u64::from(model::crc32c(target.name.as_bytes()));
    let mut choices = Choices::new(name ^ meal.seed << 32);
    let mut taken: Vec<Vec<u8>> = Vec::new();
    let mut ran = 0;
    while ran < meal.mutations && started.elapsed() < meal.time {
        ran += 1;
        let of_taken = choices.below(2) == 0 && !taken.is_empty();
        let from: &[Vec<u8>] = if of_taken { &taken } else { inputs };
        let input = &from[choices.below(from.len())];
        let other = &inputs[choices.below(inputs.len())];
        let mutation = mutated(input, other, &mut choices);
        before_each(&mutation);
        match stands(target, &mutation) {
            Err(found) => return (ran, Some(found)),
            Ok(Verdict::Refused) => {}
            Ok(Verdict::Taken) if taken.len() < TAKEN_MAX => taken.push(mutation),
            Ok(Verdict::Taken) => taken[choices.below(TAKEN_MAX)] = mutation,
        }
    }
    (ran, None)
}

fn stands(target: &Target, input: &[u8]) -> Result<Verdict, Found> {
    let told = |panic: Box<dyn Any + Send>| {
        let words = panic.downcast_ref::<String>().cloned();
        let words = words.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Found {
            input: input.to_vec(),
            why: words.unwrap_or_default(),
        }
    };
    catch_unwind(AssertUnwindSafe(|| check(target, input))).map_err(told)
}

/// An input that takes longer never ends.
const ENDLESS: Duration = Duration::from_secs(20);

/// Feeds a target on a thread of its own with its seeds, its corpus in `corpora/<name>/` and
/// mutations of both. An input that it does not stand is added to the corpus.
///
/// # Panics
/// On such an input, and if a seed is refused: mutations of it would get nowhere.
pub fn feed(target: &'static Target, corpora: &Path) {
    let (running, told) = channel();
    let corpus = corpora.join(target.name);
    let own = corpus.clone();
    let feeder = std::thread::spawn(move || feed_here(target, &own, &running));
    watch(target, &corpus, &told);
    if let Err(panic) = feeder.join() {
        resume_unwind(panic);
    }
}

fn feed_here(target: &Target, corpus: &Path, running: &Sender<Vec<u8>>) {
    let tell = |input: &[u8]| running.send(input.to_vec()).expect("somebody watches");
    let run = |input: &[u8]| {
        tell(input);
        stands(target, input).unwrap_or_else(|found| died(target, corpus, &found))
    };
    let mut inputs = (target.seeds)();
    assert!(!inputs.is_empty(), "{} has no seeds", target.name);
    for (i, seed) in inputs.iter().enumerate() {
        assert_eq!(run(seed), Verdict::Taken, "seed {i} of {}", target.name);
    }
    for (_, input) in kept(corpus) {
        run(&input);
        inputs.push(input);
    }
    run(&[]);
    let (ran, found) = hunt(target, &inputs, Meal::asked(), tell);
    if let Some(found) = found {
        died(target, corpus, &found);
    }
    println!("{}: {ran} mutations", target.name);
}

/// The inputs of a corpus, by name.
fn kept(corpus: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let files = std::fs::read_dir(corpus).unwrap_or_else(|e| panic!("{}: {e}", corpus.display()));
    let mut files: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    files.sort();
    let read = |path: PathBuf| {
        let bytes = std::fs::read(&path).expect("readable");
        (path, bytes)
    };
    files.into_iter().map(read).collect()
}

fn died(target: &Target, corpus: &Path, found: &Found) -> ! {
    let kept = keep(corpus, &found.input);
    panic!("{}: {}\n{kept}", target.name, found.why)
}

/// Adds an input to the corpus unless it is in it, and says what to do about it.
fn keep(corpus: &Path, input: &[u8]) -> String {
    let mut there = kept(corpus).into_iter();
    let (path, written) = match there.find(|(_, bytes)| bytes == input) {
        Some((path, _)) => (path, Ok(())),
        None => {
            let path = corpus.join(format!("found-{:08x}", model::crc32c(input)));
            let written = std::fs::write(&path, input);
            (path, written)
        }
    };
    match written {
        Ok(()) => format!(
            "mend the decoder, and commit the input with it: {}",
            path.display()
        ),
        Err(error) => format!("{}: {error}; the input: {input:02x?}", path.display()),
    }
}

/// Waits for the feeder, and ends the process if one input takes for ever.
fn watch(target: &Target, corpus: &Path, running: &Receiver<Vec<u8>>) {
    let mut input = Vec::new();
    loop {
        match running.recv_timeout(ENDLESS) {
            Ok(next) => input = next,
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                let kept = keep(corpus, &input);
                eprintln!("{}: an input never ends\n{kept}", target.name);
                std::process::exit(1);
            }
        }
    }
}

/// The corpora of a directory and the targets that are fed, by name: each has the other.
///
/// # Panics
/// If one has not.
pub fn match_corpora(targets: &[Target], fed: &[&str], corpora: &Path) {
    let mut names: Vec<_> = targets.iter().map(|target| target.name).collect();
    assert_eq!(names, fed, "every target is fed");
    names.sort_unstable();
    let name = |dir: std::io::Result<std::fs::DirEntry>| dir.expect("a directory").file_name();
    let dirs = std::fs::read_dir(corpora).expect("the corpora");
    let mut dirs: Vec<_> = dirs.map(|dir| name(dir).into_string()).collect();
    dirs.sort_unstable();
    let names: Vec<_> = names.into_iter().map(|name| Ok(name.to_owned())).collect();
    assert_eq!(names, dirs, "every corpus has a target");
}

/// Adds what the encoders make today to the corpora; what they made before stays.
///
/// # Panics
/// If the tree can't be written to.
pub fn keep_seeds(targets: &[Target], corpora: &Path) {
    for target in targets {
        let seeds = (target.seeds)();
        for seed in seeds.iter().filter(|seed| !seed.is_empty()) {
            let name = format!("made-{:08x}", model::crc32c(seed));
            let path = corpora.join(target.name).join(name);
            std::fs::write(path, seed).expect("the tree can be written to");
        }
    }
}

/// A test for each target of a list, by name, and one that none is left out.
#[macro_export]
macro_rules! feed {
    ($targets:expr, $corpora:expr; $($name:ident)*) => {
        fn corpora() -> std::path::PathBuf {
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join($corpora)
        }

        $(#[test]
        fn $name() {
            let named = |target: &&$crate::Target| target.name == stringify!($name);
            let target = $targets.iter().find(named).expect("a target");
            $crate::feed::feed(target, &corpora());
        })*

        #[test]
        fn every_target_is_fed_and_every_corpus_has_one() {
            $crate::feed::match_corpora(&$targets, &[$(stringify!($name)),*], &corpora());
        }

        #[test]
        #[ignore = "writes into the tree, for who changes a format: -- --ignored keep_the_seeds"]
        fn keep_the_seeds() {
            $crate::feed::keep_seeds(&$targets, &corpora());
        }
    };
}
