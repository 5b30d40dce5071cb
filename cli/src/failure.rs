//! Why a command did not do what was asked: what is wrong, where, what to do, and the exit code that scripts see.

use std::{fmt, io, process::ExitCode};

use outrigger_core::model::{Severity, Violation};
use outrigger_proto::{
    google::rpc,
    policy::v1alpha1::{Diagnostic, Diagnostics, diagnostic},
    type_url,
};
use outrigger_tls::PeerRejected;
use prost::Message;

use crate::{document::Place, view};

/// Exit codes; stable, and printed by `--help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Refused by the control plane, by a check before it, or a promise of the demo broke.
    Refused,
    /// Wrong command line.
    Usage,
    /// The control plane cannot be reached.
    Unreachable,
    /// Stored, but not applied everywhere in time.
    NotConverged,
    /// No such object.
    NotFound,
    /// The credential is missing, unreadable, of another root than what answers, or not allowed to do this.
    Denied,
    /// By a signal.
    Interrupted,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Refused => 1_u8,
            Exit::Usage => 2,
            Exit::Unreachable => 3,
            Exit::NotConverged => 4,
            Exit::NotFound => 5,
            Exit::Denied => 6,
            Exit::Interrupted => 130,
        })
    }
}

/// Nobody is there.
const AWAY: &str =
    "start it with `outrigger-control-plane`, or name it: --server HOST:PORT or OUTRIGGER_SERVER";
/// Somebody is, or was not there yet when the time was over.
const SLOW: &str =
    "give it longer: --call-timeout, such as 30s; if that does not help, look at its log, and at --server";

/// A shell's exit code for a command that is there and cannot be run; 127 is one that is not there.
pub(crate) const NOT_RUN: u8 = 126;

/// One thing wrong with what was given, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Defect {
    /// File, document and line, when it came from a file.
    pub(crate) place: Option<Place>,
    /// `Route demo/price`; empty when it could not even be read that far.
    pub(crate) object: String,
    /// Whether it was accepted all the same.
    pub(crate) warning: bool,
    /// `spec.rules[0].backendRefs[1].weight`
    pub(crate) field: String,
    /// Stable, for programs.
    pub(crate) code: String,
    /// What is wrong.
    pub(crate) message: String,
    /// What to do; may be empty.
    pub(crate) remedy: String,
}

impl Defect {
    /// A defect that was found before anything was sent.
    pub(crate) fn local(place: Place, object: String, violation: Violation) -> Self {
        Self {
            place: Some(place),
            object,
            warning: violation.severity == Severity::Warning,
            field: violation.field,
            code: violation.code.to_owned(),
            message: violation.message,
            remedy: violation.remedy,
        }
    }

    /// A defect that the control plane found.
    pub(crate) fn remote(diagnostic: Diagnostic, place: Option<Place>) -> Self {
        Self {
            place,
            object: diagnostic.r#ref.as_ref().map(view::reference).unwrap_or_default(),
            warning: diagnostic.severity() == diagnostic::Severity::Warning,
            field: diagnostic.field,
            code: diagnostic.code,
            message: diagnostic.message,
            remedy: diagnostic.remedy,
        }
    }
}

impl fmt::Display for Defect {
    /// `mesh.yaml:14: document 2: Route demo/price: spec.x: what is wrong [code]`, the remedy on a line of its own.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        for part in [&self.object, &self.field] {
            if !part.is_empty() {
                write!(f, "{part}: ")?;
            }
        }
        write!(f, "{}", self.message)?;
        if !self.code.is_empty() {
            write!(f, " [{}]", self.code)?;
        }
        if !self.remedy.is_empty() {
            write!(f, "\n    {}", self.remedy)?;
        }
        Ok(())
    }
}

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The command line made no sense, beyond what its grammar can say.
    #[error("{0}")]
    Usage(String),
    /// A local file or stream.
    #[error("{what}: {source}")]
    Io {
        /// "cannot read mesh.yaml"
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nothing was stored.
    #[error("{what}")]
    Refused {
        /// In one sentence.
        what: String,
        /// What to do; may be empty.
        remedy: String,
        /// Each reason with its place.
        defects: Vec<Defect>,
    },
    /// No answer.
    #[error("cannot reach the control plane at {server}: {cause}")]
    Unreachable {
        /// Where it was looked for.
        server: String,
        /// Why.
        cause: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Stored, but not applied everywhere.
    #[error("{what}")]
    NotConverged {
        /// In one sentence.
        what: String,
        /// One line for each proxy that is behind, and why.
        behind: Vec<String>,
        /// What to do.
        remedy: &'static str,
    },
    /// No such object.
    #[error("{0}")]
    NotFound(String),
    /// No credential, or not allowed.
    #[error("{what}")]
    Denied {
        /// In one sentence.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// Promises of the demo that broke; they are printed already.
    #[error("{0} of the demo's promises broke")]
    Broken(usize),
    /// What `diff` found, which is printed already.
    #[error("there are differences")]
    Different,
    /// `diff` could not tell.
    #[error(transparent)]
    Incomparable(Box<Failure>),
    /// By a signal, before it was done.
    #[error("interrupted")]
    Interrupted,
    /// The command that `run` was to run cannot be.
    #[error("{what}")]
    NotRun {
        /// In one sentence, with the remedy.
        what: String,
        /// A shell's for that.
        code: u8,
    },
    /// The exit code of the command that `run` ran, which has said itself what there is to say.
    #[error("the command ended with {0}")]
    Passed(u8),
    /// The reader of our output went away: no error, as with any filter.
    #[error("the output was closed")]
    Closed,
}

impl Failure {
    /// A failure of a local file or stream.
    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::Io { what: what.into(), source }
    }

    /// A refusal without places.
    pub(crate) fn refused(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Refused { what: what.into(), remedy: remedy.into(), defects: Vec::new() }
    }

    /// What the control plane's answer means. `place` finds where a refused object was written.
    pub(crate) fn answered(
        server: &str,
        status: &tonic::Status,
        place: impl Fn(&Diagnostic) -> Option<Place>,
    ) -> Self {
        let what = status.message().to_owned();
        if outrigger_tls::reject_reason(status) == Some(PeerRejected::UnknownAuthority) {
            return Self::Denied {
                what: format!("no authority in the credential's ca.crt vouches for what answers at {server}"),
                remedy: "copy the credential anew from the control plane's state directory: a rotation of the root changes \
                         it; or name the mesh's own control plane: --server HOST:PORT"
                    .to_owned(),
            };
        }
        let unreachable =
            |remedy| Self::Unreachable { server: server.to_owned(), cause: root_cause(status), remedy };
        match status.code() {
            tonic::Code::Unavailable => unreachable(AWAY),
            tonic::Code::DeadlineExceeded | tonic::Code::Cancelled => unreachable(SLOW),
            // The connection broke: what has a source is no answer of the control plane's.
            tonic::Code::Unknown | tonic::Code::Internal if std::error::Error::source(status).is_some() => {
                unreachable(AWAY)
            }
            tonic::Code::Unauthenticated | tonic::Code::PermissionDenied => Self::Denied {
                what: format!("the control plane does not allow this: {what}"),
                remedy: "use a credential that may do this: --credential DIR or OUTRIGGER_CREDENTIAL"
                    .to_owned(),
            },
            tonic::Code::NotFound => Self::NotFound(what),
            _ => {
                let defects: Vec<Defect> = diagnostics(status.details())
                    .into_iter()
                    .map(|diagnostic| {
                        let place = place(&diagnostic);
                        Defect::remote(diagnostic, place)
                    })
                    .collect();
                Self::Refused {
                    // The defects say it all, and in their places.
                    what: match defects.len() {
                        0 => what,
                        1 => "the control plane refuses this; nothing was stored".to_owned(),
                        count => {
                            format!("the control plane refuses this for {count} reasons; nothing was stored")
                        }
                    },
                    remedy: String::new(),
                    defects,
                }
            }
        }
    }

    /// The exit code.
    pub(crate) fn exit(&self) -> ExitCode {
        match self {
            Self::Closed => return ExitCode::SUCCESS,
            Self::Passed(code) | Self::NotRun { code, .. } => return ExitCode::from(*code),
            Self::Different => Exit::Refused,
            // 1 says that there are differences.
            Self::Incomparable(failure) => match **failure {
                Self::Io { .. } | Self::Refused { .. } => Exit::Usage,
                _ => return failure.exit(),
            },
            Self::Usage(_) => Exit::Usage,
            Self::Io { .. } | Self::Refused { .. } | Self::Broken(_) => Exit::Refused,
            Self::Unreachable { .. } => Exit::Unreachable,
            Self::NotConverged { .. } => Exit::NotConverged,
            Self::NotFound(_) => Exit::NotFound,
            Self::Denied { .. } => Exit::Denied,
            Self::Interrupted => Exit::Interrupted,
        }
        .into()
    }

    /// What to do about it; may be empty.
    pub(crate) fn remedy(&self) -> &str {
        match self {
            Self::Incomparable(failure) => failure.remedy(),
            Self::Refused { remedy, .. } | Self::Denied { remedy, .. } => remedy,
            Self::Unreachable { remedy, .. } | Self::NotConverged { remedy, .. } => remedy,
            // As the command line has it when nothing is said of one.
            Self::NotFound(what) if what.contains(" default/") => {
                "without a namespace it is looked for in `default`: write NAMESPACE/NAME, or -n NAMESPACE with a command that \
                 has it"
            }
            _ => "",
        }
    }

    /// The lines below the first one.
    pub(crate) fn details(&self) -> Vec<String> {
        match self {
            Self::Incomparable(failure) => failure.details(),
            Self::Refused { defects, .. } => defects.iter().map(ToString::to_string).collect(),
            Self::NotConverged { behind, .. } => behind.clone(),
            _ => Vec::new(),
        }
    }
}

/// The innermost cause says "connection refused"; the outer ones say "transport error".
fn root_cause(status: &tonic::Status) -> String {
    let mut cause: &dyn std::error::Error = status;
    while let Some(next) = cause.source() {
        cause = next;
    }
    if cause.source().is_none() && std::error::Error::source(status).is_none() {
        return match status.code() {
            tonic::Code::DeadlineExceeded | tonic::Code::Cancelled => "no answer in time".to_owned(),
            _ => status.message().to_owned(),
        };
    }
    cause.to_string()
}

/// What is wrong, from the details of a refused write. Unknown details are passed over: the message stands alone.
fn diagnostics(details: &[u8]) -> Vec<Diagnostic> {
    let Ok(status) = rpc::Status::decode(details) else {
        return Vec::new();
    };
    status
        .details
        .iter()
        .filter(|any| any.type_url == type_url::DIAGNOSTICS)
        .filter_map(|any| Diagnostics::decode(any.value.as_slice()).ok())
        .flat_map(|found| found.diagnostics)
        .collect()
}

#[cfg(test)]
mod tests {
    use outrigger_proto::policy::v1alpha1::{Kind, ObjectRef};

    use super::{Defect, Diagnostic, Diagnostics, Failure, Message, Place, diagnostic, rpc, type_url};

    fn diagnostic() -> Diagnostic {
        Diagnostic {
            severity: diagnostic::Severity::Error.into(),
            r#ref: Some(ObjectRef {
                kind: Kind::Route.into(),
                namespace: "demo".to_owned(),
                name: "price".to_owned(),
            }),
            field: "spec.rules[0].backendRefs[1].weight".to_owned(),
            code: "out_of_range".to_owned(),
            message: "2000000 is above 1000000".to_owned(),
            remedy: "write 0 to 1000000".to_owned(),
        }
    }

    fn place() -> Place {
        Place { source: "mesh.yaml".to_owned(), document: 2, line: 14, column: None }
    }

    #[test]
    fn a_refused_write_shows_file_document_line_and_field() {
        let details = rpc::Status {
            code: 3,
            message: "refused".to_owned(),
            details: vec![prost_types::Any {
                type_url: type_url::DIAGNOSTICS.to_owned(),
                value: Diagnostics { diagnostics: vec![diagnostic()] }.encode_to_vec(),
            }],
        };
        let status = tonic::Status::with_details(
            tonic::Code::InvalidArgument,
            "1 of 2 objects is refused",
            details.encode_to_vec().into(),
        );
        let failure = Failure::answered("127.0.0.1:17100", &status, |_| Some(place()));
        assert_eq!(
            failure.details(),
            [
                "mesh.yaml:14: document 2: Route demo/price: spec.rules[0].backendRefs[1].weight: 2000000 is above \
              1000000 [out_of_range]\n    write 0 to 1000000"
            ]
        );
    }

    #[test]
    fn details_of_another_kind_leave_the_message_alone() {
        let status = tonic::Status::with_details(tonic::Code::Aborted, "conflict", vec![0xff, 1].into());
        let failure = Failure::answered("127.0.0.1:17100", &status, |_| None);
        assert_eq!(failure.to_string(), "conflict");
        assert!(failure.details().is_empty());
    }

    #[test]
    fn a_defect_without_a_place_starts_with_its_object() {
        let defect = Defect::remote(diagnostic(), None);
        assert!(defect.to_string().starts_with("Route demo/price: spec.rules"));
    }
}
