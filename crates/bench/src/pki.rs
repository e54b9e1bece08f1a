//! Certificates for a server that has none of its own: upstream's, and the tests' pretended one.

use anyhow::Result;
use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use serde_json::json;

/// An authority, a server on loopback, and an administrator.
pub struct Pki {
    pub ca: Certificate,
    pub server: (Certificate, KeyPair),
    pub client: (Certificate, KeyPair),
}

impl Pki {
    /// Fresh keys and certificates.
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "corten-bench");
        let key = KeyPair::generate()?;
        let ca = params.self_signed(&key)?;
        let issuer = Issuer::new(params, key);
        let leaf = |usage, name: &str, group: Option<&str>| -> Result<_> {
            let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()])?;
            params.distinguished_name.push(DnType::CommonName, name);
            if let Some(group) = group {
                params.distinguished_name.push(DnType::OrganizationName, group);
            }
            params.extended_key_usages = vec![usage];
            let key = KeyPair::generate()?;
            Ok((params.signed_by(&key, &issuer)?, key))
        };
        let server = leaf(ExtendedKeyUsagePurpose::ServerAuth, "kube-apiserver", None)?;
        let client = leaf(ExtendedKeyUsagePurpose::ClientAuth, "kubernetes-admin", Some("system:masters"))?;
        Ok(Self { ca, server, client })
    }

    /// How the administrator reaches the server at `url`.
    pub fn kubeconfig(&self, url: &str) -> String {
        let b64 = |text: String| STANDARD.encode(text);
        json!({
            "current-context": "bench",
            "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
            "clusters": [{"name": "bench", "cluster": {
                "server": url, "certificate-authority-data": b64(self.ca.pem()),
            }}],
            "users": [{"name": "bench", "user": {
                "client-certificate-data": b64(self.client.0.pem()),
                "client-key-data": b64(self.client.1.serialize_pem()),
            }}],
        })
        .to_string()
    }
}
