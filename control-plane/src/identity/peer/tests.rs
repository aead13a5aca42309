//! Certificates that name somebody, and others.

use rcgen::{CertificateParams, DnType, Issuer, KeyPair, SanType};

use super::*;
use crate::identity::issuer::pki::{Ca, DAY};
use crate::identity::{Authority, CertificateRequest, Following, Offer};

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

fn read(leaf: &[u8], roots: &Roots) -> Result<Peer, PeerFault> {
    Peer::read(&[leaf.into()], "example.org", roots, now())
}

#[track_caller]
fn check(uris: &[&str], expected: &str) {
    let (certificate, roots) = certificate(uris, true);
    let read = read(&certificate, &roots);
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
        let peer = read(&issued.certificate, &two).unwrap();
        assert_eq!((peer.root, peer.not_after), (root.id, issued.not_after));
        assert_eq!(peer.check(&two, now()), Ok(()));
        assert_eq!(peer.check(&two, issued.not_after), Err(PeerFault::Expired));
    }
    let next = sign(&two.all()[1].authority);
    assert_eq!(read(&next.certificate, &roots), Err(PeerFault::Root));
    let peer = read(&next.certificate, &two).unwrap();
    assert_eq!(
        peer.check(&roots, now()),
        Err(PeerFault::Root),
        "it was dropped since"
    );
}

#[test]
fn who_signed_has_to_be_said() {
    let (certificate, roots) = certificate(&["spiffe://example.org/ns/shop/sa/users"], false);
    assert_eq!(read(&certificate, &roots), Err(PeerFault::Root));
    assert_eq!(read(b"nonsense", &roots), Err(PeerFault::Unreadable));
}

/// What a sidecar shows that got its certificate from the issuing root.
fn shown(roots: &Roots) -> Vec<CertificateDer<'static>> {
    let request = CertificateParams::default();
    let request = request.serialize_request(&KeyPair::generate().unwrap()).unwrap();
    let request = CertificateRequest::read(request.der()).unwrap();
    let issued = roots
        .issuing()
        .authority
        .sign(&request, &"shop/users".parse().unwrap(), now());
    let issued = issued.unwrap();
    [issued.certificate]
        .into_iter()
        .chain(issued.chain)
        .map(CertificateDer::from)
        .collect()
}

#[test]
fn the_root_is_known_whoever_signed_for_it_and_whatever_is_shown_beside() {
    let [root, other] = ["root", "other"].map(Ca::root);
    let (middle, stranger) = (root.issue("middle"), other.issue("issuing"));
    let issuing = middle.issue("issuing");
    let mut files = issuing.files(&root);
    files.certificate.push_str(&middle.pem());
    let offer = Offer::read(&files, "example.org", now()).unwrap();
    let roots = Roots::offered("example.org", offer.stored(), now()).unwrap();
    let mut chain = shown(&roots);
    assert_eq!(chain.len(), 3);
    // The root is not shown, and one who shows it is known as well.
    let both = roots
        .following("example.org", other.offer(&other).stored(), now())
        .unwrap();
    let Following::Changed(both) = both else {
        panic!("another root changes nothing");
    };
    for more in [&root, &stranger] {
        chain.push(more.certificate.der().clone());
        for roots in [&roots, &both] {
            let peer = Peer::read(&chain, "example.org", roots, now()).unwrap();
            assert_eq!(peer.root, roots.issuing().id);
        }
    }
    let late = now() + 40 * DAY;
    assert_eq!(
        Peer::read(&chain, "example.org", &both, late),
        Err(PeerFault::Root)
    );
    let strangers = Roots::offered("example.org", other.offer(&other).stored(), now()).unwrap();
    assert_eq!(
        Peer::read(&chain, "example.org", &strangers, now()),
        Err(PeerFault::Root)
    );
    assert_eq!(
        Peer::read(&[], "example.org", &both, now()),
        Err(PeerFault::Unreadable)
    );
    assert_eq!(
        Peer::read(&chain[..1], "example.org", &both, now()),
        Err(PeerFault::Root)
    );
}

#[test]
fn a_root_that_was_renewed_with_its_key_is_another_root() {
    let root = Ca::root("root");
    let renewed = Ca {
        certificate: root.params.self_signed(&root.key).unwrap(),
        key: KeyPair::from_pem(&root.key.serialize_pem()).unwrap(),
        params: root.params.clone(),
    };
    let roots = Roots::offered("example.org", root.offer(&root).stored(), now()).unwrap();
    let chain = shown(&roots);
    let read = |roots: &Roots| Peer::read(&chain, "example.org", roots, now()).unwrap().root;
    assert_eq!(read(&roots), roots.issuing().id);
    let both = roots
        .following("example.org", renewed.offer(&renewed).stored(), now())
        .unwrap();
    let Following::Changed(both) = both else {
        panic!("it is the same to it");
    };
    assert_eq!(read(&both), roots.issuing().id);
    let both = both.switched(now()).unwrap();
    assert_eq!(
        read(&both),
        both.issuing().id,
        "the one before may be dropped without anybody's loss"
    );
}
