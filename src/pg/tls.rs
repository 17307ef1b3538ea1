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
//! How the chain and the name are checked is libpq's rule, too: see `verifier`. The cryptography is *ring*, handed over
//! explicitly; the process-wide default provider is the embedder's business.

mod certificate;
mod name;
mod revocation;
mod verifier;
mod words;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, SignatureScheme, SupportedProtocolVersion, version};
use tokio_postgres_rustls::MakeRustlsConnect;
use x509_cert::der::Encode;

use self::certificate::Certificate;
use self::verifier::{Checks, Trust, Verifier};
pub(crate) use self::words::explain;
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

/// libpq's words; the default comes first, unless the system's roots are asked for.
pub(super) const MODES: &[(&str, Mode)] = &[
    ("prefer", Mode::Prefer),
    ("disable", Mode::Disable),
    ("allow", Mode::Prefer),
    ("require", Mode::Require),
    ("verify-ca", Mode::VerifyCa),
    ("verify-full", Mode::VerifyFull),
];

/// Where root certificates come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Roots {
    None,
    File(PathBuf),
    /// The platform's store (`sslrootcert=system`).
    System,
}

/// libpq's `sslcertmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CertificateMode {
    /// None is sent.
    Disable,
    /// The one that there is, if the server asks for it.
    Allow,
    /// The server must ask for one.
    Require,
}

/// Everything that `sslmode` and its companions say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) mode: Mode,
    pub(crate) roots: Roots,
    /// The client's certificate and key.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
    pub(crate) certificate_mode: CertificateMode,
    /// Lists of revoked certificates: a file, and a folder of them.
    pub(crate) lists: (Option<PathBuf>, Option<PathBuf>),
    /// Whether the host's name is told before the session is encrypted.
    pub(crate) sni: bool,
    /// Versions of TLS, oldest and newest.
    pub(crate) versions: (Version, Version),
}

/// A version of TLS that is spoken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    V1_2,
    V1_3,
}

/// Makes TLS sessions.
#[derive(Clone)]
pub(crate) struct Connector {
    config: ClientConfig,
    must_be_asked: bool,
}

/// Whether the server of one session asked for the client's certificate, if it must.
#[derive(Debug, Default)]
pub(crate) struct Asked(Option<Arc<AtomicBool>>);

impl Connector {
    /// For one session.
    pub(crate) fn make(&self) -> (MakeRustlsConnect, Asked) {
        let mut config = self.config.clone();
        let mut asked = Asked::default();
        if self.must_be_asked {
            let flag = Arc::new(AtomicBool::new(false));
            let inner = Arc::clone(&config.client_auth_cert_resolver);
            config.client_auth_cert_resolver = Arc::new(Noting { inner, asked: Arc::clone(&flag) });
            asked = Asked(Some(flag));
        }
        (MakeRustlsConnect::new(config), asked)
    }
}

impl Asked {
    /// Refuses a session whose server did not ask.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        match &self.0 {
            Some(asked) if !asked.load(Ordering::Relaxed) => {
                Err("the server did not ask for the client's certificate, and sslcertmode=require")
            }
            _ => Ok(()),
        }
    }
}

/// Notes that it was asked.
#[derive(Debug)]
struct Noting {
    inner: Arc<dyn ResolvesClientCert>,
    asked: Arc<AtomicBool>,
}

impl ResolvesClientCert for Noting {
    fn resolve(&self, hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.inner.resolve(hints, schemes)
    }

    fn has_certs(&self) -> bool {
        // Else nobody asks.
        true
    }
}

/// Reads the files and makes the connector. `None` for `disable`.
pub(crate) fn connector(options: &Options) -> Result<Option<Connector>, Error> {
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
    let keys = Arc::clone(&provider);
    let verifier = Verifier { checks: checks(mode, options)?, provider: Arc::clone(&provider) };
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions(options.versions))
        .map_err(|error| Error::other("cannot set up TLS", error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let files = options.identity.as_ref().filter(|_| options.certificate_mode != CertificateMode::Disable);
    let mut config = match files {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => {
            let identity = identity(certificates("sslcert", certificate)?, private_key(key)?, &keys)?;
            config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity)))
        }
    };
    // Required by servers from PostgreSQL 17 on where the negotiation is direct, ignored elsewhere.
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    config.enable_sni = options.sni;
    let must_be_asked = options.certificate_mode == CertificateMode::Require;
    if must_be_asked {
        // A resumed session asks for nothing.
        config.resumption = Resumption::disabled();
    }
    Ok(Some(Connector { config, must_be_asked }))
}

/// The client's certificate and its key, which must belong together. rustls' own check knows no certificate of version
/// 1, which the manual's recipe makes.
fn identity(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, Error> {
    let key = provider.key_provider.load_private_key(key);
    let key = key.map_err(|error| Error::configuration("sslkey", format!("cannot be used: {error}")))?;
    let certificate = chain.first().map(Certificate::read);
    let Some(Ok(certificate)) = certificate else {
        return Err(Error::configuration("sslcert", "the certificate cannot be read"));
    };
    let public = certificate.key().to_der().ok();
    if key.public_key().is_some_and(|of_key| public.as_deref() != Some(of_key.as_ref())) {
        return Err(Error::configuration("sslkey", "is not the key of the certificate (sslcert)"));
    }
    Ok(CertifiedKey::new(chain, key))
}

fn versions((oldest, newest): (Version, Version)) -> Vec<&'static SupportedProtocolVersion> {
    [(Version::V1_3, &version::TLS13), (Version::V1_2, &version::TLS12)]
        .into_iter()
        .filter(|(version, _)| (oldest..=newest).contains(version))
        .map(|(_, supported)| supported)
        .collect()
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
    let bytes = fs::read(file).map_err(|error| wrong(error.to_string()))?;
    if let Ok(key) = PrivateKeyDer::from_pem_slice(&bytes) {
        return Ok(key);
    }
    let text = String::from_utf8_lossy(&bytes);
    if text.contains("ENCRYPTED") {
        let plain = "is encrypted, which is not supported: decrypt it (openssl pkey -in KEY -out NEW; chmod 0600 NEW), and use NEW";
        return Err(wrong(plain.into()));
    }
    PrivateKeyDer::try_from(bytes).map_err(|_| wrong("holds no private key in PEM or DER form".into()))
}

fn checks(mode: Mode, options: &Options) -> Result<Checks, Error> {
    if mode < Mode::VerifyCa {
        return Ok(Checks::Nothing);
    }
    let trusted = match &options.roots {
        Roots::File(file) => certificates("sslrootcert", file)?,
        Roots::System => rustls_native_certs::load_native_certs().certs,
        Roots::None => {
            let problem = "sslmode=verify-ca and verify-full need a root certificate: a file, or `system`";
            return Err(Error::configuration("sslrootcert", problem));
        }
    };
    let mut store = RootCertStore::empty();
    let (usable, _) = store.add_parsable_certificates(trusted.iter().cloned());
    if usable == 0 {
        return Err(Error::configuration("sslrootcert", "holds no usable root certificate"));
    }
    let roots = trusted.iter().filter_map(|der| Certificate::read(der).ok()).collect();
    let (file, folder) = &options.lists;
    let lists = revocation::read(file.as_deref(), folder.as_deref())?;
    Ok(Checks::Chain(Trust { store, roots, lists, name: mode == Mode::VerifyFull }))
}
