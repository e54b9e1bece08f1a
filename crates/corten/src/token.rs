//! The token with which a node joins: `K10<SHA-256 of the CA certificate>::<id>.<secret>`. The first half proves the server to
//! the node, the second (in kubeadm's form) the node to the server.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};

use crate::layout::Layout;
use crate::pki;

const PREFIX: &str = "K10";
/// Bytes of a SHA-256.
pub const HASH_LENGTH: usize = 32;
const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// A join token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// SHA-256 of the CA certificate (DER).
    pub ca_hash: [u8; HASH_LENGTH],
    /// Names the token in the user name `system:bootstrap:ID`.
    pub id: String,
    secret: String,
}

impl Token {
    /// The token of a server: read from `path`, made there where it is missing.
    pub fn of_server(path: &Path, ca_der: &[u8]) -> Result<Self> {
        if let Ok(text) = std::fs::read_to_string(path) {
            return Token::parse(text.trim()).with_context(|| format!("{}", path.display()));
        }
        let token = Token::new(ca_der)?;
        pki::write(path, format!("{}\n", token.text()).as_bytes(), 0o600)?;
        Ok(token)
    }

    /// A new one for the cluster with this CA.
    pub fn new(ca_der: &[u8]) -> Result<Self> {
        let (id, secret) = (random_text(ID_LENGTH)?, random_text(SECRET_LENGTH)?);
        Ok(Token { ca_hash: hash(ca_der), id, secret })
    }

    /// From its text.
    pub fn parse(text: &str) -> Result<Self> {
        let parts = text.strip_prefix(PREFIX).and_then(|rest| rest.split_once("::"));
        let Some((hash, (id, secret))) = parts.and_then(|(hash, rest)| Some((hash, rest.split_once('.')?)))
        else {
            bail!(
                "a join token looks like {PREFIX}<hash>::<id>.<secret>; `corten token` on the server prints it"
            );
        };
        let plain =
            |part: &str, length| part.len() == length && part.bytes().all(|b| b.is_ascii_alphanumeric());
        let Some(ca_hash) = from_hex(hash) else {
            bail!("the token's hash is not {HASH_LENGTH} bytes of hex")
        };
        if !plain(id, ID_LENGTH) || !plain(secret, SECRET_LENGTH) {
            bail!(
                "the token ends in an id of {ID_LENGTH} and a secret of {SECRET_LENGTH} letters and digits"
            );
        }
        Ok(Token { ca_hash, id: id.to_owned(), secret: secret.to_owned() })
    }

    /// The whole token.
    pub fn text(&self) -> String {
        let hash: String = self.ca_hash.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{PREFIX}{hash}::{}", self.bearer())
    }

    /// What is sent to the server.
    pub fn bearer(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }

    /// The user that it makes.
    pub fn user(&self) -> String {
        format!("system:bootstrap:{}", self.id)
    }
}

/// Not for logs: the secret stays out.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.id)
    }
}

/// Prints the token of the server on this machine.
pub fn print(layout: &Layout) -> Result<()> {
    let path = layout.token();
    let text = std::fs::read_to_string(&path).with_context(|| format!("no token at {}", path.display()))?;
    print!("{text}");
    Ok(())
}

/// SHA-256.
pub fn hash(bytes: &[u8]) -> [u8; HASH_LENGTH] {
    let mut out = [0; HASH_LENGTH];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

fn random_text(length: usize) -> Result<String> {
    let mut bytes = vec![0u8; length];
    if SystemRandom::new().fill(&mut bytes).is_err() {
        bail!("the kernel has no random numbers");
    }
    // 32 letters: every byte falls on each with the same chance.
    Ok(bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect())
}

fn from_hex(text: &str) -> Option<[u8; HASH_LENGTH]> {
    let mut out = [0; HASH_LENGTH];
    if text.len() != 2 * HASH_LENGTH || !text.is_ascii() {
        return None;
    }
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_made_once_and_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let made = Token::of_server(&path, b"ca").unwrap();
        assert_eq!(Token::of_server(&path, b"ca").unwrap(), made);
        assert_eq!(Token::parse(&made.text()).unwrap(), made);
        assert_eq!(made.ca_hash, hash(b"ca"));
        assert!(!format!("{made:?}").contains(&made.secret));
    }

    #[test]
    fn other_texts_are_refused() {
        let good = format!("K10{}::abcdef.0123456789abcdef", "0".repeat(64));
        assert!(Token::parse(&good).is_ok());
        for bad in
            ["", "K10", "abcdef.0123456789abcdef", &good[..good.len() - 1], &good.replace("K10", "K11")]
        {
            assert!(Token::parse(bad).is_err(), "{bad}");
        }
        assert!(Token::parse(&good.replace('.', "é.")).is_err());
        assert!(Token::parse(&good.replacen("00", "zz", 1)).is_err());
    }
}
