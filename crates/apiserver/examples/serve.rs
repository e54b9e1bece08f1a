//! The API server alone, for trying it with kubectl: `cargo run -p corten-apiserver --example serve -- DIR PORT`, then
//! `kubectl --kubeconfig DIR/kubeconfig …`. Certificates are made anew at every start; the store in DIR stays.

use std::error::Error;
use std::fs;
use std::net::Ipv4Addr;
use std::sync::Arc;

use corten_apiserver::{ApiServer, Config, KubeletClient, ServiceAccountKeys, ServingCert};
use corten_store::{Embedded, Options};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio_util::sync::CancellationToken;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().ok_or("usage: serve DIR PORT")?;
    let port: u16 = args.next().ok_or("usage: serve DIR PORT")?.parse()?;
    fs::create_dir_all(&dir)?;
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::new(vec!["kubernetes".to_owned()])?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key)?.pem();
    let issuer = Issuer::new(ca, ca_key);
    let (serving_pem, serving_key) = leaf(&issuer, "kube-apiserver", "", &["127.0.0.1", "localhost"])?;
    let (admin_pem, admin_key) = leaf(&issuer, "kubernetes-admin", "system:masters", &[])?;
    fs::write(format!("{dir}/ca.crt"), &ca_pem)?;
    write_kubeconfig(&dir, port, &admin_pem, &admin_key)?;
    let signing = KeyPair::generate()?;
    let mut config = Config::new(Arc::new(Embedded::open(Options::new(format!("{dir}/store")))?));
    config.advertise_address = Some(Ipv4Addr::new(10, 244, 0, 1).into());
    config.advertise_port = port;
    config.client_ca_pem = Some(ca_pem.into_bytes());
    config.kubelet_client =
        Some(KubeletClient { cert_pem: admin_pem.into(), key_pem: admin_key.into(), ca_pem: None });
    config.service_account = ServiceAccountKeys {
        issuer: "https://kubernetes.default.svc.cluster.local".into(),
        audiences: vec!["https://kubernetes.default.svc.cluster.local".into()],
        verifying_keys_pem: vec![signing.public_key_pem().into_bytes()],
        signing_key_pem: signing.serialize_pem().into_bytes(),
        ..ServiceAccountKeys::default()
    };
    let server = ApiServer::new(config)?;
    server.bootstrap().await?;
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let cert = ServingCert { cert_pem: serving_pem.into(), key_pem: serving_key.into() };
    println!("export KUBECONFIG={dir}/kubeconfig");
    server.serve_tls(listener, &cert, CancellationToken::new()).await?;
    Ok(())
}

fn leaf(issuer: &Issuer<'_, KeyPair>, user: &str, group: &str, names: &[&str]) -> Result<(String, String)> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>())?;
    params.distinguished_name.push(DnType::CommonName, user);
    if !group.is_empty() {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    Ok((params.signed_by(&key, issuer)?.pem(), key.serialize_pem()))
}

fn write_kubeconfig(dir: &str, port: u16, cert: &str, key: &str) -> Result<()> {
    fs::write(format!("{dir}/admin.crt"), cert)?;
    fs::write(format!("{dir}/admin.key"), key)?;
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n- name: c\n  cluster:\n    server: https://127.0.0.1:{port}\n    certificate-authority: ca.crt\ncontexts:\n- name: c\n  context: {{cluster: c, user: u}}\nusers:\n- name: u\n  user:\n    client-certificate: admin.crt\n    client-key: admin.key\n"
    );
    Ok(fs::write(format!("{dir}/kubeconfig"), text)?)
}
