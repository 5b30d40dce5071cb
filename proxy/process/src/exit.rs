//! With what code a process ends, for scripts and supervisors.

use std::process::ExitCode;

/// Why the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Asked to, and everything under way was finished: 0.
    Success,
    /// Something failed that a restart may cure: 1.
    Failure,
    /// Settings or flags are wrong; a restart cures nothing: 2.
    Settings,
    /// Asked to, but work under way was cut off at the deadline or by a second signal: 3.
    Forced,
}

impl Exit {
    /// The code.
    pub const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Settings => 2,
            Self::Forced => 3,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
