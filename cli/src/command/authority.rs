//! `authority ...`: which root and intermediate sign, and their rotation, step by step or as a whole.

use std::time::{Duration, SystemTime};

use outrigger_proto::identity::v1alpha1::{Authorities, AuthorityKind, RotationStage};
use tokio::time::{Instant, sleep};

use crate::{
    args::{AuthorityArgs, AuthorityCommand, Global, RotateArgs, WhichArgs},
    connect::{ControlPlane, Force, Step},
    duration,
    failure::Failure,
    output::Output,
    view::authority::{self as view, kind as word},
};

/// The state is looked at so often while a step is not safe.
const LOOK: Duration = Duration::from_secs(1);

/// What to do when it is not safe to go on for too long.
const OVER: &str = "what was done stays; `outrigger authority status` shows what it waits for, and the same `rotate` goes on with it \
                    (--timeout gives it longer; --force does not wait for those that are away)";

/// Runs the commands on authorities.
pub(crate) async fn run(global: &Global, output: &Output, args: AuthorityArgs) -> Result<(), Failure> {
    let (which, step) = match args.command {
        AuthorityCommand::Status => return show(output, &ControlPlane::new(global)?.authorities().await?),
        AuthorityCommand::Rotate(args) => return rotate(global, output, args).await,
        AuthorityCommand::Prepare(which) => (which, Step::Prepare),
        AuthorityCommand::Activate(args) => (args.which, Step::Activate { force: Force::all(args.force) }),
        AuthorityCommand::Taint(which) => (which, Step::Taint),
        AuthorityCommand::Revoke(args) => (args.which, Step::Revoke { force: Force::all(args.force) }),
    };
    show(output, &ControlPlane::new(global)?.rotate(kind(which), step).await?)
}

fn kind(which: WhichArgs) -> AuthorityKind {
    if which.root { AuthorityKind::Root } else { AuthorityKind::Intermediate }
}

fn show(output: &Output, authorities: &Authorities) -> Result<(), Failure> {
    output
        .result(&view::Authorities::new(authorities), || view::people(output, authorities, SystemTime::now()))
}

/// What a rotation does next.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Next {
    Take(Step),
    Wait,
    Done,
    /// Another one is under way.
    Other,
}

/// Decides it. `begun`: a step was taken or found taken before, so that nothing under way means that all is done.
fn next(now: &Authorities, kind: AuthorityKind, begun: bool, force: bool) -> Next {
    let rotating = now.rotating();
    if rotating != AuthorityKind::Unspecified && rotating != kind {
        return Next::Other;
    }
    // Whoever is known has to be safe, whatever is forced.
    let known_are_safe = now.lagging_count == 0 && now.incomplete_until.is_none();
    match now.stage() {
        RotationStage::Unspecified if begun => Next::Done,
        RotationStage::Unspecified => Next::Take(Step::Prepare),
        RotationStage::Prepared if now.safe => Next::Take(Step::Activate { force: Force::No }),
        RotationStage::Prepared if force && known_are_safe => {
            Next::Take(Step::Activate { force: Force::Absent })
        }
        RotationStage::Retiring if force => Next::Take(Step::Taint),
        RotationStage::Retiring | RotationStage::Tainted if now.safe => {
            Next::Take(Step::Revoke { force: Force::No })
        }
        RotationStage::Tainted if force && known_are_safe => {
            Next::Take(Step::Revoke { force: Force::Absent })
        }
        RotationStage::Prepared | RotationStage::Retiring | RotationStage::Tainted => Next::Wait,
    }
}

/// Walks all steps, each when it is safe. Takes up a rotation that was begun.
async fn rotate(global: &Global, output: &Output, args: RotateArgs) -> Result<(), Failure> {
    let kind = if args.root { AuthorityKind::Root } else { AuthorityKind::Intermediate };
    let deadline = Instant::now() + args.timeout;
    let mut now = look(global).await?;
    let (mut begun, mut taken, mut told) = (false, false, None);
    loop {
        let mut failed = None;
        match next(&now, kind, begun, args.force) {
            Next::Done => break,
            Next::Other => return Err(under_way(now.rotating())),
            Next::Take(step) => {
                // What is sent may be done, although no answer comes.
                begun |= step != Step::Prepare;
                match take(global, kind, step).await {
                    Ok(found) => {
                        now = found;
                        output.note(&format!("{}: {}", word(kind), done(step)));
                        (begun, taken, told) = (true, true, None);
                        continue;
                    }
                    Err(failure) if passes(&failure, taken) => failed = Some(failure),
                    Err(failure) => return Err(failure),
                }
            }
            Next::Wait => begun = true,
        }
        let obstacles = match &failed {
            // The control plane knew better than it did a moment ago, or is away.
            Some(failure) => vec![failure.to_string()],
            None => view::obstacles(&now, SystemTime::now()),
        };
        if Instant::now() >= deadline {
            let waited = duration::span(args.timeout);
            let what = format!("the rotation of the {} is not safe to go on within {waited}", word(kind));
            return Err(failed.unwrap_or(Failure::NotConverged { what, behind: obstacles, remedy: OVER }));
        }
        // Not at every look: what is said counts seconds down.
        let reasons = Some((now.stage, now.lagging_count, now.incomplete_until.is_some(), failed.is_some()));
        if told != reasons {
            for obstacle in obstacles {
                output.note(&format!("waiting: {obstacle}"));
            }
            told = reasons;
        }
        sleep(LOOK).await;
        match look(global).await {
            Ok(found) => now = found,
            Err(Failure::Unreachable { .. } | Failure::Denied { .. }) if Instant::now() < deadline => {}
            Err(failure) => return Err(failure),
        }
    }
    output.note("take a backup now: those that were taken before do not fit any more");
    show(output, &now)
}

/// With the credential as it is now: the control plane writes a new one as the root changes. It may be away, or be writing
/// just now.
async fn look(global: &Global) -> Result<Authorities, Failure> {
    ControlPlane::new(global)?.authorities().await
}

/// The same.
async fn take(global: &Global, kind: AuthorityKind, step: Step) -> Result<Authorities, Failure> {
    ControlPlane::new(global)?.rotate(kind, step).await
}

/// Whether a step that failed so may be worth another try. `taken`: one was before, so that whoever asks may ask, and is
/// denied for the moment in which the credential is written.
fn passes(failure: &Failure, taken: bool) -> bool {
    match failure {
        Failure::Refused { .. } | Failure::Unreachable { .. } => true,
        Failure::Denied { .. } => taken,
        _ => false,
    }
}

fn under_way(other: AuthorityKind) -> Failure {
    let other = word(other);
    let what = format!("a rotation of the {other} is under way");
    Failure::refused(what, format!("finish it first: outrigger authority rotate --{other}"))
}

fn done(step: Step) -> &'static str {
    match step {
        Step::Prepare => "a new one is prepared",
        Step::Activate { .. } => "the new one signs; certificates are renewed",
        Step::Taint => "the old one is tainted; certificates and connections are renewed at once",
        Step::Revoke { .. } => "the old one is revoked",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(stage: RotationStage, safe: bool, lagging: u64) -> Authorities {
        let rotating = match stage {
            RotationStage::Unspecified => AuthorityKind::Unspecified,
            _ => AuthorityKind::Root,
        };
        Authorities {
            rotating: rotating.into(),
            stage: stage.into(),
            safe,
            lagging_count: lagging,
            ..Authorities::default()
        }
    }

    #[test]
    fn each_step_waits_until_it_is_safe_and_the_last_one_ends_it() {
        use RotationStage::{Prepared, Retiring, Tainted, Unspecified};
        let root = |now: Authorities, begun| next(&now, AuthorityKind::Root, begun, false);
        assert_eq!(root(at(Unspecified, true, 0), false), Next::Take(Step::Prepare));
        assert_eq!(root(at(Prepared, false, 1), true), Next::Wait);
        assert_eq!(root(at(Prepared, true, 0), false), Next::Take(Step::Activate { force: Force::No }));
        for stage in [Retiring, Tainted] {
            assert_eq!(root(at(stage, false, 0), true), Next::Wait);
            assert_eq!(root(at(stage, true, 0), true), Next::Take(Step::Revoke { force: Force::No }));
        }
        assert_eq!(root(at(Unspecified, true, 0), true), Next::Done);
        let other = next(&at(Prepared, true, 0), AuthorityKind::Intermediate, false, false);
        assert_eq!(other, Next::Other);
    }

    #[test]
    fn force_waits_for_those_that_are_known_and_for_nobody_else() {
        use RotationStage::{Prepared, Retiring, Tainted};
        let forced = |now: Authorities| next(&now, AuthorityKind::Root, true, true);
        assert_eq!(forced(at(Prepared, false, 1)), Next::Wait);
        assert_eq!(forced(at(Retiring, false, 1)), Next::Take(Step::Taint));
        assert_eq!(forced(at(Tainted, false, 1)), Next::Wait);
        assert_eq!(forced(at(Prepared, false, 0)), Next::Take(Step::Activate { force: Force::Absent }));
        assert_eq!(forced(at(Tainted, false, 0)), Next::Take(Step::Revoke { force: Force::Absent }));
    }

    #[test]
    fn a_step_that_is_refused_or_unanswered_is_tried_again() {
        let denied = || Failure::Denied { what: String::new(), remedy: String::new() };
        let away = Failure::Unreachable { server: String::new(), cause: String::new(), remedy: "" };
        for taken in [false, true] {
            assert!(passes(&Failure::refused("it is not safe yet", ""), taken));
            assert!(passes(&away, taken));
            assert_eq!(passes(&denied(), taken), taken, "a reader stays one");
            assert!(!passes(&Failure::Interrupted, taken));
        }
    }
}
