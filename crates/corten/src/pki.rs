//! Certificates and keys under `pki/`, made at first start and kept: one CA, one certificate per identity.
//!
//! What is there is used as it is, so an administrator may put certificates of their own in place before the first start.
//! A certificate of ours that runs out within [`RENEW_BEFORE`] is made anew at start; keys stay.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Life of the CA.
const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// Life of every other certificate.
const LEAF_LIFE: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Certificates that end sooner than this are made anew.
const RENEW_BEFORE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A renewal by somebody else's signature takes less than this.
const RENEWAL: Duration = Duration::from_secs(10);

/// A certificate and its key on disk.
#[derive(Clone, Debug)]
pub struct Pair {
    /// PEM certificate.
    pub cert: PathBuf,
    /// PEM key (PKCS #8).
    pub key: PathBuf,
}

impl Pair {
    /// Reads both.
    pub fn read(&self) -> Result<(String, String)> {
        Ok((read(&self.cert)?, read(&self.key)?))
    }
}

/// Who a client certificate speaks for.
pub struct Identity<'a> {
    /// File name without ending.
    pub file: &'a str,
    /// User name (CN).
    pub user: &'a str,
    /// Group (O), `""` for none.
    pub group: &'a str,
}

/// The directory of certificates and its CA.
pub struct Pki {
    dir: PathBuf,
    ca_cert: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    /// Opens `dir`; makes it and the CA where they are missing.
    pub fn open(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let pair = pair(dir, "ca");
        if !pair.cert.exists() {
            let key = key_of(&pair.key)?;
            let cert = ca_params()?.self_signed(&key)?;
            write(&pair.cert, cert.pem().as_bytes(), 0o644)?;
        }
        let (ca_cert, ca_key) = pair.read()?;
        let issuer = Issuer::from_ca_cert_pem(&ca_cert, KeyPair::from_pem(&ca_key)?)
            .with_context(|| format!("{} is not a CA certificate", pair.cert.display()))?;
        Ok(Pki { dir: dir.to_owned(), ca_cert, issuer })
    }

    /// The CA certificate as PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_cert
    }

    /// The CA certificate as DER.
    pub fn ca_der(&self) -> Result<CertificateDer<'static>> {
        Ok(CertificateDer::from_pem_slice(self.ca_cert.as_bytes())?)
    }

    /// The CA certificate and its key as PEM, for the signer of requests.
    pub fn ca(&self) -> Result<(String, String)> {
        pair(&self.dir, "ca").read()
    }

    /// A certificate with which a client proves who it is.
    pub fn client(&self, who: &Identity<'_>) -> Result<Pair> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, who.user);
        if !who.group.is_empty() {
            params.distinguished_name.push(DnType::OrganizationName, who.group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.leaf(who.file, params)
    }

    /// A certificate for a server of these names and addresses; made anew when one of them is missing in it.
    pub fn server(
        &self,
        file: &str,
        common_name: &str,
        names: &[String],
        addresses: &[IpAddr],
    ) -> Result<Pair> {
        let mut params = CertificateParams::new(names.to_vec())?;
        params.subject_alt_names.extend(addresses.iter().map(|a| SanType::IpAddress(*a)));
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let wanted = params.subject_alt_names.iter().map(|n| format!("{n:?}")).collect::<Vec<_>>().join("\n");
        let list = self.dir.join(format!("{file}.names"));
        if fs::read_to_string(&list).is_ok_and(|before| before != wanted) {
            let _ = fs::remove_file(self.dir.join(format!("{file}.crt")));
        }
        let pair = self.leaf(file, params)?;
        write(&list, wanted.as_bytes(), 0o644)?;
        Ok(pair)
    }

    /// The key pair that signs service account tokens: private key, public key.
    pub fn service_account_key(&self) -> Result<Pair> {
        let pair = Pair { cert: self.dir.join("sa.pub"), key: self.dir.join("sa.key") };
        let key = key_of(&pair.key)?;
        if !pair.cert.exists() {
            write(&pair.cert, key.public_key_pem().as_bytes(), 0o644)?;
        }
        Ok(pair)
    }

    fn leaf(&self, file: &str, mut params: CertificateParams) -> Result<Pair> {
        let pair = pair(&self.dir, file);
        if pair.cert.exists() && !runs_out(&pair.cert)? {
            return Ok(pair);
        }
        let key = key_of(&pair.key)?;
        (params.not_before, params.not_after) = life(LEAF_LIFE);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.use_authority_key_identifier_extension = true;
        let cert = params.signed_by(&key, &self.issuer)?;
        write(&pair.cert, cert.pem().as_bytes(), 0o644)?;
        Ok(pair)
    }
}

/// What a certificate is to say.
pub struct Subject<'a> {
    /// User name (CN).
    pub user: &'a str,
    /// Group (O), `""` for none.
    pub group: &'a str,
    /// DNS names.
    pub names: &'a [String],
    /// Addresses.
    pub addresses: &'a [IpAddr],
}

impl Subject<'_> {
    fn params(&self) -> Result<CertificateParams> {
        let mut params = CertificateParams::new(self.names.to_vec())?;
        params.subject_alt_names.extend(self.addresses.iter().map(|a| SanType::IpAddress(*a)));
        params.distinguished_name.push(DnType::CommonName, self.user);
        if !self.group.is_empty() {
            params.distinguished_name.push(DnType::OrganizationName, self.group);
        }
        Ok(params)
    }
}

/// A key whose certificate somebody else signs.
pub struct Keys {
    pair: Pair,
    key: KeyPair,
}

impl Keys {
    /// The key in `dir`, made where it is missing. A certificate that says something else than `subject` is forgotten.
    pub fn open(dir: &Path, file: &str, subject: &Subject<'_>) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let pair = pair(dir, file);
        let said =
            format!("{} {}\n{:?}\n{:?}", subject.user, subject.group, subject.names, subject.addresses);
        let list = dir.join(format!("{file}.names"));
        if fs::read_to_string(&list).is_ok_and(|before| before != said) {
            let _ = fs::remove_file(&pair.cert);
        }
        write(&list, said.as_bytes(), 0o644)?;
        let key = key_of(&pair.key)?;
        Ok(Keys { pair, key })
    }

    /// Where both are.
    pub fn pair(&self) -> &Pair {
        &self.pair
    }

    /// Is there a certificate that is good now? It is renewed while it is in use.
    pub fn are_certified(&self) -> Result<bool> {
        Ok(self.pair.cert.exists() && self.life()?.1 > SystemTime::now() + RENEWAL)
    }

    /// From when until when the certificate is good.
    pub fn life(&self) -> Result<(SystemTime, SystemTime)> {
        validity(&self.pair.cert)
    }

    /// The signing request, as PEM.
    pub fn request(&self, subject: &Subject<'_>) -> Result<String> {
        Ok(subject.params()?.serialize_request(&self.key)?.pem()?)
    }

    /// Keeps the certificate.
    pub fn keep(&self, cert_pem: &str) -> Result<()> {
        write(&self.pair.cert, cert_pem.as_bytes(), 0o644)
    }
}

/// A certificate as PEM.
pub fn certificate_pem(der: &[u8]) -> String {
    let text = base64(der);
    let mut lines = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        lines.push_str(&String::from_utf8_lossy(line));
        lines.push('\n');
    }
    lines + "-----END CERTIFICATE-----\n"
}

/// Base64, as kubeconfigs have it.
pub fn base64(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

fn ca_params() -> Result<CertificateParams> {
    let mut params = CertificateParams::new(vec!["kubernetes".to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, "kubernetes");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::KeyCertSign,
    ];
    (params.not_before, params.not_after) = life(CA_LIFE);
    Ok(params)
}

/// From yesterday, for clocks that are not quite together.
fn life(length: Duration) -> (time::OffsetDateTime, time::OffsetDateTime) {
    let now = SystemTime::now();
    ((now - DAY).into(), (now + length).into())
}

fn validity(cert: &Path) -> Result<(SystemTime, SystemTime)> {
    let pem = read(cert)?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes())
        .with_context(|| format!("{} is not PEM", cert.display()))?;
    let parsed = pem.parse_x509().with_context(|| format!("{} is not a certificate", cert.display()))?;
    let at = |time: x509_parser::time::ASN1Time| {
        UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or_default())
    };
    Ok((at(parsed.validity().not_before), at(parsed.validity().not_after)))
}

fn runs_out(cert: &Path) -> Result<bool> {
    Ok(validity(cert)?.1 < SystemTime::now() + RENEW_BEFORE)
}

fn pair(dir: &Path, file: &str) -> Pair {
    Pair { cert: dir.join(format!("{file}.crt")), key: dir.join(format!("{file}.key")) }
}

/// The key in a file; made where it is missing.
fn key_of(path: &Path) -> Result<KeyPair> {
    if path.exists() {
        return KeyPair::from_pem(&read(path)?)
            .with_context(|| format!("{} is not a private key", path.display()));
    }
    let key = KeyPair::generate()?;
    write(path, key.serialize_pem().as_bytes(), 0o600)?;
    Ok(key)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Writes a file whole or not at all. Nothing is written that is there already: a cluster must come back on a disk that has
/// become full.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let temporary = path.with_extension("new");
    let _ = fs::remove_file(&temporary);
    let write = || -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_made_once_and_name_their_owner() {
        let dir = tempfile::tempdir().unwrap();
        let who = Identity { file: "scheduler", user: "system:kube-scheduler", group: "" };
        let first = Pki::open(dir.path()).unwrap().client(&who).unwrap().read().unwrap();
        let again = Pki::open(dir.path()).unwrap().client(&who).unwrap().read().unwrap();
        assert_eq!(first, again);
        let (_, pem) = x509_parser::pem::parse_x509_pem(first.0.as_bytes()).unwrap();
        assert_eq!(pem.parse_x509().unwrap().subject().to_string(), "CN=system:kube-scheduler");
    }

    #[test]
    fn a_server_certificate_follows_its_addresses() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(dir.path()).unwrap();
        let serve =
            |ip: &str| pki.server("apiserver", "kube-apiserver", &[], &[ip.parse().unwrap()]).unwrap();
        let first = serve("127.0.0.1").read().unwrap().0;
        assert_eq!(serve("127.0.0.1").read().unwrap().0, first);
        assert_ne!(serve("127.0.0.2").read().unwrap().0, first);
    }

    #[test]
    fn what_is_there_is_not_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.names");
        write(&path, b"same", 0o644).unwrap();
        // Stands in for a full disk: the temporary file cannot be made.
        fs::create_dir(dir.path().join("a.new")).unwrap();
        write(&path, b"same", 0o644).unwrap();
        assert!(write(&path, b"other", 0o644).is_err());
    }
}
