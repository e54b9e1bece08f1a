//! `corten token create|list|delete`: join tokens that run out, kept as Secrets of the cluster as upstream keeps its bootstrap tokens
//! (kubeadm's work, too). The server's own token is not among them: it is a file, and stays good.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use corten_client::Api;
use corten_client::over_https;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, PostParams};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::args::{TokenArgs, TokenCommand};
use crate::layout::Layout;
use crate::token::{self, Token};

/// Where they are.
const NAMESPACE: &str = "kube-system";
/// Their type.
const TYPE: &str = "bootstrap.kubernetes.io/token";
/// What their names begin with.
const PREFIX: &str = "bootstrap-token-";
const HEADER: [&str; 6] = ["TOKEN", "TTL", "EXPIRES", "USAGES", "DESCRIPTION", "EXTRA GROUPS"];

/// Makes, shows and takes back tokens of the cluster on this machine, which must run; without a command it prints the server's own.
pub async fn token(args: TokenArgs) -> Result<()> {
    let layout = Layout::new(&args.cluster.data_dir())?;
    let Some(command) = args.command else { return token::print(&layout) };
    let client = over_https(&layout.kubeconfig()).await.context("no cluster of that name here")?;
    let api: Api<Secret> = Api::namespaced(client, NAMESPACE);
    match command {
        TokenCommand::Create { ttl, description } => {
            let ca = fs::read(layout.pki().join("ca.crt")).context("no cluster of that name here")?;
            let made = Token::new(&CertificateDer::from_pem_slice(&ca)?)?;
            let until = (!ttl.is_zero()).then(|| Timestamp::now().checked_add(ttl)).transpose()?;
            api.create(&PostParams::default(), &secret(&made, until, description)).await?;
            println!("{}", made.text());
        }
        TokenCommand::List => {
            let only = ListParams::default().fields(&format!("type={TYPE}"));
            let now = Timestamp::now();
            let rows: Vec<_> = api.list(&only).await?.iter().map(|secret| row(secret, now)).collect();
            print!("{}", table(&rows));
        }
        TokenCommand::Delete { tokens } => {
            for token in tokens {
                let id = id(&token)?;
                api.delete(&format!("{PREFIX}{id}"), &DeleteParams::default()).await?;
                println!("bootstrap token {id:?} deleted");
            }
        }
    }
    Ok(())
}

fn secret(token: &Token, until: Option<Timestamp>, description: Option<String>) -> Secret {
    let bearer = token.bearer();
    let (id, secret) = bearer.split_once('.').unwrap_or_default();
    let mut data = vec![
        ("token-id", id.to_owned()),
        ("token-secret", secret.to_owned()),
        ("usage-bootstrap-authentication", "true".to_owned()),
    ];
    data.extend(until.map(|until| ("expiration", until.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())));
    data.extend(description.map(|words| ("description", words)));
    let data = data.into_iter().map(|(name, text)| (name.to_owned(), ByteString(text.into_bytes())));
    Secret {
        metadata: ObjectMeta { name: Some(format!("{PREFIX}{id}")), ..ObjectMeta::default() },
        type_: Some(TYPE.to_owned()),
        data: Some(data.collect()),
        ..Secret::default()
    }
}

/// One line of the list, in kubeadm's words.
fn row(secret: &Secret, now: Timestamp) -> [String; 6] {
    let field = |name: &str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(name));
        bytes.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned()).unwrap_or_default()
    };
    let or = |text: String, instead: &str| if text.is_empty() { instead.to_owned() } else { text };
    let until = field("expiration");
    let left = match until.parse::<Timestamp>() {
        _ if until.is_empty() => "<forever>".to_owned(),
        Ok(until) => Duration::try_from(until.duration_since(now)).map_or("<invalid>".to_owned(), rough),
        Err(_) => "<invalid>".to_owned(),
    };
    let uses = ["authentication", "signing"];
    let uses = uses.into_iter().filter(|name| field(&format!("usage-bootstrap-{name}")) == "true");
    [
        format!("{}.{}", field("token-id"), field("token-secret")),
        left,
        or(until, "<never>"),
        or(uses.collect::<Vec<_>>().join(","), "<none>"),
        or(field("description"), "<none>"),
        or(field("auth-extra-groups"), "<none>"),
    ]
}

/// A duration as people say it.
fn rough(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..10_800 => format!("{}m", seconds / 60),
        seconds @ 10_800..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

fn table(rows: &[[String; 6]]) -> String {
    let header = HEADER.map(str::to_owned);
    let all: Vec<&[String; 6]> = [&header].into_iter().chain(rows).collect();
    let width = |column: usize| all.iter().map(|row| row[column].chars().count()).max().unwrap_or(0) + 3;
    let widths: Vec<usize> = (0..HEADER.len()).map(width).collect();
    let mut out = String::new();
    for row in all {
        let cells = row.iter().zip(&widths).map(|(text, width)| format!("{text:width$}"));
        out.push_str(cells.collect::<String>().trim_end());
        out.push('\n');
    }
    out
}

/// The id in a whole join token, in its second half, or alone.
fn id(token: &str) -> Result<&str> {
    let bearer = token.split_once("::").map_or(token, |(_, bearer)| bearer);
    let id = bearer.split_once('.').map_or(bearer, |(id, _)| id);
    let good = id.len() == 6 && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if !good {
        bail!("{id:?} is no id of a token: six lower-case letters and digits");
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_listed_as_it_was_made() {
        let token = Token::new(b"ca").unwrap();
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let until = now.checked_add(Duration::from_secs(3600)).unwrap();
        let shown = row(&secret(&token, Some(until), Some("for Jane".to_owned())), now);
        let expected = ["60m", "2026-01-01T01:00:00Z", "authentication", "for Jane", "<none>"];
        assert_eq!((&shown[0], &shown[1..]), (&token.bearer(), &expected.map(str::to_owned)[..]));
        let shown = row(&secret(&token, None, None), now);
        assert_eq!(shown[1..3], ["<forever>".to_owned(), "<never>".to_owned()]);
        let ended = row(&secret(&token, Some(now), None), until);
        assert_eq!(ended[1], "<invalid>");
        let lines = table(&[shown]);
        assert!(lines.starts_with("TOKEN   ") && lines.lines().count() == 2, "{lines}");
    }

    #[test]
    fn ways_to_name_a_token() {
        for good in ["abcdef", "abcdef.0123456789abcdef", "K10ff::abcdef.0123456789abcdef"] {
            assert_eq!(id(good).unwrap(), "abcdef");
        }
        for bad in ["", "abc", "ABCDEF", "K10::x.y", "../../"] {
            assert!(id(bad).is_err(), "{bad}");
        }
    }
}
