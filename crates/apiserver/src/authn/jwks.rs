//! The keys that sign service account tokens, in the form in which others find them (RFC 7517): `/openid/v1/jwks`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use corten_api::{Object, Value};
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey as Parsed;
use x509_parser::x509::SubjectPublicKeyInfo;

/// A public key as it is published.
#[derive(Clone, Debug)]
pub struct PublicKey {
    /// `kid`: the hash of the key's DER form, as upstream names keys.
    pub id: String,
    /// `RS256`, `ES256` …
    pub algorithm: &'static str,
    jwk: Object,
}

impl PublicKey {
    /// Reads a PEM public key (RSA or elliptic curve) or a certificate.
    ///
    /// Errors: text for the operator.
    pub fn read(pem: &[u8]) -> Result<Self, String> {
        let unusable = |why: String| format!("service account key: {why}");
        let (_, pem) = parse_x509_pem(pem).map_err(|e| unusable(e.to_string()))?;
        let der = match pem.label.as_str() {
            "RSA PUBLIC KEY" => pkcs1_as_spki(&pem.contents),
            "CERTIFICATE" => {
                let certificate = pem.parse_x509().map_err(|e| unusable(e.to_string()))?;
                certificate.tbs_certificate.subject_pki.raw.to_vec()
            }
            _ => pem.contents,
        };
        let (_, info) = SubjectPublicKeyInfo::from_der(&der).map_err(|e| unusable(e.to_string()))?;
        let id = BASE64.encode(ring::digest::digest(&ring::digest::SHA256, &der));
        let (algorithm, jwk) = match info.parsed().map_err(|e| unusable(e.to_string()))? {
            Parsed::RSA(key) => ("RS256", rsa(&id, key.modulus, key.exponent)),
            Parsed::EC(point) => curve(&id, point.data()).ok_or_else(|| unusable("unknown curve".into()))?,
            _ => return Err(unusable("neither RSA nor elliptic curve".into())),
        };
        Ok(PublicKey { id, algorithm, jwk })
    }

    /// Its JSON Web Key.
    pub fn jwk(&self) -> Value {
        self.jwk.clone().into()
    }
}

/// The public key of a certificate; a public key stays what it is.
///
/// Errors: text for the operator.
pub fn public_key_pem(pem: &[u8]) -> Result<Vec<u8>, String> {
    let unusable = |why: String| format!("service account key: {why}");
    let (_, block) = parse_x509_pem(pem).map_err(|e| unusable(e.to_string()))?;
    if block.label != "CERTIFICATE" {
        return Ok(pem.to_vec());
    }
    let certificate = block.parse_x509().map_err(|e| unusable(e.to_string()))?;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate.tbs_certificate.subject_pki.raw);
    let lines: Vec<String> =
        text.as_bytes().chunks(64).map(|l| String::from_utf8_lossy(l).into_owned()).collect();
    Ok(format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n")).into_bytes())
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

/// The general form around PKCS#1's own.
fn pkcs1_as_spki(key: &[u8]) -> Vec<u8> {
    const RSA_ENCRYPTION: &[u8] =
        &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
    let bits = der(0x03, &[&[0], key].concat());
    der(0x30, &[RSA_ENCRYPTION, &bits].concat())
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
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
    out.extend_from_slice(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elliptic_curve_keys() {
        let key = rcgen::KeyPair::generate().unwrap();
        let read = PublicKey::read(key.public_key_pem().as_bytes()).unwrap();
        assert_eq!(read.algorithm, "ES256");
        let jwk = read.jwk();
        assert_eq!((jwk.str_at(&["kty"]), jwk.str_at(&["crv"])), ("EC", "P-256"));
        let x = BASE64.decode(jwk.str_at(&["x"])).unwrap();
        assert_eq!(x, key.public_key_raw()[1..33]);
        assert_eq!(BASE64.decode(&read.id).unwrap().len(), 32);
        assert!(PublicKey::read(b"nonsense").is_err());
    }

    #[test]
    fn lengths_of_der() {
        assert_eq!(der(0x30, &[1]), [0x30, 1, 1]);
        assert_eq!(der(0x30, &[0; 200])[..3], [0x30, 0x81, 200]);
        assert_eq!(der(0x30, &[0; 300])[..4], [0x30, 0x82, 1, 44]);
    }
}
