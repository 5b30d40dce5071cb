//! Delta ADS without IO: the state machines of both ends of the discovery stream, messages in, messages out.
//!
//! [`server::Session`] is one stream in the control plane, [`client::Client`] a proxy's end of it over all its streams.
//! Both hold to fourteen rules, numbered in the names of their tests:
//!
//! 1. A nonce pairs an answer with its response; changes of the subscription count even if it is stale.
//! 2. A NACK is the presence of `error_detail`. The client keeps its last good one; the version is not pushed again on that
//!    stream before another one is due, and not claimed on the next.
//! 3. What is good in a response applies, what is bad is listed.
//! 4. The first request of a type on a stream carries all names and the versions held.
//! 5. What was held before a reconnect and is gone now comes back as removed.
//! 6. A subscription is always answered, but for an equal version in the first request.
//! 7. An unknown name is answered as absent, and remembered: it is sent once it exists.
//! 8. An empty first request means the wildcard, as does `*`; a type that has none denies it.
//! 9. No name occurs twice in a response.
//! 10. A resource with a time to live is deleted by the client when it is not heard of; heartbeats carry no content, and
//!     never come after a gap longer than that time.
//! 11. Make before break: additions in the order of [`TYPES`], removals in the reverse, after the ACK of what replaces them.
//! 12. One response of a type is in flight; changes meanwhile are coalesced by name.
//! 13. `system_version_info` is the store's revision.
//! 14. A version is a hash of the content, so that a reconnect, to whichever replica, resends nothing.

use outrigger_proto::type_url;

pub mod client;
pub mod server;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

/// One type of resource on the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResourceType {
    /// Its type URL.
    pub url: &'static str,
    /// Every node gets all there are for it; else by name only.
    pub wildcard: bool,
}

/// The types of this version, in the order in which additions are sent and applied.
pub const TYPES: [ResourceType; 4] = [
    ResourceType { url: type_url::TRUST_BUNDLE, wildcard: true },
    ResourceType { url: type_url::ENDPOINT_SET, wildcard: false },
    ResourceType { url: type_url::SERVICE, wildcard: false },
    ResourceType { url: type_url::PROXY_CONFIG, wildcard: false },
];

/// The name that subscribes to all.
pub const WILDCARD: &str = "*";

/// Longest text of a NACK that is sent, and kept by whoever receives it, characters.
const MAX_REASON: usize = 300;

/// The beginning of a text that somebody else wrote.
fn cut(text: &str) -> String {
    text.chars().take(MAX_REASON).collect()
}

/// `google.rpc.Code` of what goes over the stream.
mod code {
    pub(super) const INVALID_ARGUMENT: i32 = 3;
    pub(super) const NOT_FOUND: i32 = 5;
    pub(super) const PERMISSION_DENIED: i32 = 7;
}
