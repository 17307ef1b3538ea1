//! Lists of revoked certificates (`sslcrl`, `sslcrldir`), of version 1 as well: `openssl ca -gencrl` makes such
//! ones where its configuration has no `crl_extensions`.

use std::path::{Path, PathBuf};
use std::{fs, io};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateRevocationListDer, UnixTime};
use x509_cert::crl::RevokedCert;
use x509_cert::der::asn1::{BitString, ContextSpecific};
use x509_cert::der::{self, Decode, Reader, SliceReader, Tag, TagNumber};
use x509_cert::ext::Extensions;
use x509_cert::name::Name;
use x509_cert::spki::AlgorithmIdentifierOwned;
use x509_cert::time::Time;

use super::certificate::{Algorithms, Certificate, signed_part, verifies};
use crate::Error;

/// A list as its issuer signed it.
#[derive(Debug, Clone)]
pub(super) struct RevocationList {
    der: Vec<u8>,
    issuer: Name,
    this_update: Time,
    next_update: Option<Time>,
    revoked: Vec<Vec<u8>>,
    algorithm: AlgorithmIdentifierOwned,
    signature: BitString,
    /// Whether it says something that is not understood here, and must be.
    odd: bool,
}

impl RevocationList {
    fn read(der: &[u8]) -> der::Result<Self> {
        let mut outer = SliceReader::new(der)?;
        outer.sequence(|outer| {
            let (issuer, this_update, next_update, revoked, odd) = outer.sequence(|list| {
                if list.peek_tag()? == Tag::Integer {
                    let _version = u8::decode(list)?;
                }
                let _algorithm = AlgorithmIdentifierOwned::decode(list)?;
                let issuer = Name::decode(list)?;
                let this_update = Time::decode(list)?;
                let next = |list: &der::NestedReader<'_, _>| {
                    (!list.is_finished()).then(|| list.peek_tag()).transpose()
                };
                let next_update = match next(list)? {
                    Some(Tag::UtcTime | Tag::GeneralizedTime) => Some(Time::decode(list)?),
                    _ => None,
                };
                let revoked = match next(list)? {
                    Some(Tag::Sequence) => Vec::<RevokedCert>::decode(list)?,
                    _ => Vec::new(),
                };
                let extensions = ContextSpecific::<Extensions>::decode_explicit(list, TagNumber::N0)?;
                let is_odd = |extensions: &Extensions| extensions.iter().any(|extension| extension.critical);
                let odd = extensions.is_some_and(|extensions| is_odd(&extensions.value))
                    || revoked.iter().any(|entry| entry.crl_entry_extensions.as_ref().is_some_and(is_odd));
                let serials = revoked.iter().map(|entry| entry.serial_number.as_bytes().to_vec()).collect();
                Ok((issuer, this_update, next_update, serials, odd))
            })?;
            let algorithm = AlgorithmIdentifierOwned::decode(outer)?;
            let signature = BitString::decode(outer)?;
            Ok(Self {
                der: der.to_vec(),
                issuer,
                this_update,
                next_update,
                revoked,
                algorithm,
                signature,
                odd,
            })
        })
    }

    /// Whether that authority issued it.
    pub(super) fn is_of(&self, authority: &Certificate, algorithms: Algorithms) -> bool {
        self.issuer == authority.parsed.tbs_certificate.subject
            && signed_part(&self.der).is_some_and(|message| {
                verifies(authority.key(), &self.algorithm, message, self.signature.raw_bytes(), algorithms)
            })
    }

    pub(super) fn is_current(&self, now: UnixTime) -> bool {
        let unix = |time: &Time| UnixTime::since_unix_epoch(time.to_unix_duration());
        unix(&self.this_update) <= now && self.next_update.as_ref().is_none_or(|next| now <= unix(next))
    }

    pub(super) fn revokes(&self, serial: &[u8]) -> bool {
        self.revoked.iter().any(|revoked| revoked == serial)
    }
}

/// Reads a file of lists, and a folder in which each is named after its issuer's hash (`openssl rehash`).
pub(super) fn read(file: Option<&Path>, folder: Option<&Path>) -> Result<Vec<RevocationList>, Error> {
    let mut lists = Vec::new();
    if let Some(file) = file {
        lists = in_file("sslcrl", file)?;
    }
    if let Some(folder) = folder {
        let unreadable =
            |error: io::Error| Error::configuration("sslcrldir", format!("`{}`: {error}", folder.display()));
        for entry in fs::read_dir(folder).map_err(unreadable)? {
            let path: PathBuf = entry.map_err(unreadable)?.path();
            let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
            if extension.strip_prefix('r').is_some_and(|number| number.parse::<u32>().is_ok()) {
                lists.extend(in_file("sslcrldir", &path)?);
            }
        }
        if lists.is_empty() {
            let problem =
                format!("`{}` holds no list named HASH.r0; openssl rehash makes the names", folder.display());
            return Err(Error::configuration("sslcrldir", problem));
        }
    }
    Ok(lists)
}

fn in_file(field: &str, file: &Path) -> Result<Vec<RevocationList>, Error> {
    let wrong = |problem: &str| Error::configuration(field, format!("`{}`: {problem}", file.display()));
    let pem = fs::read(file).map_err(|error| wrong(&error.to_string()))?;
    let mut lists = Vec::new();
    for list in CertificateRevocationListDer::pem_slice_iter(&pem) {
        let list = list.map_err(|error| wrong(&error.to_string()))?;
        let list = RevocationList::read(&list).map_err(|_| wrong("holds a list that cannot be read"))?;
        if list.odd {
            return Err(wrong("holds a list with a critical extension, which is not understood"));
        }
        lists.push(list);
    }
    if lists.is_empty() {
        return Err(wrong("holds no revocation list in PEM form"));
    }
    Ok(lists)
}
