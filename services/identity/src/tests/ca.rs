//! What the CA refuses, and that what it issues is never more than policy allows.

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType, SignatureAlgorithm,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::support::*;
use crate::{Ca, CsrError, Identity, IdentityError, MAX_NODE_LIFETIME, NodeKey, TrustDomain, csr::MAX_CSR, inspect};

/// Requests with keys that are too weak or odd, made with another tool.
const WEAK: [(&str, &str); 5] = [
    (
        "RSA 1024",
        "MIIBPzCBqQIBADAAMIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQC/EtRlkYNAWyJeMV25F1Y7ln+DHMv9ZqjLj/C/onwcyjbrjVnoCdTCGHKVEZcvqnQ+Muy43z//m17uNeSK8+ntzg/lfb3z0jpv+vKs0QYl0QdcQXztv/AVqQtD3nRSUn5IgFWYcVxGLXjv6rVy32SBoO5rEkVpfgSmHEkAvIx5cQIDAQABoAAwDQYJKoZIhvcNAQELBQADgYEAlC3xsuc7Vz+VUdn9pMkr/tY/1XjtVCsMjcGUsUPHlsYVWmFm+Hlw01L7MPg9rJXZxQYZwgs4FIUIZEJrTtAsgOiO08Bq0/VDpa/zV3Lj2BodJitRbfTs408Oez48jy5YQrJ/JcdwpOrJAI1UJ/ok1FelJ8jvxd98xT2hqrqHxYM=",
    ),
    (
        "P-224",
        "MIGnMFcCAQAwADBOMBAGByqGSM49AgEGBSuBBAAhAzoABLxAx7ugC+qxaR5JG1Gl1FhhgAey8OjkZCuZrs9h3ERuY0MojqHBWbHZ8NdG8nqKe2cvdUEH5MWVoAAwCgYIKoZIzj0EAwIDQAAwPQIcdz1h6jvLBab8Fys1mS9C6tWlN61vYEh70ZUXRAIdAO29Wq4R7FVJxC+wMDVDQ4a6hcte2KYNwcu/c0U=",
    ),
    (
        "P-521",
        "MIIBQzCBpQIBADAAMIGbMBAGByqGSM49AgEGBSuBBAAjA4GGAAQAw2sG0CsC7dPxt849FZJfiS+LH4YKX7VGI7Ob1Zf8Nch8XvGKLhyVwGy+Em6g56gs7oQe+fkK3iY6jroDWMrQuh0BnjiYwGzab9CRXRAVSkbGVHFuL3jTiWzWea6j62I2yeXO4lt7NornE51tQ9E0I0SxcdLlig5q8fOI68yiZ7DzdQ+gADAKBggqhkjOPQQDAgOBjAAwgYgCQgDoVsWN/ErPvjUzuT1kz4khtno7u3oS1af/ug0kd4FHwJcyX8hScFUh35W3Km9p6dmD7Q4/mQ4qPM58/tTvbnUK3gJCALfbT1BBmeBI1ibCeqclciXUfx6fteeodPh+G9j2Hl7D94q6pgJv8Uw54FKHQiNPv70CoMfXpZWFMldPoPg+gHsQ",
    ),
    (
        "secp256k1",
        "MIG2MF8CAQAwADBWMBAGByqGSM49AgEGBSuBBAAKA0IABDpXPQJXUINZ484/Mh0uSGA71UyGIkldPNiHeC+aK23TXH6EXkul6AaZhkN7s9G+aGfRwL3w90wByi5rXG9qxK6gADAKBggqhkjOPQQDAgNHADBEAiAlq7v5Xg4TPsXJhdQ+Y4B+ci3kkzfXj0ALM14m0yRupwIgALEdFQg95S6Kh4YXpKDFdjzOlnH1gir6Fid2zTMi11s=",
    ),
    (
        "explicit curve",
        "MIIBsDCCAVYCAQAwADCCAUswggEDBgcqhkjOPQIBMIH3AgEBMCwGByqGSM49AQECIQD/////AAAAAQAAAAAAAAAAAAAAAP///////////////zBbBCD/////AAAAAQAAAAAAAAAAAAAAAP///////////////AQgWsY12Ko6k+ez671VdpiGvGUdBrDMU7D2O848PifSYEsDFQDEnTYIhucEk2pmeOETnSa3gZ9+kARBBGsX0fLhLEJH+Lzm5WOkQPJ3A32BLeszoPShOUXYmMKWT+NC4v4af5uO5+tKfA+eFivOM1drMV7Oy7ZAaDe/UfUCIQD/////AAAAAP//////////vOb6racXnoTzucrC/GMlUQIBAQNCAAQ4dZKDXQOk5wPufFzYFfexi1p6npcaVqyDMn/37b3JrOXqPNJf6VezsppB7v6karMkMW6Vtr/Io9Pvvh8B/o8YoAAwCgYIKoZIzj0EAwIDSAAwRQIgdpROtTVh5P4LvHUoLxbciCFV2b8tiw88e404G9z7OZICIQDCNAMNKWeOH6HXncT5rAQrMCk823L4rynGosjtyu0IpA==",
    ),
];

/// A P-256 request signed over SHA-1.
const SHA1: &str = "MIG5MGICAQAwADBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABDTNPp+4M6oVpz23tfKFV8vEl0uueo1BkbjplJ/5TUZyxlDqJ4/Icg3Jq7DGLmFeTrd8uIedWvmTKxgCUvKyHR+gADAJBgcqhkjOPQQBA0gAMEUCIFPLveU1DOkZhNBGhzPx4op/438qZiq3tLThEV5NDnydAiEAw0fUXl+pWaec9VHn1lFxRMknXWoZngpb8Dtd0AiP0p0=";

fn csr_with(algorithm: &'static SignatureAlgorithm, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    change(&mut params);
    params.serialize_request(&KeyPair::generate_for(algorithm).unwrap()).unwrap().der().to_vec()
}

fn csr(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    csr_with(&PKCS_ECDSA_P256_SHA256, change)
}

fn refusal(ca: &Ca, csr: &[u8]) -> CsrError {
    let as_service = ca.issue_service(csr, "cloudhub", &[], DAY, now());
    let as_node = ca.issue_node(csr, &node("edge-1"), DAY, now());
    match (as_node, as_service) {
        (Err(IdentityError::Csr(refused)), Err(IdentityError::Csr(_))) => refused,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_request_that_asks_for_a_subject_is_refused() {
    let ca = ca();
    for (kind, value) in [
        (DnType::OrganizationName, "system:masters"),
        (DnType::OrganizationName, "system:nodes"),
        (DnType::CommonName, "system:node:edge-2"),
        (DnType::CommonName, "cluster-admin"),
        (DnType::CountryName, "XX"),
    ] {
        assert_eq!(refusal(&ca, &csr(|p| p.distinguished_name.push(kind.clone(), value))), CsrError::Subject);
    }
    let both = csr(|p| {
        p.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        p.distinguished_name.push(DnType::CommonName, "system:node:edge-2");
    });
    assert_eq!(refusal(&ca, &both), CsrError::Subject);
}

#[test]
fn a_request_for_exactly_our_own_subject_is_accepted() {
    let request = csr(|p| {
        p.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        p.distinguished_name.push(DnType::CommonName, "system:node:edge-1");
    });
    let ca = ca();
    assert!(ca.issue_node(&request, &node("edge-1"), DAY, now()).is_ok());
    assert!(ca.issue_node(&request, &node("edge-2"), DAY, now()).is_err(), "the name of another node");
}

#[test]
fn a_request_that_asks_for_names_usages_or_to_be_a_ca_is_refused() {
    let ca = ca();
    let dns = SanType::DnsName("cloudhub.skerry".try_into().unwrap());
    let uri = SanType::URI("spiffe://test.example/node/edge-2".try_into().unwrap());
    let own = SanType::URI("spiffe://test.example/node/edge-1".try_into().unwrap());
    for request in [
        csr(|p| p.subject_alt_names = vec![dns]),
        csr(|p| p.subject_alt_names = vec![uri]),
        csr(|p| p.subject_alt_names = vec![own]),
        csr(|p| p.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())]),
        csr(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        csr(|p| p.is_ca = IsCa::ExplicitNoCa),
        csr(|p| p.key_usages = vec![KeyUsagePurpose::KeyCertSign]),
        csr(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
        csr(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
    ] {
        assert_eq!(refusal(&ca, &request), CsrError::Extensions);
    }
}

#[test]
fn weak_and_odd_keys_are_refused() {
    let ca = ca();
    for (name, text) in WEAK {
        assert_eq!(refusal(&ca, &STANDARD.decode(text).unwrap()), CsrError::WeakKey, "{name}");
    }
    assert_eq!(refusal(&ca, &csr_with(&PKCS_ED25519, |_| {})), CsrError::WeakKey);
    assert_eq!(refusal(&ca, &STANDARD.decode(SHA1).unwrap()), CsrError::Signature);
    assert!(ca.issue_node(&csr_with(&PKCS_ECDSA_P384_SHA384, |_| {}), &node("edge-1"), DAY, now()).is_ok());
}

#[test]
fn possession_of_the_key_must_be_proved() {
    let ca = ca();
    let (mine, other) = (NodeKey::generate().unwrap().csr().unwrap(), NodeKey::generate().unwrap().csr().unwrap());
    let mut forged = mine.clone();
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(refusal(&ca, &forged), CsrError::Signature);
    // The key of one request under the signature of another.
    let key = |csr: &[u8]| {
        let at = csr.windows(2).position(|w| w == [0x00, 0x04]).unwrap() + 2;
        at..at + 64
    };
    let mut swapped = mine.clone();
    let (from, to) = (key(&other), key(&mine));
    swapped[to].copy_from_slice(&other[from]);
    assert_eq!(refusal(&ca, &swapped), CsrError::Signature);
}

#[test]
fn size_and_form_are_checked_first() {
    let ca = ca();
    let good = NodeKey::generate().unwrap().csr().unwrap();
    assert!(good.len() < 256, "an honest request has {} bytes", good.len());
    for bad in [vec![], vec![0x30], vec![0; 100], good[..good.len() - 1].to_vec(), [&good[..], &[0]].concat()] {
        assert_eq!(refusal(&ca, &bad), CsrError::Malformed);
    }
    assert_eq!(refusal(&ca, &vec![0; MAX_CSR + 1]), CsrError::TooLarge { size: MAX_CSR + 1, max: MAX_CSR });
}

#[test]
fn a_node_certificate_is_for_one_node_and_for_clients_only() {
    let ca = ca();
    let key = NodeKey::generate().unwrap();
    let issued = ca.issue_node(&key.csr().unwrap(), &node("edge-1"), DAY, now()).unwrap();
    let (_, certificate) = X509Certificate::from_der(&issued.certificate).unwrap();
    assert_eq!(certificate.subject().to_string(), "O=system:nodes, CN=system:node:edge-1");
    assert!(!certificate.is_ca());
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth && !usage.any && usage.other.is_empty());
    let usage = certificate.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign());
    let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(*names, [GeneralName::URI("spiffe://test.example/node/edge-1")]);
    assert_eq!(issued.fingerprint, key.fingerprint());
    assert_eq!(
        Identity::from_peer_certificates(&[issued.certificate], &domain()).unwrap(),
        Identity::Node(node("edge-1"))
    );
}

#[test]
fn a_service_certificate_names_the_service_and_what_was_configured() {
    let ca = ca();
    let sans = ["hub.example.org".to_owned(), "10.0.0.1".to_owned(), "::1".to_owned()];
    let credentials = ca.service_credentials("cloudhub", &sans, DAY, now()).unwrap();
    let (_, certificate) = X509Certificate::from_der(&credentials.chain()[0]).unwrap();
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && usage.server_auth && !usage.any);
    assert!(!certificate.is_ca());
    let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(names.len(), 5);
    for bad in ["edgecontroller.skerry", "skerry", "*.example.org", "a b", "", "a..b", "x/y", "Example.org"] {
        let refused = ca.service_credentials("cloudhub", &[bad.to_owned()], DAY, now());
        assert!(matches!(refused, Err(IdentityError::Name { .. })), "{bad:?}");
    }
    for bad in ["", "a/b", "cloudhub.skerry", "node/edge-1"] {
        assert!(matches!(ca.service_credentials(bad, &[], DAY, now()), Err(IdentityError::Name { .. })), "{bad:?}");
    }
}

#[test]
fn lives_are_bounded() {
    let ca = ca();
    let csr = NodeKey::generate().unwrap().csr().unwrap();
    let issue = |lifetime, at| ca.issue_node(&csr, &node("edge-1"), lifetime, at);
    assert!(matches!(issue(std::time::Duration::ZERO, now()), Err(IdentityError::Lifetime { .. })));
    assert!(matches!(issue(MAX_NODE_LIFETIME + DAY, now()), Err(IdentityError::Lifetime { .. })));
    let almost = ca.not_after() - hours(1);
    assert_eq!(issue(DAY, almost).unwrap().not_after, ca.not_after(), "never outlives the CA");
    assert!(matches!(issue(DAY, ca.not_after()), Err(IdentityError::CaNotValid)));
    assert!(matches!(issue(DAY, Timestamp::UNIX_EPOCH), Err(IdentityError::CaNotValid)));
    let at = now();
    let issued = issue(DAY, at).unwrap();
    assert_eq!(issued.not_after.as_second() - at.as_second(), 24 * 3600);
    assert_eq!(at.as_second() - issued.not_before.as_second(), 300);
}

#[test]
fn a_ca_survives_its_texts_and_refuses_a_foreign_key() {
    let (ca, other) = (ca(), ca());
    let read = Ca::from_pem(&ca.certificate_pem(), &ca.key_pem()).unwrap();
    assert_eq!((read.spki_hash(), read.trust_domain()), (ca.spki_hash(), &domain()));
    let credentials = read.node_credentials(&node("edge-1"), DAY, now()).unwrap();
    assert_eq!(credentials.validate(&domain(), now()).unwrap(), Identity::Node(node("edge-1")));
    assert!(ca.bundle().unwrap().contains_key(ca.spki_hash()));
    assert!(matches!(Ca::from_pem(&ca.certificate_pem(), &other.key_pem()), Err(IdentityError::KeyMismatch)));
    assert!(Ca::from_pem("", &ca.key_pem()).is_err());
    assert!(Ca::from_pem(&ca.certificate_pem(), "").is_err());
    let leaf = credentials.chain_pem();
    assert!(Ca::from_pem(&leaf, &credentials.key_pem()).is_err(), "a node is no CA");
    assert!(!format!("{ca:?}").contains("PRIVATE"));
}

#[test]
fn identities_that_break_a_rule_are_refused() {
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let certificate = |names: Vec<SanType>, common_names: &[&str]| {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for name in common_names {
            params.distinguished_name.push(DnType::CommonName, *name);
        }
        params.subject_alt_names = names;
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    };
    let read = |names: Vec<SanType>, common_name: &str| {
        Identity::from_peer_certificates(&[certificate(names, &[common_name])], &domain())
    };
    assert!(read(vec![uri("spiffe://test.example/node/a")], "system:node:a").is_ok());
    for (names, common_name) in [
        (vec![], "system:node:a"),
        (vec![uri("spiffe://test.example/node/a"), uri("spiffe://test.example/node/b")], "system:node:a"),
        (vec![uri("spiffe://test.example/node/a"), uri("https://example.org")], "system:node:a"),
        (vec![uri("https://test.example/node/a")], "system:node:a"),
        (vec![uri("spiffe://test.example/node/a")], "system:node:b"),
        (vec![uri("spiffe://test.example/node/a")], "a"),
        (vec![uri("spiffe://test.example/node/a/b")], "system:node:a/b"),
        (vec![uri("spiffe://test.example/node/../a")], "system:node:../a"),
        (vec![uri("spiffe://test.example/node/")], "system:node:"),
        (vec![uri("spiffe://test.example/pod/a")], "system:node:a"),
        (vec![uri("spiffe://test.example")], "system:node:a"),
        (vec![uri("spiffe://user@test.example/node/a")], "system:node:a"),
        (vec![uri("SPIFFE://test.example/node/a")], "system:node:a"),
        (vec![uri("spiffe://test.example/service/a.b")], "a.b.skerry"),
    ] {
        let read = read(names.clone(), common_name);
        assert!(
            matches!(read, Err(IdentityError::NoIdentity { .. } | IdentityError::Name { .. })),
            "{names:?}: {read:?}"
        );
    }
    let other = TrustDomain::parse("other.example").unwrap();
    let leaf = certificate(vec![uri("spiffe://test.example/node/a")], &["system:node:a"]);
    let read = Identity::from_peer_certificates(std::slice::from_ref(&leaf), &other);
    assert!(matches!(read, Err(IdentityError::TrustDomain { .. })));
    assert!(Identity::from_peer_certificates(&[], &domain()).is_err());
    assert!(inspect(&leaf).is_ok() && inspect(b"nonsense").is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// No change of an honest request's bytes gets a certificate for another key, and none panics.
    #[test]
    fn no_mutated_request_gets_a_certificate_for_another_key(
        at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>(), truncate in any::<bool>(),
    ) {
        let ca = ca();
        let key = NodeKey::generate().unwrap();
        let mut csr = key.csr().unwrap();
        let at = at.index(csr.len());
        csr[at] = byte;
        if truncate {
            csr.truncate(cut.index(csr.len()));
        }
        if let Ok(issued) = ca.issue_node(&csr, &node("edge-1"), DAY, now()) {
            prop_assert_eq!(issued.fingerprint, key.fingerprint());
        }
    }

    /// Arbitrary bytes are refused without a panic.
    #[test]
    fn nonsense_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = refusal(&ca(), &bytes);
        prop_assert!(inspect(&bytes).is_err());
    }
}
