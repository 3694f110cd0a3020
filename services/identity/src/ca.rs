//! The certificate authority of one installation.
//!
//! Held by the service that issues (edgecontroller, or the all-in-one process); a CA is made once and
//! its two PEM texts are stored by the caller with a precondition, never overwritten. Issuing is pure
//! computation (about 0.1 ms), so it is called from any task; `now` is passed in.
//!
//! Invariants: every certificate is for exactly one node or service; nodes may only be TLS clients;
//! nothing issued here is a CA; nothing outlives the CA or [`MAX_NODE_LIFETIME`] /
//! [`MAX_SERVICE_LIFETIME`]; a request's own wishes never reach the certificate.

use std::{fmt, net::IpAddr, str::FromStr, time::Duration};

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use skerry_common::NodeName;

use crate::{
    Credentials, IdentityError, NodeKey, ServiceName, TrustBundle, TrustDomain,
    cert::{self, parse, sha256_hex},
    csr::{self, Attribute},
    names::SERVICE_DOMAIN,
    peer::{NODE_GROUP, NODE_PREFIX, SERVICE_GROUP, trust_domain_of_ca},
    pem,
};

/// Life of a CA certificate. Ten years: it is renewed by rollover, not by surprise.
const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Certificates begin this long before they are issued, so that clocks a little behind accept them.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);

/// The CA itself begins a day earlier: it is installed once, on machines with any clock.
const CA_BACKDATE: SignedDuration = SignedDuration::from_hours(24);

/// What a node gets unless the operator chose otherwise: long enough to be without the cloud for days.
pub const DEFAULT_NODE_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// Longest life of a node's certificate. A node that is offline for longer joins again.
pub const MAX_NODE_LIFETIME: Duration = Duration::from_secs(31 * 24 * 3600);

/// What a cloud service gets: it can always reach its CA.
pub const DEFAULT_SERVICE_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Longest life of a service's certificate.
pub const MAX_SERVICE_LIFETIME: Duration = Duration::from_secs(366 * 24 * 3600);

/// Most extra names in a service's certificate; each costs bytes in every handshake.
const MAX_SANS: usize = 16;

/// Random bytes in a serial number; RFC 5280 allows 20.
const SERIAL_BYTES: usize = 16;

/// A certificate that was just issued.
#[derive(Clone, Debug)]
pub struct IssuedCertificate {
    /// The certificate, without the CA's.
    pub certificate: CertificateDer<'static>,
    /// Start of its life.
    pub not_before: Timestamp,
    /// End of its life.
    pub not_after: Timestamp,
    /// SHA-256 of its SubjectPublicKeyInfo, in hex.
    pub fingerprint: String,
}

impl IssuedCertificate {
    /// The certificate as PEM.
    pub fn pem(&self) -> String {
        pem::encode("CERTIFICATE", &self.certificate)
    }
}

/// A certificate authority: one key, one self-signed certificate, one trust domain.
pub struct Ca {
    trust_domain: TrustDomain,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    not_before: Timestamp,
    not_after: Timestamp,
    spki_hash: String,
}

impl Ca {
    /// Makes a new CA, valid from now.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`] when no key can be made.
    pub fn generate(trust_domain: &TrustDomain) -> Result<Self, IdentityError> {
        Self::generate_at(trust_domain, Timestamp::now())
    }

    /// Makes a new CA, valid from `now`.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`] when no key can be made.
    pub fn generate_at(trust_domain: &TrustDomain, now: Timestamp) -> Result<Self, IdentityError> {
        let key = KeyPair::generate().map_err(IdentityError::crypto)?;
        let hash = sha256_hex(&key.subject_public_key_info());
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        // Short, because every certificate repeats it; with a piece of the hash, so that two CAs of a
        // rollover can be told apart.
        params.distinguished_name.push(DnType::CommonName, format!("skerry-ca-{}", hash.get(..8).unwrap_or_default()));
        params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))?];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(serial()?);
        set_life(&mut params, add(now, -CA_BACKDATE), add(now, signed(CA_LIFETIME)));
        let certificate = params.self_signed(&key).map_err(IdentityError::crypto)?;
        Self::assemble(certificate.der().clone(), key)
    }

    /// Reads a CA from the texts of [`Ca::certificate_pem`] and [`Ca::key_pem`].
    ///
    /// # Errors
    /// When they cannot be parsed, do not belong together, or are not a CA made by Skerry.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, IdentityError> {
        let certificates = pem::certificates(certificate, "CA certificate")?;
        let [certificate] = certificates.as_slice() else {
            return Err(IdentityError::Malformed { what: "CA certificate" });
        };
        let key = KeyPair::from_pem(key).map_err(|_| IdentityError::Malformed { what: "CA key" })?;
        Self::assemble(certificate.clone(), key)
    }

    fn assemble(certificate: CertificateDer<'static>, key: KeyPair) -> Result<Self, IdentityError> {
        let malformed = || IdentityError::Malformed { what: "CA certificate" };
        let parsed = parse(&certificate)?;
        if !parsed.is_ca() {
            return Err(malformed());
        }
        let spki_hash = sha256_hex(parsed.public_key().raw);
        if spki_hash != sha256_hex(&key.subject_public_key_info()) {
            return Err(IdentityError::KeyMismatch);
        }
        let trust_domain = trust_domain_of_ca(&parsed)?;
        let info = cert::inspect(&certificate)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|_| malformed())?;
        Ok(Self {
            trust_domain,
            certificate,
            issuer,
            not_before: info.not_before,
            not_after: info.not_after,
            spki_hash,
        })
    }

    /// The trust domain that this CA issues for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// SHA-256 of the CA's SubjectPublicKeyInfo, in hex: the third part of a join token.
    pub fn spki_hash(&self) -> &str {
        &self.spki_hash
    }

    /// The CA's certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The CA's certificate as PEM.
    pub fn certificate_pem(&self) -> String {
        pem::encode("CERTIFICATE", &self.certificate)
    }

    /// The CA's private key as PEM. A secret: store it where only the issuer reads it.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// End of the CA's life.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// A trust bundle of this CA alone.
    ///
    /// # Errors
    /// Never for a CA that was made or read successfully.
    pub fn bundle(&self) -> Result<TrustBundle, IdentityError> {
        TrustBundle::new(vec![self.certificate.clone()])
    }

    /// Issues the certificate of one node for a request that proves its key.
    ///
    /// # Errors
    /// [`IdentityError::Csr`] when the request is refused; [`IdentityError::Lifetime`];
    /// [`IdentityError::CaNotValid`].
    pub fn issue_node(
        &self,
        csr_der: &[u8],
        node: &NodeName,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<IssuedCertificate, IdentityError> {
        let common_name = format!("{NODE_PREFIX}{node}");
        let key = csr::check(
            csr_der,
            &[(Attribute::Organization, NODE_GROUP), (Attribute::CommonName, common_name.as_str())],
        )?;
        check_lifetime(lifetime, MAX_NODE_LIFETIME)?;
        let san = vec![uri(&format!("spiffe://{}/node/{node}", self.trust_domain))?];
        let usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(&key, (NODE_GROUP, &common_name), san, usages, lifetime, now)
    }

    /// Issues the certificate of a cloud service for a request that proves its key. `sans` are further
    /// DNS names or IP addresses by which it is reached by clients that are not ours (kubectl).
    ///
    /// # Errors
    /// As [`Ca::issue_node`], and [`IdentityError::Name`] for a bad service name or SAN.
    pub fn issue_service(
        &self,
        csr_der: &[u8],
        service: &str,
        sans: &[String],
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<IssuedCertificate, IdentityError> {
        let service = ServiceName::parse(service)?;
        let common_name = service.dns_name();
        let key = csr::check(
            csr_der,
            &[(Attribute::Organization, SERVICE_GROUP), (Attribute::CommonName, common_name.as_str())],
        )?;
        check_lifetime(lifetime, MAX_SERVICE_LIFETIME)?;
        let mut names = vec![
            uri(&format!("spiffe://{}/service/{service}", self.trust_domain))?,
            SanType::DnsName(ia5(&common_name)?),
        ];
        if sans.len() > MAX_SANS {
            return Err(IdentityError::Name { what: "list of names of", value: service.to_string() });
        }
        for san in sans {
            names.push(extra_name(san)?);
        }
        let usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(&key, (SERVICE_GROUP, &common_name), names, usages, lifetime, now)
    }

    /// A new key and certificate for a service in this process.
    ///
    /// # Errors
    /// As [`Ca::issue_service`].
    pub fn service_credentials(
        &self,
        service: &str,
        sans: &[String],
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<Credentials, IdentityError> {
        let key = NodeKey::generate()?;
        let issued = self.issue_service(&key.csr()?, service, sans, lifetime, now)?;
        Credentials::new(vec![issued.certificate], key.private_key(), self.bundle()?)
    }

    /// A new key and certificate for a node in this process.
    ///
    /// # Errors
    /// As [`Ca::issue_node`].
    pub fn node_credentials(
        &self,
        node: &NodeName,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<Credentials, IdentityError> {
        let key = NodeKey::generate()?;
        let issued = self.issue_node(&key.csr()?, node, lifetime, now)?;
        Credentials::new(vec![issued.certificate], key.private_key(), self.bundle()?)
    }

    fn issue(
        &self,
        key: &rcgen::SubjectPublicKeyInfo,
        (group, common_name): (&str, &str),
        sans: Vec<SanType>,
        usages: Vec<ExtendedKeyUsagePurpose>,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<IssuedCertificate, IdentityError> {
        if now < self.not_before || now >= self.not_after {
            return Err(IdentityError::CaNotValid);
        }
        let not_before = add(now, -BACKDATE);
        let not_after = add(now, signed(lifetime)).min(self.not_after);
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.subject_alt_names = sans;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.serial_number = Some(serial()?);
        set_life(&mut params, not_before, not_after);
        let certificate = params.signed_by(key, &self.issuer).map_err(IdentityError::crypto)?.der().clone();
        let info = cert::inspect(&certificate)?;
        Ok(IssuedCertificate {
            certificate,
            not_before: info.not_before,
            not_after: info.not_after,
            fingerprint: info.fingerprint,
        })
    }
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca")
            .field("trust_domain", &self.trust_domain)
            .field("spki_hash", &self.spki_hash)
            .finish_non_exhaustive()
    }
}

fn check_lifetime(lifetime: Duration, max: Duration) -> Result<(), IdentityError> {
    // Certificates count whole seconds; a shorter life would be none.
    if lifetime.as_secs() == 0 || lifetime > max {
        return Err(IdentityError::Lifetime { seconds: lifetime.as_secs(), max: max.as_secs() });
    }
    Ok(())
}

fn extra_name(name: &str) -> Result<SanType, IdentityError> {
    if let Ok(ip) = IpAddr::from_str(name) {
        return Ok(SanType::IpAddress(ip));
    }
    let bad = || IdentityError::Name { what: "DNS name", value: name.into() };
    // Names below our own service domain identify services to our clients, so only the service's own
    // name may be there. Everything else must be an ordinary DNS name, without wildcards.
    let labels: Vec<&str> = name.split('.').collect();
    if labels.last() == Some(&SERVICE_DOMAIN) || name.len() > 253 {
        return Err(bad());
    }
    for label in labels {
        ServiceName::parse(label).map_err(|_| bad())?;
    }
    Ok(SanType::DnsName(ia5(name)?))
}

fn uri(text: &str) -> Result<SanType, IdentityError> {
    Ok(SanType::URI(ia5(text)?))
}

fn ia5(text: &str) -> Result<rcgen::string::Ia5String, IdentityError> {
    text.try_into().map_err(|_| IdentityError::Name { what: "name", value: text.into() })
}

fn serial() -> Result<SerialNumber, IdentityError> {
    let mut bytes = [0_u8; SERIAL_BYTES];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| IdentityError::crypto(std::io::Error::other("no randomness")))?;
    // Positive, and never zero at the front: some parsers refuse both.
    if let Some(first) = bytes.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    Ok(SerialNumber::from_slice(&bytes))
}

fn set_life(params: &mut CertificateParams, not_before: Timestamp, not_after: Timestamp) {
    // rcgen takes another library's time type; this is the way to it without depending on that library.
    let epoch = || rcgen::date_time_ymd(1970, 1, 1);
    let since = |at: Timestamp| Duration::from_secs(u64::try_from(at.as_second()).unwrap_or(0));
    params.not_before = epoch() + since(not_before);
    params.not_after = epoch() + since(not_after);
}

fn add(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.saturating_add(by).unwrap_or(at)
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}
