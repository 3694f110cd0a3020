//! Whom the mapper trusts: servers whose very certificate is known.
//!
//! A certificate is trusted when the Device names it, or when it is in the folder `trusted`. One that is not is
//! put into `rejected`, so that trusting it is moving a file. There are no authorities: what is trusted is one
//! certificate, so its names say nothing more and are not compared. Looked at whenever a session is opened: what
//! is taken out of the folder counts from the next session on.

use std::fs;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::SHA256;
use x509_parser::parse_x509_certificate;

use crate::config::{Security, ServerCertificate};
use crate::error::OpenError;
use crate::own;

/// Files of `trusted` that are looked at: more servers than one node has.
const MAX_TRUSTED: usize = 1000;
/// Certificates that are kept to be trusted later. Anybody on the network can offer one.
const MAX_REJECTED: usize = 100;
/// Characters of a name that are shown.
const MAX_NAME: usize = 100;
/// File names of certificates end so.
const ENDS: [&str; 4] = ["der", "crt", "cer", "pem"];

/// The folder of certificates.
#[derive(Debug, Clone)]
pub(crate) struct Pki {
    /// It has `own`, `private`, `trusted` and `rejected`.
    pub(crate) folder: PathBuf,
}

impl Pki {
    /// The certificate that the mapper shows, made if there is none.
    pub(crate) fn own(&self, security: &Security) -> Result<own::Own, OpenError> {
        match &security.own {
            Some(files) => own::load(files),
            None => own::ensure(&self.folder),
        }
    }

    /// Whether a server with this certificate is the right one.
    ///
    /// # Errors
    /// [`OpenError::Untrusted`], which says how to trust it.
    pub(crate) fn check(&self, der: &[u8], security: &Security) -> Result<(), OpenError> {
        let leaf = own::leaf(der).ok_or_else(|| OpenError::Untrusted("the server has no certificate".to_owned()))?;
        let fingerprint = digest(leaf);
        let shown = hex::encode(fingerprint);
        let trusted = match &security.server {
            Some(ServerCertificate::Fingerprint(known)) => *known == fingerprint,
            Some(ServerCertificate::File(path)) => own::certificate_in(path)? == leaf,
            None => self.is_in_folder(leaf),
        };
        if !trusted {
            let how = match &security.server {
                Some(_) => "remoteCertificate names another one".to_owned(),
                None => self.reject(leaf, &shown),
            };
            let name = subject(leaf);
            return Err(OpenError::Untrusted(format!(
                "the server's certificate ({name}) is not trusted; its SHA-256 fingerprint is {shown}: {how}"
            )));
        }
        if security.allow_expired {
            return Ok(());
        }
        validity(leaf)
    }

    fn is_in_folder(&self, der: &[u8]) -> bool {
        certificates(&self.folder.join("trusted"), MAX_TRUSTED)
            .into_iter()
            .any(|path| own::certificate_in(&path).is_ok_and(|known| known == der))
    }

    /// Keeps a certificate to be trusted later; says how that is done.
    fn reject(&self, der: &[u8], fingerprint: &str) -> String {
        let (rejected, trusted) = (self.folder.join("rejected"), self.folder.join("trusted"));
        let path = rejected.join(format!("{fingerprint}.der"));
        let known = path.exists();
        let room = known || certificates(&rejected, MAX_REJECTED).len() < MAX_REJECTED;
        let kept = room && fs::create_dir_all(&rejected).is_ok() && (known || fs::write(&path, der).is_ok());
        let _ = fs::create_dir_all(&trusted);
        let device = "say remoteCertificate with this fingerprint in the Device, if it is the server's";
        if kept {
            format!("{device}, or move {} into {}", path.display(), trusted.display())
        } else {
            format!("{device}, or put the certificate into {}", trusted.display())
        }
    }
}

/// SHA-256.
pub(crate) fn digest(bytes: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&SHA256, bytes);
    // It always has this length.
    digest.as_ref().try_into().unwrap_or_default()
}

/// The files of a folder that may be certificates.
fn certificates(folder: &Path, most: usize) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let ends = |path: &PathBuf| {
        let end = path.extension().and_then(|end| end.to_str()).unwrap_or_default();
        ENDS.iter().any(|known| known.eq_ignore_ascii_case(end))
    };
    paths.filter(ends).take(most).collect()
}

/// The name in a certificate, which anybody may have written.
fn subject(der: &[u8]) -> String {
    let name = parse_x509_certificate(der).map(|(_, certificate)| certificate.subject().to_string());
    name.unwrap_or_default().chars().filter(|c| !c.is_control()).take(MAX_NAME).collect()
}

fn validity(der: &[u8]) -> Result<(), OpenError> {
    let wrong = |words: String| Err(OpenError::Untrusted(words));
    let Ok((_, certificate)) = parse_x509_certificate(der) else {
        return wrong("the server has no certificate".to_owned());
    };
    let validity = certificate.validity();
    if validity.is_valid() {
        return Ok(());
    }
    wrong(format!(
        "the server's certificate is valid from {} to {}; renew it, look at the node's clock, or say \
         allowExpiredCertificate: true in the Device",
        validity.not_before, validity.not_after
    ))
}

#[cfg(test)]
mod tests {
    use opcua::crypto::SecurityPolicy;
    use opcua::types::MessageSecurityMode;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn security(server: Option<ServerCertificate>) -> Security {
        let (policy, mode) = (SecurityPolicy::Basic256Sha256, MessageSecurityMode::Sign);
        Security { policy, mode, own: None, server, allow_expired: false }
    }

    fn certificate(years: std::ops::Range<i32>) -> rcgen::Certificate {
        let mut params = CertificateParams::new(vec!["plc".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(years.start, 1, 1), date_time_ymd(years.end, 1, 1));
        params.self_signed(&KeyPair::generate().unwrap()).unwrap()
    }

    #[test]
    fn only_what_was_put_into_the_folder_is_trusted() {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki { folder: folder.path().to_owned() };
        let (server, other) = (certificate(2020..2049), certificate(2020..2049));
        let problem = pki.check(server.der(), &security(None)).unwrap_err().to_string();
        let shown = hex::encode(digest(server.der()));
        let rejected = folder.path().join(format!("rejected/{shown}.der"));
        for part in ["is not trusted", &shown, "remoteCertificate", &rejected.display().to_string()] {
            assert!(problem.contains(part), "{part}: {problem}");
        }
        // Trusting is moving the file that the words name.
        fs::rename(&rejected, folder.path().join("trusted/plc.der")).unwrap();
        pki.check(server.der(), &security(None)).unwrap();
        assert!(pki.check(other.der(), &security(None)).is_err(), "one with the same name is another one");
        fs::write(folder.path().join("trusted/other.pem"), other.pem()).unwrap();
        pki.check(other.der(), &security(None)).unwrap();
        fs::remove_file(folder.path().join("trusted/other.pem")).unwrap();
        assert!(pki.check(other.der(), &security(None)).is_err());
    }

    #[test]
    fn what_the_device_names_is_the_only_one() {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki { folder: folder.path().to_owned() };
        let (server, other) = (certificate(2020..2049), certificate(2020..2049));
        let file = folder.path().join("server.crt");
        fs::write(&file, server.pem()).unwrap();
        let fingerprint = digest(server.der());
        for named in [ServerCertificate::File(file), ServerCertificate::Fingerprint(fingerprint)] {
            pki.check(server.der(), &security(Some(named.clone()))).unwrap();
            let problem = pki.check(other.der(), &security(Some(named))).unwrap_err().to_string();
            assert!(problem.contains("remoteCertificate names another one"), "{problem}");
        }
        assert!(!folder.path().join("rejected").exists(), "there is nothing to move");
    }

    #[test]
    fn a_certificate_out_of_date_is_refused_unless_the_device_says_otherwise() {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki { folder: folder.path().to_owned() };
        for server in [certificate(2001..2002), certificate(2048..2049)] {
            let fingerprint = digest(server.der());
            let mut security = security(Some(ServerCertificate::Fingerprint(fingerprint)));
            let problem = pki.check(server.der(), &security).unwrap_err().to_string();
            assert!(problem.contains("is valid from") && problem.contains("allowExpiredCertificate"), "{problem}");
            security.allow_expired = true;
            pki.check(server.der(), &security).unwrap();
        }
    }

    #[test]
    fn nobody_fills_the_disk_with_certificates() {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki { folder: folder.path().to_owned() };
        let rejected = folder.path().join("rejected");
        fs::create_dir_all(&rejected).unwrap();
        for number in 0..MAX_REJECTED {
            fs::write(rejected.join(format!("{number}.der")), b"x").unwrap();
        }
        let problem = pki.check(certificate(2020..2049).der(), &security(None)).unwrap_err().to_string();
        assert!(problem.contains("put the certificate into"), "{problem}");
        assert_eq!(fs::read_dir(&rejected).unwrap().count(), MAX_REJECTED);
        assert!(pki.check(b"garbage", &security(None)).is_err());
    }
}
