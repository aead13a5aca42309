//! What is taken, and what is refused in which words.

use aws_lc_rs::agreement;
use aws_lc_rs::encoding::{AsDer as _, EcPrivateKeyRfc5915Der};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, SignatureAlgorithm,
};

use super::pki::{Ca, now};
use super::*;

fn read(files: &OfferFiles) -> Result<Offer, OfferFault> {
    Offer::read(files, "example.org", now())
}

#[track_caller]
fn refused(files: &OfferFiles, expected: &str) {
    let told = read(files).map(|_| ()).unwrap_err().to_string();
    assert!(told.starts_with(expected), "{told}");
}

#[track_caller]
fn signs(files: &OfferFiles) {
    let offer = read(files).unwrap_or_else(|error| panic!("{error}"));
    let authority = Authority::load("example.org", offer.stored()).unwrap();
    assert!(tried(&authority, now()).is_ok());
}

/// The key inside PKCS #8: what cert-manager writes, unless it is asked for PKCS #8.
fn pkcs1(key: &KeyPair) -> String {
    let der = key.serialize_der();
    // An octet string of more than 255 bytes.
    let begin = der.windows(2).position(|two| two == [0x04, 0x82]).unwrap();
    pem("RSA PRIVATE KEY", &der[begin + 4..])
}

#[test]
fn keys_of_every_kind_and_form_sign() {
    let root = Ca::root("root");
    let kinds: [&SignatureAlgorithm; 4] = [
        &PKCS_RSA_SHA256,
        &PKCS_ECDSA_P384_SHA384,
        &PKCS_ED25519,
        &rcgen::PKCS_ECDSA_P256_SHA256,
    ];
    for kind in kinds {
        let issuing = root.issue_with("issuing", KeyPair::generate_for(kind).unwrap(), |_| {});
        signs(&issuing.files(&root));
    }
}

#[test]
fn keys_as_cert_manager_writes_them_sign() {
    let root = Ca::root("root");
    let rsa = root.issue_with(
        "issuing",
        KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap(),
        |_| {},
    );
    let mut files = rsa.files(&root);
    files.key = pkcs1(&rsa.key);
    signs(&files);
    // SEC 1, as `openssl ecparam -genkey` writes it: the curve is a section of its own before.
    let key = agreement::PrivateKey::generate(&agreement::ECDH_P256).unwrap();
    let der: EcPrivateKeyRfc5915Der<'_> = key.as_der().unwrap();
    let curve = pem("EC PARAMETERS", &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7]);
    let sec1 = curve + &pem("EC PRIVATE KEY", der.as_ref());
    let key = PrivateKeyDer::from_pem_slice(sec1.as_bytes()).unwrap();
    let key = KeyPair::try_from(&key).unwrap();
    let ec = root.issue_with("issuing", key, |_| {});
    let files = OfferFiles {
        key: sec1,
        ..ec.files(&root)
    };
    signs(&files);
}

#[test]
fn what_is_between_is_shown_and_the_root_is_not() {
    let root = Ca::root("root");
    let middle = root.issue("middle");
    let issuing = middle.issue("issuing");
    let mut files = issuing.files(&root);
    refused(
        &files,
        "ca.crt: none of its certificates (CN=root) vouches for CN=issuing: ",
    );
    let other = Ca::root("other");
    for (certificates, roots) in [
        (vec![&issuing, &middle], vec![&root]),
        (vec![&issuing, &middle, &root], vec![&root]),
        (vec![&issuing, &middle, &issuing], vec![&other, &root]),
    ] {
        let pem = |all: &[&Ca]| all.iter().map(|one| one.pem()).collect::<String>();
        (files.certificate, files.roots) = (pem(&certificates), pem(&roots));
        let offer = read(&files).unwrap();
        assert_eq!(offer.stored().certificate, root.pem());
        assert_eq!(offer.stored().chain, pem(&[&issuing, &middle]));
        assert_eq!(offer.signer(), "CN=issuing");
        signs(&files);
    }
}

#[test]
fn a_root_that_issues_itself_needs_nobody_between() {
    let root = Ca::root("root");
    let offer = root.offer(&root);
    assert_eq!(offer.stored().chain, "");
    let authority = Authority::load("example.org", offer.stored()).unwrap();
    assert_eq!((authority.signer(), authority.life()), (None, offer.life()));
}

#[test]
fn files_that_are_not_what_they_should_be() {
    let root = Ca::root("root");
    let files = root.issue("issuing").files(&root);
    let with = |change: &dyn Fn(&mut OfferFiles)| {
        let mut files = files.clone();
        change(&mut files);
        files
    };
    let cut = |text: &str| text[..text.len() / 2].to_owned();
    for (files, expected) in [
        (
            with(&|files| files.certificate.clear()),
            "tls.crt: found none, expected one certificate",
        ),
        (
            with(&|files| files.certificate = cut(&files.certificate)),
            "tls.crt: found ",
        ),
        (
            with(&|files| files.certificate = pem(SECTION, b"no")),
            "tls.crt: found a section (number 1) that is no",
        ),
        (
            with(&|files| files.roots.clear()),
            "ca.crt: found none, expected one certificate",
        ),
        (
            with(&|files| files.key.clear()),
            "tls.key: found none, expected a private key",
        ),
        (
            with(&|files| files.key = files.certificate.clone()),
            "tls.key: found none, expected a private key",
        ),
        (
            with(&|files| files.key = pem("ENCRYPTED PRIVATE KEY", b"no")),
            "tls.key: found an encrypted one",
        ),
        (
            with(&|files| files.key = pem("PRIVATE KEY", b"no")),
            "tls.key: it holds a key that cannot sign here",
        ),
        (
            with(&|files| files.key = root.key.serialize_pem()),
            "tls.key: it is not the key of the first certificate",
        ),
        (
            with(&|files| files.roots = Ca::root("other").pem()),
            "ca.crt: none of its certificates (CN=other) vouches",
        ),
        // A stranger of the same name.
        (
            with(&|files| files.roots = Ca::root("root").pem()),
            "ca.crt: none of its certificates (CN=root) vouches",
        ),
    ] {
        refused(&files, expected);
    }
    let many: String = (0..=MOST).map(|n| root.issue(&n.to_string()).pem()).collect();
    refused(
        &with(&|files| files.certificate.push_str(&many)),
        "tls.crt: found more than 8, expected",
    );
}

#[test]
fn certificates_that_may_not_sign_or_whose_time_it_is_not() {
    let root = Ca::root("root");
    let at = |seconds: i64| OffsetDateTime::from(now()) + time::Duration::seconds(seconds);
    let with = |change: &dyn Fn(&mut CertificateParams)| {
        let key = KeyPair::generate().unwrap();
        root.issue_with("issuing", key, |params| change(params))
            .files(&root)
    };
    for (files, expected) in [
        (
            with(&|params| params.is_ca = IsCa::NoCa),
            "tls.crt: CN=issuing may not sign certificates: issue it with isCA",
        ),
        (
            with(&|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature]),
            "tls.crt: CN=issuing may not sign certificates: issue it with isCA: true, and with the usage \"cert sign\"",
        ),
        (
            with(&|params| params.not_after = at(0)),
            "tls.crt: CN=issuing has expired at 2027-01-15T08:00:00Z: have it renewed",
        ),
        (
            with(&|params| params.not_before = at(1)),
            "tls.crt: CN=issuing is not good before 2027-01-15T08:00:01Z: ",
        ),
    ] {
        refused(&files, expected);
    }
    let old = Ca::root_with("old", |params| params.not_after = at(0));
    refused(
        &old.issue("issuing").files(&old),
        "ca.crt: CN=old has expired at ",
    );
    let early = Ca::root_with("early", |params| params.not_before = at(60));
    refused(
        &early.issue("issuing").files(&early),
        "ca.crt: CN=early is not good before ",
    );
}

#[test]
fn chains_that_let_no_workload_through() {
    let root = Ca::root("root");
    let issue = |by: &Ca, change: &dyn Fn(&mut CertificateParams)| {
        by.issue_with("issuing", KeyPair::generate().unwrap(), |params| change(params))
    };
    let narrow = root.issue_with("narrow", KeyPair::generate().unwrap(), |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    });
    signs(&narrow.files(&root));
    let mut files = issue(&narrow, &|_| {}).files(&root);
    files.certificate.push_str(&narrow.pem());
    refused(
        &files,
        "tls.crt: sidecars would take nothing that CN=issuing signs: PathLenConstraintViolated: a path length leaves",
    );
    let constrained = issue(&root, &|params| {
        // Only URIs of example.com (RFC 5280 section 4.2.1.10).
        let permitted = [&[0x30, 17, 0xa0, 15, 0x30, 13, 0x86, 11][..], b"example.com"].concat();
        let extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], permitted);
        params.custom_extensions.push(extension);
    });
    let told = read(&constrained.files(&root))
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert!(
        told.contains("NameConstraintViolation: name constraints do not let"),
        "{told}"
    );
    for usage in [
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ] {
        let one_end = issue(&root, &|params| params.extended_key_usages = vec![usage.clone()]);
        let told = read(&one_end.files(&root)).map(|_| ()).unwrap_err().to_string();
        assert!(
            told.contains("issue it without extended key usages, or"),
            "{told}"
        );
    }
    let both = issue(&root, &|params| {
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
    });
    signs(&both.files(&root));
}

#[test]
fn subjects_are_repeated_as_they_are_or_refused() {
    let root = Ca::root("root");
    let named = |names: &[(DnType, &str)]| {
        root.issue_with("issuing", KeyPair::generate().unwrap(), |params| {
            params.distinguished_name = DistinguishedName::new();
            for (kind, name) in names {
                params.distinguished_name.push(kind.clone(), *name);
            }
        })
        .files(&root)
    };
    signs(&named(&[
        (DnType::OrganizationName, "Ex, Inc. ü"),
        (DnType::CommonName, "a=b"),
    ]));
    signs(&named(&[]));
    let domain = |last| DnType::CustomDnType(vec![0, 9, 2342, 19_200_300, 100, 1, last]);
    signs(&named(&[(domain(25), "example")]));
}

#[test]
fn nothing_of_the_key_is_shown() {
    let root = Ca::root("root");
    let files = root.files(&root);
    let shown = format!("{:?} {files:?}", root.offer(&root));
    assert!(!shown.contains("PRIVATE") && shown.contains("CN=root"), "{shown}");
}
