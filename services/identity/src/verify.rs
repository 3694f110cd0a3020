//! The verifiers that TLS asks during a handshake. Each wraps rustls' own webpki verifier and only
//! narrows it: nothing is accepted here that webpki refuses.
//!
//! What is added: the SPIFFE identity must be there, in our trust domain, and (for servers) be the
//! service that the client wanted; revoked keys are refused; and a clock that is known to be wrong
//! (see [`Clock`]) does not refuse a peer for being "not yet valid". Runs on the task that does the
//! handshake, without IO; a few signatures, about 0.2 ms.

use std::{fmt, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use crate::{Clock, Identity, IdentityError, RevocationList, ServiceName, TrustDomain, clock::unix_time, inspect, tls};

/// Verifies that a server is the Skerry service that the client wanted.
pub(crate) struct ServiceVerifier {
    /// `None` before the first credential: nobody can be verified, so everybody is refused.
    pub(crate) inner: Option<Arc<WebPkiServerVerifier>>,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) clock: Clock,
    pub(crate) revocations: RevocationList,
}

impl ServerCertVerifier for ServiceVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let inner = self.inner.as_ref().ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let now = evidence(&self.clock, end_entity, now);
        let verified = inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        let identity =
            Identity::from_peer_certificates(std::slice::from_ref(end_entity), &self.trust_domain).map_err(refused)?;
        check_service(&identity, server_name)?;
        check_revoked(&self.revocations, end_entity, &identity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &tls::provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &tls::provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        tls::provider().signature_verification_algorithms.supported_schemes()
    }
}

impl fmt::Debug for ServiceVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceVerifier").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

/// Verifies that a client, if it shows a certificate at all, is a node or service of ours.
pub(crate) struct PeerVerifier {
    pub(crate) inner: Arc<dyn ClientCertVerifier>,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) clock: Clock,
    pub(crate) revocations: RevocationList,
}

impl ClientCertVerifier for PeerVerifier {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No hints: clients have one certificate, and the hint would cost bytes in every handshake.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let now = evidence(&self.clock, end_entity, now);
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        let identity =
            Identity::from_peer_certificates(std::slice::from_ref(end_entity), &self.trust_domain).map_err(refused)?;
        check_revoked(&self.revocations, end_entity, &identity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

impl fmt::Debug for PeerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerVerifier").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

/// The server must be the service whose name the client asked for, by its SPIFFE id too.
pub(crate) fn check_service(identity: &Identity, wanted: &ServerName<'_>) -> Result<(), Error> {
    let ServerName::DnsName(name) = wanted else {
        return Err(Error::InvalidCertificate(CertificateError::NotValidForName));
    };
    match (identity, ServiceName::from_dns_name(name.as_ref())) {
        (Identity::Service(found), Some(wanted)) if *found == wanted => Ok(()),
        _ => Err(Error::InvalidCertificate(CertificateError::NotValidForName)),
    }
}

/// The time to judge a peer at. A clock that is below its floor is wrong, so a verified certificate's
/// start is better evidence than the clock; the end of life is still judged, against the floor.
pub(crate) fn evidence(clock: &Clock, leaf: &CertificateDer<'_>, now: UnixTime) -> UnixTime {
    if !clock.is_behind() {
        return now;
    }
    inspect(leaf).map_or(now, |info| unix_time(info.not_before).max(now))
}

/// Carries our reason in rustls' error, so that the log line says it.
pub(crate) fn refused(reason: IdentityError) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(reason))))
}

/// Refuses revoked keys and nodes.
pub(crate) fn check_revoked(
    list: &RevocationList,
    leaf: &CertificateDer<'_>,
    identity: &Identity,
) -> Result<(), Error> {
    if list.refuses(leaf, identity) {
        return Err(Error::InvalidCertificate(CertificateError::Revoked));
    }
    Ok(())
}
