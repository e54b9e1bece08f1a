//! Flags of kube-apiserver that `corten apiserver` takes, so that it can stand where kube-apiserver stood. Each is honoured, or
//! refused where it asks for something that is not here; none is taken and ignored, but those whose wish is granted anyway.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cidrs::Cidrs;
use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use corten_api::duration;
use corten_apiserver::{AuditConfig, AuthorizationMode, Config, ServiceAccountKeys, ServingCert, User};

const HEADING: &str = "kube-apiserver";
/// Names that `--feature-gates` may say, one a line.
const FEATURE_GATES: &str = include_str!("feature_gates.txt");

/// Who may ask, and what is written down about it.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Access")]
pub struct AccessArgs {
    /// Who decides what is allowed, in this order: Node, RBAC, AlwaysAllow, AlwaysDeny [default: Node,RBAC].
    #[arg(long, value_name = "MODE", value_delimiter = ',')]
    pub authorization_mode: Vec<String>,
    /// Take requests without credentials as those of system:anonymous [default: true].
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub anonymous_auth: Option<bool>,
    /// Fixed tokens: a CSV file with token, user, uid and groups.
    #[arg(long, value_name = "FILE")]
    pub token_auth_file: Option<PathBuf>,
    /// What of requests is written down (audit.k8s.io/v1 Policy). Without it nothing is.
    #[arg(long, value_name = "FILE")]
    pub audit_policy_file: Option<PathBuf>,
    /// Where it is written; `-` is standard output.
    #[arg(long, value_name = "FILE")]
    pub audit_log_path: Option<PathBuf>,
    /// Megabytes after which a new file is begun.
    #[arg(long, value_name = "MB", default_value_t = 100)]
    pub audit_log_maxsize: u64,
    /// Most old files kept; 0 keeps all.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub audit_log_maxbackup: usize,
    /// Days after which old files go; 0 keeps them.
    #[arg(long, value_name = "DAYS", default_value_t = 0)]
    pub audit_log_maxage: u64,
    /// Form of the log; json is the only one.
    #[arg(long, value_name = "FORMAT", default_value = "json")]
    pub audit_log_format: String,
}

/// What else kube-apiserver takes.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = HEADING)]
pub struct KubeArgs {
    /// Store to use: only Corten's own `etcd` (`corten etcd`), which has its data directory hold the objects.
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub etcd_servers: Vec<String>,
    /// Port of the API; 0 takes a free one.
    #[arg(long, value_name = "PORT")]
    pub secure_port: Option<u16>,
    /// Address of the API.
    #[arg(long, value_name = "ADDR")]
    pub bind_address: Option<IpAddr>,
    /// Directory with apiserver.crt and apiserver.key, where no others are named.
    #[arg(long, value_name = "DIR")]
    pub cert_dir: Option<PathBuf>,
    /// Serving certificate.
    #[arg(long, value_name = "FILE", requires = "tls_private_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    /// Its key.
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    pub tls_private_key_file: Option<PathBuf>,
    /// CAs of client certificates.
    #[arg(long, value_name = "FILE")]
    pub client_ca_file: Option<PathBuf>,
    /// Issuer of service account tokens; of several the first issues, all are accepted.
    #[arg(long, value_name = "URL")]
    pub service_account_issuer: Vec<String>,
    /// Keys of service account tokens that are accepted: certificates or public keys, RSA or ECDSA.
    #[arg(long, value_name = "FILE")]
    pub service_account_key_file: Vec<PathBuf>,
    /// Key that signs service account tokens.
    #[arg(long, value_name = "FILE")]
    pub service_account_signing_key_file: Option<PathBuf>,
    /// Audiences of tokens [default: the issuer].
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub api_audiences: Vec<String>,
    /// Addresses of services: one range, or one of each family.
    #[arg(long, value_name = "CIDR[,CIDR]")]
    pub service_cluster_ip_range: Option<Cidrs>,
    /// Ports of services on nodes, FIRST-LAST.
    #[arg(long, value_name = "PORTS")]
    pub service_node_port_range: Option<String>,
    /// Let containers be privileged (they always may be).
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub allow_privileged: Option<bool>,
    /// Admission plugins to have; those that are on by default are.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub enable_admission_plugins: Vec<String>,
    /// Admission plugins to do without.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub disable_admission_plugins: Vec<String>,
    /// Feature gates, NAME=BOOL: names that Kubernetes knows are taken, those that are built in stay as they are.
    #[arg(long, value_name = "NAME=BOOL", value_delimiter = ',')]
    pub feature_gates: Vec<String>,
    /// APIs to serve, GROUP/VERSION=true; what is built in cannot be switched off.
    #[arg(long, value_name = "API=BOOL", value_delimiter = ',')]
    pub runtime_config: Vec<String>,
    /// How long events are kept.
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub event_ttl: Option<Duration>,
    /// Longest time for one request.
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub request_timeout: Option<Duration>,
    /// Serve /debug/pprof and /debug/flags.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub profiling: Option<bool>,
    /// At its end the server serves on for so long, only without being ready.
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub shutdown_delay_duration: Option<Duration>,
    /// Part of the HTTP/2 requests after which a client is asked to connect anew: 0 to 0.02.
    #[arg(long, value_name = "CHANCE", default_value_t = 0.0)]
    pub goaway_chance: f64,
    /// Most requests at once that read.
    #[arg(long, value_name = "N")]
    pub max_requests_inflight: Option<usize>,
    /// Most requests at once that write.
    #[arg(long, value_name = "N")]
    pub max_mutating_requests_inflight: Option<usize>,
}

/// Upstream's bound: with more, clients would do little else than connect.
const MOST_GOAWAY: f64 = 0.02;

fn read(flag: &str, path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("--{flag} {}", path.display()))
}

impl AccessArgs {
    /// Writes what was asked for into the configuration.
    ///
    /// Errors: for the operator.
    pub fn apply(&self, config: &mut Config) -> Result<()> {
        if !self.authorization_mode.is_empty() {
            let modes = self.authorization_mode.iter().map(|m| m.parse::<AuthorizationMode>());
            config.authorization = modes.collect::<Result<_, _>>().map_err(|e| anyhow!("--{e}"))?;
        }
        let open_to_all = config.authorization.contains(&AuthorizationMode::AlwaysAllow);
        config.anonymous = self.anonymous_auth.unwrap_or(!open_to_all);
        if let Some(path) = &self.token_auth_file {
            let text = String::from_utf8_lossy(&read("token-auth-file", path)?).into_owned();
            let tokens = tokens(&text).with_context(|| format!("--token-auth-file {}", path.display()))?;
            config.static_tokens.extend(tokens);
        }
        config.audit = self.audit()?;
        Ok(())
    }

    fn audit(&self) -> Result<Option<AuditConfig>> {
        ensure!(self.audit_log_format == "json", "--audit-log-format: only json is written");
        let (Some(policy), Some(log)) = (&self.audit_policy_file, &self.audit_log_path) else {
            return Ok(None);
        };
        let policy = String::from_utf8_lossy(&read("audit-policy-file", policy)?).into_owned();
        Ok(Some(AuditConfig {
            policy,
            log: log.clone(),
            max_bytes: self.audit_log_maxsize.saturating_mul(1024 * 1024),
            max_files: self.audit_log_maxbackup,
            max_age: Duration::from_secs(self.audit_log_maxage.saturating_mul(24 * 3600)),
        }))
    }
}

/// Upstream's token file: token, user, uid and, in one quoted field, groups.
fn tokens(text: &str) -> Result<Vec<(String, User)>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let user = |line: &str| -> Result<(String, User)> {
        let fields = csv(line);
        let [token, name, uid, groups @ ..] = fields.as_slice() else {
            bail!("a line must have at least token, user name and user uid")
        };
        ensure!(!token.is_empty(), "a line has an empty token");
        let groups = groups.first().map_or("", String::as_str).split(',').map(str::trim);
        let mut user = User::new(name.as_str(), groups.filter(|g| !g.is_empty()));
        user.uid.clone_from(uid);
        Ok((token.clone(), user))
    };
    lines.map(user).collect()
}

/// The fields of a line; a quoted one may hold commas.
fn csv(line: &str) -> Vec<String> {
    let (mut fields, mut quoted) = (vec![String::new()], false);
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            c => fields.last_mut().into_iter().for_each(|field| field.push(c)),
        }
    }
    fields.iter().map(|field| field.trim().to_owned()).collect()
}

impl KubeArgs {
    /// Writes what was asked for into the configuration.
    ///
    /// Errors: for the operator, where something is asked for that is not here.
    pub fn apply(&self, config: &mut Config) -> Result<()> {
        ensure!(
            self.allow_privileged != Some(false),
            "--allow-privileged=false: containers may always be privileged"
        );
        self.check_names()?;
        if let Some(path) = &self.client_ca_file {
            let mut bundle = config.client_ca_pem.take().unwrap_or_default();
            bundle.extend(read("client-ca-file", path)?);
            config.client_ca_pem = Some(bundle);
        }
        self.service_accounts(&mut config.service_account)?;
        if let Some(ranges) = &self.service_cluster_ip_range {
            config.service_cidrs = ranges.all().collect();
        }
        if let Some(text) = &self.service_node_port_range {
            config.node_ports = ports(text)?;
        }
        config.disabled_admission.clone_from(&self.disable_admission_plugins);
        config.event_ttl = self.event_ttl.unwrap_or(config.event_ttl);
        ensure!(
            (0.0..=MOST_GOAWAY).contains(&self.goaway_chance),
            "--goaway-chance can not be less than 0 or greater than 0.02"
        );
        config.profiling = self.profiling.unwrap_or(true);
        config.shutdown.goaway_chance = self.goaway_chance;
        config.shutdown.delay = self.shutdown_delay_duration.unwrap_or(config.shutdown.delay);
        let limits = &mut config.limits;
        limits.request_timeout = self.request_timeout.unwrap_or(limits.request_timeout);
        limits.reads_in_flight = self.max_requests_inflight.unwrap_or(limits.reads_in_flight);
        limits.writes_in_flight = self.max_mutating_requests_inflight.unwrap_or(limits.writes_in_flight);
        Ok(())
    }

    fn check_names(&self) -> Result<()> {
        let known = corten_apiserver::ADMISSION_PLUGINS;
        for name in self.enable_admission_plugins.iter().chain(&self.disable_admission_plugins) {
            ensure!(known.contains(&name.as_str()), "enable-admission-plugins plugin {name:?} is unknown");
        }
        for name in &self.enable_admission_plugins {
            ensure!(
                !self.disable_admission_plugins.contains(name),
                "{name} in enable-admission-plugins and disable-admission-plugins overlapped"
            );
            ensure!(
                !NOT_HERE.contains(&name.as_str()),
                "--enable-admission-plugins {name}: Corten does not have it"
            );
        }
        for gate in &self.feature_gates {
            let (name, value) = gate
                .split_once('=')
                .with_context(|| format!("--feature-gates {gate}: missing bool value"))?;
            ensure!(
                value.parse::<bool>().is_ok(),
                "--feature-gates {gate}: invalid value of {name}: {value}"
            );
            let known =
                ["AllAlpha", "AllBeta"].contains(&name) || FEATURE_GATES.lines().any(|line| line == name);
            ensure!(known, "unrecognized feature gate: {name}");
        }
        for api in &self.runtime_config {
            let off = api.ends_with("=false") || api.ends_with("=0");
            let about_unstable = ["api/alpha=", "api/beta="].iter().any(|p| api.starts_with(p));
            ensure!(
                !off || about_unstable,
                "--runtime-config {api}: what is built in cannot be switched off"
            );
        }
        Ok(())
    }

    fn service_accounts(&self, keys: &mut ServiceAccountKeys) -> Result<()> {
        if let Some(path) = &self.service_account_signing_key_file {
            keys.signing_key_pem = read("service-account-signing-key-file", path)?;
            ensure!(
                !self.service_account_key_file.is_empty(),
                "--service-account-signing-key-file needs --service-account-key-file"
            );
        }
        if !self.service_account_key_file.is_empty() {
            let pems =
                self.service_account_key_file.iter().map(|path| read("service-account-key-file", path));
            keys.verifying_keys_pem = pems.collect::<Result<_>>()?;
        }
        if let Some((first, others)) = self.service_account_issuer.split_first() {
            keys.issuer.clone_from(first);
            keys.accepted_issuers = others.to_vec();
            keys.audiences = vec![first.clone()];
        }
        if !self.api_audiences.is_empty() {
            keys.audiences.clone_from(&self.api_audiences);
        }
        Ok(())
    }

    /// The certificate to serve with, where one is named or lies in the certificate directory.
    pub fn serving_cert(&self) -> Result<Option<ServingCert>> {
        let in_dir = |dir: &PathBuf| (dir.join("apiserver.crt"), dir.join("apiserver.key"));
        let named = self.tls_cert_file.clone().zip(self.tls_private_key_file.clone());
        let laid = self.cert_dir.as_ref().map(in_dir).filter(|(cert, key)| cert.exists() && key.exists());
        let Some((cert, key)) = named.or(laid) else { return Ok(None) };
        let cert_pem = read("tls-cert-file", &cert)?;
        Ok(Some(ServingCert { cert_pem, key_pem: read("tls-private-key-file", &key)? }))
    }
}

/// Plugins of upstream that are off there by default, and not here.
const NOT_HERE: [&str; 8] = [
    "AlwaysDeny",
    "AlwaysPullImages",
    "EventRateLimit",
    "ImagePolicyWebhook",
    "LimitPodHardAntiAffinityTopology",
    "NamespaceAutoProvision",
    "PodNodeSelector",
    "PodTolerationRestriction",
];

fn ports(text: &str) -> Result<RangeInclusive<u16>> {
    let wrong = || format!("--service-node-port-range {text}: want FIRST-LAST");
    let (first, last) = text.split_once('-').with_context(wrong)?;
    let (first, last): (u16, u16) = (first.parse().with_context(wrong)?, last.parse().with_context(wrong)?);
    ensure!(first > 0 && first <= last, wrong());
    Ok(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_files() {
        let found = tokens("# comment\nt1,bob,7\nt2, ann ,8,\"devs,ops\"\n").unwrap();
        assert_eq!(found[0], ("t1".to_owned(), User { uid: "7".into(), ..User::new("bob", [""; 0]) }));
        assert_eq!(found[1].1.groups, ["devs", "ops", "system:authenticated"]);
        assert!(tokens("only,two").is_err() && tokens(",a,b").is_err());
    }

    #[test]
    fn names_are_checked() {
        let with = |change: &dyn Fn(&mut KubeArgs)| {
            let mut args = KubeArgs::default();
            change(&mut args);
            args.check_names().map_err(|e| e.to_string())
        };
        assert!(with(&|a| a.disable_admission_plugins = vec!["ServiceAccount".into()]).is_ok());
        assert!(
            with(&|a| a.disable_admission_plugins = vec!["Nope".into()]).unwrap_err().contains("unknown")
        );
        assert!(with(&|a| a.enable_admission_plugins = vec!["AlwaysDeny".into()]).is_err());
        assert!(with(&|a| a.feature_gates = vec!["WatchList=true".into(), "AllBeta=false".into()]).is_ok());
        assert_eq!(
            with(&|a| a.feature_gates = vec!["Nope=true".into()]),
            Err("unrecognized feature gate: Nope".into())
        );
        assert!(with(&|a| a.runtime_config = vec!["api/all=true".into()]).is_ok());
        assert!(with(&|a| a.runtime_config = vec!["apps/v1=false".into()]).is_err());
    }

    #[test]
    fn port_ranges() {
        assert_eq!(ports("30000-32767").unwrap(), 30000..=32767);
        assert!(ports("5-1").is_err() && ports("x").is_err() && ports("0-5").is_err());
    }
}
