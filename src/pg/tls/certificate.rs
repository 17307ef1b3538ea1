//! A certificate, read more leniently than webpki reads it.
//!
//! webpki knows X.509 version 3 only, and no server's certificate that is marked as an authority. The PostgreSQL
//! manual's own recipes make both: `openssl x509 -req` without an extension file, and one self-signed certificate.
//! Where webpki refuses for these reasons alone, the chain is climbed here as OpenSSL does for libpq; and always
//! where there are revocation lists, which need not be of the version that webpki reads either.

use std::time::Duration;

use rustls::CertificateError;
use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use x509_cert::Certificate as Parsed;
use x509_cert::certificate::Version;
use x509_cert::der::oid::AssociatedOid;
use x509_cert::der::oid::db::rfc5280::ID_KP_SERVER_AUTH;
use x509_cert::der::{Decode, Encode, Reader, SliceReader};
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, NameConstraints, SubjectAltName};
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};

use super::revocation::RevocationList;

/// Certificates above a server's own; more is no honest chain.
const DEPTH: usize = 8;
/// Signatures to check for one chain: a server could send certificates that fit each other in many ways.
const SIGNATURES: usize = 64;

pub(super) type Algorithms = &'static [&'static dyn SignatureVerificationAlgorithm];

#[derive(Debug, Clone)]
pub(super) struct Certificate {
    der: Vec<u8>,
    pub(super) parsed: Parsed,
}

impl Certificate {
    pub(super) fn read(der: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let parsed = Parsed::from_der(der).map_err(|_| CertificateError::BadEncoding)?;
        Ok(Self { der: der.to_vec(), parsed })
    }

    pub(super) const fn key(&self) -> &SubjectPublicKeyInfoOwned {
        &self.parsed.tbs_certificate.subject_public_key_info
    }

    fn is_signed_by(&self, issuer: &Self, algorithms: Algorithms) -> bool {
        let Self { der, parsed } = self;
        signed_part(der).is_some_and(|message| {
            let signature = parsed.signature.raw_bytes();
            verifies(issuer.key(), &parsed.signature_algorithm, message, signature, algorithms)
        })
    }

    fn extension<'a, T: Decode<'a> + AssociatedOid>(&'a self) -> Result<Option<T>, CertificateError> {
        let found = self.parsed.tbs_certificate.get::<T>().map_err(|_| CertificateError::BadEncoding)?;
        Ok(found.map(|(_, value)| value))
    }

    fn check_time(&self, now: UnixTime) -> Result<(), CertificateError> {
        let validity = &self.parsed.tbs_certificate.validity;
        let unix = |time: Duration| UnixTime::since_unix_epoch(time);
        let not_before = unix(validity.not_before.to_unix_duration());
        let not_after = unix(validity.not_after.to_unix_duration());
        match now {
            _ if now < not_before => Err(CertificateError::NotValidYetContext { time: now, not_before }),
            _ if now > not_after => Err(CertificateError::ExpiredContext { time: now, not_after }),
            _ => Ok(()),
        }
    }

    /// What its extensions allow is what OpenSSL asks for (`X509_PURPOSE_SSL_SERVER`), and none is left unread that
    /// must be read.
    fn check_extensions(&self) -> Result<(), CertificateError> {
        let known = [BasicConstraints::OID, KeyUsage::OID, ExtendedKeyUsage::OID, SubjectAltName::OID];
        let extensions = self.parsed.tbs_certificate.extensions.as_deref().unwrap_or_default();
        let unread =
            extensions.iter().any(|extension| extension.critical && !known.contains(&extension.extn_id));
        if unread || self.extension::<NameConstraints>()?.is_some() {
            return Err(CertificateError::UnhandledCriticalExtension);
        }
        match self.extension::<ExtendedKeyUsage>()? {
            Some(uses) if !uses.0.contains(&ID_KP_SERVER_AUTH) => Err(CertificateError::InvalidPurpose),
            _ => Ok(()),
        }
    }

    /// Whether it may stand above so many other authorities.
    fn may_issue(&self, authorities_below: usize) -> Result<bool, CertificateError> {
        let tbs = &self.parsed.tbs_certificate;
        if tbs.version == Version::V1 {
            // As OpenSSL: such a root says nothing of itself.
            return Ok(tbs.issuer == tbs.subject);
        }
        let limits = self.extension::<BasicConstraints>()?;
        let use_fits = self.extension::<KeyUsage>()?.is_none_or(|usage| usage.key_cert_sign());
        Ok(use_fits
            && limits.is_some_and(|limits| {
                limits.ca
                    && limits.path_len_constraint.is_none_or(|most| authorities_below <= usize::from(most))
            }))
    }
}

/// The roots, what came with a server's certificate, and the lists of what is revoked.
#[derive(Debug)]
pub(super) struct Chain<'a> {
    pub(super) roots: &'a [Certificate],
    pub(super) intermediates: &'a [Certificate],
    pub(super) lists: &'a [RevocationList],
    pub(super) algorithms: Algorithms,
    pub(super) now: UnixTime,
}

impl Chain<'_> {
    /// Climbs from a server's certificate to a root.
    pub(super) fn verify(&self, leaf: &Certificate) -> Result<(), CertificateError> {
        if let Some(usage) = leaf.extension::<KeyUsage>()?
            && !(usage.digital_signature() || usage.key_encipherment() || usage.key_agreement())
        {
            return Err(CertificateError::InvalidPurpose);
        }
        let mut signatures = SIGNATURES;
        self.climb(leaf, 0, &mut signatures)
    }

    fn climb(
        &self,
        below: &Certificate,
        depth: usize,
        signatures: &mut usize,
    ) -> Result<(), CertificateError> {
        below.check_time(self.now)?;
        below.check_extensions()?;
        if self.roots.iter().any(|root| root.der == below.der) {
            // Trusted as it stands; a list of its own may still revoke it.
            return self.check_lists(below, below);
        }
        let mut failure = CertificateError::UnknownIssuer;
        if depth == DEPTH {
            return Err(failure);
        }
        let issuer = &below.parsed.tbs_certificate.issuer;
        for above in self.roots.iter().chain(self.intermediates) {
            if above.parsed.tbs_certificate.subject != *issuer
                || above.der == below.der
                || !above.may_issue(depth)?
            {
                continue;
            }
            *signatures = signatures.checked_sub(1).ok_or(CertificateError::UnknownIssuer)?;
            if !below.is_signed_by(above, self.algorithms) {
                failure = CertificateError::BadSignature;
                continue;
            }
            let climbed =
                self.check_lists(below, above).and_then(|()| self.climb(above, depth + 1, signatures));
            match climbed {
                Ok(()) => return Ok(()),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Whether the issuer has revoked it. As OpenSSL for libpq: where there are lists, each issuer must have one.
    fn check_lists(&self, certificate: &Certificate, issuer: &Certificate) -> Result<(), CertificateError> {
        if self.lists.is_empty() {
            return Ok(());
        }
        let of_issuer = |list: &&RevocationList| list.is_of(issuer, self.algorithms);
        let list = self.lists.iter().find(of_issuer).ok_or(CertificateError::UnknownRevocationStatus)?;
        if !list.is_current(self.now) {
            return Err(CertificateError::ExpiredRevocationList);
        }
        let serial = &certificate.parsed.tbs_certificate.serial_number;
        if list.revokes(serial.as_bytes()) { Err(CertificateError::Revoked) } else { Ok(()) }
    }
}

/// The bytes that a signature is over: the first element of the outer sequence, in certificates and lists alike.
pub(super) fn signed_part(der: &[u8]) -> Option<&[u8]> {
    let mut outer = SliceReader::new(der).ok()?;
    let header = outer.peek_header().ok()?;
    let start = usize::try_from(header.encoded_len().ok()?).ok()?;
    let mut inner = SliceReader::new(der.get(start..)?).ok()?;
    let _ = outer.tlv_bytes().ok()?;
    inner.tlv_bytes().ok()
}

/// Whether a signature fits a key, by any algorithm of that name.
pub(super) fn verifies(
    key: &SubjectPublicKeyInfoOwned,
    signature_algorithm: &AlgorithmIdentifierOwned,
    message: &[u8],
    signature: &[u8],
    algorithms: Algorithms,
) -> bool {
    let (Some(of_key), Some(of_signature)) = (inside(&key.algorithm), inside(signature_algorithm)) else {
        return false;
    };
    algorithms
        .iter()
        .filter(|algorithm| algorithm.public_key_alg_id().as_ref() == of_key)
        .filter(|algorithm| algorithm.signature_alg_id().as_ref() == of_signature)
        .any(|algorithm| {
            algorithm.verify_signature(key.subject_public_key.raw_bytes(), message, signature).is_ok()
        })
}

/// An algorithm's name and parameters without the sequence around them, as rustls compares them.
pub(super) fn inside(algorithm: &AlgorithmIdentifierOwned) -> Option<Vec<u8>> {
    let der = algorithm.to_der().ok()?;
    let header = SliceReader::new(&der).ok()?.peek_header().ok()?;
    let start = usize::try_from(header.encoded_len().ok()?).ok()?;
    der.get(start..).map(<[u8]>::to_vec)
}
