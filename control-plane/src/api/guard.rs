//! The door: every request passes here before any service sees it. Decides by the table of [`crate::access`], and leaves
//! the [`Call`] in the request's extensions.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::SystemTime,
};

use outrigger_core::model::Name;
use outrigger_tls::grpc::Peer;
use tonic::{Code, Status, body::Body};
use tower_layer::Layer;
use tower_service::Service;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::refusals::{Call, Refusals};
use crate::{
    access::{self, Caller, Denied, Door, Grant},
    clock::Clock,
};

/// The operators' roles, by name.
pub type Grants = Arc<BTreeMap<Name, Grant>>;

/// Guards one door. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Guard {
    door: Door,
    grants: Grants,
    refusals: Refusals,
    clock: Clock,
}

impl Guard {
    /// Guards `door`.
    pub fn new(door: Door, grants: Grants, refusals: Refusals, clock: Clock) -> Self {
        Self { door, grants, refusals, clock }
    }

    async fn admit<B>(&self, request: &mut http::Request<B>) -> Result<(), Status> {
        let Some(peer) = request.extensions().get::<Peer>() else {
            tracing::error!("a request came without its connection");
            return Err(Status::internal("the caller is not known"));
        };
        let rule = access::rule(self.door, request.uri().path());
        let call = Call {
            caller: Caller::new(peer.id.as_ref(), |name| self.grants.get(name).cloned()),
            peer: peer.address.to_string(),
            method: rule.map_or("unknown", |rule| rule.method),
        };
        let Some(rule) = rule else {
            let message = format!("there is no {} here", request.uri().path());
            self.refusals.note(&call, "unknown_call", &message).await;
            return Err(Status::unimplemented(self.door.unknown(request.uri().path())));
        };
        // The handshake looked at the certificate once; a connection lasts as long as its owner likes. A proxy's lasts as
        // long as the proxy, which renews its certificate over it: only operators are held to theirs.
        if let Caller::Operator { id, .. } = &call.caller
            && has_expired(peer, self.clock.now())
        {
            return Err(refuse(&self.refusals, &call, &Denied::Expired(id.clone())).await);
        }
        if let Err(denied) = rule.decide(&call.caller) {
            return Err(refuse(&self.refusals, &call, &denied).await);
        }
        request.extensions_mut().insert(call);
        Ok(())
    }
}

fn has_expired(peer: &Peer, now: SystemTime) -> bool {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let ends = peer.certificate.as_ref().and_then(|certificate| {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        u64::try_from(certificate.validity().not_after.timestamp()).ok()
    });
    ends.is_some_and(|ends| ends < now)
}

/// Takes note of `denied`, and says it to the caller.
pub(super) async fn refuse(refusals: &Refusals, call: &Call, denied: &Denied) -> Status {
    let message = denied.to_string();
    refusals.note(call, denied.reason(), &message).await;
    let code = if matches!(denied, Denied::Anonymous | Denied::Expired(_)) {
        Code::Unauthenticated
    } else {
        Code::PermissionDenied
    };
    Status::new(code, message)
}

/// The call that the guard let through.
///
/// # Errors
/// The request did not pass the guard: a defect of ours.
pub(crate) fn call_of<T>(request: &tonic::Request<T>) -> Result<Call, Status> {
    request.extensions().get::<Call>().cloned().ok_or_else(|| Status::internal("the caller is not known"))
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { guard: self.clone(), inner }
    }
}

/// A service behind its door.
#[derive(Clone)]
pub struct Guarded<S> {
    guard: Guard,
    inner: S,
}

impl<S> fmt::Debug for Guarded<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded").field("guard", &self.guard).finish_non_exhaustive()
    }
}

impl<S, B> Service<http::Request<B>> for Guarded<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    B: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let guard = self.guard.clone();
        // The one that was polled ready must be the one that is called.
        let ready = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, ready);
        Box::pin(async move {
            match guard.admit(&mut request).await {
                Ok(()) => inner.call(request).await,
                Err(status) => Ok(status.into_http()),
            }
        })
    }
}
