//! The control plane's ports.

use std::{
    collections::BTreeSet,
    error::Error,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use outrigger_tls::{
    Identity, PeerRejected, Refusal,
    grpc::{
        self, ChannelError, Limits, OperatorAuthorities, Peer, RefusedCause, ServerTrust, channel,
        channel_lazy, incoming,
    },
    mesh, peer_id, reject_reason, spki_sha256,
    testing::{Authority, Leaf, Under},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_stream::StreamExt as _;
use tonic::{
    Status,
    body::Body,
    codegen::http,
    server::NamedService,
    transport::{Channel, Server},
};

use crate::support::{Shows, TRUST_DOMAIN, shake};

const HOUR: Duration = Duration::from_secs(3600);

/// A control plane that tells callers who they are.
struct ControlPlane {
    authority: Authority,
    identity: Identity,
    operators: OperatorAuthorities,
    address: SocketAddr,
    refused: mpsc::UnboundedReceiver<(SocketAddr, String)>,
}

/// Answers every call with the caller's identity in a header.
#[derive(Clone)]
struct WhoAmI;

impl NamedService for WhoAmI {
    const NAME: &'static str = "test.WhoAmI";
}

impl tower_service::Service<http::Request<Body>> for WhoAmI {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(
        &mut self,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let peer = request.extensions().get::<Peer>().expect("every request says who calls");
        let id = peer.id.as_ref().map_or("nobody", |id| id.as_str());
        let mut response = Status::ok("").into_http::<Body>();
        response.headers_mut().insert("caller", id.parse().unwrap());
        std::future::ready(Ok(response))
    }
}

async fn who_am_i(mut channel: Channel) -> Result<String, Box<dyn Error + Send + Sync>> {
    use tower_service::Service as _;
    let request = http::Request::post("/test.WhoAmI/Ask").body(Body::empty()).unwrap();
    std::future::poll_fn(|context| channel.poll_ready(context)).await?;
    let response = channel.call(request).await?;
    Ok(response.headers()["caller"].to_str()?.to_owned())
}

impl ControlPlane {
    async fn start() -> Self {
        let authority = Authority::new(TRUST_DOMAIN);
        let svid = authority.control_plane();
        Self::start_as(authority, svid, Limits::default()).await
    }

    async fn start_as(authority: Authority, svid: outrigger_tls::Svid, limits: Limits) -> Self {
        let identity = authority.identity(svid);
        let operators = OperatorAuthorities::new([authority.operators_der()]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (told, refused) = mpsc::unbounded_channel();
        let config = grpc::server_config(&identity, &operators);
        let incoming = incoming(listener, config, limits, move |refused| {
            let _gone = told.send((refused.address, refused.cause.as_str().to_owned()));
        });
        tokio::spawn(Server::builder().add_service(WhoAmI).serve_with_incoming(incoming));
        Self { authority, identity, operators, address, refused }
    }

    fn pinned(&self) -> ServerTrust {
        ServerTrust::Pinned(spki_sha256(&self.authority.root_der()).unwrap())
    }

    async fn call(&self, trust: ServerTrust, identity: Option<&Identity>) -> Result<String, ChannelError> {
        let channel = channel(&self.address.to_string(), trust, identity).await?;
        Ok(who_am_i(channel).await.expect("an answer"))
    }

    /// What becomes of a client that shows `svid`.
    async fn caller(&self, leaf: &Leaf) -> Result<String, PeerRejected> {
        let server = grpc::server_config(&self.identity, &self.operators);
        let us = self.authority.identity(self.authority.workload("demo", "front"));
        // The verifier of a mesh client will do: only the server's verdict counts here.
        let client = mesh::client_config(&us, BTreeSet::new(), &[b"h2"]);
        let mut client = rustls::ClientConfig::clone(&client);
        client.dangerous().set_certificate_verifier(Arc::new(Anybody));
        let client = Shows::new(self.authority.issue_raw(leaf)).as_client(&client);
        let outcome = shake(server, client).await;
        match outcome.by_server() {
            Some(reason) => Err(reason),
            None => Ok(peer_id(outcome.both().0.get_ref().1).unwrap().to_string()),
        }
    }
}

/// Believes every server.
#[derive(Debug)]
struct Anybody;

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &rustls::pki_types::CertificateDer<'_>,
        _intermediates: &[rustls::pki_types::CertificateDer<'_>],
        _server_name: &rustls::pki_types::ServerName<'_>,
        _ocsp_response: &[u8],
        _now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &rustls::pki_types::CertificateDer<'_>,
        _signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        unreachable!("TLS 1.2 is not offered")
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &rustls::pki_types::CertificateDer<'_>,
        _signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        outrigger_tls::provider().signature_verification_algorithms.supported_schemes()
    }
}

fn refused_by_client(outcome: Result<String, ChannelError>) -> PeerRejected {
    reject_reason(&outcome.unwrap_err()).expect("a refusal of ours")
}

#[tokio::test]
async fn a_joiner_knows_the_control_plane_by_its_roots_hash_alone() {
    let control_plane = ControlPlane::start().await;
    assert_eq!(control_plane.call(control_plane.pinned(), None).await.unwrap(), "nobody");
    let other = ServerTrust::Pinned([7; 32]);
    assert_eq!(refused_by_client(control_plane.call(other, None).await), PeerRejected::UnknownAuthority);
}

#[tokio::test]
async fn a_workload_and_an_operator_are_known_by_their_certificates() {
    let control_plane = ControlPlane::start().await;
    let authority = &control_plane.authority;
    for svid in [authority.workload("demo", "price"), authority.operator("admin")] {
        let id = svid.id().to_string();
        let us = authority.identity(svid);
        let answer = control_plane.call(ServerTrust::Bundle(us.clone()), Some(&us)).await.unwrap();
        assert_eq!(answer, id);
    }
}

#[tokio::test]
async fn any_other_mesh_certificate_is_refused_as_a_control_plane() {
    for kind in ["workload", "operator"] {
        let authority = Authority::new(TRUST_DOMAIN);
        let svid = match kind {
            "workload" => authority.workload("demo", "price"),
            _ => authority.operator("admin"),
        };
        let impostor = ControlPlane::start_as(authority, svid, Limits::default()).await;
        let us = impostor.authority.identity(impostor.authority.workload("demo", "front"));
        for trust in [impostor.pinned(), ServerTrust::Bundle(us)] {
            let reason = refused_by_client(impostor.call(trust, None).await);
            assert_eq!(reason, PeerRejected::UnexpectedIdentity, "{kind}");
        }
    }
}

#[tokio::test]
async fn a_control_plane_of_another_authority_or_trust_domain_is_refused() {
    let control_plane = ControlPlane::start().await;
    for (trust_domain, reason) in
        [(TRUST_DOMAIN, PeerRejected::UnknownAuthority), ("elsewhere", PeerRejected::WrongTrustDomain)]
    {
        let other = Authority::new(trust_domain);
        let us = other.identity(other.workload("demo", "price"));
        let outcome = control_plane.call(ServerTrust::Bundle(us.clone()), Some(&us)).await;
        assert_eq!(refused_by_client(outcome), reason);
    }
    let lost = ServerTrust::Bundle(Identity::empty());
    assert_eq!(refused_by_client(control_plane.call(lost, None).await), PeerRejected::NoBundle);
}

#[tokio::test]
async fn an_operator_comes_only_from_the_operators_authority_and_a_workload_never() {
    let control_plane = ControlPlane::start().await;
    let authority = &control_plane.authority;
    let operator = Leaf::of(authority.operator("admin").id());
    let workload = Leaf::of(&authority.workload_id("demo", "price"));
    assert_eq!(control_plane.caller(&operator).await, Ok(operator.uris[0].clone()));
    assert_eq!(control_plane.caller(&workload).await, Ok(workload.uris[0].clone()));
    for under in [Under::Workloads, Under::Root] {
        let forged = Leaf { under, ..operator.clone() };
        assert_eq!(control_plane.caller(&forged).await, Err(PeerRejected::WrongAuthority), "{under:?}");
    }
    let forged = Leaf { under: Under::Operators, ..workload };
    assert_eq!(control_plane.caller(&forged).await, Err(PeerRejected::WrongAuthority));
}

#[tokio::test]
async fn a_caller_with_a_wrong_certificate_is_refused_and_never_taken_for_nobody() {
    let control_plane = ControlPlane::start().await;
    let good = Leaf::of(&control_plane.authority.workload_id("demo", "price"));
    let now = SystemTime::now();
    for (leaf, reason) in [
        (Leaf { uris: Vec::new(), ..good.clone() }, PeerRejected::NoUriSan),
        (Leaf { uris: vec![good.uris[0].clone(); 2], ..good.clone() }, PeerRejected::TwoUriSans),
        (
            Leaf { uris: vec!["spiffe://x/ns/a/sa/b".to_owned()], ..good.clone() },
            PeerRejected::WrongTrustDomain,
        ),
        (Leaf { not_before: now - 2 * HOUR, not_after: now - HOUR, ..good.clone() }, PeerRejected::Expired),
        (Leaf { not_before: now + HOUR, ..good.clone() }, PeerRejected::NotYetValid),
        (Leaf::of(control_plane.authority.control_plane().id()), PeerRejected::ReservedId),
    ] {
        assert_eq!(control_plane.caller(&leaf).await, Err(reason));
    }
}

#[tokio::test]
async fn a_renewed_operators_authority_is_taken_without_a_restart() {
    let control_plane = ControlPlane::start().await;
    let operator = Leaf::of(control_plane.authority.operator("admin").id());
    let none: [Vec<u8>; 0] = [];
    control_plane.operators.set(none).unwrap();
    assert_eq!(control_plane.caller(&operator).await, Err(PeerRejected::WrongAuthority));
    assert!(control_plane.operators.set([b"rubbish"]).is_err());
    control_plane.operators.set([control_plane.authority.operators_der()]).unwrap();
    assert!(control_plane.caller(&operator).await.is_ok());
}

#[tokio::test]
async fn a_refused_caller_is_reported_with_its_reason() {
    let mut control_plane = ControlPlane::start().await;
    let other = Authority::new(TRUST_DOMAIN);
    let stranger = other.identity(other.operator("admin"));
    stranger.set_bundle(control_plane.authority.bundle());
    let trust = ServerTrust::Bundle(stranger.clone());
    // In TLS 1.3 the client learns of it with its first call.
    let channel = channel_lazy(&control_plane.address.to_string(), trust, Some(&stranger)).unwrap();
    assert!(who_am_i(channel).await.is_err());
    let (_, reason) = control_plane.refused.recv().await.unwrap();
    assert_eq!(reason, "unknown_authority");
}

#[tokio::test]
async fn a_silent_client_holds_up_nobody() {
    let authority = Authority::new(TRUST_DOMAIN);
    let svid = authority.control_plane();
    let limits = Limits { handshakes: 2, ..Limits::default() };
    let control_plane = ControlPlane::start_as(authority, svid, limits).await;
    let _silent = TcpStream::connect(control_plane.address).await.unwrap();
    assert_eq!(control_plane.call(control_plane.pinned(), None).await.unwrap(), "nobody");
}

#[tokio::test]
async fn a_handshake_that_takes_too_long_is_given_up() {
    let authority = Authority::new(TRUST_DOMAIN);
    let svid = authority.control_plane();
    let limits = Limits { handshake_timeout: Duration::from_millis(50), ..Limits::default() };
    let mut control_plane = ControlPlane::start_as(authority, svid, limits).await;
    let mut silent = TcpStream::connect(control_plane.address).await.unwrap();
    let told = control_plane.refused.recv().await.unwrap();
    assert_eq!(told, (silent.local_addr().unwrap(), "timeout".to_owned()));
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn plaintext_is_refused() {
    let mut control_plane = ControlPlane::start().await;
    let mut plain = TcpStream::connect(control_plane.address).await.unwrap();
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    let _closed_or_reset = plain.read_to_end(&mut rest).await;
    assert_eq!(control_plane.refused.recv().await.unwrap().1, "handshake");
}

#[tokio::test]
async fn one_connection_too_many_is_closed_at_once_and_a_place_is_free_again_after_a_close() {
    let authority = Authority::new(TRUST_DOMAIN);
    let identity = authority.identity(authority.control_plane());
    let operators = OperatorAuthorities::new([authority.operators_der()]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (told, mut refused) = mpsc::unbounded_channel();
    let limits = Limits { connections: 1, ..Limits::default() };
    let mut stream = incoming(listener, grpc::server_config(&identity, &operators), limits, move |refused| {
        let _gone = told.send(refused.cause);
    });
    let pin = ServerTrust::Pinned(spki_sha256(&authority.root_der()).unwrap());
    let dial = || async { channel(&address.to_string(), pin.clone(), None).await };
    let _first = dial().await.unwrap();
    let accepted = stream.next().await.unwrap().unwrap();
    assert_eq!(accepted.peer().id, None);
    assert!(dial().await.is_err());
    assert!(matches!(refused.recv().await, Some(RefusedCause::TooMany)));
    drop(accepted);
    let _second = dial().await.unwrap();
    assert!(stream.next().await.unwrap().is_ok());
}

#[tokio::test]
async fn an_address_that_is_not_host_and_port_is_refused_with_what_to_write() {
    for address in
        ["", "control-plane", "http://control-plane:1", "user@control-plane:1", "a:b", ":1", "a:99999"]
    {
        let error = channel_lazy(address, ServerTrust::Pinned([0; 32]), None).unwrap_err();
        assert!(error.to_string().contains("write host:port"), "{address}: {error}");
    }
    for address in ["control-plane:17110", "127.0.0.1:17110", "[::1]:17110"] {
        assert!(channel_lazy(address, ServerTrust::Pinned([0; 32]), None).is_ok(), "{address}");
    }
}

#[test]
fn a_refusal_is_found_through_wrapping_errors() {
    let refusal = Refusal { reason: PeerRejected::ReservedId, presented: None };
    let wrapped = std::io::Error::other(std::io::Error::other(refusal));
    assert_eq!(reject_reason(&wrapped), Some(PeerRejected::ReservedId));
    assert_eq!(reject_reason(&std::io::Error::other("else")), None);
}
