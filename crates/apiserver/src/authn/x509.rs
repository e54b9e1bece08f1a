//! The user in a client certificate: common name and organisations, as upstream maps them.

use x509_parser::prelude::{FromDer, X509Certificate};

use crate::user::User;

/// CN is the name, every O a group. `None` for a certificate without a name. The chain was checked by the TLS layer.
pub fn user_of_certificate(der: &[u8]) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    if name.is_empty() {
        return None;
    }
    let groups = subject.iter_organization().filter_map(|o| o.as_str().ok());
    Some(User::new(name, groups))
}
