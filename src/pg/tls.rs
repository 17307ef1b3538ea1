//! TLS towards a server: what libpq's `sslmode` promises, with rustls.
//!
//! | `sslmode` | encrypted | chain checked | host name checked |
//! |---|---|---|---|
//! | `disable` | no | | |
//! | `allow`, `prefer` (default) | if the server offers it | no | no |
//! | `require` | yes | only if a root certificate is given | no |
//! | `verify-ca` | yes | yes | no |
//! | `verify-full` | yes | yes | yes |
//!
//! Two differences from libpq remain: a name counts only as `subjectAltName`, never as common name,
//! and revocation lists are not read. The cryptography is *ring*, handed over explicitly; the
//! process-wide default provider is the embedder's business.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::Error;

/// libpq's `sslmode`, weakest first. `allow` is read as `Prefer`: it differs only in what is tried first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// Where root certificates come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Roots {
    None,
    File(PathBuf),
    /// The platform's store (`sslrootcert=system`).
    System,
}

/// Everything that `sslmode` and its companions say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) mode: Mode,
    pub(crate) roots: Roots,
    /// The client's certificate and key, both PEM files.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

impl Mode {
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        Ok(match text {
            "disable" => Self::Disable,
            "allow" | "prefer" => Self::Prefer,
            "require" => Self::Require,
            "verify-ca" => Self::VerifyCa,
            "verify-full" => Self::VerifyFull,
            _ => {
                let known = "disable, allow, prefer, require, verify-ca and verify-full are known";
                return Err(Error::configuration("sslmode", known));
            }
        })
    }
}

/// Reads the files and makes the connector. `None` for `disable`.
pub(crate) fn connector(options: &Options) -> Result<Option<MakeRustlsConnect>, Error> {
    let mode = match (options.mode, &options.roots) {
        (Mode::Disable, _) => return Ok(None),
        // libpq's rule: with a root certificate, `require` checks the chain.
        (Mode::Require, Roots::File(_)) => Mode::VerifyCa,
        (mode, Roots::System) if mode < Mode::VerifyFull => {
            // Anyone can have a certificate from a public authority; without the name it proves nothing.
            return Err(Error::configuration("sslrootcert", "`system` needs sslmode=verify-full"));
        }
        (mode, _) => mode,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Verifier { checks: Checks::of(mode, &options.roots)?, provider: Arc::clone(&provider) };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::other("cannot set up TLS", error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match &options.identity {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => config
            .with_client_auth_cert(certificates("sslcert", certificate)?, private_key(key)?)
            .map_err(|error| Error::configuration("sslcert", format!("cannot be used: {error}")))?,
    };
    // Required by servers from PostgreSQL 17 on where the negotiation is direct, ignored elsewhere.
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok(Some(MakeRustlsConnect::new(config)))
}

fn certificates(field: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let wrong = |problem: String| Error::configuration(field, format!("`{}`: {problem}", file.display()));
    let pem = fs::read(file).map_err(|error| wrong(error.to_string()))?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let all = all.map_err(|error| wrong(error.to_string()))?;
    if all.is_empty() {
        return Err(wrong("holds no certificate in PEM form".into()));
    }
    Ok(all)
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let wrong = |problem: String| Error::configuration("sslkey", format!("`{}`: {problem}", file.display()));
    let metadata = fs::metadata(file).map_err(|error| wrong(error.to_string()))?;
    // libpq's rule: nobody else, but a key of root's may be shared with a group.
    let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if metadata.permissions().mode() & forbidden != 0 {
        return Err(wrong("others may read this key; chmod 0600 helps".into()));
    }
    PrivateKeyDer::from_pem_file(file)
        .map_err(|_| wrong("holds no unencrypted private key in PEM form".into()))
}

/// What of the server's certificate is checked.
#[derive(Debug)]
enum Checks {
    Nothing,
    Chain { roots: RootCertStore, pinned: Vec<CertificateDer<'static>>, name: bool },
}

impl Checks {
    fn of(mode: Mode, roots: &Roots) -> Result<Self, Error> {
        if mode < Mode::VerifyCa {
            return Ok(Self::Nothing);
        }
        let trusted = match roots {
            Roots::File(file) => certificates("sslrootcert", file)?,
            Roots::System => rustls_native_certs::load_native_certs().certs,
            Roots::None => {
                let problem =
                    "sslmode=verify-ca and verify-full need a root certificate: a file, or `system`";
                return Err(Error::configuration("sslrootcert", problem));
            }
        };
        let mut store = RootCertStore::empty();
        let (usable, _) = store.add_parsable_certificates(trusted.iter().cloned());
        if usable == 0 {
            return Err(Error::configuration("sslrootcert", "holds no usable root certificate"));
        }
        let pinned = if *roots == Roots::System { Vec::new() } else { trusted };
        Ok(Self::Chain { roots: store, pinned, name: mode == Mode::VerifyFull })
    }
}

#[derive(Debug)]
struct Verifier {
    checks: Checks,
    provider: Arc<CryptoProvider>,
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
        let Checks::Chain { roots, pinned, name } = &self.checks else {
            return Ok(ServerCertVerified::assertion());
        };
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        let chain =
            verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, algorithms);
        match chain {
            // The manual's own recipe is one self-signed certificate, marked as an authority, that is
            // the server's and the clients' root file at once. Its validity was checked before this error.
            Err(error) if is_authority_as_server(&error) && pinned.contains(end_entity) => {}
            other => other?,
        }
        if *name {
            verify_server_name(&certificate, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        match self.checks {
            // Proof of a key that nobody vouches for protects from nothing, and old certificates fail it.
            Checks::Nothing => Ok(HandshakeSignatureValid::assertion()),
            Checks::Chain { .. } => verify_tls12_signature(message, certificate, signature, algorithms),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        match self.checks {
            Checks::Nothing => Ok(HandshakeSignatureValid::assertion()),
            Checks::Chain { .. } => verify_tls13_signature(message, certificate, signature, algorithms),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn is_authority_as_server(error: &rustls::Error) -> bool {
    // webpki's error is not part of rustls' own vocabulary.
    matches!(error, rustls::Error::InvalidCertificate(CertificateError::Other(other))
        if other.to_string() == "CaUsedAsEndEntity")
}
