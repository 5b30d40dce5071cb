//! The requests that an application saw, one line each: what the demo's books are held against.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::Path,
};

use http::{HeaderMap, HeaderValue, Method};

use super::ID;
use crate::failure::Failure;

/// What a sidecar says about its verified caller.
const CALLER: &str = "x-forwarded-client-cert";

/// A log that goes on where an earlier process of the same name ended.
#[derive(Debug)]
pub(super) struct Log(File);

impl Log {
    /// Opens it.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let file = OpenOptions::new().append(true).create(true).open(path);
        file.map(Self).map_err(|error| Failure::io(format!("cannot write {}", path.display()), error))
    }

    /// Writes a request that carries an id. It is with the kernel then: a kill does not take it back.
    pub(super) fn write(&self, method: &Method, headers: &HeaderMap) -> std::io::Result<()> {
        match headers.get(ID).and_then(|id| line(id, method, headers.get(CALLER))) {
            Some(line) => (&self.0).write_all(line.as_bytes()),
            None => Ok(()),
        }
    }
}

/// `17 POST By=...;URI=spiffe://...`: written with one call, so that lines never mix.
pub(super) fn line(id: &HeaderValue, method: &Method, caller: Option<&HeaderValue>) -> Option<String> {
    let id: u64 = id.to_str().ok()?.parse().ok()?;
    let caller = caller.and_then(|caller| caller.to_str().ok()).unwrap_or("-");
    Some(format!("{id} {method} {caller}\n"))
}
