//! Whether a certificate is that host's: libpq's rule (fe-secure-common.c, fe-secure-openssl.c of 15 and later).
//!
//! The names of `subjectAltName` count; the common name only where there is none of the host's kind, DNS or address.

use std::net::IpAddr;

use rustls::CertificateError;
use rustls::pki_types::ServerName;
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::der::asn1::{Ia5StringRef, PrintableStringRef, TeletexStringRef, Utf8StringRef};
use x509_cert::der::oid::db::rfc4519::COMMON_NAME;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use super::certificate::Certificate;

pub(super) fn check(certificate: &Certificate, host: &ServerName<'_>) -> Result<(), CertificateError> {
    let tbs = &certificate.parsed.tbs_certificate;
    let alternatives = tbs.get::<SubjectAltName>().map_err(|_| CertificateError::BadEncoding)?;
    let alternatives = alternatives.map(|(_, names)| names.0).unwrap_or_default();
    let name = host.to_str();
    let address = match host {
        ServerName::IpAddress(address) => Some(IpAddr::from(*address)),
        _ => None,
    };
    let (mut presented, mut of_kind) = (Vec::new(), false);
    for alternative in &alternatives {
        let fits = match alternative {
            GeneralName::DnsName(pattern) => {
                of_kind |= address.is_none();
                presented.push(pattern.as_str().to_owned());
                matches(pattern.as_str(), &name)
            }
            GeneralName::IpAddress(bytes) => {
                of_kind |= address.is_some();
                let shown = address_of(bytes.as_bytes());
                presented.extend(shown.map(|shown| shown.to_string()));
                shown.is_some() && shown == address
            }
            _ => false,
        };
        if fits {
            return Ok(());
        }
    }
    if !of_kind {
        let all = tbs.subject.0.iter().flat_map(|part| part.0.iter());
        // libpq takes the first.
        if let Some(common) = all.filter(|part| part.oid == COMMON_NAME).find_map(text) {
            if matches(common, &name) {
                return Ok(());
            }
            presented.push(common.to_owned());
        }
    }
    Err(CertificateError::NotValidForNameContext { expected: host.to_owned(), presented })
}

/// A name, or `*.` and the rest of one; `*` stands for one label.
fn matches(pattern: &str, host: &str) -> bool {
    // Else the text behind it would be cut off somewhere.
    if pattern.contains('\0') {
        return false;
    }
    pattern.eq_ignore_ascii_case(host)
        || pattern.strip_prefix('*').is_some_and(|rest| {
            rest.len() > 1
                && rest.starts_with('.')
                && host
                    .split_once('.')
                    .is_some_and(|(label, after)| !label.is_empty() && after.eq_ignore_ascii_case(&rest[1..]))
        })
}

fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn text(part: &AttributeTypeAndValue) -> Option<&str> {
    let value = &part.value;
    if let Ok(text) = Utf8StringRef::try_from(value) {
        return Some(text.as_str());
    }
    if let Ok(text) = PrintableStringRef::try_from(value) {
        return Some(text.as_str());
    }
    if let Ok(text) = TeletexStringRef::try_from(value) {
        return Some(text.as_str());
    }
    Ia5StringRef::try_from(value).ok().map(|text| text.as_str())
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_stands_for_one_label() {
        for (pattern, host, fits) in [
            ("db.example.com", "DB.example.com", true),
            ("*.example.com", "db.example.com", true),
            ("*.example.com", "a.db.example.com", false),
            ("*.example.com", "example.com", false),
            ("*.example.com", ".example.com", false),
            ("d*.example.com", "db.example.com", false),
            ("*", "db", false),
            ("*.", "db.", false),
            ("db.example.com\0.evil.org", "db.example.com", false),
            ("127.0.0.1", "127.0.0.1", true),
        ] {
            assert_eq!(matches(pattern, host), fits, "{pattern} {host}");
        }
    }
}
