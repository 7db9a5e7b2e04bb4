//! The layer can fail: decoders with the usual bugs, and the mutations that find them.
#![allow(missing_docs)]

use std::time::Duration;

use fuzz::feed::{Found, Meal, hunt};
use fuzz::{BUDGET, Target, Verdict};

/// Mutations that a planted bug survives, at most: a tenth of what each target is fed.
const MUTATIONS_MAX: usize = 2_000;

fn hunted(run: fn(&[u8]) -> Verdict, seed: &[u8]) -> Option<Found> {
    let target = Target {
        name: "planted",
        run,
        seeds: Vec::new,
        budget: BUDGET,
    };
    let inputs = [seed.to_vec()];
    let meal = Meal {
        mutations: MUTATIONS_MAX,
        time: Duration::from_secs(60),
        seed: 0,
    };
    let (ran, found) = hunt(&target, &inputs, meal, |_| ());
    assert!(found.is_some() || ran == MUTATIONS_MAX);
    // The same order finds the same.
    assert_eq!(hunt(&target, &inputs, meal, |_| ()).1, found);
    found
}

/// `length u32, elements`: sound.
fn sound(data: &[u8]) -> Verdict {
    let Some((length, rest)) = data.split_first_chunk::<4>() else {
        return Verdict::Refused;
    };
    let length = u32::from_le_bytes(*length) as usize;
    match rest.get(..length) {
        Some(_) => Verdict::Taken,
        None => Verdict::Refused,
    }
}

/// Makes room for what is claimed, up to a bound that is large.
fn trusts_a_length(data: &[u8]) -> Verdict {
    let Some((length, _)) = data.split_first_chunk::<4>() else {
        return Verdict::Refused;
    };
    let length = u32::from_le_bytes(*length) as usize;
    if length > 16 << 20 {
        return Verdict::Refused;
    }
    std::hint::black_box(Vec::<u8>::with_capacity(length));
    sound(data)
}

/// Takes the elements without a look at how many there are.
fn reads_past_the_end(data: &[u8]) -> Verdict {
    let Some((length, rest)) = data.split_first_chunk::<4>() else {
        return Verdict::Refused;
    };
    let length = u32::from_le_bytes(*length) as usize;
    std::hint::black_box(&rest[..length.min(1 << 20)]);
    Verdict::Taken
}

/// Adds to a number that is its neighbour's.
fn overflows(data: &[u8]) -> Verdict {
    let Some((length, _)) = data.split_first_chunk::<4>() else {
        return Verdict::Refused;
    };
    std::hint::black_box(u32::from_le_bytes(*length) + 8);
    sound(data)
}

const SEED: &[u8] = &[5, 0, 0, 0, 1, 2, 3, 4, 5];

#[test]
fn an_allocation_by_a_claimed_length_is_found() {
    let found = hunted(trusts_a_length, SEED).expect("found");
    assert!(found.why.contains("held"), "{}", found.why);
}

#[test]
fn a_read_past_the_end_is_found() {
    let found = hunted(reads_past_the_end, SEED).expect("found");
    assert!(found.why.contains("out of range"), "{}", found.why);
}

#[test]
fn an_overflow_is_found() {
    let found = hunted(overflows, SEED).expect("found");
    assert!(found.why.contains("overflow"), "{}", found.why);
}

#[test]
fn nothing_is_found_in_a_sound_decoder() {
    assert_eq!(hunted(sound, SEED), None);
}
