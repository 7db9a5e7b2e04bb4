//! NBD under TLS: certificates of the fabric's own authority for the server and for clients.
//!
//! The authority also vouches for nodes towards each other, so that what is signed here must
//! never be taken for a node's certificate: a client's has no names, and a server's has none
//! under `atoll`, where the names of nodes are.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nbd_frontend::server::{Tls, TlsConfigError, tls_config};
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose,
};
use thiserror::Error;

use super::config::{NbdTls, NodeConfig};

/// The server's certificate, in a node's directory.
pub const CERTIFICATE: &str = "nbd.pem";
/// Its key.
pub const KEY: &str = "nbd.key";
/// Both; each is called `.new` in addition until it is whole.
pub(super) const FILES: [&str; 2] = [CERTIFICATE, KEY];

/// The authority's, as the transport keeps them in a node's directory.
const AUTHORITY: &str = "ca.pem";
const AUTHORITY_KEY: &str = "ca.key";

/// Names in one certificate.
pub const NAMES_MAX: usize = 32;
/// A DNS name (RFC 1035).
const DNS_NAME_BYTES_MAX: usize = 253;
const DNS_LABEL_BYTES_MAX: usize = 63;
/// A client's name: a common name's bound (RFC 5280).
pub const CLIENT_NAME_BYTES_MAX: usize = 64;
/// The top-level domain of nodes' names.
const NODES_DOMAIN: &str = "atoll";

/// NBD can't be served, or a certificate not be made.
#[derive(Debug, Error)]
pub enum NbdTlsError {
    /// A file could not be read or written.
    #[error("{}: {source}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// This node has no certificate for NBD.
    #[error(
        "{} is missing: make it on a site's first node (it has a ca.key), with `atoll nbd server-cert \
         --out DIR --name NAME`, and copy it and {KEY} here",
        .0.display()
    )]
    NoCertificate(PathBuf),
    /// What is on disk can't be used.
    #[error("{} and {KEY} can't be used: {source}", .path.display())]
    Unusable {
        /// The certificate.
        path: PathBuf,
        /// Why.
        source: TlsConfigError,
    },
    /// A name can't stand in a server's certificate.
    #[error(
        "'{0}' can't stand in a certificate: give an IP address, or a DNS name that does not end in .{NODES_DOMAIN}"
    )]
    ServerName(String),
    /// A client's name can't stand in its certificate.
    #[error(
        "'{0}' can't be a client's name: use 1 to {CLIENT_NAME_BYTES_MAX} printable ASCII characters"
    )]
    ClientName(String),
    /// None, or more than [`NAMES_MAX`].
    #[error("a certificate has 1 to {NAMES_MAX} names, not {0}")]
    Names(usize),
    /// Not a signing request, or one that its key did not sign.
    #[error("the certificate signing request is malformed")]
    Request,
    /// The authority's files are unusable, or the system has no random source.
    #[error("the certificate could not be made: {0}")]
    Generate(#[from] rcgen::Error),
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> NbdTlsError + '_ {
    move |source| NbdTlsError::File {
        path: path.to_owned(),
        source,
    }
}

/// For whom a certificate is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A server that is reached by these names and addresses.
    Server(Vec<String>),
    /// A client of that name.
    Client(String),
}

/// A new key; it never leaves whoever made it.
#[derive(Debug)]
pub struct NbdKey(KeyPair);

impl NbdKey {
    /// A new key (ECDSA P-256).
    ///
    /// # Errors
    /// [`NbdTlsError::Generate`] if the system has no random source.
    pub fn generate() -> Result<Self, NbdTlsError> {
        Ok(Self(KeyPair::generate()?))
    }

    /// A signing request (PEM) for [`NbdAuthority::sign`].
    ///
    /// # Errors
    /// [`NbdTlsError::Generate`].
    pub fn request(&self) -> Result<String, NbdTlsError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        Ok(params.serialize_request(&self.0)?.pem()?)
    }

    /// Writes the key (mode 0600), durably.
    ///
    /// # Errors
    /// [`NbdTlsError::File`].
    pub fn save(&self, path: &Path) -> Result<(), NbdTlsError> {
        write(path, &self.0.serialize_pem(), 0o600)
    }
}

/// The fabric's authority, for NBD's certificates.
pub struct NbdAuthority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl NbdAuthority {
    /// The authority of the node in `directory`; `None` if that node does not hold its key.
    ///
    /// # Errors
    /// [`NbdTlsError::File`], [`NbdTlsError::Generate`] if the files are damaged.
    pub fn load(directory: &Path) -> Result<Option<Self>, NbdTlsError> {
        let path = directory.join(AUTHORITY_KEY);
        let key = match fs::read_to_string(&path) {
            Ok(key) => KeyPair::from_pem(&key)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(file_error(&path)(e)),
        };
        let certificate = read(&directory.join(AUTHORITY))?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, key)?;
        Ok(Some(Self {
            issuer,
            certificate,
        }))
    }

    /// Its own certificate (PEM), with which clients verify servers.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A certificate (PEM) for the key in a signing request (PEM). What the request asks for
    /// beside its key is ignored.
    ///
    /// # Errors
    /// The names or the request can't be used: any [`NbdTlsError`] but those of files.
    pub fn sign(&self, subject: &Subject, request: &str) -> Result<String, NbdTlsError> {
        let request =
            CertificateSigningRequestParams::from_pem(request).map_err(|_| NbdTlsError::Request)?;
        let params = parameters(subject)?;
        Ok(params.signed_by(&request.public_key, &self.issuer)?.pem())
    }
}

fn parameters(subject: &Subject) -> Result<CertificateParams, NbdTlsError> {
    let (names, common, usage) = match subject {
        Subject::Server(names) => {
            if names.is_empty() || names.len() > NAMES_MAX {
                return Err(NbdTlsError::Names(names.len()));
            }
            names.iter().try_for_each(|name| check_server_name(name))?;
            (
                names.clone(),
                names[0].as_str(),
                ExtendedKeyUsagePurpose::ServerAuth,
            )
        }
        Subject::Client(name) => {
            check_client_name(name)?;
            (
                Vec::new(),
                name.as_str(),
                ExtendedKeyUsagePurpose::ClientAuth,
            )
        }
    };
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    // A common name of a DNS name's length breaks its bound; nobody looks at a server's.
    let common: String = common.chars().take(CLIENT_NAME_BYTES_MAX).collect();
    params.distinguished_name.push(DnType::CommonName, common);
    // qemu insists on key encipherment, although ECDSA has no use for it.
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    params.extended_key_usages = vec![usage];
    Ok(params)
}

/// Checks a name or address by which clients reach a server.
///
/// # Errors
/// [`NbdTlsError::ServerName`].
pub fn check_server_name(name: &str) -> Result<(), NbdTlsError> {
    if name.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    let is_label = |label: &str| {
        (1..=DNS_LABEL_BYTES_MAX).contains(&label.len())
            && label.bytes().all(allowed)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let labels = || name.split('.');
    let fits = name.len() <= DNS_NAME_BYTES_MAX && labels().all(is_label);
    if fits && labels().next_back() != Some(NODES_DOMAIN) {
        Ok(())
    } else {
        Err(NbdTlsError::ServerName(name.to_owned()))
    }
}

/// Checks a client's name.
///
/// # Errors
/// [`NbdTlsError::ClientName`].
pub fn check_client_name(name: &str) -> Result<(), NbdTlsError> {
    let fits = (1..=CLIENT_NAME_BYTES_MAX).contains(&name.len());
    if fits && name.bytes().all(|b| (b' '..=b'~').contains(&b)) {
        Ok(())
    } else {
        Err(NbdTlsError::ClientName(name.to_owned()))
    }
}

/// By what clients reach this node: its name, its address, this machine's names, and what the
/// configuration adds.
#[must_use]
pub fn server_names(config: &NodeConfig) -> Vec<String> {
    // A node may be called as certificates may not.
    let mut names = vec![config.name.clone()];
    names.retain(|name| check_server_name(name).is_ok());
    let address = config.nbd.ip();
    if !address.is_unspecified() {
        names.push(address.to_string());
    }
    if address.is_unspecified() || address.is_loopback() {
        names.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    }
    if !address.is_loopback()
        && let Ok(host) = fs::read_to_string("/proc/sys/kernel/hostname")
    {
        let host = host.trim().to_ascii_lowercase();
        // A machine may have any name; one that fits no certificate helps no client.
        if check_server_name(&host).is_ok() {
            names.push(host);
        }
    }
    names.extend(config.nbd_names.iter().cloned());
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

/// Writes a server's certificate and key into a node's directory.
///
/// # Errors
/// [`NbdTlsError::File`].
pub fn save_server(directory: &Path, certificate: &str, key: &NbdKey) -> Result<(), NbdTlsError> {
    key.save(&directory.join(KEY))?;
    write(&directory.join(CERTIFICATE), certificate, 0o644)
}

/// Makes this node's server certificate with the authority that it holds.
///
/// # Errors
/// Any [`NbdTlsError`].
pub fn issue_own(
    directory: &Path,
    config: &NodeConfig,
    authority: &NbdAuthority,
) -> Result<(), NbdTlsError> {
    let key = NbdKey::generate()?;
    let subject = Subject::Server(server_names(config));
    let certificate = authority.sign(&subject, &key.request()?)?;
    save_server(directory, &certificate, &key)
}

/// The files that libnbd's `tls-certificates=DIR` and qemu's `tls-creds-x509` look for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFiles {
    /// The authority's certificate.
    pub authority: PathBuf,
    /// The client's certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl ClientFiles {
    /// Those in a directory.
    #[must_use]
    pub fn of(directory: &Path) -> Self {
        Self {
            authority: directory.join("ca-cert.pem"),
            certificate: directory.join("client-cert.pem"),
            key: directory.join("client-key.pem"),
        }
    }

    /// Writes them; the certificate last.
    ///
    /// # Errors
    /// [`NbdTlsError::File`].
    pub fn save(
        &self,
        authority: &str,
        certificate: &str,
        key: &NbdKey,
    ) -> Result<(), NbdTlsError> {
        write(&self.authority, authority, 0o644)?;
        key.save(&self.key)?;
        write(&self.certificate, certificate, 0o644)
    }
}

/// What the NBD server of the node in `directory` does about encryption.
///
/// # Errors
/// Certificates are missing or damaged: any [`NbdTlsError`].
pub fn load(directory: &Path, config: &NodeConfig) -> Result<Tls, NbdTlsError> {
    if config.nbd_tls == NbdTls::Off {
        return Ok(Tls::Off);
    }
    let path = directory.join(CERTIFICATE);
    if !path.exists() {
        match NbdAuthority::load(directory)? {
            Some(authority) => issue_own(directory, config, &authority)?,
            None => return Err(NbdTlsError::NoCertificate(path)),
        }
    }
    let (chain, key) = (read(&path)?, read(&directory.join(KEY))?);
    let authorities = match config.nbd_tls_verify_peer {
        true => Some(read(&directory.join(AUTHORITY))?),
        false => None,
    };
    let authorities = authorities.as_ref().map(String::as_bytes);
    let tls = tls_config(chain.as_bytes(), key.as_bytes(), authorities)
        .map_err(|source| NbdTlsError::Unusable { path, source })?;
    Ok(match config.nbd_tls {
        NbdTls::Require => Tls::Required(tls),
        NbdTls::On | NbdTls::Off => Tls::Allowed(tls),
    })
}

fn read(path: &Path) -> Result<String, NbdTlsError> {
    fs::read_to_string(path).map_err(file_error(path))
}

/// After a power loss the file is whole or as it was.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), NbdTlsError> {
    let run = || -> io::Result<()> {
        let mut partial = path.as_os_str().to_owned();
        partial.push(".new");
        // A leftover could have another mode.
        match fs::remove_file(&partial) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&partial)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&partial, path)?;
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    };
    run().map_err(file_error(path))
}

#[cfg(test)]
mod tests;
