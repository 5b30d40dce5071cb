//! `get --watch`: what there is, then every change, until it is interrupted. A watch that breaks goes on where it was, and
//! shows nothing a second time.

mod shown;

use std::time::Duration;

use outrigger_core::{
    model::{Kind, ObjectRef},
    policy, wire,
};
use outrigger_proto::policy::v1alpha1::{ObjectRef as WireRef, watch_event::Event};
use serde::Serialize;

use self::shown::Shown;
use super::decode;
use crate::{
    args::Format,
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
    shown: Shown,
}

/// What is watched.
pub(super) struct Of<'a> {
    pub(super) kind: Kind,
    /// Only this one.
    pub(super) only: Option<ObjectRef>,
    /// Only those in it; `None`: in any.
    pub(super) namespace: Option<&'a str>,
}

/// Shows them until it is interrupted.
pub(super) async fn run(control_plane: &ControlPlane, output: &Output, of: Of<'_>) -> Result<(), Failure> {
    let Of { kind, only, namespace } = of;
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
        shown: Shown::default(),
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
            if self.at == 0 {
                self.shown.begin();
            }
            loop {
                match watching.next().await {
                    Ok(Some(event)) => self.show(event.revision, event.event)?,
                    Ok(None) => break,
                    Err(status) if status.code() == tonic::Code::OutOfRange => {
                        self.output.warning(status.message());
                        self.at = 0;
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
        match event {
            Some(Event::Bookmark(_)) => {
                self.at = revision;
                for gone in self.shown.bookmark() {
                    self.say("deleted", &gone, revision, None)?;
                }
            }
            Some(Event::Put(object)) => {
                let object = decode(&object)?;
                let reference = object.reference();
                if self.is_wanted(&reference)
                    && let Some(event) = self.shown.put(&reference, revision)
                {
                    self.say(event, &reference, revision, Some(policy::to_json(&object)))?;
                }
            }
            Some(Event::Deleted(gone)) => {
                // One that cannot be read is of another version.
                if let Ok(gone) = wire::policy::object_ref(&gone)
                    && self.shown.deleted(&gone)
                {
                    self.say("deleted", &gone, revision, None)?;
                }
            }
            None => {}
        }
        Ok(())
    }

    fn is_wanted(&self, reference: &ObjectRef) -> bool {
        self.only.as_ref().is_none_or(|only| only == reference)
    }

    fn say(
        &self,
        event: &'static str,
        reference: &ObjectRef,
        revision: u64,
        document: Option<serde_json::Value>,
    ) -> Result<(), Failure> {
        let object = view::reference(&WireRef::from(reference));
        match self.output.format() {
            Format::Table => self.output.print(&format!("{event:<8} {object}  revision {revision}")),
            Format::Json | Format::Yaml => self.output.document(&Seen { event, object, revision, document }),
        }
    }
}
