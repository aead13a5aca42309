//! Who gets a certificate, and whose certificate is good for what.

use jitney_api::Workload;
use jitney_api::push::Kind;
use jitney_api::push::config::Finding;
use jitney_api::push::config::reports_client::ReportsClient;
use jitney_control_plane::identity::{Authority, CertificateRequest, Stored};
use rcgen::{CertificateParams, DnType, Issuer, KeyPair, SanType};
use tonic::Code;

use super::client::{Identity, Sidecar, hour, now};
use super::process::{Plane, TRUST_DOMAIN, workload};

/// What becomes of a stream, and in which words.
async fn told(plane: &Plane, identity: &Identity) -> String {
    let channel = match identity.connect(plane).await {
        Ok(channel) => channel,
        Err(error) => return format!("no connection: {error:?}"),
    };
    let mut sidecar = Sidecar::new("users-1");
    match sidecar.open(channel).await {
        Ok(()) => "a stream".into(),
        Err(status) => format!("{:?}: {}; {status:?}", status.code(), status.message()),
    }
}

/// The root's certificate and key, as somebody who stole them has them.
fn root(plane: &Plane) -> Stored {
    let text = std::fs::read_to_string(plane.folder.state().join("authority.json")).unwrap();
    let file: serde_json::Value = serde_json::from_str(&text).unwrap();
    Stored {
        certificate: file["roots"][0]["certificate"].as_str().unwrap().into(),
        key: file["roots"][0]["key"].as_str().unwrap().into(),
        chain: String::new(),
    }
}

/// An identity with whatever names.
fn forged(plane: &Plane, uris: &[&str]) -> Identity {
    let stored = root(plane);
    let key = KeyPair::from_pem(&stored.key).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&stored.certificate, key).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "anybody");
    params.use_authority_key_identifier_extension = true;
    let names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap()));
    params.subject_alt_names = names.collect();
    let mut identity = Identity::new();
    let signed = params.signed_by(&identity.key, &issuer).unwrap();
    identity.certificate = Some(signed.der().to_vec());
    identity
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_gives_a_certificate_and_that_what_its_workload_is_to_have() {
    let plane = Plane::start(&[]);
    let (users, identity) = Sidecar::running(&plane, "users").await;
    let policies: Vec<_> = users
        .runs
        .iter()
        .filter(|(kind, _)| *kind == Kind::Policy)
        .collect();
    assert_eq!(
        policies,
        [&(Kind::Policy, "shop/users".to_owned())],
        "and not orders'"
    );
    assert!(users.runs.contains(&(Kind::TrustBundle, TRUST_DOMAIN.to_owned())));
    let renewed = identity.sign(&plane, "").await.unwrap();
    assert_eq!(renewed.not_after - renewed.not_before, 24 * 3600 + 300);
    let trust = renewed.trust.unwrap();
    assert_eq!(trust.roots, [trust.issuer]);
    let metrics = plane.get("/metrics").body;
    for line in [
        "jitney_certificates_issued_total{result=\"token\"} 1\n",
        "jitney_certificates_issued_total{result=\"renewal\"} 1\n",
    ] {
        assert!(metrics.contains(line), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_certificate_there_is_nothing_but_signing() {
    let plane = Plane::start(&[]);
    let nobody = Identity::new();
    let refused = told(&plane, &nobody).await;
    assert!(
        refused.starts_with("Unauthenticated: the connection has no client certificate"),
        "{refused}"
    );
    let mut reports = ReportsClient::new(nobody.connect(&plane).await.unwrap());
    let refused = reports.report(Finding::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let refused = nobody.sign(&plane, "").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let metrics = plane.get("/metrics").body;
    assert!(metrics.contains("jitney_refused_total{reason=\"unauthenticated\"} 1\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_opens_no_connection() {
    let plane = Plane::start(&[]);
    let authority = Authority::load(TRUST_DOMAIN, &root(&plane)).unwrap();
    let mut identity = Identity::new();
    let request = CertificateRequest::read(&identity.request()).unwrap();
    let issued = authority
        .sign(&request, &workload("users"), now() - hour() * 25)
        .unwrap();
    identity.certificate = Some(issued.certificate);
    let refused = identity.refusal(&plane).await;
    assert!(refused.contains("CertificateExpired"), "{refused}");
    assert_ne!(told(&plane, &identity).await, "a stream");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_root_opens_no_connection() {
    let plane = Plane::start(&[]);
    let (authority, _) = Authority::generate(TRUST_DOMAIN, now()).unwrap();
    let mut identity = Identity::new();
    let request = CertificateRequest::read(&identity.request()).unwrap();
    let issued = authority.sign(&request, &workload("users"), now()).unwrap();
    identity.certificate = Some(issued.certificate);
    let refused = identity.refusal(&plane).await;
    assert!(refused.contains("fatal alert"), "{refused}");
    assert_ne!(told(&plane, &identity).await, "a stream");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_names_one_workload_of_this_mesh() {
    let plane = Plane::start(&[]);
    let users = "spiffe://example.org/ns/shop/sa/users";
    for (uris, expected) in [
        (&[users][..], "a stream"),
        (
            &["spiffe://example.com/ns/shop/sa/users"],
            "of trust domain \"example.com\"",
        ),
        (
            &[users, "spiffe://example.org/ns/shop/sa/orders"],
            "has 2 URI names",
        ),
        (&["spiffe://example.org/shop/users"], "expected spiffe://"),
    ] {
        let told = told(&plane, &forged(&plane, uris)).await;
        assert!(told.contains(expected), "{uris:?}: {told}");
        assert!(
            expected == "a stream" || told.starts_with("Unauthenticated"),
            "{told}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_for_one_key() {
    let plane = Plane::start(&[]);
    let (token, one) = (plane.folder.token("users"), Identity::new());
    one.sign(&plane, &token).await.unwrap();
    // The reply may have been lost.
    one.sign(&plane, &token).await.unwrap();
    let refused = Identity::new().sign(&plane, &token).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().contains("used before"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_has_its_time_and_its_mesh() {
    let plane = Plane::start(&[]);
    let users = workload("users");
    let late = plane
        .folder
        .tokens(TRUST_DOMAIN)
        .mint(&users, hour(), now() - hour() * 2);
    let other = plane.folder.tokens("example.com").mint(&users, hour(), now());
    let own = plane
        .folder
        .tokens(TRUST_DOMAIN)
        .mint(&Workload::control_plane(), hour(), now());
    for (token, code, expected) in [
        (late, Code::Unauthenticated, "expired"),
        (other, Code::Unauthenticated, "another trust domain"),
        ("v1.AA.AA".into(), Code::Unauthenticated, "signature"),
        ("nonsense".into(), Code::Unauthenticated, "not of the form"),
        (own, Code::PermissionDenied, "the control plane itself"),
    ] {
        let refused = Identity::new().sign(&plane, &token).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains(expected), "{refused}");
    }
}
