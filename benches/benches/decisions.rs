//! What each decision on a request's path costs, in nanoseconds.

use std::io;

use outrigger_bench::{decisions, measure, report};

fn main() -> io::Result<()> {
    for mut decision in decisions::all() {
        report(decision.name, measure(|| (decision.decide)()))?;
    }
    Ok(())
}
