//! The file: what is in it, and what it is held to before anything of it is used. Checksum, kind and schema are the
//! header's ([`outrigger_process::files`]); the rest is a protobuf message.

use std::{io, path::Path, time::SystemTime};

use bytes::Bytes;
use outrigger_core::{
    delta::TYPES,
    model::{SpiffeId, Violation},
    wire::time::{decode_timestamp, encode_timestamp},
};
use outrigger_process::files::{Format, ReadError, read_checked, write_checked};
use outrigger_proto::type_url;
use prost::Message as _;
use prost_types::Any;

use super::{Contents, Item, LastKnownGood, MAX_AGE, MAX_BYTES, MAX_NAMES, Origin, Raw, SKEW};
use crate::discovery::validate;

/// Another schema is refused: a field whose meaning changes needs a new one.
const FORMAT: Format = Format { magic: *b"OUTRGOOD", schema: 1 };
/// Of the whole payload: the resources, and the names that do not exist.
const MAX_PAYLOAD: usize = MAX_BYTES + MAX_NAMES * 256;

#[derive(Clone, PartialEq, prost::Message)]
struct Document {
    /// Whose it is.
    #[prost(string, tag = "1")]
    spiffe_id: String,
    #[prost(message, optional, tag = "2")]
    written: Option<prost_types::Timestamp>,
    #[prost(uint64, tag = "3")]
    revision: u64,
    #[prost(message, repeated, tag = "4")]
    resources: Vec<Resource>,
    /// Services that do not exist.
    #[prost(string, repeated, tag = "5")]
    absent: Vec<String>,
    /// Last answers for names that were not in use, each service followed by its endpoint sets.
    #[prost(message, repeated, tag = "6")]
    retired: Vec<Resource>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Resource {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    version: String,
    #[prost(bytes = "bytes", tag = "4")]
    content: Bytes,
}

/// Why what was kept is not used.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It is not whole, of another kind or schema, or cannot be read.
    #[error(transparent)]
    File(ReadError),
    /// The checksum is right, and the content is nothing that this version writes.
    #[error("its content is malformed: {0}")]
    Malformed(&'static str),
    /// Of another identity.
    #[error("it was written by {0}")]
    Foreign(String),
    /// Written too long ago.
    #[error("it is {} days old; 7 are the most", .0)]
    TooOld(u64),
    /// Its age is not known: the clock was set back.
    #[error("it was written {0} s from now, by this machine's clock")]
    FromTheFuture(u64),
    /// A resource that this version cannot run whole.
    #[error("{name} in it cannot be run by this version ({type_url})")]
    Resource {
        /// Its type.
        type_url: &'static str,
        /// Its name.
        name: String,
        /// Why.
        source: Box<Violation>,
    },
}

impl Refused {
    /// For metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::File(ReadError::Schema(_)) => "schema",
            Self::File(ReadError::Missing | ReadError::Io(_)) => "unreadable",
            Self::File(ReadError::TooLarge(_)) => "too_large",
            Self::File(ReadError::Magic | ReadError::Truncated | ReadError::Corrupted)
            | Self::Malformed(_) => "corrupted",
            Self::Foreign(_) => "foreign",
            Self::TooOld(_) => "too_old",
            Self::FromTheFuture(_) => "from_the_future",
            Self::Resource { .. } => "resource",
        }
    }
}

/// Writes `contents` for `own`, atomically, 0600. Blocks.
pub(super) fn write(path: &Path, own: &SpiffeId, contents: &Contents, now: SystemTime) -> io::Result<()> {
    let document = Document {
        spiffe_id: own.to_string(),
        written: Some(encode_timestamp(now)),
        revision: contents.revision,
        resources: contents.items.iter().map(Resource::from).collect(),
        retired: contents.retired.iter().map(Resource::from).collect(),
        absent: contents.absent.iter().map(ToString::to_string).collect(),
    };
    write_checked(path, FORMAT, &document.encode_to_vec(), 0o600)
}

impl From<&Item> for Resource {
    fn from(item: &Item) -> Self {
        Self {
            type_url: item.type_url.to_owned(),
            name: item.name.to_string(),
            version: item.raw.version.to_string(),
            content: item.raw.content.clone(),
        }
    }
}

/// Reads what was written for `own`; `None`: nothing was. Blocks.
pub(super) fn read(path: &Path, own: &SpiffeId, now: SystemTime) -> Result<Option<LastKnownGood>, Refused> {
    match read_checked(path, FORMAT, MAX_PAYLOAD) {
        Ok(payload) => decode(payload, own, now).map(Some),
        Err(ReadError::Missing) => Ok(None),
        Err(error) => Err(Refused::File(error)),
    }
}

fn decode(payload: Vec<u8>, own: &SpiffeId, now: SystemTime) -> Result<LastKnownGood, Refused> {
    let document = Document::decode(Bytes::from(payload))
        .map_err(|_malformed| Refused::Malformed("it is not a message of its kind"))?;
    if document.spiffe_id != own.to_string() {
        return Err(Refused::Foreign(document.spiffe_id));
    }
    let written = document.written.as_ref().and_then(decode_timestamp);
    let written = written.ok_or(Refused::Malformed("it does not say when it was written"))?;
    check_age(written, now)?;
    let items = take_all(document.resources, own)?;
    let retired = take_all(document.retired, own)?;
    let absent = document.absent.iter().map(|name| name.parse());
    let absent = absent.collect::<Result<Vec<_>, _>>();
    let absent = absent.map_err(|_invalid| Refused::Malformed("a name in it is none"))?;
    let has = |url| items.iter().any(|(item, _): &(Item, _)| item.type_url == url);
    if !has(type_url::PROXY_CONFIG) || !has(type_url::TRUST_BUNDLE) {
        return Err(Refused::Malformed("it has no configuration or no authorities"));
    }
    Ok(LastKnownGood { origin: Origin { revision: document.revision, written }, items, retired, absent })
}

fn check_age(written: SystemTime, now: SystemTime) -> Result<(), Refused> {
    match now.duration_since(written) {
        Ok(age) if age < MAX_AGE => Ok(()),
        Ok(age) => Err(Refused::TooOld(age.as_secs() / (24 * 3600))),
        Err(ahead) if ahead.duration() <= SKEW => Ok(()),
        Err(ahead) => Err(Refused::FromTheFuture(ahead.duration().as_secs())),
    }
}

fn take_all(resources: Vec<Resource>, own: &SpiffeId) -> Result<Vec<(Item, validate::Resource)>, Refused> {
    resources.into_iter().map(|resource| take(resource, own)).collect()
}

/// Validates a resource as if it had just been received.
fn take(resource: Resource, own: &SpiffeId) -> Result<(Item, validate::Resource), Refused> {
    let kind = TYPES.iter().find(|kind| kind.url == resource.type_url);
    let type_url = kind.ok_or(Refused::Malformed("a resource in it is of an unknown type"))?.url;
    let any = Any { type_url: type_url.to_owned(), value: resource.content.to_vec() };
    let valid = validate::resource(Some(own), type_url, &resource.name, &any).map_err(|violation| {
        Refused::Resource { type_url, name: resource.name.clone(), source: Box::new(violation) }
    })?;
    let raw = Raw { version: resource.version.into(), content: any.value.into() };
    Ok((Item { type_url, name: resource.name.into(), raw }, valid))
}

#[cfg(test)]
mod tests;
