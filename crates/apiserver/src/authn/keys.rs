//! Keys of service account tokens as files hold them: one PEM block or several, private or public, in the forms of PKCS#1, PKCS#8,
//! SEC1, X.509. As upstream, what a block is shows in its content, and blocks of other things (`EC PARAMETERS`) are passed over.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk};
use jsonwebtoken::{Algorithm, EncodingKey};
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::SubjectPublicKeyInfo;

/// Blocks that are looked at in one file.
const MAX_BLOCKS: usize = 256;

const INTEGER: u8 = 0x02;
const BITS: u8 = 0x03;
const OCTETS: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
/// `[0]`: the curve in a SEC1 key.
const PARAMETERS: u8 = 0xa0;

const NULL: &[u8] = &[0x05, 0x00];
const RSA_ENCRYPTION: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const EC_PUBLIC_KEY: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];

/// A private key.
pub(super) enum Private {
    /// In the form of PKCS#1.
    Rsa(Vec<u8>),
    /// On a curve that tokens can be signed with, in the form of PKCS#8.
    Curve { name: &'static [u8], algorithm: Algorithm, pkcs8: Vec<u8> },
}

impl Private {
    /// The first private key of a PEM file.
    pub fn first(pem: &[u8]) -> Option<Self> {
        blocks(pem).find_map(|block| Self::read(&block.contents))
    }

    /// The algorithm that tokens are signed with, and the key for it.
    pub fn signing(&self) -> (Algorithm, EncodingKey) {
        match self {
            Private::Rsa(pkcs1) => (Algorithm::RS256, EncodingKey::from_rsa_der(pkcs1)),
            Private::Curve { algorithm, pkcs8, .. } => (*algorithm, EncodingKey::from_ec_der(pkcs8)),
        }
    }

    fn read(der: &[u8]) -> Option<Self> {
        Self::pkcs8(der).or_else(|| Self::pkcs1(der)).or_else(|| Self::sec1(der, None))
    }

    fn pkcs8(key: &[u8]) -> Option<Self> {
        let mut fields = Elements(key).inside(SEQUENCE)?;
        fields.next(INTEGER)?;
        let mut algorithm = fields.inside(SEQUENCE)?;
        let inner = fields.next(OCTETS)?.content;
        match algorithm.next(OBJECT_IDENTIFIER)?.whole {
            RSA_ENCRYPTION => Self::pkcs1(inner),
            EC_PUBLIC_KEY => Self::sec1(inner, Some(algorithm.next(OBJECT_IDENTIFIER)?.whole)),
            _ => None,
        }
    }

    fn pkcs1(key: &[u8]) -> Option<Self> {
        modulus_and_exponent(key).map(|_| Private::Rsa(key.to_vec()))
    }

    /// The curve stands in the key or around it.
    fn sec1(key: &[u8], around: Option<&[u8]>) -> Option<Self> {
        let mut fields = Elements(key).inside(SEQUENCE)?;
        fields.next(INTEGER).filter(|version| version.content == [1])?;
        fields.next(OCTETS)?;
        let own = fields.next(PARAMETERS).map(|parameters| parameters.content);
        let (name, algorithm) = match own.or(around)? {
            P256 => (P256, Algorithm::ES256),
            P384 => (P384, Algorithm::ES384),
            _ => return None,
        };
        let kind = wrap(SEQUENCE, &[EC_PUBLIC_KEY, name]);
        let pkcs8 = wrap(SEQUENCE, &[&wrap(INTEGER, &[&[0]]), &kind, &wrap(OCTETS, &[key])]);
        Some(Private::Curve { name, algorithm, pkcs8 })
    }

    /// The general form of its public half.
    fn public(&self) -> Option<Vec<u8>> {
        match self {
            Private::Rsa(pkcs1) => {
                let (modulus, exponent) = modulus_and_exponent(pkcs1)?;
                Some(pkcs1_as_spki(&wrap(SEQUENCE, &[modulus, exponent])))
            }
            Private::Curve { name, .. } => {
                let kind = wrap(SEQUENCE, &[EC_PUBLIC_KEY, name]);
                Some(wrap(SEQUENCE, &[&kind, &wrap(BITS, &[&[0], &self.point()?])]))
            }
        }
    }

    /// Computed, because a file need not hold it.
    fn point(&self) -> Option<Vec<u8>> {
        let (algorithm, key) = self.signing();
        match Jwk::from_encoding_key(&key, algorithm).ok()?.algorithm {
            AlgorithmParameters::EllipticCurve(point) => {
                let (x, y) = (BASE64.decode(point.x).ok()?, BASE64.decode(point.y).ok()?);
                Some([&[4][..], &x, &y].concat())
            }
            _ => None,
        }
    }
}

/// Every key of a PEM file as `SubjectPublicKeyInfo` in DER: public ones, those of certificates, public halves of private ones.
pub(super) fn public_halves(pem: &[u8]) -> Vec<Vec<u8>> {
    let half = |block: Pem| match Private::read(&block.contents) {
        Some(private) => private.public(),
        None => public(block),
    };
    blocks(pem).filter_map(half).collect()
}

fn public(block: Pem) -> Option<Vec<u8>> {
    if block.label == "RSA PUBLIC KEY" {
        return Some(pkcs1_as_spki(&block.contents));
    }
    if let Ok((_, certificate)) = X509Certificate::from_der(&block.contents) {
        return Some(certificate.tbs_certificate.subject_pki.raw.to_vec());
    }
    let is_key = SubjectPublicKeyInfo::from_der(&block.contents).is_ok();
    is_key.then_some(block.contents)
}

fn blocks(pem: &[u8]) -> impl Iterator<Item = Pem> {
    Pem::iter_from_buffer(pem).take(MAX_BLOCKS).filter_map(Result::ok)
}

/// Of a private key in the form of PKCS#1. The private exponent must follow: a public key ends before it.
fn modulus_and_exponent(pkcs1: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut fields = Elements(pkcs1).inside(SEQUENCE)?;
    fields.next(INTEGER).filter(|version| version.content == [0])?;
    let (modulus, exponent) = (fields.next(INTEGER)?, fields.next(INTEGER)?);
    fields.next(INTEGER)?;
    Some((modulus.whole, exponent.whole))
}

/// The general form around PKCS#1's own.
fn pkcs1_as_spki(key: &[u8]) -> Vec<u8> {
    let kind = wrap(SEQUENCE, &[RSA_ENCRYPTION, NULL]);
    wrap(SEQUENCE, &[&kind, &wrap(BITS, &[&[0], key])])
}

/// DER that is still to be read.
#[derive(Clone, Copy)]
struct Elements<'a>(&'a [u8]);

struct Element<'a> {
    whole: &'a [u8],
    content: &'a [u8],
}

impl<'a> Elements<'a> {
    /// The next element if it has that tag; else nothing is read.
    fn next(&mut self, tag: u8) -> Option<Element<'a>> {
        let (&found, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0x00..=0x7f => (usize::from(first), rest),
            // Four bytes say more than any key has.
            0x81..=0x84 => {
                let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (length.iter().fold(0, |sum: usize, byte| sum << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        if found != tag {
            return None;
        }
        let whole = &self.0[..self.0.len() - rest.len()];
        self.0 = rest;
        Some(Element { whole, content })
    }

    /// What is inside the next element.
    fn inside(&mut self, tag: u8) -> Option<Elements<'a>> {
        self.next(tag).map(|element| Elements(element.content))
    }
}

/// One element of these parts.
fn wrap(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = content.len().to_be_bytes();
    let zeros = length.iter().take_while(|byte| **byte == 0).count();
    let length = &length[zeros..];
    let mut out = vec![tag];
    if content.len() < 0x80 {
        out.push(content.len() as u8);
    } else {
        out.push(0x80 | length.len() as u8);
        out.extend_from_slice(length);
    }
    out.extend_from_slice(&content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::jwks::PublicKey;
    use crate::authn::token::{Authority, Claims, ServiceAccountKeys};

    /// Made for these tests by openssl; they open nothing.
    const RSA: [&str; 3] = [
        include_str!("../../testdata/tokens/rsa-pkcs1.pem"),
        include_str!("../../testdata/tokens/rsa-pkcs8.pem"),
        include_str!("../../testdata/tokens/rsa-public.pem"),
    ];
    const SMALL: [&str; 3] = [
        include_str!("../../testdata/tokens/p256-sec1.pem"),
        include_str!("../../testdata/tokens/p256-pkcs8.pem"),
        include_str!("../../testdata/tokens/p256-public.pem"),
    ];
    const LARGE: [&str; 3] = [
        include_str!("../../testdata/tokens/p384-sec1.pem"),
        include_str!("../../testdata/tokens/p384-pkcs8.pem"),
        include_str!("../../testdata/tokens/p384-public.pem"),
    ];

    #[test]
    fn every_form_of_a_key_verifies_what_every_private_form_signs() {
        for (forms, algorithm) in [(RSA, "RS256"), (SMALL, "ES256"), (LARGE, "ES384")] {
            let wanted = PublicKey::read(forms[2].as_bytes()).unwrap();
            for (signs, verifies) in [(0, 0), (0, 2), (1, 1), (1, 2), (0, 1), (1, 0)] {
                let keys = ServiceAccountKeys {
                    issuer: "i".into(),
                    signing_key_pem: forms[signs].into(),
                    verifying_keys_pem: vec![forms[verifies].into()],
                    ..ServiceAccountKeys::default()
                };
                let authority = Authority::new(keys).unwrap();
                assert_eq!(authority.published()[0].algorithm, algorithm);
                assert_eq!(authority.published()[0].id, wanted[0].id, "{algorithm} {verifies}");
                let claims = Claims { iss: "i".into(), exp: 2, ..Claims::default() };
                let token = authority.sign(&claims).unwrap();
                assert!(authority.verify(&token, 1).is_some(), "{algorithm} {signs} {verifies}");
            }
        }
    }

    #[test]
    fn files_of_several_blocks() {
        let all = format!("a comment\n{}{}\n{}", RSA[2], SMALL[0], LARGE[1]);
        let read = PublicKey::read(all.as_bytes()).unwrap();
        let algorithms: Vec<_> = read.iter().map(|key| key.algorithm).collect();
        assert_eq!(algorithms, ["RS256", "ES256", "ES384"]);
        let curve = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
        for nothing in ["", "nonsense", curve] {
            assert!(PublicKey::read(nothing.as_bytes()).is_err(), "{nothing}");
        }
        assert!(Private::first(RSA[2].as_bytes()).is_none());
    }

    #[test]
    fn broken_keys_are_none() {
        let key = blocks(SMALL[1].as_bytes()).next().unwrap().contents;
        for end in 0..key.len() {
            assert!(Private::read(&key[..end]).is_none(), "{end}");
        }
        assert!(Private::read(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]).is_none());
        assert!(Private::read(&[0x30, 0x80]).is_none());
    }

    #[test]
    fn lengths_of_der() {
        assert_eq!(wrap(0x30, &[&[1]]), [0x30, 1, 1]);
        assert_eq!(wrap(0x30, &[&[0; 200]])[..3], [0x30, 0x81, 200]);
        assert_eq!(wrap(0x30, &[&[0; 300]])[..4], [0x30, 0x82, 1, 44]);
    }
}
