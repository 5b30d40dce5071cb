//! Rotation of the authorities, as operators, proxies and joiners meet it.

use std::time::Duration;

use outrigger_core::join_token::JoinToken;
use outrigger_proto::{
    identity::v1alpha1::{
        ActivateAuthorityRequest, Authorities, AuthorityKind, GetAuthoritiesRequest, IssueRequest,
        PrepareAuthorityRequest, RevokeAuthorityRequest, RotationStage, TaintAuthorityRequest,
        authority_service_client::AuthorityServiceClient,
    },
    mesh::v1alpha1 as mesh,
    policy::v1alpha1::ListRequest,
    status::v1alpha1::AppliedReport,
    type_url::TRUST_BUNDLE,
};
use outrigger_tls::{
    Bundle, Identity, Key, Svid,
    grpc::{ServerTrust, channel},
    spki_sha256,
};
use tokio::sync::mpsc;
use tonic::{Code, Status, transport::Channel};

use crate::{
    running::ControlPlane,
    support::{Client, Discovery, applied, apply, decode, soon},
};

const LIFE: Duration = Duration::from_secs(10);
/// What a proxy has to come back after a start.
const REMEMBERED: Duration = Duration::from_secs(60);

const PRICE: &str = "
apiVersion: outrigger.dev/v1alpha1
kind: Service
metadata: {name: price, namespace: demo}
spec: {ports: [{port: 80, protocol: HTTP, targetPort: 8080}]}
";

fn client(control: &ControlPlane) -> AuthorityServiceClient<Channel> {
    // With the credential as it is on disk now, as the command does it.
    AuthorityServiceClient::new(control.policy_port(Some(&control.kept("admin"))))
}

async fn get(control: &ControlPlane) -> Authorities {
    client(control).get_authorities(GetAuthoritiesRequest {}).await.unwrap().into_inner()
}

async fn prepare(control: &ControlPlane, kind: AuthorityKind) -> Result<Authorities, Status> {
    let request = PrepareAuthorityRequest { kind: kind.into() };
    client(control).prepare_authority(request).await.map(tonic::Response::into_inner)
}

async fn activate(control: &ControlPlane, kind: AuthorityKind, force: bool) -> Result<Authorities, Status> {
    let request = ActivateAuthorityRequest { kind: kind.into(), force, ..Default::default() };
    client(control).activate_authority(request).await.map(tonic::Response::into_inner)
}

async fn taint(control: &ControlPlane, kind: AuthorityKind) -> Result<Authorities, Status> {
    let request = TaintAuthorityRequest { kind: kind.into() };
    client(control).taint_authority(request).await.map(tonic::Response::into_inner)
}

async fn revoke(control: &ControlPlane, kind: AuthorityKind, force: bool) -> Result<Authorities, Status> {
    let request = RevokeAuthorityRequest { kind: kind.into(), force, ..Default::default() };
    client(control).revoke_authority(request).await.map(tonic::Response::into_inner)
}

/// A proxy, as far as a rotation has to do with it.
struct Front {
    identity: Identity,
    stream: Discovery,
    reports: mpsc::Sender<AppliedReport>,
    report: AppliedReport,
}

impl Front {
    /// Connects, and reports the bundle that is in force.
    async fn connect(control: &ControlPlane) -> Self {
        let identity = control.workload("front");
        let client = Client { channel: control.discovery_port(Some(&identity)) };
        let mut stream = client.discover("front-1").await;
        stream.subscribe(TRUST_BUNDLE, &["*"]).await;
        let reports = client.reports().await;
        let mut front = Self { identity, stream, reports, report: AppliedReport::default() };
        front.apply().await;
        front
    }

    /// Takes the next bundle, and says so.
    async fn apply(&mut self) -> mesh::TrustBundle {
        let response = self.stream.accept().await;
        let bundle: mesh::TrustBundle = decode(&response);
        self.report = applied(&[&response]);
        let model = outrigger_core::model::TrustBundle::try_from(bundle.clone()).unwrap();
        self.identity.set_bundle(Bundle::try_from(&model).unwrap());
        self.tell().await;
        bundle
    }

    /// Renews its certificate, and says so.
    async fn renew(&mut self, control: &ControlPlane) {
        let key = Key::generate().unwrap();
        let request = IssueRequest { csr_der: key.anonymous_csr_der().unwrap(), ..IssueRequest::default() };
        let issued = control.issue(Some(&self.identity), request).await.unwrap();
        self.identity.set_svid(Svid::from_parts(issued.chain_der, key).unwrap());
        self.tell().await;
    }

    async fn tell(&self) {
        let (svid, bundle) = (self.identity.svid().unwrap(), self.identity.bundle().unwrap());
        let report = AppliedReport {
            bundle_sequence: bundle.sequence(),
            svid_authorities: svid.authorities(&bundle).iter().map(|key| key.to_vec()).collect(),
            ..self.report.clone()
        };
        self.reports.send(report).await.unwrap();
    }

    fn signers(&self) -> Vec<[u8; 32]> {
        self.identity.svid().unwrap().authorities(&self.identity.bundle().unwrap()).to_vec()
    }
}

/// The state once `wanted` holds of it.
async fn until(control: &ControlPlane, wanted: impl Fn(&Authorities) -> bool) -> Authorities {
    soon(async {
        loop {
            let state = get(control).await;
            if wanted(&state) {
                return state;
            }
        }
    })
    .await
}

fn active_root(control: &ControlPlane) -> [u8; 32] {
    control.state.authority.root_hash()
}

/// As after a kill at this point: only what is on disk counts.
async fn restarted(control: ControlPlane) -> ControlPlane {
    let control = control.restart(async |_| ()).await;
    control.pass(REMEMBERED);
    control
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_is_rotated_with_a_restart_between_any_two_steps() {
    let root = AuthorityKind::Root;
    let control = ControlPlane::with_leaf_ttl(LIFE).await;
    let old = active_root(&control);
    let mut front = Front::connect(&control).await;

    prepare(&control, root).await.unwrap();
    let refused = activate(&control, root, false).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("sa/front#front-1"), "who lags is named: {refused:?}");
    let bundle = front.apply().await;
    assert_eq!((bundle.x509_authorities.len(), bundle.sequence), (2, 2));
    until(&control, |state| state.safe).await;

    let control = control.restart(async |_| ()).await;
    let refused = activate(&control, root, false).await.unwrap_err();
    assert!(refused.message().contains("to come back"), "nobody has come back yet: {refused:?}");
    control.pass(REMEMBERED);
    let mut front = Front::connect(&control).await;
    until(&control, |state| state.safe).await;
    activate(&control, root, false).await.unwrap();
    let new = active_root(&control);
    assert_ne!(new, old);
    let bundle = front.apply().await;
    assert_eq!(bundle.retiring, [old.to_vec()], "who hangs on it is told to renew");
    assert!(front.signers().contains(&old));

    let refused = revoke(&control, root, false).await.unwrap_err();
    assert!(refused.message().contains("sa/front#front-1"), "{refused:?}");
    front.renew(&control).await;
    assert!(front.signers().contains(&new));
    until(&control, |state| state.lagging_count == 0).await;
    let refused = revoke(&control, root, false).await.unwrap_err();
    assert!(refused.message().contains("expires in"), "somebody else may hold one: {refused:?}");

    let control = restarted(control).await;
    assert_eq!(get(&control).await.stage(), RotationStage::Retiring);
    let mut front = Front::connect(&control).await;
    assert!(front.signers().contains(&new));
    until(&control, |state| state.safe).await;
    revoke(&control, root, false).await.unwrap();
    let bundle = front.apply().await;
    assert_eq!(bundle.x509_authorities.len(), 1);
    assert_eq!(spki_sha256(&bundle.x509_authorities[0]), Ok(new));
    assert!(!bundle.at_once);

    let control = restarted(control).await;
    let state = get(&control).await;
    assert_eq!((state.stage(), state.root.unwrap().key_sha256), (RotationStage::Unspecified, new.to_vec()));
    assert_eq!(control.keys(), ["operator-1.pem", "root-1.pem", "workload-1.pem"], "the old keys are gone");
    Front::connect(&control).await;
    let taken: Vec<_> = control.audit().await.into_iter().filter(|record| !record.denied).collect();
    for method in ["identity.PrepareAuthority", "identity.ActivateAuthority", "identity.RevokeAuthority"] {
        let record = taken.iter().find(|record| record.method == method).expect("each step is on record");
        assert_eq!((record.message.as_str(), record.revision > 0), ("root", true));
    }
}

/// A proxy that was cut off before a restart, and is not back, runs for as long as its certificate is valid: nobody knows
/// of it, and it does not know the new root.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_a_new_root_waits_for_certificates_of_those_who_do_not_come_back() {
    let (root, life) = (AuthorityKind::Root, LIFE * 60);
    let control = ControlPlane::with_leaf_ttl(life).await;
    let front = Front::connect(&control).await;
    // Who is remembered by name is waited for no longer than who is not.
    control.knows("sa/front#front-1", true).await;
    drop(front);
    prepare(&control, root).await.unwrap();
    let control = restarted(control).await;
    let refused = activate(&control, root, false).await.unwrap_err();
    assert!(refused.message().contains("expires in"), "{refused:?}");
    assert!(!get(&control).await.safe);
    control.pass(life);
    activate(&control, root, false).await.unwrap();
}

/// What was issued before lives on, whatever the settings say now.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_an_earlier_setting_hold_a_revocation_back() {
    let (root, life) = (AuthorityKind::Root, LIFE * 60);
    let control = ControlPlane::with_leaf_ttl(life).await.restart_with_leaf_ttl(LIFE).await;
    let control = restarted(control).await;
    prepare(&control, root).await.unwrap();
    activate(&control, root, true).await.unwrap();
    control.pass(LIFE * 2);
    let refused = revoke(&control, root, false).await.unwrap_err();
    assert!(refused.message().contains("expires in"), "{refused:?}");
    control.pass(life);
    revoke(&control, root, false).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intermediate_is_tainted_and_revoked_by_its_key() {
    let intermediate = AuthorityKind::Intermediate;
    let control = ControlPlane::with_leaf_ttl(LIFE).await;
    let mut front = Front::connect(&control).await;
    let before = (*front.identity.svid().unwrap()).clone();
    let old = front.signers()[0];
    prepare(&control, intermediate).await.unwrap();
    front.apply().await;
    let refused = prepare(&control, AuthorityKind::Root).await.unwrap_err();
    assert!(refused.message().contains("under way"), "{refused:?}");
    activate(&control, intermediate, false).await.unwrap();
    assert_eq!(front.apply().await.retiring, [old.to_vec()]);
    taint(&control, intermediate).await.unwrap();
    assert_eq!(front.apply().await.tainted, [old.to_vec()]);
    front.renew(&control).await;
    assert_ne!(front.signers()[0], old);
    control.pass(LIFE + Duration::from_secs(1));
    until(&control, |state| state.safe).await;
    revoke(&control, intermediate, false).await.unwrap();
    let bundle = front.apply().await;
    assert_eq!((bundle.revoked, bundle.x509_authorities.len()), (vec![old.to_vec()], 1));
    assert_eq!(bundle.requires, ["revoked_authorities"]);

    let control = restarted(control).await;
    let holder = Identity::new(before, (*front.identity.bundle().unwrap()).clone());
    let key = Key::generate().unwrap();
    let request = IssueRequest { csr_der: key.anonymous_csr_der().unwrap(), ..IssueRequest::default() };
    control.issue(Some(&holder), request).await.expect_err("it hangs on what was revoked");
    assert!(control.metrics().await.contains("reason=\"revoked\"}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_revocation_is_on_record_and_asks_for_haste() {
    let root = AuthorityKind::Root;
    let control = ControlPlane::start().await;
    let mut front = Front::connect(&control).await;
    prepare(&control, root).await.unwrap();
    activate(&control, root, true).await.unwrap();
    revoke(&control, root, true).await.unwrap();
    let last = loop {
        let bundle = front.apply().await;
        if bundle.sequence == 4 {
            break bundle;
        }
    };
    assert!(last.at_once);
    let records = control.audit().await;
    let forced = records.iter().filter(|record| record.message.contains("forced while 1 proxies lag"));
    assert_eq!(forced.count(), 2);
}

/// Who copied a credential away must not be locked out in the middle of a rotation, and who copied it in the middle
/// not at its end.
#[tokio::test(flavor = "multi_thread")]
async fn operators_are_not_locked_out() {
    let root = AuthorityKind::Root;
    let control = ControlPlane::start().await;
    let first = control.kept("admin");
    let list = async |identity: &Identity| {
        let policy = control.policy_port(Some(identity));
        let mut client =
            outrigger_proto::policy::v1alpha1::policy_service_client::PolicyServiceClient::new(policy);
        client.list(ListRequest::default()).await.map(drop)
    };
    prepare(&control, root).await.unwrap();
    let middle = control.kept("admin");
    list(&first).await.unwrap();
    activate(&control, root, true).await.unwrap();
    list(&first).await.unwrap();
    list(&middle).await.unwrap();
    revoke(&control, root, true).await.unwrap();
    list(&middle).await.unwrap();
    list(&control.kept("admin")).await.unwrap();
    list(&control.kept("reader")).await.unwrap();
    list(&first).await.expect_err("it trusts nobody who is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_the_old_root_joins_for_as_long_as_that_is_trusted() {
    let root = AuthorityKind::Root;
    let control = ControlPlane::start().await;
    let tokens = [control.token("price", &[]).await, control.token("price", &[]).await];
    let join = async |token: &str| {
        let pinned = token.parse::<JoinToken>().unwrap().root_spki_sha256;
        let address = control.addresses.discovery.to_string();
        let channel = channel(&address, ServerTrust::Pinned(pinned), None).await.map_err(drop)?;
        let key = Key::generate().unwrap();
        let request = IssueRequest {
            csr_der: key.anonymous_csr_der().unwrap(),
            join_token: token.to_owned(),
            ..IssueRequest::default()
        };
        let mut client =
            outrigger_proto::identity::v1alpha1::identity_service_client::IdentityServiceClient::new(channel);
        let bundle = client.issue(request).await.map_err(drop)?.into_inner().bundle.unwrap();
        Ok::<_, ()>(bundle.x509_authorities.iter().any(|root| spki_sha256(root) == Ok(pinned)))
    };
    prepare(&control, root).await.unwrap();
    activate(&control, root, true).await.unwrap();
    assert_eq!(join(&tokens[0]).await, Ok(true), "the bundle of the answer holds the root of the token");
    assert_eq!(join(&control.token("price", &[]).await).await, Ok(true));
    revoke(&control, root, true).await.unwrap();
    assert_eq!(join(&tokens[1]).await, Err(()));
    assert_eq!(join(&control.token("price", &[]).await).await, Ok(true));
}

/// The revision of a step is one like any other: who waits for it waits for the bundle.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_bundle_is_part_of_its_revision() {
    let control = ControlPlane::start().await;
    let mut front = Front::connect(&control).await;
    let revision = apply(&control, PRICE).await;
    prepare(&control, AuthorityKind::Root).await.unwrap();
    let response = front.stream.next().await;
    assert_eq!(response.system_version_info, (revision + 1).to_string());
    assert!(!crate::mesh::converged(&control, revision + 1, 200).await.converged);
    front.stream.ack(&response).await;
    front.reports.send(applied(&[&response])).await.unwrap();
    assert!(crate::mesh::converged(&control, revision + 1, 10_000).await.converged);
    let metrics = control.metrics().await;
    assert!(
        metrics.contains("outrigger_certificate_not_after_seconds{certificate=\"other_root\"} "),
        "{metrics}"
    );
}
