//! Which objects a list or a watch wants, and the pages of a list.

use std::ops::Bound;

use outrigger_core::{
    model::{Kind, Name, ObjectRef, Violation},
    wire,
};
use outrigger_proto::policy::v1alpha1 as proto;
use prost::Message;
use tonic::{Code, Status};

use super::page_size;
use crate::{
    access::{Caller, Denied},
    api::{
        conditions::{Applied, with_conditions},
        diagnostics,
    },
    store::{PAGE_BYTES, objects::Objects},
};

/// Which objects are wanted.
#[derive(Debug)]
pub(super) struct Wanted {
    kinds: Vec<Kind>,
    pub(super) namespace: Option<Name>,
}

impl Wanted {
    /// Objects of `kinds`, of any without; in `namespace`, in all that the caller may read when it is empty.
    pub(super) fn new(kinds: &[i32], namespace: &str) -> Result<Self, Status> {
        let refused = |violation: &Violation| {
            diagnostics::status(Code::InvalidArgument, vec![diagnostics::diagnostic(violation, None, "")])
        };
        let mut known = Vec::new();
        for (index, kind) in kinds.iter().enumerate() {
            let kind = wire::policy::kind(*kind)
                .map_err(|violation| refused(&violation.under(&format!("kinds[{index}]"))))?;
            known.push(kind);
        }
        let namespace = match namespace {
            "" => None,
            name => {
                Some(name.parse().map_err(|error| Status::invalid_argument(format!("namespace: {error}")))?)
            }
        };
        Ok(Self { kinds: known, namespace })
    }

    /// Whether `caller` gets to see the object of that name.
    pub(super) fn has(&self, reference: &ObjectRef, caller: &Caller) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&reference.kind))
            && (self.namespace.is_none() || reference.namespace == self.namespace)
            && Denied::outside(caller, reference.namespace.as_ref()).is_ok()
    }
}

/// One page of a list.
#[derive(Debug)]
pub(super) struct Page {
    wanted: Wanted,
    size: usize,
    after: Option<ObjectRef>,
}

impl Page {
    pub(super) fn new(wanted: Wanted, request: &proto::ListRequest) -> Result<Self, Status> {
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(reference_of(token).ok_or_else(|| {
                Status::invalid_argument("page_token: it is not one of ours; start over without it")
            })?),
        };
        Ok(Self { wanted, size: page_size(request.page_size), after })
    }

    /// The page, and the token of the next. Each page is of the newest picture: what changes between two pages shows in
    /// the later one.
    pub(super) fn of(
        &self,
        objects: &Objects,
        caller: &Caller,
        applied: &Applied,
    ) -> (Vec<proto::Object>, String) {
        let start = self.after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let wanted = objects.from(start).filter(|(reference, _)| self.wanted.has(reference, caller));
        let mut page = Vec::new();
        let mut bytes = 0;
        let mut last = None;
        for (reference, object) in wanted {
            if page.len() == self.size || bytes > PAGE_BYTES {
                return (page, last.map_or_else(String::new, token_of));
            }
            let object = proto::Object::from(&with_conditions(object, applied));
            bytes += object.encoded_len();
            page.push(object);
            last = Some(reference);
        }
        (page, String::new())
    }
}

fn token_of(reference: &ObjectRef) -> String {
    let namespace = reference.namespace.as_ref().map_or("", Name::as_str);
    format!("{}/{namespace}/{}", reference.kind.as_str(), reference.name)
}

/// The reference that [`token_of`] made a token of.
pub(super) fn reference_of(token: &str) -> Option<ObjectRef> {
    let mut parts = token.splitn(3, '/');
    let (kind, namespace, name) = (parts.next()?, parts.next()?, parts.next()?);
    let kind = Kind::ALL.into_iter().find(|known| known.as_str() == kind)?;
    let namespace = if namespace.is_empty() { None } else { Some(namespace.parse().ok()?) };
    Some(ObjectRef { kind, namespace, name: name.parse().ok()? })
}
