//! What a stream looked up for one response, kept in place until it is sent.

use std::{
    cell::{Cell, OnceCell},
    sync::Arc,
};

use outrigger_core::{delta::server, model::SpiffeId};

use super::{Lookup, Resource, Type, World};

/// Rows of 1, 2, 4, ... places: enough for 16 million lookups.
const ROWS: usize = 24;

type Row = Box<[OnceCell<Arc<Resource>>]>;

/// A world as one client sees it, for the length of one [`server::Session::poll`], which borrows what it looks up: the
/// resources are shared with the cache, so they are put on a shelf that only grows.
pub(super) struct Shelf<'w> {
    world: &'w World,
    client: &'w SpiffeId,
    rows: [OnceCell<Row>; ROWS],
    filled: Cell<usize>,
}

impl<'w> Shelf<'w> {
    /// An empty one.
    pub(super) fn new(world: &'w World, client: &'w SpiffeId) -> Self {
        Self { world, client, rows: [const { OnceCell::new() }; ROWS], filled: Cell::new(0) }
    }

    fn keep(&self, resource: Arc<Resource>) -> Option<&Resource> {
        let place = self.filled.get() + 1;
        self.filled.set(place);
        let row = usize::try_from(place.ilog2()).ok()?;
        let length = 1_usize << row;
        let cells = self.rows.get(row)?.get_or_init(|| (0..length).map(|_| OnceCell::new()).collect());
        Some(cells.get(place - length)?.get_or_init(|| resource))
    }
}

impl server::Source for Shelf<'_> {
    fn get(&self, type_url: &str, name: &str) -> server::Lookup<'_> {
        let Some(kind) = Type::of_url(type_url) else { return server::Lookup::NotFound };
        match self.world.get(kind, name, self.client) {
            Lookup::Found(resource) => match self.keep(resource) {
                Some(kept) => {
                    server::Lookup::Found { version: &kept.version, content: &kept.body, ttl: None }
                }
                None => server::Lookup::NotFound,
            },
            Lookup::NotFound => server::Lookup::NotFound,
            Lookup::Denied(reason) => server::Lookup::Denied(reason),
        }
    }

    fn wildcard(&self, type_url: &str) -> Vec<String> {
        match Type::of_url(type_url) {
            Some(Type::TrustBundle) => vec![self.world.bundle_name().to_owned()],
            _ => Vec::new(),
        }
    }
}
