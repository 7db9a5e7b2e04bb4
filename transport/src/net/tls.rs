//! Mutual TLS 1.3 for QUIC. A peer is whom its certificate names, whatever it says.

use std::sync::Arc;

use model::ids::NodeId;
use quinn::crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig};
use ring::digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring as ring_provider};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, CipherSuite, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use thiserror::Error;

use super::ca::{Identity, node_of};
use crate::name::FabricId;

/// ALPN between nodes. The number is the wire protocol's version.
pub const ALPN_FABRIC: &[u8] = b"atoll/1";

/// ALPN of a joiner, who has no certificate yet.
pub const ALPN_JOIN: &[u8] = b"atoll-join/1";

/// The identity can't be used for TLS.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The key does not fit the certificate, or the authority's certificate is unusable.
    #[error("unusable identity: {0}")]
    Rustls(#[from] rustls::Error),
    /// The verifier could not be built from the authority's certificate.
    #[error("unusable authority: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// The provider lacks AES-128-GCM, which QUIC's first packets need.
    #[error("no AES-128-GCM in the cryptography provider")]
    NoInitialSuite,
}

/// AES-128-GCM first: the cheapest of the three on every processor with AES instructions.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = ring_provider::default_provider();
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

fn roots(identity: &Identity) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add(identity.authority().clone())?;
    Ok(Arc::new(roots))
}

/// For accepted connections. Nodes must present a certificate of the fabric's authority; a
/// joiner has none, so that its absence is no error here: [`peer_of`] refuses it for all but
/// [`ALPN_JOIN`].
pub(crate) fn server_config(identity: &Identity) -> Result<QuicServerConfig, TlsError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(identity)?, provider())
        .allow_unauthenticated()
        .build()?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain(), identity.key())?;
    config.alpn_protocols = vec![ALPN_FABRIC.to_vec(), ALPN_JOIN.to_vec()];
    // No resumption and no 0-RTT: replays are not worth the round trip that they save.
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    QuicServerConfig::try_from(config).map_err(|_| TlsError::NoInitialSuite)
}

/// For dialed connections. The name that is dialed, [`FabricId::node_name`], must be in the
/// certificate that is presented, and the fabric's authority must have signed it.
pub(crate) fn client_config(identity: &Identity) -> Result<QuicClientConfig, TlsError> {
    let verifier =
        WebPkiServerVerifier::builder_with_provider(roots(identity)?, provider()).build()?;
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_webpki_verifier(verifier)
        .with_client_auth_cert(identity.chain(), identity.key())?;
    config.alpn_protocols = vec![ALPN_FABRIC.to_vec()];
    config.resumption = Resumption::disabled();
    QuicClientConfig::try_from(config).map_err(|_| TlsError::NoInitialSuite)
}

/// For a joiner, who knows only the fabric's id and its authority's fingerprint.
pub(crate) fn join_config(
    fabric: FabricId,
    fingerprint: Fingerprint,
) -> Result<QuicClientConfig, TlsError> {
    let provider = provider();
    let algorithms = provider.signature_verification_algorithms;
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned {
            fabric,
            fingerprint,
            algorithms,
        }))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_JOIN.to_vec()];
    config.resumption = Resumption::disabled();
    QuicClientConfig::try_from(config).map_err(|_| TlsError::NoInitialSuite)
}

/// What an accepted connection turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Accepted {
    /// A node of the fabric.
    Node(NodeId),
    /// A joiner, of whom nothing is known.
    Joiner,
    /// Neither: to be closed.
    Stranger,
}

/// Judges an accepted connection by its handshake alone.
pub(crate) fn judge(connection: &quinn::Connection, fabric: &FabricId) -> Accepted {
    let protocol = connection
        .handshake_data()
        .and_then(|data| data.downcast::<HandshakeData>().ok())
        .and_then(|data| data.protocol);
    match protocol.as_deref() {
        Some(ALPN_JOIN) => Accepted::Joiner,
        Some(ALPN_FABRIC) => peer_of(connection, fabric).map_or(Accepted::Stranger, Accepted::Node),
        _ => Accepted::Stranger,
    }
}

/// The node at the other end, from its verified certificate.
fn peer_of(connection: &quinn::Connection, fabric: &FabricId) -> Option<NodeId> {
    let chain = connection
        .peer_identity()?
        .downcast::<Vec<CertificateDer<'static>>>()
        .ok()?;
    node_of(chain.first()?, fabric)
}

/// SHA-256 of the authority's certificate (DER).
#[derive(Clone, Copy, PartialEq, Eq, Debug, bincode::Encode, bincode::Decode)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// Of a certificate.
    #[must_use]
    pub fn of(cert: &CertificateDer<'_>) -> Self {
        Self(sha256(cert))
    }
}

/// SHA-256.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

/// Believes whoever shows an authority with the pinned fingerprint, and a certificate that
/// this authority made for some node of the fabric.
#[derive(Debug)]
struct Pinned {
    fabric: FabricId,
    fingerprint: Fingerprint,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let authority = intermediates
            .iter()
            .find(|cert| Fingerprint::of(cert) == self.fingerprint)
            .ok_or(CertificateError::UnknownIssuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone())?;
        let cert = ParsedCertificate::try_from(end_entity)?;
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &cert,
            &roots,
            &[],
            now,
            self.algorithms.all,
        )?;
        node_of(end_entity, &self.fabric).ok_or(CertificateError::NotValidForName)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::PeerIncompatible(
            rustls::PeerIncompatible::Tls12NotOffered,
        ))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
