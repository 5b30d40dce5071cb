//! `front` and `cart`: each asks the next service through its sidecar, as any client does that honours `http_proxy`.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;

use super::{ID, INSTANCE, Log, plain};
use crate::{
    demo::client::{Answer, Client},
    failure::Failure,
};

/// Longer than any delay of the demo, shorter than the load's patience.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);
/// What an application hands on: its own headers, and the trace, by which its sidecar tells what it waited for.
const HANDED_ON: [&str; 3] = [ID, "content-type", "traceparent"];

/// Hands requests on.
#[derive(Debug)]
pub(super) struct Relay {
    client: Client,
    to: Uri,
    host: HeaderValue,
    log: Option<Log>,
}

impl Relay {
    /// To the service `to` by way of the sidecar at `outbound`.
    pub(super) fn new(outbound: SocketAddr, to: &str, log: Option<Log>) -> Result<Self, Failure> {
        let usage = |error: http::Error| Failure::Usage(format!("{to}: {error}"));
        Ok(Self {
            client: Client::new(outbound, TIMEOUT),
            to: Uri::try_from(format!("http://{to}/quote")).map_err(|error| usage(error.into()))?,
            host: HeaderValue::from_str(to).map_err(|error| usage(error.into()))?,
            log,
        })
    }

    /// The next service's answer, or 502.
    pub(super) async fn answer(
        &self,
        method: Method,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Response<Full<Bytes>> {
        if let Some(log) = &self.log
            && let Err(error) = log.write(&method, headers)
        {
            return plain(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string());
        }
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = self.to.clone();
        request.headers_mut().insert(header::HOST, self.host.clone());
        copy(headers, request.headers_mut(), &HANDED_ON);
        match self.client.send(request).await {
            Ok(Answer { status, headers, body }) => {
                let mut response = Response::new(Full::new(body));
                *response.status_mut() = status;
                copy(&headers, response.headers_mut(), &[ID, INSTANCE]);
                response
            }
            Err(error) => plain(StatusCode::BAD_GATEWAY, &error.to_string()),
        }
    }
}

fn copy(from: &HeaderMap, to: &mut HeaderMap, names: &[&'static str]) {
    for name in names {
        if let Some(value) = from.get(*name) {
            to.insert(*name, value.clone());
        }
    }
}
