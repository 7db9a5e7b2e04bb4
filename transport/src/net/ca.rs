//! The fabric's certificate authority, and the identity that it gives a node.
//!
//! Certificates don't expire (a storage fabric must start after years in a drawer, and on a
//! node whose clock is wrong): a node that leaves is refused by `Config::admit`, not by a date.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use model::ids::NodeId;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, UnixTime};
use thiserror::Error;

use crate::name::{FabricId, FabricIdError};

const CA_CERT_FILE: &str = "ca.pem";
const CA_KEY_FILE: &str = "ca.key";
const NODE_CERT_FILE: &str = "node.pem";
const NODE_KEY_FILE: &str = "node.key";

/// All files that an authority and an identity are kept in; each is called `.new` in addition until it
/// is whole.
pub const FILES: [&str; 4] = [CA_CERT_FILE, CA_KEY_FILE, NODE_CERT_FILE, NODE_KEY_FILE];

/// No certificate, key or signing request of ours is longer, bytes.
const PEM_BYTES_MAX: u64 = 64 << 10;

/// Certificates could not be made, read or believed.
#[derive(Debug, Error)]
pub enum CaError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file does not hold what its name says.
    #[error("{}: no readable certificate or key in it", path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
    },
    /// The certificate names no node of a fabric, or the authority names no fabric.
    #[error("a certificate does not name what it should: {0}")]
    Name(#[from] FabricIdError),
    /// The node's certificate was not made by this authority.
    #[error("the certificate is not one of this fabric's authority")]
    Foreign,
    /// The signing request is not well-formed, or not signed by its own key.
    #[error("bad certificate signing request")]
    BadRequest,
    /// The library refused; not expected with our parameters.
    #[error("certificate generation failed: {0}")]
    Generate(#[from] rcgen::Error),
}

/// The authority: whoever holds its key can admit nodes.
#[derive(Debug)]
pub struct Authority {
    fabric: FabricId,
    cert: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new authority for a new fabric.
    ///
    /// # Errors
    /// If the system's random source fails.
    pub fn create(fabric: FabricId) -> Result<Self, CaError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![fabric.authority_name()])?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, format!("Atoll fabric {fabric}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let cert = params.self_signed(&key)?.der().clone();
        Ok(Self {
            fabric,
            cert,
            issuer: Issuer::new(params, key),
        })
    }

    /// Reads `ca.pem` and `ca.key`.
    ///
    /// # Errors
    /// A file is missing or malformed, or names no fabric.
    pub fn load(dir: &Path) -> Result<Self, CaError> {
        let cert = read_certs(&dir.join(CA_CERT_FILE))?.swap_remove(0);
        let path = dir.join(CA_KEY_FILE);
        let malformed = || CaError::Malformed { path: path.clone() };
        let text = String::from_utf8(read(&path)?).map_err(|_| malformed())?;
        Self::from_key(cert, &text).map_err(|error| match error {
            CaError::Generate(_) => malformed(),
            other => other,
        })
    }

    /// The authority whose certificate (DER) and key ([`Authority::key`]) these are.
    ///
    /// # Errors
    /// The key can't be read, or the certificate names no fabric.
    pub fn from_key(cert: CertificateDer<'static>, key: &str) -> Result<Self, CaError> {
        let key = KeyPair::from_pem(key)?;
        let fabric = fabric_of(&cert)?;
        let issuer = Issuer::from_ca_cert_der(&cert, key)?;
        Ok(Self {
            fabric,
            cert,
            issuer,
        })
    }

    /// Its private key, PKCS#8 PEM: whoever gets it can admit nodes.
    #[must_use]
    pub fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Writes `ca.pem` and `ca.key` (mode 0600), each atomically and durably.
    ///
    /// # Errors
    /// A file can't be written.
    pub fn save(&self, dir: &Path) -> Result<(), CaError> {
        write(dir, CA_KEY_FILE, self.key().as_bytes())?;
        write(
            dir,
            CA_CERT_FILE,
            to_pem(std::slice::from_ref(&self.cert)).as_bytes(),
        )
    }

    /// Whose authority it is.
    #[must_use]
    pub fn fabric(&self) -> &FabricId {
        &self.fabric
    }

    /// Its own certificate, DER.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.cert
    }

    /// Makes a key and a certificate for a node.
    ///
    /// # Errors
    /// If the system's random source fails.
    pub fn issue(&self, node: NodeId) -> Result<Identity, CaError> {
        let key = NodeKey::generate()?;
        let leaf = self.sign_key(node, &key.pair)?;
        key.into_identity(leaf.der().clone(), self.cert.clone())
    }

    /// Makes a certificate for the key in a signing request (DER). What the request asks for
    /// beside its key is ignored: the certificate names `node` and nothing else.
    ///
    /// # Errors
    /// [`CaError::BadRequest`] if the request is malformed or not signed by its key.
    pub fn sign(&self, node: NodeId, request: &[u8]) -> Result<CertificateDer<'static>, CaError> {
        let request = CertificateSigningRequestDer::from(request);
        let request =
            CertificateSigningRequestParams::from_der(&request).map_err(|_| CaError::BadRequest)?;
        Ok(self.sign_key(node, &request.public_key)?.der().clone())
    }

    fn sign_key(&self, node: NodeId, key: &impl PublicKeyData) -> Result<Certificate, CaError> {
        let mut params = CertificateParams::new(vec![self.fabric.node_name(node)])?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, format!("Atoll {node}"));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        Ok(params.signed_by(key, &self.issuer)?)
    }
}

/// A node's private key before it has a certificate; never leaves the node.
#[derive(Debug)]
pub struct NodeKey {
    pair: KeyPair,
}

impl NodeKey {
    /// A new key (ECDSA P-256).
    ///
    /// # Errors
    /// If the system's random source fails.
    pub fn generate() -> Result<Self, CaError> {
        Ok(Self {
            pair: KeyPair::generate()?,
        })
    }

    /// A signing request (DER) for [`Authority::sign`].
    ///
    /// # Errors
    /// If the system's random source fails.
    pub fn request(&self) -> Result<Vec<u8>, CaError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        Ok(params.serialize_request(&self.pair)?.der().to_vec())
    }

    /// The identity that this key and its certificate are.
    ///
    /// # Errors
    /// As [`Identity::new`].
    pub fn into_identity(
        self,
        leaf: CertificateDer<'static>,
        ca: CertificateDer<'static>,
    ) -> Result<Identity, CaError> {
        Identity::new(leaf, ca, self.pair.serialize_der())
    }
}

/// Who a node is: its certificate, its key, and the authority that it trusts.
#[derive(Debug)]
pub struct Identity {
    fabric: FabricId,
    node: NodeId,
    leaf: CertificateDer<'static>,
    ca: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Checks that `leaf` was made by `ca` and names one node of its fabric. `key` is PKCS#8
    /// DER; that it fits the certificate is checked when a transport is bound.
    ///
    /// # Errors
    /// A certificate is malformed, foreign or names something else.
    pub fn new(
        leaf: CertificateDer<'static>,
        ca: CertificateDer<'static>,
        key: Vec<u8>,
    ) -> Result<Self, CaError> {
        let fabric = fabric_of(&ca)?;
        verify(&leaf, &ca)?;
        let node = node_of(&leaf, &fabric).ok_or(CaError::Name(FabricIdError))?;
        Ok(Self {
            fabric,
            node,
            leaf,
            ca,
            key: PrivateKeyDer::Pkcs8(key.into()),
        })
    }

    /// Reads `node.pem`, `node.key` and `ca.pem`.
    ///
    /// # Errors
    /// A file is missing or malformed; or as [`Identity::new`].
    pub fn load(dir: &Path) -> Result<Self, CaError> {
        let leaf = read_certs(&dir.join(NODE_CERT_FILE))?.swap_remove(0);
        let ca = read_certs(&dir.join(CA_CERT_FILE))?.swap_remove(0);
        let path = dir.join(NODE_KEY_FILE);
        match PrivateKeyDer::from_pem_slice(&read(&path)?) {
            Ok(PrivateKeyDer::Pkcs8(key)) => Self::new(leaf, ca, key.secret_pkcs8_der().to_vec()),
            _ => Err(CaError::Malformed { path }),
        }
    }

    /// Writes `node.key` (mode 0600), `ca.pem` and, last, `node.pem`, each atomically and
    /// durably: a directory with `node.pem` is a whole identity.
    ///
    /// # Errors
    /// A file can't be written.
    pub fn save(&self, dir: &Path) -> Result<(), CaError> {
        let key = pem_block("PRIVATE KEY", self.key.secret_der());
        write(dir, NODE_KEY_FILE, key.as_bytes())?;
        write(
            dir,
            CA_CERT_FILE,
            to_pem(std::slice::from_ref(&self.ca)).as_bytes(),
        )?;
        write(
            dir,
            NODE_CERT_FILE,
            to_pem(std::slice::from_ref(&self.leaf)).as_bytes(),
        )
    }

    /// The fabric that it belongs to.
    #[must_use]
    pub fn fabric(&self) -> &FabricId {
        &self.fabric
    }

    /// The node that it is.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The authority's certificate, DER.
    #[must_use]
    pub fn authority(&self) -> &CertificateDer<'static> {
        &self.ca
    }

    /// What the node presents: its certificate, then the authority's (a joiner, who has only
    /// the authority's fingerprint, needs it).
    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.leaf.clone(), self.ca.clone()]
    }

    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }
}

/// The node that a certificate names: it has exactly one DNS name, and that is a node's name
/// in `fabric`. Says nothing about who signed it.
pub(crate) fn node_of(leaf: &CertificateDer<'_>, fabric: &FabricId) -> Option<NodeId> {
    fabric.node_of(&only_name(leaf)?)
}

fn fabric_of(ca: &CertificateDer<'_>) -> Result<FabricId, CaError> {
    let name = only_name(ca).ok_or(CaError::Name(FabricIdError))?;
    FabricId::of_authority(&name).ok_or(CaError::Name(FabricIdError))
}

fn only_name(cert: &CertificateDer<'_>) -> Option<String> {
    let cert = webpki::EndEntityCert::try_from(cert).ok()?;
    let mut names = cert.valid_dns_names();
    let name = names.next()?.to_owned();
    names.next().is_none().then_some(name)
}

fn verify(leaf: &CertificateDer<'_>, ca: &CertificateDer<'_>) -> Result<(), CaError> {
    let anchor = webpki::anchor_from_trusted_cert(ca).map_err(|_| CaError::Foreign)?;
    let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
    webpki::EndEntityCert::try_from(leaf)
        .and_then(|leaf| {
            leaf.verify_for_usage(
                algorithms.all,
                &[anchor],
                &[],
                UnixTime::now(),
                webpki::KeyUsage::server_auth(),
                None,
                None,
            )
            .map(|_| ())
        })
        .map_err(|_| CaError::Foreign)
}

fn read(path: &Path) -> Result<Vec<u8>, CaError> {
    let fail = |source| CaError::File {
        path: path.to_owned(),
        source,
    };
    if fs::metadata(path).map_err(fail)?.len() > PEM_BYTES_MAX {
        return Err(CaError::Malformed {
            path: path.to_owned(),
        });
    }
    fs::read(path).map_err(fail)
}

/// At least one certificate.
fn read_certs(path: &Path) -> Result<Vec<CertificateDer<'static>>, CaError> {
    let certs: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    match certs {
        Ok(certs) if !certs.is_empty() => Ok(certs),
        _ => Err(CaError::Malformed {
            path: path.to_owned(),
        }),
    }
}

/// Temporary file, fsync, rename, fsync of the directory: after a power loss the file is
/// whole or not there.
fn write(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), CaError> {
    let path = dir.join(name);
    let run = || -> io::Result<()> {
        fs::create_dir_all(dir)?;
        let partial = dir.join(format!("{name}.new"));
        let mode = if Path::new(name).extension().is_some_and(|e| e == "key") {
            0o600
        } else {
            0o644
        };
        // A leftover could have another mode.
        match fs::remove_file(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&partial, &path)?;
        File::open(dir)?.sync_all()
    };
    run().map_err(|source| CaError::File {
        path: path.clone(),
        source,
    })
}

fn to_pem(certs: &[CertificateDer<'_>]) -> String {
    certs
        .iter()
        .map(|cert| pem_block("CERTIFICATE", cert))
        .collect()
}

/// RFC 7468: 64 characters of base64 a line.
fn pem_block(label: &str, der: &[u8]) -> String {
    let text = data_encoding::BASE64.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}
