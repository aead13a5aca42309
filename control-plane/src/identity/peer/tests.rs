//! Certificates that name somebody, and others.

use rcgen::{CertificateParams, DnType, Issuer, KeyPair, SanType};

use super::*;
use crate::identity::{Authority, CertificateRequest};

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// A certificate with these URIs, as somebody who has the root's key could make it.
fn certificate(uris: &[&str], authority_key_id: bool) -> (Vec<u8>, Roots) {
    let roots = Roots::generate("example.org", now()).unwrap();
    let stored = serde_json::from_str::<serde_json::Value>(&roots.to_json("example.org").unwrap()).unwrap();
    let key = KeyPair::from_pem(stored["roots"][0]["key"].as_str().unwrap()).unwrap();
    let root = roots.issuing().authority.root().to_vec();
    let issuer = Issuer::from_ca_cert_der(&root.into(), key).unwrap();
    let mut params = CertificateParams::new(["example.org".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "anybody");
    params.use_authority_key_identifier_extension = authority_key_id;
    for uri in uris {
        params
            .subject_alt_names
            .push(SanType::URI((*uri).try_into().unwrap()));
    }
    let signed = params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
    (signed.der().to_vec(), roots)
}

#[track_caller]
fn check(uris: &[&str], expected: &str) {
    let (certificate, roots) = certificate(uris, true);
    let read = Peer::read(&certificate, "example.org", &roots);
    let told = read.map_or_else(|fault| fault.to_string(), |peer| peer.id.to_string());
    assert!(told.contains(expected), "{uris:?}: {told}");
}

#[test]
fn exactly_one_name_of_this_mesh() {
    let users = "spiffe://example.org/ns/shop/sa/users";
    check(&[users], users);
    check(&[], "0 URI names");
    check(&[users, "spiffe://example.org/ns/shop/sa/orders"], "2 URI names");
    check(&[users, users], "2 URI names");
    check(&["spiffe://example.com/ns/shop/sa/users"], "\"example.com\"");
    check(&["https://example.org/ns/shop/sa/users"], "expected spiffe://");
    check(&["spiffe://example.org"], "expected spiffe://");
}

#[test]
fn the_root_that_signed_is_known() {
    let roots = Roots::generate("example.org", now()).unwrap();
    let users = jitney_api::Workload {
        namespace: "shop".into(),
        account: "users".into(),
    };
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::default().serialize_request(&key).unwrap();
    let request = CertificateRequest::read(request.der()).unwrap();
    let two = roots.with_next("example.org", now()).unwrap();
    let sign = |authority: &Authority| authority.sign(&request, &users, now()).unwrap();
    for root in two.all() {
        let issued = sign(&root.authority);
        let peer = Peer::read(&issued.certificate, "example.org", &two).unwrap();
        assert_eq!((peer.root, peer.not_after), (root.id, issued.not_after));
        assert_eq!(peer.check(&two, now()), Ok(()));
        assert_eq!(peer.check(&two, issued.not_after), Err(PeerFault::Expired));
    }
    let next = sign(&two.all()[1].authority);
    let read = Peer::read(&next.certificate, "example.org", &roots);
    assert_eq!(read, Err(PeerFault::Root));
    let peer = Peer::read(&next.certificate, "example.org", &two).unwrap();
    assert_eq!(
        peer.check(&roots, now()),
        Err(PeerFault::Root),
        "it was dropped since"
    );
}

#[test]
fn who_signed_has_to_be_said() {
    let (certificate, roots) = certificate(&["spiffe://example.org/ns/shop/sa/users"], false);
    assert_eq!(
        Peer::read(&certificate, "example.org", &roots),
        Err(PeerFault::Root)
    );
    assert_eq!(
        Peer::read(b"nonsense", "example.org", &roots),
        Err(PeerFault::Unreadable)
    );
}
