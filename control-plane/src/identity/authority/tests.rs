//! Certificates as a verifier reads them.

use std::time::UNIX_EPOCH;

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::*;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn workload() -> Workload {
    Workload {
        namespace: "shop".into(),
        account: "users".into(),
    }
}

/// A request for a key, which asks for other names, and to be an authority itself.
fn request(key: &KeyPair) -> CertificateRequest {
    CertificateRequest::read(&encoded(key)).unwrap()
}

fn encoded(key: &KeyPair) -> Vec<u8> {
    let mut params = CertificateParams::new(["admin.example.org".to_owned()]).unwrap();
    let name = "spiffe://example.org/ns/shop/sa/admin".try_into().unwrap();
    params.subject_alt_names.push(SanType::URI(name));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.serialize_request(key).unwrap().der().to_vec()
}

fn names<'a>(certificate: &'a X509Certificate<'_>) -> Vec<&'a str> {
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    let text = |name: &'a GeneralName<'_>| {
        let GeneralName::URI(uri) = name else {
            panic!("{name:?}");
        };
        *uri
    };
    names.value.general_names.iter().map(text).collect()
}

#[test]
fn a_certificate_names_the_workload_and_nothing_that_was_asked_for() {
    let (authority, _) = Authority::generate("example.org", now()).unwrap();
    let key = KeyPair::generate().unwrap();
    let issued = authority.sign(&request(&key), &workload(), now()).unwrap();
    assert_eq!(issued.id.to_string(), "spiffe://example.org/ns/shop/sa/users");
    let (_, certificate) = X509Certificate::from_der(&issued.certificate).unwrap();
    assert_eq!(names(&certificate), ["spiffe://example.org/ns/shop/sa/users"]);
    assert!(!certificate.is_ca());
    let usage = certificate.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && !usage.key_cert_sign());
    let validity = certificate.validity();
    assert_eq!(validity.not_after.timestamp(), 1_800_000_000 + 24 * 3600);
    assert_eq!(validity.not_before.timestamp(), 1_800_000_000 - 300);
    let (_, root) = X509Certificate::from_der(authority.root()).unwrap();
    assert!(root.is_ca());
    assert_eq!(names(&root), ["spiffe://example.org"]);
    certificate.verify_signature(Some(root.public_key())).unwrap();
    assert_eq!(
        certificate.public_key().subject_public_key.data.as_ref(),
        rcgen::PublicKeyData::der_bytes(&key)
    );
}

#[test]
fn a_stored_authority_signs_with_the_same_root() {
    let (authority, stored) = Authority::generate("example.org", now()).unwrap();
    let again = Authority::load("example.org", &stored).unwrap();
    assert_eq!(authority.root(), again.root());
    let key = KeyPair::generate().unwrap();
    let issued = again.sign(&request(&key), &workload(), now()).unwrap();
    let (_, certificate) = X509Certificate::from_der(&issued.certificate).unwrap();
    let (_, root) = X509Certificate::from_der(authority.root()).unwrap();
    certificate.verify_signature(Some(root.public_key())).unwrap();
    assert_eq!(certificate.issuer(), root.subject());
    assert!(!format!("{stored:?}").contains("PRIVATE"));
}

#[test]
fn who_does_not_have_the_key_gets_no_certificate() {
    let mut request = encoded(&KeyPair::generate().unwrap());
    let last = request.len() - 1;
    request[last] ^= 1;
    let error = CertificateRequest::read(&request).unwrap_err();
    assert!(matches!(error, AuthorityError::Request(_)), "{error}");
    for nonsense in [&b""[..], b"no request", &[0x30, 0x80]] {
        assert!(CertificateRequest::read(nonsense).is_err());
    }
}

#[test]
fn what_cannot_be_used_is_told() {
    let error = Authority::generate("Example.org", now()).unwrap_err();
    assert!(error.to_string().contains("\"Example.org\""), "{error}");
    let (_, stored) = Authority::generate("example.org", now()).unwrap();
    let broken = Stored {
        key: "no key".into(),
        ..stored.clone()
    };
    assert!(Authority::load("example.org", &broken).is_err());
    let broken = Stored {
        certificate: "no certificate".into(),
        ..stored
    };
    assert!(Authority::load("example.org", &broken).is_err());
}
