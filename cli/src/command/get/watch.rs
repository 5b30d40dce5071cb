//! `get --watch`: what there is, then every change, until it is interrupted. A watch that breaks goes on where it was.

use std::time::Duration;

use outrigger_core::{
    model::{Kind, ObjectRef},
    policy, wire,
};
use outrigger_proto::policy::v1alpha1::{ObjectRef as WireRef, watch_event::Event};
use serde::Serialize;

use super::{decode, reference};
use crate::{
    args::{Format, GetArgs},
    connect::{self, ControlPlane},
    failure::Failure,
    interrupts::Interrupts,
    output::Output,
    view,
};

/// How long to wait before a broken watch is opened again.
const PAUSE: Duration = Duration::from_secs(1);

/// What programs read, one document for each event.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Seen {
    /// `there`, `changed`, `deleted`
    event: &'static str,
    /// `Route demo/price`
    object: String,
    revision: u64,
    /// As `apply` takes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<serde_json::Value>,
}

/// Which objects, and how far.
struct Watcher<'a> {
    control_plane: &'a ControlPlane,
    output: &'a Output,
    kind: Kind,
    namespace: String,
    /// Only this one.
    only: Option<ObjectRef>,
    /// Everything up to here was shown; 0: nothing.
    at: u64,
    /// What comes was there before.
    beginning: bool,
}

/// Shows objects of `kind` until it is interrupted.
pub(super) async fn run(
    control_plane: &ControlPlane,
    output: &Output,
    kind: Kind,
    args: &GetArgs,
) -> Result<(), Failure> {
    let namespace = args.namespace.as_deref();
    let only = args.name.as_ref().map(|name| reference(kind, name, namespace)).transpose()?;
    let within = match &only {
        Some(only) => only.namespace.as_ref().map(ToString::to_string),
        None => namespace.map(str::to_owned),
    };
    let mut interrupts = Interrupts::new()?;
    let mut watcher = Watcher {
        control_plane,
        output,
        kind,
        namespace: within.unwrap_or_default(),
        only,
        at: 0,
        beginning: true,
    };
    tokio::select! {
        outcome = watcher.watch() => outcome,
        // That is how it ends.
        () = interrupts.next() => Ok(()),
    }
}

impl Watcher<'_> {
    async fn watch(&mut self) -> Result<(), Failure> {
        loop {
            let kind = connect::kind(self.kind);
            let opened = self.control_plane.watch(kind, &self.namespace, self.at).await?;
            let Some(mut watching) = opened else {
                self.pause("nobody answers").await;
                continue;
            };
            loop {
                match watching.next().await {
                    Ok(Some(event)) => self.show(event.revision, event.event)?,
                    Ok(None) => break,
                    Err(status) if status.code() == tonic::Code::OutOfRange => {
                        self.output.warning(status.message());
                        (self.at, self.beginning) = (0, true);
                        break;
                    }
                    Err(status) => return Err(self.control_plane.meaning(&status)),
                }
            }
            self.pause("the watch ended").await;
        }
    }

    async fn pause(&self, why: &str) {
        self.output.note(&format!("{why}; going on after revision {}", self.at));
        tokio::time::sleep(PAUSE).await;
    }

    fn show(&mut self, revision: u64, event: Option<Event>) -> Result<(), Failure> {
        let seen = match event {
            Some(Event::Bookmark(_)) => {
                (self.at, self.beginning) = (revision, false);
                return Ok(());
            }
            Some(Event::Put(object)) => {
                let object = decode(&object)?;
                let document = Some(policy::to_json(&object));
                let event = if self.beginning { "there" } else { "changed" };
                self.seen(&object.reference(), event, revision, document)
            }
            Some(Event::Deleted(gone)) => match wire::policy::object_ref(&gone) {
                Ok(gone) => self.seen(&gone, "deleted", revision, None),
                Err(_of_another_version) => None,
            },
            None => None,
        };
        let Some(seen) = seen else { return Ok(()) };
        match self.output.format() {
            Format::Table => {
                self.output.print(&format!("{:<8} {}  revision {}", seen.event, seen.object, seen.revision))
            }
            Format::Json | Format::Yaml => self.output.document(&seen),
        }
    }

    fn seen(
        &self,
        reference: &ObjectRef,
        event: &'static str,
        revision: u64,
        document: Option<serde_json::Value>,
    ) -> Option<Seen> {
        if self.only.as_ref().is_some_and(|only| only != reference) {
            return None;
        }
        Some(Seen { event, object: view::reference(&WireRef::from(reference)), revision, document })
    }
}
