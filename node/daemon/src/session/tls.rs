//! TLS of sessions (PROTOCOL §6): version 1.3, X25519MLKEM768, raw public keys on both sides (RFC 7250), and nothing
//! that differs from client to client: no server name, tickets or early data, one protocol name.

use std::{any::Any, fmt, sync::Arc};

use phantom_protocol::identity::{ApPublic, ApSecret};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureAlgorithm, SignatureScheme,
    client::{
        AlwaysResolvesClientRawPublicKeys, Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime},
    server::{
        AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::{CertifiedKey, Signer, SigningKey},
};

/// The one protocol name.
const ALPN: &[u8] = b"phantom/1";
/// rustls wants a name; it is never sent.
pub(super) const NAME: &str = "phantom";
/// What stands before the 32 bytes of an Ed25519 key in a SubjectPublicKeyInfo (RFC 8410).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The configuration of a client that speaks as `own` to `peer` and to nobody else.
pub(super) fn client(own: Arc<ApSecret>, peer: ApPublic) -> Result<QuicClientConfig, Error> {
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(OnlyPeer(peer)))
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(certified(own))));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    QuicClientConfig::with_initial(Arc::new(config), initial_suite()?)
        .map_err(|e| Error::General(e.to_string()))
}

/// The configuration of the service with this identity.
pub(super) fn server(own: Arc<ApSecret>) -> Result<QuicServerConfig, Error> {
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(AnyClient))
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(certified(own))));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    QuicServerConfig::with_initial(Arc::new(config), initial_suite()?)
        .map_err(|e| Error::General(e.to_string()))
}

/// Who the other end of a connection has proven to be.
pub(super) fn peer(identity: Option<Box<dyn Any>>) -> Option<ApPublic> {
    let keys = identity?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    key_of(keys.first()?)
}

fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384],
        kx_groups: vec![aws_lc_rs::kx_group::X25519MLKEM768],
        ..aws_lc_rs::default_provider()
    }
}

/// QUIC protects Initials with AES-128 whatever the session uses (RFC 9001 §5.2).
fn initial_suite() -> Result<rustls::quic::Suite, Error> {
    aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256
        .tls13()
        .and_then(|suite| suite.quic_suite())
        .ok_or_else(|| Error::General("no cipher suite for QUIC Initials".into()))
}

fn certified(own: Arc<ApSecret>) -> Arc<CertifiedKey> {
    let spki = spki_of(&own.public());
    Arc::new(CertifiedKey::new(vec![CertificateDer::from(spki)], Arc::new(ApKey(own))))
}

fn spki_of(public: &ApPublic) -> Vec<u8> {
    [&SPKI_PREFIX[..], public.as_bytes()].concat()
}

fn key_of(spki: &CertificateDer<'_>) -> Option<ApPublic> {
    let key = spki.strip_prefix(&SPKI_PREFIX)?;
    ApPublic::from_bytes(key.try_into().ok()?)
}

/// An AP identity as a TLS signing key.
struct ApKey(Arc<ApSecret>);

impl SigningKey for ApKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let signer: Box<dyn Signer> = Box::new(ApKey(self.0.clone()));
        offered.contains(&SignatureScheme::ED25519).then_some(signer)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(spki_of(&self.0.public()).into())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ED25519
    }
}

impl Signer for ApKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(self.0.sign(message).to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

impl fmt::Debug for ApKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApKey({:?})", self.0.public())
    }
}

fn verify(
    message: &[u8],
    key: &CertificateDer<'_>,
    dss: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let signature = dss.signature().try_into().ok().filter(|_| dss.scheme == SignatureScheme::ED25519);
    match (key_of(key), signature) {
        (Some(key), Some(signature)) if key.verify(message, signature) => {
            Ok(HandshakeSignatureValid::assertion())
        }
        _ => Err(Error::InvalidCertificate(CertificateError::BadSignature)),
    }
}

fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("sessions are TLS 1.3".into()))
}

/// The client's check: the key is the one that the name is made of.
#[derive(Debug)]
struct OnlyPeer(ApPublic);

impl ServerCertVerifier for OnlyPeer {
    fn verify_server_cert(
        &self,
        key: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match key_of(key) {
            Some(key) if key == self.0 => Ok(ServerCertVerified::assertion()),
            _ => Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _key: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify(message, key, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// The service's check: a sound key, whoever it is.
#[derive(Debug)]
struct AnyClient;

impl ClientCertVerifier for AnyClient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        key: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match key_of(key) {
            Some(_) => Ok(ClientCertVerified::assertion()),
            None => Err(Error::InvalidCertificate(CertificateError::BadEncoding)),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _key: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify(message, key, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
