//! What of the server's certificate is checked, and how strictly.
//!
//! webpki decides wherever it can; see [`super::certificate`] for what it cannot. Names are libpq's business, not
//! webpki's, since a common name may count.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, PeerMisbehaved, RootCertStore, SignatureScheme};
use x509_cert::der::Encode;

use super::certificate::{Certificate, Chain, inside};
use super::name;
use super::revocation::RevocationList;

/// What of the server's certificate is checked.
#[derive(Debug)]
pub(super) enum Checks {
    Nothing,
    Chain(Trust),
}

/// Whom to believe.
#[derive(Debug)]
pub(super) struct Trust {
    pub(super) store: RootCertStore,
    /// The same, as far as they can be read here.
    pub(super) roots: Vec<Certificate>,
    pub(super) lists: Vec<RevocationList>,
    /// Whether the certificate must be the host's.
    pub(super) name: bool,
}

#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) checks: Checks,
    pub(super) provider: Arc<CryptoProvider>,
}

impl Trust {
    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        now: UnixTime,
        provider: &CryptoProvider,
    ) -> Result<(), rustls::Error> {
        let algorithms = provider.signature_verification_algorithms.all;
        let strict = ParsedCertificate::try_from(end_entity).and_then(|certificate| {
            verify_server_cert_signed_by_trust_anchor(
                &certificate,
                &self.store,
                intermediates,
                now,
                algorithms,
            )
        });
        let leniently = match strict {
            Ok(()) => !self.lists.is_empty(),
            Err(error) if is_stricter_than_libpq(&error) => true,
            Err(error) => return Err(error),
        };
        let leaf = Certificate::read(end_entity)?;
        if leniently {
            let intermediates: Vec<_> =
                intermediates.iter().filter_map(|der| Certificate::read(der).ok()).collect();
            let (roots, lists) = (&*self.roots, &*self.lists);
            Chain { roots, intermediates: &intermediates, lists, algorithms, now }.verify(&leaf)?;
        }
        if self.name {
            name::check(&leaf, host)?;
        }
        Ok(())
    }
}

impl Verifier {
    /// The proof that the server has the certificate's key: by webpki where it can read the certificate, else by the
    /// key alone.
    fn verify_signature(
        &self,
        certificate: &CertificateDer<'_>,
        by_webpki: impl FnOnce(&WebPkiSupportedAlgorithms) -> Result<HandshakeSignatureValid, rustls::Error>,
        by_key: impl FnOnce(&WebPkiSupportedAlgorithms) -> Result<HandshakeSignatureValid, rustls::Error>,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        match self.checks {
            // Proof of a key that nobody vouches for protects from nothing, and old certificates fail it.
            Checks::Nothing => Ok(HandshakeSignatureValid::assertion()),
            Checks::Chain(_) if ParsedCertificate::try_from(certificate).is_ok() => by_webpki(algorithms),
            Checks::Chain(_) => by_key(algorithms),
        }
    }
}

/// webpki's errors of its own are not part of rustls' vocabulary.
fn is_stricter_than_libpq(error: &rustls::Error) -> bool {
    matches!(error, rustls::Error::InvalidCertificate(CertificateError::Other(other))
        if ["CaUsedAsEndEntity", "UnsupportedCertVersion"].contains(&other.to_string().as_str()))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Checks::Chain(trust) = &self.checks {
            trust.verify(end_entity, intermediates, server_name, now, &self.provider)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify_signature(
            certificate,
            |algorithms| verify_tls12_signature(message, certificate, signature, algorithms),
            |algorithms| {
                let certificate = Certificate::read(certificate)?;
                let key = certificate.key();
                let mut fitting = algorithms
                    .mapping
                    .iter()
                    .filter(|(scheme, _)| *scheme == signature.scheme)
                    .flat_map(|(_, algorithms)| *algorithms)
                    .filter(|algorithm| {
                        inside(&key.algorithm).as_deref() == Some(algorithm.public_key_alg_id().as_ref())
                    })
                    .peekable();
                if fitting.peek().is_none() {
                    return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
                }
                let bits = key.subject_public_key.raw_bytes();
                if fitting
                    .any(|algorithm| algorithm.verify_signature(bits, message, signature.signature()).is_ok())
                {
                    return Ok(HandshakeSignatureValid::assertion());
                }
                Err(CertificateError::BadSignature.into())
            },
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify_signature(
            certificate,
            |algorithms| verify_tls13_signature(message, certificate, signature, algorithms),
            |algorithms| {
                let key = Certificate::read(certificate)?.key().to_der();
                let key = key.map_err(|_| CertificateError::BadEncoding)?;
                let key = SubjectPublicKeyInfoDer::from(key);
                verify_tls13_signature_with_raw_key(message, &key, signature, algorithms)
            },
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::{Duration, SystemTime};

    use rustls::pki_types::pem::PemObject;

    use super::super::revocation;
    use super::*;

    const YEAR: Duration = Duration::from_hours(365 * 24);

    fn file(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates").join(name)
    }

    fn chain(name: &str) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_file_iter(file(name)).unwrap().map(Result::unwrap).collect()
    }

    /// What is said of the chain in a file, after so long, given the roots and lists in others.
    fn check(
        server: &str,
        root: &str,
        list: Option<&str>,
        host: &str,
        after: Duration,
    ) -> Result<(), String> {
        let trusted = chain(root);
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(trusted.iter().cloned());
        let roots = trusted.iter().map(|der| Certificate::read(der).unwrap()).collect();
        let lists = revocation::read(list.map(file).as_deref(), None).unwrap();
        let trust = Trust { store, roots, lists, name: !host.is_empty() };
        let host = ServerName::try_from(if host.is_empty() { "any" } else { host }).unwrap();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap() + after;
        let provider = rustls::crypto::ring::default_provider();
        let chain = chain(server);
        trust
            .verify(&chain[0], &chain[1..], &host, UnixTime::since_unix_epoch(now), &provider)
            .map_err(|error| super::super::explain(&error))
    }

    const HOST: &str = "dbhost.example.com";

    #[test]
    fn certificates_of_the_manuals_recipes_are_trusted_as_libpq_trusts_them() {
        for (server, root) in [
            ("self.crt", "self.crt"),
            ("leaf.crt", "root.crt"),
            ("below.crt", "root.crt"),
            ("names.crt", "root.crt"),
            ("wild.crt", "root.crt"),
            ("signing.crt", "root.crt"),
        ] {
            check(server, root, None, "", Duration::ZERO).unwrap_or_else(|why| panic!("{server}: {why}"));
            check(server, root, None, HOST, Duration::ZERO).unwrap_or_else(|why| panic!("{server}: {why}"));
        }
        check("address.crt", "root.crt", None, "127.0.0.1", Duration::ZERO).unwrap();
        // The common name counts where no alternative name is of the host's kind.
        check("address.crt", "root.crt", None, HOST, Duration::ZERO).unwrap();
    }

    #[test]
    fn what_libpq_refuses_is_refused_with_words() {
        let century = YEAR * 101;
        for (server, root, host, after, said) in [
            ("leaf.crt", "self.crt", "", Duration::ZERO, "not signed by a root certificate"),
            ("self.crt", "root.crt", "", Duration::ZERO, "not signed by a root certificate"),
            ("forged.crt", "root.crt", "", Duration::ZERO, "not signed by a root certificate"),
            ("client.crt", "root.crt", "", Duration::ZERO, "not meant for servers"),
            ("leaf.crt", "root.crt", "", century, "has expired"),
            ("self.crt", "self.crt", "", century, "has expired"),
            ("below.crt", "root.crt", "", century, "has expired"),
            (
                "leaf.crt",
                "root.crt",
                "other.example.com",
                Duration::ZERO,
                "subjectAltName=DNS:other.example.com",
            ),
            (
                "names.crt",
                "root.crt",
                "third.example.com",
                Duration::ZERO,
                "dbhost.example.com, other.example.com",
            ),
            ("wild.crt", "root.crt", "a.b.example.com", Duration::ZERO, "*.example.com"),
            ("names.crt", "root.crt", "127.0.0.1", Duration::ZERO, "and not for 127.0.0.1"),
        ] {
            let why = check(server, root, None, host, after).expect_err(server);
            assert!(why.contains(said), "{server} {host}: {why}");
        }
    }

    #[test]
    fn a_certificate_that_is_revoked_is_refused_and_each_issuer_must_have_a_list() {
        for (server, list, said) in [
            ("leaf.crt", "root.crl", Some("revoked")),
            ("leaf.crt", "root-v1.crl", Some("revoked")),
            ("names.crt", "root.crl", Some("revoked")),
            ("names.crt", "root-v1.crl", Some("revoked")),
            ("names.crt", "none.crl", None),
            ("leaf.crt", "none.crl", None),
            ("wild.crt", "root.crl", None),
            ("wild.crt", "root-v1.crl", None),
            // The intermediate's issuer has a list, the intermediate has none.
            ("below.crt", "root.crl", Some("no list of its issuer")),
        ] {
            match (check(server, "root.crt", Some(list), HOST, Duration::ZERO), said) {
                (Ok(()), None) => {}
                (Err(why), Some(said)) => assert!(why.contains(said), "{server} {list}: {why}"),
                (answer, _) => panic!("{server} {list}: {answer:?}"),
            }
        }
        let why = check("self.crt", "self.crt", Some("root.crl"), HOST, Duration::ZERO).unwrap_err();
        assert!(why.contains("no list of its issuer"), "{why}");
    }
}
