//! TLS with X.509 certificates.

use std::sync::Arc;

use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use thiserror::Error;

/// Why a TLS configuration can't be made.
#[derive(Debug, Error)]
pub enum TlsConfigError {
    /// Not PEM, or not what it should hold.
    #[error("unreadable PEM")]
    Pem(#[from] PemError),
    /// A certificate or a key that TLS can't use.
    #[error("unusable certificate or key")]
    Certificate(#[from] rustls::Error),
    /// The authorities that should vouch for clients can't be used.
    #[error("unusable certificate authorities for clients")]
    Authorities(#[from] VerifierBuilderError),
}

/// A TLS configuration from PEM: the server's certificate chain and key, and, if clients must
/// show a certificate, the authorities that vouch for them.
///
/// # Errors
/// See [`TlsConfigError`].
pub fn tls_config(
    chain: &[u8],
    key: &[u8],
    client_authorities: Option<&[u8]>,
) -> Result<Arc<ServerConfig>, TlsConfigError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(key)?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let builder = if let Some(authorities) = client_authorities {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(authorities) {
            roots.add(certificate?)?;
        }
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    Ok(Arc::new(builder.with_single_cert(chain, key)?))
}
