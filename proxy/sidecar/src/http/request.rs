//! What a request's head must look like before anything is done with it (RFC 9112 §3.2, §6; RFC 9113 §8.3.1).

use http::{
    HeaderValue, Method, Request, Uri, Version, header,
    uri::{Authority, PathAndQuery, Scheme},
};
use outrigger_core::reason::Reason;

use super::Limits;
use crate::headers::{Field, Fields};

/// The form of a request's target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// `/path`, with a `Host`.
    Origin,
    /// `http://authority/path`: addressed to a proxy.
    Absolute,
    /// `CONNECT authority:port`.
    Authority,
}

/// A message with a length that is none, or with more than one.
#[derive(Debug, thiserror::Error)]
#[error("not one length of digits only")]
pub(crate) struct InvalidLength;

/// Where a request wants to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) form: Form,
    /// Of the target, else of the `Host` header.
    pub(crate) authority: Authority,
}

/// Whether a head that came over HTTP/2 is within the limits; under HTTP/1 the parser sees to it.
pub(crate) fn check_size<B>(request: &Request<B>, limits: &Limits) -> Result<(), Reason> {
    if request.version() != Version::HTTP_2 {
        return Ok(());
    }
    let headers = request.headers();
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    let target = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    if headers.len() > limits.head_fields || bytes.saturating_add(target) > limits.head_bytes {
        return Err(Reason::HeadTooLarge);
    }
    Ok(())
}

/// Reads the target of a request, and checks that its head can be understood in one way only. `fields`: its own.
pub(crate) fn check_head<B>(request: &Request<B>, fields: Fields<'_>) -> Result<Target, Reason> {
    check_version(request.version())?;
    check_coding(fields)?;
    length(fields.all(Field::ContentLength)).map_err(|InvalidLength| Reason::BadRequest)?;
    let host = host(request.version(), fields)?;
    let uri = request.uri();
    if request.version() == Version::HTTP_2 {
        check_stream(request, host.as_ref())?;
    }
    let target = if request.method() == Method::CONNECT {
        let authority = uri.authority().filter(|authority| authority.port_u16().is_some());
        if !is_bodiless(fields) {
            return Err(Reason::BadRequest);
        }
        let bare = uri.scheme().is_none() && uri.path_and_query().is_none_or(|path| path.as_str().is_empty());
        let authority = authority.filter(|_| bare).cloned().ok_or(Reason::BadRequest)?;
        Target { form: Form::Authority, authority }
    } else if let Some(scheme) = uri.scheme() {
        if *scheme == Scheme::HTTPS {
            return Err(Reason::UnsupportedProtocol);
        }
        let authority = uri.authority().filter(|_| *scheme == Scheme::HTTP);
        let authority = authority.cloned().ok_or(Reason::BadRequest)?;
        Target { form: Form::Absolute, authority }
    } else {
        let whole = *request.method() == Method::OPTIONS && uri.path() == "*";
        let path = uri.authority().is_none() && (uri.path().starts_with('/') || whole);
        let authority = host.filter(|_| path).ok_or(Reason::BadRequest)?;
        Target { form: Form::Origin, authority }
    };
    // User information: nobody sends it in good faith (RFC 9110 §4.2.4).
    if target.authority.as_str().contains('@') {
        return Err(Reason::BadRequest);
    }
    Ok(target)
}

/// Makes the request one for its target itself: origin form, and a `Host` that agrees with it byte for byte.
pub(crate) fn to_origin_form<B>(request: &mut Request<B>, target: &Target) -> Result<(), Reason> {
    if target.form != Form::Absolute {
        return Ok(());
    }
    // The received Host is ignored, whatever it says (RFC 9112 §3.2.2).
    let host = HeaderValue::from_str(target.authority.as_str()).map_err(|_invalid| Reason::BadRequest)?;
    request.headers_mut().insert(header::HOST, host);
    let path = request.uri().path_and_query().cloned();
    let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    Ok(())
}

/// Whether the same request may be sent twice without harm (RFC 9110 §9.2.2).
pub(crate) fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// Whether the client waits for `100 Continue` before it sends the body.
pub(crate) fn expects_continue(fields: Fields<'_>) -> bool {
    let expect = fields.get(Field::Expect);
    expect.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

fn check_version(version: Version) -> Result<(), Reason> {
    match version {
        Version::HTTP_10 | Version::HTTP_11 | Version::HTTP_2 => Ok(()),
        _ => Err(Reason::UnsupportedProtocol),
    }
}

/// What HTTP/2 has twice must be the same twice. Tunnels in a stream are not carried.
fn check_stream<B>(request: &Request<B>, host: Option<&Authority>) -> Result<(), Reason> {
    if request.method() == Method::CONNECT {
        return Err(Reason::UnsupportedProtocol);
    }
    // The parser takes any path; in a request line it could become another target (RFC 9113 §8.3.1).
    let path = request.uri().path_and_query().map_or("", PathAndQuery::as_str);
    let whole = *request.method() == Method::OPTIONS && path == "*";
    match (request.uri().authority(), host) {
        (Some(authority), Some(host)) if authority != host => Err(Reason::BadRequest),
        _ if path.starts_with('/') || whole => Ok(()),
        _ => Err(Reason::BadRequest),
    }
}

/// The length of a message among those that it says: one at most, of digits only. Of two, each reader could take another
/// one.
pub(crate) fn length<'a>(
    mut lengths: impl Iterator<Item = &'a HeaderValue>,
) -> Result<Option<&'a HeaderValue>, InvalidLength> {
    let is_length =
        |length: &HeaderValue| !length.is_empty() && length.as_bytes().iter().all(u8::is_ascii_digit);
    match (lengths.next(), lengths.next()) {
        (None, _) => Ok(None),
        (Some(length), None) if is_length(length) => Ok(Some(length)),
        _ => Err(InvalidLength),
    }
}

/// Whether nothing is said of a body. After a CONNECT it could be the begin of what goes through the tunnel just as
/// well (RFC 9110 §9.3.6).
fn is_bodiless(fields: Fields<'_>) -> bool {
    let length = fields.get(Field::ContentLength);
    !fields.has(Field::TransferEncoding) && length.is_none_or(|length| length == "0")
}

/// Codings other than `chunked` would be lost: the next connection is coded anew.
fn check_coding(fields: Fields<'_>) -> Result<(), Reason> {
    let mut codings = fields.all(Field::TransferEncoding);
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        // The parser removes such a length without a word; where it did not, the two together are refused here.
        (Some(_), None) if fields.has(Field::ContentLength) => Err(Reason::BadRequest),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Reason::UnsupportedProtocol),
    }
}

/// The `Host` header: exactly one, except that HTTP/1.0 may have none.
fn host(version: Version, fields: Fields<'_>) -> Result<Option<Authority>, Reason> {
    let mut hosts = fields.all(Field::Host);
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if host.is_empty() => Ok(None),
        (Some(host), None) => {
            let authority = Authority::try_from(host.as_bytes()).map_err(|_invalid| Reason::BadRequest)?;
            Ok(Some(authority))
        }
        // HTTP/2 says it otherwise.
        (None, _) if matches!(version, Version::HTTP_10 | Version::HTTP_2) => Ok(None),
        _ => Err(Reason::BadRequest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, uri: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut builder = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap()
    }

    fn check_head(request: &Request<()>) -> Result<Target, Reason> {
        super::check_head(request, Fields::of(request.headers()))
    }

    #[test]
    fn each_form_names_its_authority() {
        for (method, uri, headers, form, authority) in [
            ("GET", "/a", &[("host", "price")][..], Form::Origin, "price"),
            ("OPTIONS", "*", &[("host", "price:80")], Form::Origin, "price:80"),
            ("GET", "http://Price.demo/a?b", &[("host", "other")], Form::Absolute, "Price.demo"),
            ("CONNECT", "price:80", &[("host", "other")], Form::Authority, "price:80"),
        ] {
            let target = check_head(&request(method, uri, headers)).unwrap();
            assert_eq!((target.form, target.authority.as_str()), (form, authority), "{method} {uri}");
        }
    }

    #[test]
    fn heads_that_could_mean_two_things_are_refused() {
        use Reason::{BadRequest, UnsupportedProtocol};
        for (method, uri, headers, reason) in [
            ("GET", "/", &[][..], BadRequest),
            ("GET", "/", &[("host", "a"), ("host", "a")], BadRequest),
            ("GET", "/", &[("host", "")], BadRequest),
            ("GET", "/", &[("host", "a/b")], BadRequest),
            ("GET", "/", &[("host", "a b")], BadRequest),
            ("GET", "/", &[("host", "user@a")], BadRequest),
            ("GET", "*", &[("host", "a")], BadRequest),
            ("GET", "http://user:secret@a/", &[("host", "a")], BadRequest),
            ("GET", "https://a/", &[("host", "a")], UnsupportedProtocol),
            ("GET", "ftp://a/", &[("host", "a")], BadRequest),
            ("GET", "a:80", &[("host", "a")], BadRequest),
            ("CONNECT", "a", &[("host", "a")], BadRequest),
            ("CONNECT", "/a", &[("host", "a:80")], BadRequest),
            ("CONNECT", "a:80", &[("host", "a:80"), ("content-length", "3")], BadRequest),
            ("CONNECT", "http://a:80/", &[("host", "a")], BadRequest),
            ("POST", "/", &[("host", "a"), ("transfer-encoding", "gzip, chunked")], UnsupportedProtocol),
            (
                "POST",
                "/",
                &[("host", "a"), ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
                UnsupportedProtocol,
            ),
            (
                "POST",
                "/",
                &[("host", "a"), ("transfer-encoding", "chunked"), ("content-length", "3")],
                BadRequest,
            ),
        ] {
            assert_eq!(check_head(&request(method, uri, headers)), Err(reason), "{method} {uri} {headers:?}");
        }
    }

    #[test]
    fn an_absolute_target_becomes_an_origin_with_its_own_host() {
        let mut request = request("GET", "http://Price.demo:80/a?b=%20", &[("host", "other")]);
        let target = check_head(&request).unwrap();
        to_origin_form(&mut request, &target).unwrap();
        assert_eq!(request.uri().to_string(), "/a?b=%20");
        assert_eq!(request.headers()["host"], "Price.demo:80");
    }
}
