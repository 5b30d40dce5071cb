//! What each decision on a request's path costs, in nanoseconds.

use std::io;

use outrigger_bench::{decisions, measure, report};

fn main() -> io::Result<()> {
    for decision in decisions::ALL {
        report(decision.name, measure((decision.prepare)()))?;
    }
    Ok(())
}
