//! The keys that sign service account tokens, in the form in which others find them (RFC 7517): `/openid/v1/jwks`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use corten_api::{Object, Value};
use jsonwebtoken::{Algorithm, DecodingKey};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey as Parsed;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::keys;

/// A public key as it is published.
#[derive(Clone, Debug)]
pub struct PublicKey {
    /// `kid`: the hash of the key's DER form, as upstream names keys.
    pub id: String,
    /// `RS256`, `ES256` …
    pub algorithm: &'static str,
    jwk: Object,
    /// A point, or modulus and exponent in the form of PKCS#1.
    bits: Vec<u8>,
}

impl PublicKey {
    /// Reads all keys of a PEM file: public ones, certificates, and private ones, whose public half counts.
    ///
    /// Errors: text for the operator where there is none.
    pub fn read(pem: &[u8]) -> Result<Vec<Self>, String> {
        let keys: Vec<Self> =
            keys::public_halves(pem).iter().filter_map(|key| Self::from_spki(key)).collect();
        match keys.is_empty() {
            true => Err("service account key: no RSA or elliptic curve key in PEM form".into()),
            false => Ok(keys),
        }
    }

    fn from_spki(der: &[u8]) -> Option<Self> {
        let (_, info) = SubjectPublicKeyInfo::from_der(der).ok()?;
        let id = BASE64.encode(ring::digest::digest(&ring::digest::SHA256, der));
        let (algorithm, jwk) = match info.parsed().ok()? {
            Parsed::RSA(key) => ("RS256", rsa(&id, key.modulus, key.exponent)),
            Parsed::EC(point) => curve(&id, point.data())?,
            _ => return None,
        };
        Some(PublicKey { id, algorithm, jwk, bits: info.subject_public_key.as_ref().to_vec() })
    }

    /// What signatures are checked with; `None` for P-521, for which there is no code here.
    pub(super) fn verifier(&self) -> Option<(Algorithm, DecodingKey)> {
        match self.algorithm {
            "RS256" => Some((Algorithm::RS256, DecodingKey::from_rsa_der(&self.bits))),
            "ES256" => Some((Algorithm::ES256, DecodingKey::from_ec_der(&self.bits))),
            "ES384" => Some((Algorithm::ES384, DecodingKey::from_ec_der(&self.bits))),
            _ => None,
        }
    }

    /// Its JSON Web Key.
    pub fn jwk(&self) -> Value {
        self.jwk.clone().into()
    }
}

fn begin(kind: &'static str, id: &str) -> Object {
    let mut jwk = Object::default();
    jwk.set("use", Value::str("sig"));
    jwk.set("kty", Value::str(kind));
    jwk.set("kid", id);
    jwk
}

fn rsa(id: &str, modulus: &[u8], exponent: &[u8]) -> Object {
    let plain = |number: &[u8]| {
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        BASE64.encode(&number[zeros..])
    };
    let mut jwk = begin("RSA", id);
    jwk.set("alg", Value::str("RS256"));
    jwk.set("n", plain(modulus));
    jwk.set("e", plain(exponent));
    jwk
}

/// An uncompressed point: 4, x, y. The curve shows in its length.
fn curve(id: &str, point: &[u8]) -> Option<(&'static str, Object)> {
    let coordinates = point.strip_prefix(&[4])?;
    let (curve, algorithm) = match coordinates.len() {
        64 => ("P-256", "ES256"),
        96 => ("P-384", "ES384"),
        132 => ("P-521", "ES512"),
        _ => return None,
    };
    let (x, y) = coordinates.split_at(coordinates.len() / 2);
    let mut jwk = begin("EC", id);
    jwk.set("crv", Value::str(curve));
    jwk.set("alg", Value::str(algorithm));
    jwk.set("x", BASE64.encode(x));
    jwk.set("y", BASE64.encode(y));
    Some((algorithm, jwk))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elliptic_curve_keys() {
        let key = rcgen::KeyPair::generate().unwrap();
        let read = PublicKey::read(key.public_key_pem().as_bytes()).unwrap().remove(0);
        assert_eq!(read.algorithm, "ES256");
        let jwk = read.jwk();
        assert_eq!((jwk.str_at(&["kty"]), jwk.str_at(&["crv"])), ("EC", "P-256"));
        let x = BASE64.decode(jwk.str_at(&["x"])).unwrap();
        assert_eq!(x, key.public_key_raw()[1..33]);
        assert_eq!(BASE64.decode(&read.id).unwrap().len(), 32);
        assert!(PublicKey::read(b"nonsense").is_err());
    }
}
