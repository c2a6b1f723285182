//! A bounded fuzz run on stable Rust: seeded mutations of small valid inputs of every kind. Nothing
//! may panic, fill the memory or meet a bug of ours.
//!
//! `NST_FUZZ_MUTATIONS=20000` makes it longer. The same readers run under libFuzzer:
//! CONTRIBUTING.md.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

#[allow(dead_code, missing_docs, clippy::pedantic, reason = "a part of another workspace")]
#[path = "../fuzz/src/lib.rs"]
mod fuzz;
#[path = "it/support/random.rs"]
mod random;

use fuzz::{TARGETS, Target};
use random::Random;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The most memory that one input may make a reader hold: decoders may ask for 1 GiB (see
/// `data::image`), and twice what they have.
const MEMORY: usize = 3 << 30;

/// Counts what is allocated.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(held, Ordering::Relaxed);
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(held, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Numbers at which readers of sizes and counts go wrong.
const NUMBERS: [u64; 12] = [
    0,
    1,
    0x7f,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 40,
    i64::MAX.cast_unsigned(),
    i64::MIN.cast_unsigned(),
    u64::MAX,
];

fn below(random: &mut Random, n: usize) -> usize {
    usize::try_from(random.next() % n.max(1) as u64).unwrap()
}

/// One to four changes of an input: bits, bytes, numbers, and parts cut, repeated or taken from
/// another input.
fn mutate(random: &mut Random, bytes: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..=below(random, 4) {
        let at = below(random, bytes.len());
        let span = 1 + below(random, 16.min(bytes.len() + 1 - at));
        match below(random, 8) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << below(random, 8),
            1 if !bytes.is_empty() => bytes[at] = random.next().to_le_bytes()[0],
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..bytes.len().min(at + span))),
            4 => {
                let part = bytes[at..bytes.len().min(at + span)].to_vec();
                bytes.splice(at..at, part);
            }
            5 => {
                let from = below(random, other.len());
                let part = other[from..other.len().min(from + span)].to_vec();
                let end = bytes.len().min(at + part.len());
                bytes.splice(at..end, part);
            }
            choice => {
                let number = NUMBERS[below(random, NUMBERS.len())];
                let width = [1, 2, 4, 8][below(random, 4)];
                let encoded = if choice == 6 {
                    number.to_le_bytes()[..width].to_vec()
                } else {
                    number.to_be_bytes()[8 - width..].to_vec()
                };
                let end = bytes.len().min(at + width);
                bytes.splice(at..end, encoded);
            }
        }
    }
}

#[test]
fn no_mutation_of_a_valid_input_makes_a_reader_panic_or_fill_the_memory() {
    let asked = std::env::var("NST_FUZZ_MUTATIONS")
        .ok()
        .map(|n| n.parse::<usize>().expect("NST_FUZZ_MUTATIONS: a number"));
    for Target { name, read, seeds, smoke } in TARGETS {
        let mutations = asked.unwrap_or(*smoke);
        let (seeds, mut random) = (seeds(), Random(0x5eed));
        let started = std::time::Instant::now();
        let before = HELD.load(Ordering::Relaxed);
        PEAK.store(before, Ordering::Relaxed);
        let mut worst = 0;
        for number in 0..seeds.len() + mutations {
            let mut bytes = seeds
                [if number < seeds.len() { number } else { below(&mut random, seeds.len()) }]
            .clone();
            if number >= seeds.len() {
                let other = &seeds[below(&mut random, seeds.len())];
                mutate(&mut random, &mut bytes, other);
            }
            PEAK.store(HELD.load(Ordering::Relaxed), Ordering::Relaxed);
            let result = std::panic::catch_unwind(|| read(&bytes));
            worst = worst.max(PEAK.load(Ordering::Relaxed).saturating_sub(before));
            if result.is_err() || worst > MEMORY {
                let path = std::env::temp_dir().join(format!("fuzz-smoke-{name}-{number}"));
                std::fs::write(&path, &bytes).unwrap();
                panic!(
                    "{name}: input {number} panics or holds {} MB: {}",
                    worst >> 20,
                    path.display()
                );
            }
        }
        eprintln!(
            "{name}: {} seeds, {mutations} mutations, {:.1?}, at most {} MB",
            seeds.len(),
            started.elapsed(),
            worst >> 20
        );
    }
}
