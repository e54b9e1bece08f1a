//! What a request asks for, what its signer allows, and who gets it without being looked at by a person.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
    SubjectPublicKeyInfo,
};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

/// Certificates are valid from a little earlier on, for clocks that are not quite together; short ones by a tenth of their life.
const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// Group of those who join with a token.
const BOOTSTRAPPERS: &str = "system:bootstrappers";
/// Group of kubelets.
const NODES: &str = "system:nodes";
/// What a kubelet's name begins with.
const NODE_USER: &str = "system:node:";
/// Users that a node's parts other than the kubelet are; whoever may join may have them.
const NODE_PARTS: &[&str] = &["system:kube-proxy", "system:kube-dns", "system:corten-network"];

/// Whose rules a certificate follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signer {
    /// `kubernetes.io/kube-apiserver-client`
    Client,
    /// `kubernetes.io/kube-apiserver-client-kubelet`
    KubeletClient,
    /// `kubernetes.io/kubelet-serving`
    KubeletServing,
}

impl Signer {
    /// The signer of that name, if it is ours.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "kubernetes.io/kube-apiserver-client" => Some(Signer::Client),
            "kubernetes.io/kube-apiserver-client-kubelet" => Some(Signer::KubeletClient),
            "kubernetes.io/kubelet-serving" => Some(Signer::KubeletServing),
            _ => None,
        }
    }
}

/// Who made the request, as the API server wrote it down.
pub struct Requestor<'a> {
    /// User name.
    pub user: &'a str,
    /// Groups.
    pub groups: &'a [String],
}

/// What a request asks for.
pub struct Wanted {
    common_name: String,
    organizations: Vec<String>,
    dns_names: Vec<String>,
    addresses: Vec<IpAddr>,
    /// Mail addresses, URIs and the like, which none of our signers allows.
    other_names: bool,
    key: SubjectPublicKeyInfo,
}

impl Wanted {
    /// Reads a PEM request and checks that it is signed with the key it names.
    ///
    /// Errors: what is wrong with it, for its maker.
    pub fn parse(pem: &[u8]) -> Result<Self, String> {
        let (_, pem) =
            x509_parser::pem::parse_x509_pem(pem).map_err(|_| "the request is not PEM".to_owned())?;
        let (_, request) = X509CertificationRequest::from_der(&pem.contents)
            .map_err(|_| "the request is no certificate signing request".to_owned())?;
        request.verify_signature().map_err(|_| "the request's signature is wrong".to_owned())?;
        let info = &request.certification_request_info;
        let key = SubjectPublicKeyInfo::from_der(info.subject_pki.raw).map_err(|error| error.to_string())?;
        let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            attribute.as_str().map(str::to_owned).map_err(|_| "a name is not text".to_owned())
        };
        let mut wanted = Wanted {
            common_name: info.subject.iter_common_name().map(text).collect::<Result<Vec<_>, _>>()?.concat(),
            organizations: info.subject.iter_organization().map(text).collect::<Result<_, _>>()?,
            dns_names: Vec::new(),
            addresses: Vec::new(),
            other_names: false,
            key,
        };
        let extensions = request.requested_extensions().into_iter().flatten();
        for extension in extensions {
            if let ParsedExtension::SubjectAlternativeName(names) = extension {
                names.general_names.iter().for_each(|name| wanted.take(name));
            }
        }
        Ok(wanted)
    }

    fn take(&mut self, name: &GeneralName<'_>) {
        let address = |bytes: &[u8]| match bytes.len() {
            4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
            _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        };
        match name {
            GeneralName::DNSName(name) => self.dns_names.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => match address(bytes) {
                Some(address) => self.addresses.push(address),
                None => self.other_names = true,
            },
            _ => self.other_names = true,
        }
    }

    fn has_names(&self) -> bool {
        !self.dns_names.is_empty() || !self.addresses.is_empty() || self.other_names
    }

    fn is_of_a_node(&self) -> bool {
        self.organizations == [NODES]
            && self.common_name.strip_prefix(NODE_USER).is_some_and(|n| !n.is_empty())
    }

    /// The rules of the signer, which hold whoever approved the request.
    ///
    /// Errors: the rule that is broken.
    pub fn is_permitted(&self, signer: Signer, usages: &[String]) -> Result<(), String> {
        let (must, may): (&str, &[&str]) = match signer {
            Signer::KubeletServing => {
                ("server auth", &["digital signature", "key encipherment", "server auth"])
            }
            _ => ("client auth", &["digital signature", "key encipherment", "client auth"]),
        };
        if !usages.iter().any(|usage| usage == must) || !usages.iter().all(|usage| may.contains(&&**usage)) {
            return Err(format!("usages must be {must} and otherwise only of {may:?}"));
        }
        match signer {
            Signer::Client if self.organizations.iter().any(|group| group == "system:masters") => {
                Err("this signer does not make members of system:masters".to_owned())
            }
            Signer::KubeletClient | Signer::KubeletServing if !self.is_of_a_node() => {
                Err(format!("the subject must be {NODE_USER}NAME in {NODES} alone"))
            }
            Signer::KubeletClient if self.has_names() => {
                Err("subject alternative names are not allowed".to_owned())
            }
            Signer::KubeletServing if self.other_names || !self.has_names() => {
                Err("subject alternative names must be DNS names and addresses, at least one".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// May it be approved without a person? Who has a join token may become a node and a node's parts, but not the node that
    /// another machine is already (upstream's kubeadm looks at that, too, though only in the client); a node renews what it and
    /// its parts are, and gets serving certificates for its own name and addresses that belong to no other node.
    pub fn is_trusted(
        &self,
        signer: Signer,
        by: &Requestor<'_>,
        is_of_another: impl Fn(&str, IpAddr) -> bool,
        is_ready: impl Fn(&str) -> bool,
    ) -> bool {
        let joins = by.groups.iter().any(|group| group == BOOTSTRAPPERS);
        let is_node = by.groups.iter().any(|group| group == NODES);
        let itself = is_node && by.user == self.common_name;
        let name = self.common_name.strip_prefix(NODE_USER).unwrap_or_default();
        match signer {
            Signer::Client => {
                let part = NODE_PARTS.contains(&&*self.common_name);
                (joins || is_node) && part && self.organizations.is_empty() && !self.has_names()
            }
            Signer::KubeletClient => itself || joins && !is_ready(name),
            Signer::KubeletServing => {
                itself
                    && self.dns_names.iter().all(|dns| dns == name || dns == "localhost")
                    && !self.addresses.iter().any(|address| is_of_another(name, *address))
            }
        }
    }
}

/// The cluster's CA with its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    longest: Duration,
}

impl Authority {
    /// From PEM; `longest` is the longest life of a certificate, and its life when the request names none.
    ///
    /// Errors: text for the operator.
    pub fn new(ca_cert: &str, ca_key: &str, longest: Duration) -> Result<Self, String> {
        let key = KeyPair::from_pem(ca_key).map_err(|error| format!("CA key: {error}"))?;
        let issuer = Issuer::from_ca_cert_pem(ca_cert, key).map_err(|error| format!("CA: {error}"))?;
        Ok(Authority { issuer, longest })
    }

    /// The certificate, as PEM. It says what was checked and nothing else of the request.
    ///
    /// Errors: names that no certificate can hold.
    pub fn sign(
        &self,
        wanted: &Wanted,
        signer: Signer,
        life: Option<Duration>,
        now: SystemTime,
    ) -> Result<String, String> {
        let made = || -> Result<String, rcgen::Error> {
            let mut params = CertificateParams::new(wanted.dns_names.clone())?;
            params.subject_alt_names.extend(wanted.addresses.iter().map(|a| SanType::IpAddress(*a)));
            params.distinguished_name.push(DnType::CommonName, &*wanted.common_name);
            if let Some(group) = wanted.organizations.first() {
                params.distinguished_name.push(DnType::OrganizationName, &**group);
            }
            params.is_ca = IsCa::ExplicitNoCa;
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
            params.extended_key_usages = vec![match signer {
                Signer::KubeletServing => ExtendedKeyUsagePurpose::ServerAuth,
                _ => ExtendedKeyUsagePurpose::ClientAuth,
            }];
            params.use_authority_key_identifier_extension = true;
            let life = life.unwrap_or(self.longest).min(self.longest);
            params.not_before = (now - BACKDATE.min(life / 10)).into();
            params.not_after = (now + life).into();
            Ok(params.signed_by(&wanted.key, &self.issuer)?.pem())
        };
        if wanted.organizations.len() > 1 {
            return Err("more than one organization".to_owned());
        }
        made().map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(name: &str, group: &str, names: &[&str]) -> Wanted {
        let mut params =
            CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        if !group.is_empty() {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        let key = KeyPair::generate().unwrap();
        Wanted::parse(params.serialize_request(&key).unwrap().pem().unwrap().as_bytes()).unwrap()
    }

    fn usages(last: &str) -> Vec<String> {
        ["digital signature", "key encipherment", last].map(str::to_owned).into()
    }

    #[test]
    fn rules_of_the_signers() {
        let (client, server) = (usages("client auth"), usages("server auth"));
        let n1 = "system:node:n1";
        let cases: &[(Signer, Wanted, &[String], bool)] = &[
            (Signer::KubeletClient, request(n1, NODES, &[]), &client, true),
            (Signer::KubeletClient, request(n1, NODES, &[]), &server, false),
            (Signer::KubeletClient, request(n1, NODES, &["n1"]), &client, false),
            (Signer::KubeletClient, request(n1, "system:masters", &[]), &client, false),
            (Signer::KubeletClient, request("system:node:", NODES, &[]), &client, false),
            (Signer::KubeletClient, request("admin", NODES, &[]), &client, false),
            (Signer::KubeletServing, request(n1, NODES, &["n1", "192.0.2.1"]), &server, true),
            (Signer::KubeletServing, request(n1, NODES, &[]), &server, false),
            (Signer::KubeletServing, request(n1, NODES, &["n1"]), &client, false),
            (Signer::Client, request("jane", "dev", &[]), &client, true),
            (Signer::Client, request("jane", "system:masters", &[]), &client, false),
        ];
        for (signer, wanted, usages, good) in cases {
            let outcome = wanted.is_permitted(*signer, usages);
            assert_eq!(outcome.is_ok(), *good, "{signer:?} {} {usages:?}", wanted.common_name);
        }
    }

    #[test]
    fn who_is_approved_without_a_person() {
        let (joins, nodes) = ([BOOTSTRAPPERS.to_owned()], [NODES.to_owned()]);
        let of_another =
            |name: &str, address: IpAddr| name != "n2" && address == IpAddr::from([192, 0, 2, 2]);
        let n1 = "system:node:n1";
        let cases = [
            (Signer::KubeletClient, request(n1, NODES, &[]), "system:bootstrap:a", &joins, true),
            (Signer::KubeletClient, request(n1, NODES, &[]), n1, &nodes, true),
            (Signer::KubeletClient, request(n1, NODES, &[]), "system:node:n2", &nodes, false),
            (Signer::KubeletServing, request(n1, NODES, &["n1", "192.0.2.1"]), n1, &nodes, true),
            (Signer::KubeletServing, request(n1, NODES, &["n1"]), "system:bootstrap:a", &joins, false),
            (Signer::KubeletServing, request(n1, NODES, &["192.0.2.2"]), n1, &nodes, false),
            (Signer::KubeletServing, request(n1, NODES, &["kubernetes"]), n1, &nodes, false),
            (Signer::Client, request("system:kube-proxy", "", &[]), "system:bootstrap:a", &joins, true),
            (Signer::Client, request("system:kube-proxy", "", &[]), n1, &nodes, true),
            (Signer::Client, request("system:kube-scheduler", "", &[]), n1, &nodes, false),
            (
                Signer::KubeletClient,
                request("system:node:n2", NODES, &[]),
                "system:bootstrap:a",
                &joins,
                false,
            ),
            (Signer::KubeletClient, request("system:node:n2", NODES, &[]), "system:node:n2", &nodes, true),
            (Signer::Client, request("jane", "", &[]), "system:bootstrap:a", &joins, false),
            (Signer::Client, request("system:kube-proxy", "x", &[]), "system:bootstrap:a", &joins, false),
        ];
        for (signer, wanted, user, groups, good) in cases {
            let by = Requestor { user, groups };
            let trusted = wanted.is_trusted(signer, &by, of_another, |name| name == "n2");
            assert_eq!(trusted, good, "{signer:?} {} by {user}", wanted.common_name);
        }
    }

    #[test]
    fn a_certificate_says_what_was_checked() {
        let key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = Authority::new(
            &ca.self_signed(&key).unwrap().pem(),
            &key.serialize_pem(),
            Duration::from_secs(7200),
        )
        .unwrap();
        let wanted = request("system:node:n1", NODES, &["n1", "192.0.2.1"]);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let life = Some(Duration::from_secs(3600));
        let made = authority.sign(&wanted, Signer::KubeletServing, life, now).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(made.as_bytes()).unwrap();
        let made = pem.parse_x509().unwrap();
        assert_eq!(made.subject().to_string(), "CN=system:node:n1, O=system:nodes");
        assert_eq!(made.validity().not_after.timestamp(), 1_700_003_600);
        assert!(!made.is_ca());
        let usage = made.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.server_auth && !usage.client_auth);
    }

    #[test]
    fn rubbish_is_refused() {
        for pem in ["", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"] {
            assert!(Wanted::parse(pem.as_bytes()).is_err());
        }
    }
}
