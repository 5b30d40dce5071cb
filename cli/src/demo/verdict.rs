//! The promises of the demo, kept and broken.

use crate::{
    failure::Failure,
    output::{Colour, Output},
};

/// Counts promises and prints each as it is judged.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    passed: usize,
    failed: usize,
}

impl Verdict {
    /// Judges one promise: `Ok` says what was seen, `Err` what was seen instead.
    ///
    /// # Errors
    /// Only when the output cannot be written; a broken promise is counted.
    pub(crate) fn judge(
        &mut self,
        output: &Output,
        promise: &str,
        found: Result<String, String>,
    ) -> Result<(), Failure> {
        let (mark, seen) = match found {
            Ok(seen) => {
                self.passed += 1;
                (output.paint(Colour::Green, "pass"), seen)
            }
            Err(seen) => {
                self.failed += 1;
                (output.paint(Colour::Red, "FAIL"), seen)
            }
        };
        let seen = if seen.is_empty() { seen } else { format!(": {seen}") };
        output.print(&format!("{mark}  {promise}{seen}"))
    }

    /// The last line: `N passed, M failed`.
    pub(crate) fn line(&self) -> String {
        format!("{} passed, {} failed", self.passed, self.failed)
    }

    /// Whether every promise was kept.
    ///
    /// # Errors
    /// [`Failure::Broken`] when one was not.
    pub(crate) fn result(&self) -> Result<(), Failure> {
        match self.failed {
            0 => Ok(()),
            broken => Err(Failure::Broken(broken)),
        }
    }
}
