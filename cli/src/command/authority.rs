//! `authority ...`: which root and intermediate sign, and their rotation, step by step or as a whole.

use std::time::{Duration, SystemTime};

use outrigger_proto::identity::v1alpha1::{Authorities, AuthorityKind, RotationStage};
use tokio::time::{Instant, sleep};

use crate::{
    args::{AuthorityArgs, AuthorityCommand, Global, RotateArgs, WhichArgs},
    connect::{ControlPlane, Step},
    duration,
    failure::Failure,
    output::Output,
    view::authority::{self as view, kind as word},
};

/// The state is looked at so often while a step is not safe.
const LOOK: Duration = Duration::from_secs(1);

/// Runs the commands on authorities.
pub(crate) async fn run(global: &Global, output: &Output, args: AuthorityArgs) -> Result<(), Failure> {
    let (which, step) = match args.command {
        AuthorityCommand::Status => return show(output, &ControlPlane::new(global)?.authorities().await?),
        AuthorityCommand::Rotate(args) => return rotate(global, output, args).await,
        AuthorityCommand::Prepare(which) => (which, Step::Prepare),
        AuthorityCommand::Activate(args) => (args.which, Step::Activate { force: args.force }),
        AuthorityCommand::Taint(which) => (which, Step::Taint),
        AuthorityCommand::Revoke(args) => (args.which, Step::Revoke { force: args.force }),
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
        RotationStage::Prepared if now.safe => Next::Take(Step::Activate { force: false }),
        RotationStage::Retiring if force => Next::Take(Step::Taint),
        RotationStage::Retiring | RotationStage::Tainted if now.safe => {
            Next::Take(Step::Revoke { force: false })
        }
        RotationStage::Tainted if force && known_are_safe => Next::Take(Step::Revoke { force: true }),
        RotationStage::Prepared | RotationStage::Retiring | RotationStage::Tainted => Next::Wait,
    }
}

/// Walks all steps, each when it is safe. Takes up a rotation that was begun.
async fn rotate(global: &Global, output: &Output, args: RotateArgs) -> Result<(), Failure> {
    let kind = if args.root { AuthorityKind::Root } else { AuthorityKind::Intermediate };
    let deadline = Instant::now() + args.timeout;
    let mut now = ControlPlane::new(global)?.authorities().await?;
    let (mut begun, mut told) = (false, Vec::new());
    loop {
        match next(&now, kind, begun, args.force) {
            Next::Done => break,
            Next::Other => {
                let other = word(now.rotating());
                let what = format!("a rotation of the {other} is under way");
                return Err(Failure::refused(
                    what,
                    format!("finish it first: outrigger authority rotate --{other}"),
                ));
            }
            Next::Take(step) => {
                now = ControlPlane::new(global)?.rotate(kind, step).await?;
                output.note(&format!("{}: {}", word(kind), done(step)));
                begun = true;
                continue;
            }
            Next::Wait => begun = true,
        }
        let obstacles = view::obstacles(&now, SystemTime::now());
        if Instant::now() >= deadline {
            let waited = duration::span(args.timeout);
            let what = format!("the rotation of the {} is not safe to go on within {waited}", word(kind));
            return Err(Failure::NotConverged { what, behind: obstacles });
        }
        // Not at every look: what is said counts seconds down.
        let reasons = (now.stage, now.lagging_count, now.incomplete_until.is_some());
        if told != [reasons] {
            for obstacle in obstacles {
                output.note(&format!("waiting: {obstacle}"));
            }
            told = vec![reasons];
        }
        sleep(LOOK).await;
        // With the credential as it is now: the control plane writes a new one as the root changes. It may be away, or
        // be writing just now.
        let looked = async { ControlPlane::new(global)?.authorities().await };
        match looked.await {
            Ok(found) => now = found,
            Err(Failure::Unreachable { .. } | Failure::Denied { .. }) if Instant::now() < deadline => {}
            Err(failure) => return Err(failure),
        }
    }
    show(output, &now)
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
        assert_eq!(root(at(Prepared, true, 0), false), Next::Take(Step::Activate { force: false }));
        for stage in [Retiring, Tainted] {
            assert_eq!(root(at(stage, false, 0), true), Next::Wait);
            assert_eq!(root(at(stage, true, 0), true), Next::Take(Step::Revoke { force: false }));
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
        assert_eq!(forced(at(Tainted, false, 0)), Next::Take(Step::Revoke { force: true }));
    }
}
