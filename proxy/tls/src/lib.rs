//! Identity in rustls' shape: keys, SVIDs, trust bundles, the verifiers that hold a peer to its SPIFFE ID, and the
//! mesh's gRPC channel and incoming. TLS 1.3 only, one crypto provider, no resumption, no early data, no DNS names.
//!
//! Everything that shakes hands reads an [`Identity`]: a handle whose SVID and bundle are swapped while traffic flows,
//! and which every new handshake reads afresh.

mod bundle;
mod certificate;
pub mod credential;
mod evidence;
pub mod grpc;
mod identity;
mod key;
pub mod mesh;
mod pem;
mod provider;
mod rejected;
mod resolve;
mod svid;
#[cfg(any(test, feature = "test-support"))]
pub mod testing;
mod verifier;
mod verify;

pub use bundle::{Bundle, InvalidBundle};
pub use certificate::{InvalidCertificate, sha256, spki_sha256};
pub use evidence::Evidence;
pub use identity::Identity;
pub use key::{InvalidKey, Key};
pub use provider::provider;
pub use rejected::{PeerRejected, Refusal, refusal, reject_reason};
pub use svid::{InvalidSvid, Svid};
pub use verify::peer_id;
