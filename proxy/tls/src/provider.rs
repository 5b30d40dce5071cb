//! The one crypto provider.

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));

/// The crypto provider of every configuration here: aws-lc-rs, X25519MLKEM768 first. Given explicitly everywhere, since
/// rustls' process default vanishes (and its builders panic) as soon as a second provider is linked.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}

/// What signatures are understood.
pub(crate) fn algorithms() -> &'static WebPkiSupportedAlgorithms {
    &PROVIDER.signature_verification_algorithms
}
