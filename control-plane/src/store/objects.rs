//! The operators' objects as one immutable picture: what compile reads, and what a write is checked against. One writer
//! at a time; readers hold the picture that they took.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use outrigger_core::{
    model::{Kind, MeshConfigSpec, Object, ObjectRef, Spec},
    wire,
};
use outrigger_proto::policy::v1alpha1 as proto;
use prost::Message;
use tokio::sync::{Mutex, OwnedMutexGuard, watch};

use super::{Commit, CommitError, Expect, Key, Keyspace, Op, Reply, Revision, Store, StoreError};
use crate::audit;

/// All objects at one revision. Published whole after each change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Objects {
    revision: Revision,
    by_ref: BTreeMap<ObjectRef, Arc<Object>>,
}

impl Objects {
    /// The picture of `by_ref` at `revision`.
    pub fn new(revision: Revision, by_ref: BTreeMap<ObjectRef, Arc<Object>>) -> Self {
        Self { revision, by_ref }
    }

    /// The store's revision that last changed an object.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The object of that name.
    pub fn get(&self, object: &ObjectRef) -> Option<&Arc<Object>> {
        self.by_ref.get(object)
    }

    /// All of them by kind, namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = (&ObjectRef, &Arc<Object>)> {
        self.by_ref.iter()
    }

    /// The same from `start` on.
    pub fn from(&self, start: Bound<&ObjectRef>) -> impl Iterator<Item = (&ObjectRef, &Arc<Object>)> {
        self.by_ref.range::<ObjectRef, _>((start, Bound::Unbounded))
    }

    /// Those of one kind, by namespace and name.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (&ObjectRef, &Arc<Object>)> {
        self.by_ref.iter().filter(move |(object, _)| object.kind == kind)
    }

    /// The mesh's knobs: those written, or the defaults.
    pub fn mesh_config(&self) -> MeshConfigSpec {
        self.of_kind(Kind::MeshConfig)
            .find_map(|(_, object)| match &object.spec {
                Spec::MeshConfig(spec) => Some(spec.clone()),
                Spec::Service(_) | Spec::Route(_) | Spec::TrafficPolicy(_) => None,
            })
            .unwrap_or_default()
    }

    /// The picture after `changes`, as revision `revision`.
    #[must_use]
    pub fn after(&self, changes: &[Change], revision: Revision) -> Self {
        let mut by_ref = self.by_ref.clone();
        for change in changes {
            match change {
                Change::Put(object) => {
                    let mut object = Object::clone(object);
                    object.metadata.revision = revision;
                    by_ref.insert(object.reference(), Arc::new(object));
                }
                Change::Delete(object) => {
                    by_ref.remove(object);
                }
            }
        }
        Self { revision, by_ref }
    }
}

/// One change of the objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Makes it, or replaces it.
    Put(Box<Object>),
    /// Removes it.
    Delete(ObjectRef),
}

/// The objects cannot be read from the store.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// One is not what its key says, or this version would refuse it.
    #[error(
        "the stored object '{key}' cannot be used ({defect}); use the version that wrote it, or restore a backup"
    )]
    Object {
        /// Which.
        key: Key,
        /// Why.
        defect: String,
    },
}

/// The objects in the store, and their newest picture. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ObjectStore {
    store: Store,
    published: watch::Sender<Arc<Objects>>,
    writer: Arc<Mutex<()>>,
}

impl ObjectStore {
    /// Reads all objects.
    ///
    /// # Errors
    /// The store failed, or holds an object that this version cannot use: then none is.
    pub async fn load(store: Store) -> Result<Self, LoadError> {
        // A deletion may be newer than every object that is left: the store's revision covers it.
        let (revision, entries) = store.list(Keyspace::Objects).await?;
        let mut by_ref = BTreeMap::new();
        for entry in entries {
            let object = decode(&entry.key, &entry.value, entry.revision)?;
            by_ref.insert(object.reference(), Arc::new(object));
        }
        let (published, _) = watch::channel(Arc::new(Objects::new(revision, by_ref)));
        Ok(Self { store, published, writer: Arc::default() })
    }

    /// The newest picture.
    pub fn current(&self) -> Arc<Objects> {
        Arc::clone(&self.published.borrow())
    }

    /// The newest picture, as it changes. Pictures in between may be skipped.
    pub fn watch(&self) -> watch::Receiver<Arc<Objects>> {
        self.published.subscribe()
    }

    /// Waits for its turn to write. The picture does not change until the edit is committed or dropped.
    pub async fn edit(&self) -> Edit {
        let turn = Arc::clone(&self.writer).lock_owned().await;
        Edit { base: self.current(), objects: self.clone(), turn }
    }
}

/// A turn to write.
#[derive(Debug)]
pub struct Edit {
    base: Arc<Objects>,
    objects: ObjectStore,
    turn: OwnedMutexGuard<()>,
}

impl Edit {
    /// The objects as they are.
    pub fn base(&self) -> &Objects {
        &self.base
    }

    /// Stores `changes` as one revision, with the answer that is to be given again, and publishes the new picture.
    ///
    /// Cancel safety: what was stored is published, whether or not this future is finished.
    ///
    /// # Errors
    /// The store failed.
    pub async fn commit(
        self,
        changes: Vec<Change>,
        audit: audit::Draft,
        reply: Option<Reply>,
    ) -> Result<Revision, CommitError> {
        let work = tokio::spawn(async move {
            let commit = self.prepare(&changes, audit);
            let revision = self.objects.store.commit_with(commit, reply).await?;
            self.objects.published.send_replace(Arc::new(self.base.after(&changes, revision)));
            drop(self.turn);
            Ok(revision)
        });
        work.await.map_err(|_cut_off| StoreError::Interrupted)?
    }

    fn prepare(&self, changes: &[Change], audit: audit::Draft) -> Commit {
        let mut expect = Vec::with_capacity(changes.len());
        let mut ops = Vec::with_capacity(changes.len());
        for change in changes {
            let reference = match change {
                Change::Put(object) => object.reference(),
                Change::Delete(reference) => reference.clone(),
            };
            let key = Key::object(&reference);
            // The turn makes this certain; a picture that went astray must not overwrite what it does not show.
            expect.push(match self.base.get(&reference) {
                Some(object) => (key.clone(), Expect::At(object.metadata.revision)),
                None => (key.clone(), Expect::Absent),
            });
            ops.push(match change {
                Change::Put(object) => Op::Put { key, value: encode(object) },
                Change::Delete(_) => Op::Delete { key },
            });
        }
        Commit { expect, ops, audit }
    }
}

/// The value to store: revision and conditions are known only later.
fn encode(object: &Object) -> Vec<u8> {
    let mut wire = proto::Object { status: None, ..proto::Object::from(object) };
    if let Some(metadata) = &mut wire.metadata {
        metadata.revision = 0;
    }
    wire.encode_to_vec()
}

/// The object in a value that `revision` wrote.
///
/// # Errors
/// It is not what its key says, or this version would refuse it.
pub fn decode(key: &Key, value: &[u8], revision: Revision) -> Result<Object, LoadError> {
    let wrong = |defect: String| LoadError::Object { key: key.clone(), defect };
    let wire = proto::Object::decode(value).map_err(|error| wrong(error.to_string()))?;
    let mut object = wire::policy::object(&wire).map_err(|violations| {
        wrong(violations.first().map_or_else(|| "it is not valid".to_owned(), ToString::to_string))
    })?;
    if Key::object(&object.reference()) != *key {
        return Err(wrong(format!("it is {}", object.reference())));
    }
    object.metadata.revision = revision;
    Ok(object)
}
