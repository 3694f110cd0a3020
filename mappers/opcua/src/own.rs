//! Files: the mapper's own certificate, which is made once and kept, and those that Devices name.
//!
//! Called for each session that is opened, on a thread that may block. A crash between any two steps leaves the
//! key without its certificate, which is then made for it: whoever trusts the certificate already keeps doing so.
//! Files are read anew each time, so that a Secret that was renewed counts from the next session on; each is at
//! most [`MAX_FILE_BYTES`].

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use opcua::crypto::{PrivateKey, X509};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, RsaKeySize,
    SanType, date_time_ymd,
};
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;
use x509_parser::pem::Pem;

use crate::config::KeyFiles;
use crate::error::OpenError;
use crate::pki::digest;

/// A certificate, a key or a password; chains of certificates are larger than one, and still smaller than this.
pub(crate) const MAX_FILE_BYTES: u64 = 64 * 1024;
/// Years in which the own certificate is valid. Fixed, because the clock of a node may be wrong when it is made,
/// and long, because each server's trust list must be changed by hand when it is renewed.
const VALID: (i32, i32) = (2020, 2050);

/// The certificate of an application and its key.
#[derive(Debug, Clone)]
pub(crate) struct Own {
    /// Where they are.
    pub(crate) files: KeyFiles,
    /// The certificate.
    pub(crate) der: Vec<u8>,
    /// The name of the application in it.
    pub(crate) uri: String,
}

/// Makes sure that the folder has a certificate of the mapper's own.
pub(crate) fn ensure(folder: &Path) -> Result<Own, OpenError> {
    let files = KeyFiles { certificate: folder.join("own/cert.der"), key: folder.join("private/key.pem") };
    if !files.certificate.exists() {
        let made = |error: &dyn std::fmt::Display, path: &Path| OpenError::Own(format!("{}: {error}", path.display()));
        for part in ["own", "private"] {
            let path = folder.join(part);
            fs::create_dir_all(&path).map_err(|error| made(&error, &path))?;
        }
        let key = if files.key.exists() {
            let pem = String::from_utf8(read(&files.key)?).map_err(|error| made(&error, &files.key))?;
            KeyPair::from_pem(&pem).map_err(|error| made(&error, &files.key))?
        } else {
            let key = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048);
            let key = key.map_err(|error| made(&error, &files.key))?;
            place(&files.key, key.serialize_pem().as_bytes()).map_err(|error| made(&error, &files.key))?;
            key
        };
        let certificate = certificate(&key).map_err(|error| made(&error, &files.certificate))?;
        place(&files.certificate, &certificate).map_err(|error| made(&error, &files.certificate))?;
        tracing::info!(certificate = %files.certificate.display(), "the mapper has a certificate now");
    }
    load(&files)
}

/// Reads a certificate and its key, and looks whether they can be used.
pub(crate) fn load(files: &KeyFiles) -> Result<Own, OpenError> {
    let der = certificate_in(&files.certificate)?;
    let uri = application_uri(&der).ok_or_else(|| OpenError::File {
        path: files.certificate.clone(),
        problem: "the certificate has no application URI (a subject alternative name of type URI)".to_owned(),
    })?;
    private_key(&files.key)?;
    Ok(Own { files: files.clone(), der, uri })
}

/// A certificate and a key as the library has them.
pub(crate) fn identity(files: &KeyFiles) -> Result<(X509, PrivateKey), OpenError> {
    let der = certificate_in(&files.certificate)?;
    let unusable = |error: &dyn std::fmt::Display| OpenError::File {
        path: files.certificate.clone(),
        problem: format!("it is no certificate: {error}"),
    };
    let certificate = X509::from_der(&der).map_err(|error| unusable(&error))?;
    Ok((certificate, private_key(&files.key)?))
}

fn private_key(path: &Path) -> Result<PrivateKey, OpenError> {
    let pem = read(path)?;
    PrivateKey::from_pem(&pem).map_err(|_| OpenError::File {
        path: path.to_owned(),
        problem: "it is no RSA key in PEM without a passphrase".to_owned(),
    })
}

/// The first certificate of a file, as DER.
pub(crate) fn certificate_in(path: &Path) -> Result<Vec<u8>, OpenError> {
    let bytes = read(path)?;
    let der = match Pem::iter_from_buffer(&bytes).next() {
        Some(Ok(pem)) if pem.label == "CERTIFICATE" => pem.contents,
        _ => bytes,
    };
    leaf(&der).map(<[u8]>::to_vec).ok_or_else(|| OpenError::File {
        path: path.to_owned(),
        problem: "it is no certificate in DER or PEM".to_owned(),
    })
}

/// The first certificate of a chain.
pub(crate) fn leaf(der: &[u8]) -> Option<&[u8]> {
    let (rest, _) = parse_x509_certificate(der).ok()?;
    der.get(..der.len() - rest.len())
}

/// A password, without the line's end that editors add.
pub(crate) fn password(path: &Path) -> Result<String, OpenError> {
    let text = String::from_utf8(read(path)?);
    let text = text.map_err(|_| OpenError::File { path: path.to_owned(), problem: "it is not UTF-8".to_owned() })?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn read(path: &Path) -> Result<Vec<u8>, OpenError> {
    let wrong = |problem: String| OpenError::File { path: path.to_owned(), problem };
    let file = fs::File::open(path).map_err(|error| wrong(error.to_string()))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| wrong(error.to_string()))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(wrong(format!("it has more than {MAX_FILE_BYTES} bytes")));
    }
    Ok(bytes)
}

/// Writes a file that only its owner reads, whole or not at all.
fn place(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let part = PathBuf::from(name);
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&part, path)
}

/// A copy of a certificate in a folder, named by what it is.
pub(crate) fn copy(folder: &Path, der: &[u8]) -> Result<PathBuf, OpenError> {
    let path = folder.join(format!("{}.der", hex::encode(digest(der))));
    if !path.exists() {
        let placed = fs::create_dir_all(folder).and_then(|()| place(&path, der));
        placed.map_err(|error| OpenError::File { path: path.clone(), problem: error.to_string() })?;
    }
    Ok(path)
}

fn certificate(key: &KeyPair) -> Result<Vec<u8>, rcgen::Error> {
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    let host: String = host.chars().filter(plain).take(64).collect();
    let host = if host.is_empty() { "node".to_owned() } else { host };
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Skerry OPC UA mapper");
    params.distinguished_name.push(DnType::OrganizationalUnitName, host.as_str());
    params.subject_alt_names =
        vec![SanType::URI(format!("urn:{host}:skerry:opcua-mapper").try_into()?), SanType::DnsName(host.try_into()?)];
    (params.not_before, params.not_after) = (date_time_ymd(VALID.0, 1, 1), date_time_ymd(VALID.1, 1, 1));
    params.is_ca = IsCa::ExplicitNoCa;
    // What OPC UA asks of an application's certificate; the last one is for servers that see a self-signed
    // certificate as its own issuer.
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::ContentCommitment,
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::DataEncipherment,
        KeyUsagePurpose::KeyCertSign,
    ];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params.self_signed(key)?.der().to_vec())
}

fn application_uri(der: &[u8]) -> Option<String> {
    let (_, certificate) = parse_x509_certificate(der).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_own_certificate_is_made_once_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let first = ensure(folder.path()).unwrap();
        assert!(first.uri.starts_with("urn:") && first.uri.ends_with(":skerry:opcua-mapper"), "{}", first.uri);
        let mode = fs::metadata(&first.files.key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "only its owner reads the key");
        assert_eq!(ensure(folder.path()).unwrap().der, first.der);
        identity(&first.files).unwrap();
        // A crash after the key: it is kept, and so is what was trusted of it.
        fs::remove_file(&first.files.certificate).unwrap();
        let key = fs::read(&first.files.key).unwrap();
        let again = ensure(folder.path()).unwrap();
        assert_eq!(fs::read(&again.files.key).unwrap(), key);
        let parts = fs::read_dir(folder.path().join("private")).unwrap().count();
        assert_eq!(parts, 1, "nothing unfinished is left");
    }

    #[test]
    fn files_that_cannot_be_used_are_named_and_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let secret = b"-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n";
        fs::write(path("garbage.pem"), secret).unwrap();
        fs::write(path("large"), vec![b'x'; usize::try_from(MAX_FILE_BYTES).unwrap() + 1]).unwrap();
        fs::write(path("binary"), [0xFF, 0xFE]).unwrap();
        let problems = [
            certificate_in(&path("missing")).unwrap_err(),
            certificate_in(&path("garbage.pem")).unwrap_err(),
            private_key(&path("garbage.pem")).unwrap_err(),
            certificate_in(&path("large")).unwrap_err(),
            password(&path("binary")).unwrap_err(),
        ];
        for problem in problems {
            let OpenError::File { path, problem } = problem else { panic!("{problem}") };
            assert!(path.starts_with(folder.path()) && !problem.contains("hunter2"), "{problem}");
        }
    }

    #[test]
    fn a_password_has_no_end_of_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        for (text, expected) in [("a b\n", "a b"), ("a\r\n", "a"), ("a", "a"), (" a ", " a ")] {
            fs::write(&path, text).unwrap();
            assert_eq!(password(&path).unwrap(), expected);
        }
    }
}
