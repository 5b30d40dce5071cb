//! The decisions on a request's path, and the measuring of a short piece of code: rounds, median, spread.

pub mod decisions;

use std::{
    hint::black_box,
    io::{self, Write},
    time::{Duration, Instant},
};

/// Odd, so that the median is one of them.
const ROUNDS: usize = 15;
const ROUND: Duration = Duration::from_millis(20);

/// Nanoseconds of one call: the median of the rounds, the quickest and the slowest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// Half of the rounds were quicker.
    pub median: f64,
    /// The quickest round: what the code costs when nobody disturbs it.
    pub min: f64,
    /// The slowest.
    pub max: f64,
}

/// Measures `call` in rounds of about 20 ms each.
pub fn measure<T>(mut call: impl FnMut() -> T) -> Cost {
    let mut calls = 1_u32;
    while time(&mut call, calls) < ROUND && calls < u32::MAX / 2 {
        calls *= 2;
    }
    let mut rounds: Vec<f64> =
        (0..ROUNDS).map(|_| time(&mut call, calls).as_secs_f64() * 1e9 / f64::from(calls)).collect();
    rounds.sort_by(f64::total_cmp);
    let at = |index: usize| rounds.get(index).copied().unwrap_or(f64::NAN);
    Cost { median: at(ROUNDS / 2), min: at(0), max: at(ROUNDS - 1) }
}

fn time<T>(call: &mut impl FnMut() -> T, calls: u32) -> Duration {
    let start = Instant::now();
    for _ in 0..calls {
        black_box(call());
    }
    start.elapsed()
}

/// Writes one line of a table.
///
/// # Errors
/// When standard output is gone.
pub fn report(name: &str, cost: Cost) -> io::Result<()> {
    let Cost { median, min, max } = cost;
    writeln!(io::stdout(), "{name:<44} {median:>9.1} ns   ({min:.1} .. {max:.1})")
}
