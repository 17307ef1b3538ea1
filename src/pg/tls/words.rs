//! Why there is no TLS session, for people, with what to do.

use rustls::{AlertDescription, CertificateError, Error};

/// One clause.
pub(crate) fn explain(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => certificate(error),
        Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::DecryptError,
        ) => format!("the server does not accept the client's certificate (sslcert, sslkey): {error}"),
        Error::AlertReceived(AlertDescription::ProtocolVersion) | Error::PeerIncompatible(_) => {
            format!(
                "the server and this program have no version or cipher of TLS in common (TLSv1.2, TLSv1.3): {error}"
            )
        }
        _ => error.to_string(),
    }
}

fn certificate(error: &CertificateError) -> String {
    let clause = match error {
        CertificateError::UnknownIssuer => "it is not signed by a root certificate of sslrootcert",
        CertificateError::Revoked => "it is revoked (sslcrl)",
        CertificateError::UnknownRevocationStatus => {
            "sslcrl and sslcrldir have no list of its issuer, or not one that the issuer signed"
        }
        CertificateError::ExpiredRevocationList | CertificateError::ExpiredRevocationListContext { .. } => {
            "the list of what its issuer revoked (sslcrl) is out of date: make a new one"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "it is not valid yet",
        CertificateError::BadSignature => "a signature in its chain does not fit",
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it, or an authority above it, is not meant for servers (extendedKeyUsage, keyUsage)"
        }
        CertificateError::UnhandledCriticalExtension => {
            "it, or an authority above it, has a critical extension that is not understood"
        }
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "its key or signature is of a kind that is not supported: make one with openssl req -newkey rsa:2048 -sha256"
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names = if presented.is_empty() { "no name".to_owned() } else { presented.join(", ") };
            return format!(
                "the server's certificate is for {names}, and not for {} (sslmode=verify-full); openssl x509 \
                 -extfile with subjectAltName=DNS:{} makes one that is",
                expected.to_str(),
                expected.to_str()
            );
        }
        _ => return format!("the server's certificate cannot be used: {error}"),
    };
    format!("the server's certificate cannot be trusted: {clause}")
}
