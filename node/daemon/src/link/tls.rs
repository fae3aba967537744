//! TLS of links (PROTOCOL §2): version 1.3 only, X25519MLKEM768 and AES-128-GCM first, no tickets and no resumption, so
//! that nothing joins two connections of a node.
//!
//! A node shows a certificate that it signed itself. The dialler knows the SHA-256 of its public key beforehand and
//! compares it while TLS shakes hands, before a byte of its own has left under encryption. Seen from outside it is a
//! browser that meets a bad certificate.

use std::sync::Arc;

use phantom_protocol::{
    time::UnixTime,
    wire::{cell::CELL, contact::TlsKeys},
};
use rustls::{
    CertificateError, CipherSuite, ClientConfig, DigitallySignedStruct, NamedGroup, ServerConfig,
    SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
    server::{NoServerSessionStorage, ParsedCertificate},
    sign::CertifiedKey,
    version::TLS13,
};
use sha2::{Digest, Sha256};
use thiserror::Error;
use zeroize::Zeroizing;

/// Cells of a full TLS record.
pub(super) const CELLS_PER_RECORD: usize = 11;
/// What rustls adds to the plaintext of a record, as its `max_fragment_size` counts.
const RECORD_OVERHEAD: usize = 22;
/// Bytes of data in a full record. Records hold whole cells: none waits for its second half.
pub(super) const RECORD_OF_CELLS: usize = CELLS_PER_RECORD * CELL;
const MAX_FRAGMENT: usize = RECORD_OF_CELLS + RECORD_OVERHEAD;
/// What every web server without HTTP/2 offers.
const ALPN: &[u8] = b"http/1.1";
/// Self-signed certificates of small servers commonly live ten years.
const CERTIFICATE_YEARS: i32 = 10;

/// Why a certificate or a TLS configuration could not be made.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The certificate could not be made.
    #[error("the TLS certificate could not be made: {0}")]
    Generate(#[from] rcgen::Error),
    /// Certificate and key do not belong together, or one of them is unreadable.
    #[error("the TLS certificate and its key are not usable: {0}")]
    Unusable(#[from] rustls::Error),
    /// The key is of no kind that TLS knows.
    #[error("the TLS key is unreadable")]
    Key,
}

/// The certificate that a node shows, and its key.
#[derive(Clone)]
pub struct TlsIdentity {
    certificate: CertificateDer<'static>,
    key: Zeroizing<Vec<u8>>,
    key_hash: [u8; 32],
}

impl TlsIdentity {
    /// A new ECDSA P-256 key and a certificate for it, as the administrator of a small server would make it.
    pub fn generate(now: UnixTime) -> Result<TlsIdentity, TlsError> {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let spki = rcgen::PublicKeyData::subject_public_key_info(&key);
        let name = host_name(&sha256(&spki));

        let mut params = rcgen::CertificateParams::new(vec![name.clone()])?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let (year, month, day) = civil_date(now);
        params.not_before = rcgen::date_time_ymd(year, month, day);
        // The 29th of February need not exist in ten years.
        params.not_after = rcgen::date_time_ymd(year + CERTIFICATE_YEARS, month, day.min(28));
        let certificate = params.self_signed(&key)?;
        TlsIdentity::from_der(certificate.der().to_vec(), Zeroizing::new(key.serialize_der()))
    }

    /// From what [`Self::certificate_der`] and [`Self::key_der`] gave; refused unless they belong together.
    pub fn from_der(certificate: Vec<u8>, key: Zeroizing<Vec<u8>>) -> Result<TlsIdentity, TlsError> {
        let certificate = CertificateDer::from(certificate);
        let signing = aws_lc_rs::sign::any_supported_type(&pkcs8(&key)).map_err(|_| TlsError::Key)?;
        CertifiedKey::new(vec![certificate.clone()], signing).keys_match()?;
        let key_hash = certificate_key_hash(&certificate)?;
        Ok(TlsIdentity { certificate, key, key_hash })
    }

    /// The certificate.
    pub fn certificate_der(&self) -> &[u8] {
        &self.certificate
    }

    /// The key, PKCS#8.
    pub fn key_der(&self) -> &[u8] {
        &self.key
    }

    /// SHA-256 of the certificate's SubjectPublicKeyInfo: what the node's record names.
    pub fn key_hash(&self) -> [u8; 32] {
        self.key_hash
    }
}

impl std::fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsIdentity").finish_non_exhaustive()
    }
}

/// What the listener speaks.
pub(super) fn server_config(identity: &TlsIdentity) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![identity.certificate.clone()], pkcs8(&identity.key).clone_key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A peer that only writes and closes would otherwise be reset over the tickets that it never read.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_fragment_size = Some(MAX_FRAGMENT);
    Ok(Arc::new(config))
}

/// What a dialler speaks that accepts one of `keys` and nothing else.
pub(super) fn client_config(keys: TlsKeys) -> Result<Arc<ClientConfig>, TlsError> {
    client_config_with(provider(), keys)
}

pub(super) fn client_config_with(
    provider: Arc<CryptoProvider>,
    keys: TlsKeys,
) -> Result<Arc<ClientConfig>, TlsError> {
    let algorithms = provider.signature_verification_algorithms;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(KnownKey { keys, algorithms }))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.max_fragment_size = Some(MAX_FRAGMENT);
    Ok(Arc::new(config))
}

/// The name that a dialler asks for: the one in the certificate that the key's owner made.
pub(super) fn server_name(keys: &TlsKeys) -> Option<ServerName<'static>> {
    let key = keys.as_slice().first()?;
    ServerName::try_from(host_name(key)).ok()
}

/// Two nodes always agree on the hybrid group, so anything else is not a node.
pub(super) fn is_hybrid(group: Option<&'static dyn rustls::crypto::SupportedKxGroup>) -> bool {
    group.is_some_and(|group| group.name() == NamedGroup::X25519MLKEM768)
}

fn provider() -> Arc<CryptoProvider> {
    // The crate's feature `prefer-post-quantum` puts X25519MLKEM768 first.
    let mut provider = aws_lc_rs::default_provider();
    // As browsers do, and four rounds of AES cheaper; what lies inside has layers of AES-256. The dialler's order decides.
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

fn pkcs8(key: &[u8]) -> PrivateKeyDer<'_> {
    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key))
}

fn certificate_key_hash(certificate: &CertificateDer<'_>) -> Result<[u8; 32], rustls::Error> {
    Ok(sha256(ParsedCertificate::try_from(certificate)?.subject_public_key_info().as_ref()))
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Accepts a certificate for its public key alone: who signed it and whom it names means nothing here.
#[derive(Debug)]
struct KnownKey {
    keys: TlsKeys,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for KnownKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: rustls::pki_types::UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.keys.contains(&certificate_key_hash(end_entity)?) {
            Ok(ServerCertVerified::assertion())
        } else {
            // The alert that a browser sends when it does not know who signed.
            Err(CertificateError::UnknownIssuer.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is never offered".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

const FIRST: [&str; 16] = [
    "alder", "amber", "birch", "clear", "copper", "east", "green", "harbor", "hill", "lake", "maple",
    "north", "oak", "river", "stone", "west",
];
const SECOND: [&str; 16] = [
    "bridge", "brook", "dale", "field", "ford", "gate", "grove", "house", "land", "mill", "point", "side",
    "ton", "view", "ward", "wood",
];

/// A host name computed from a TLS key, so that dialler and certificate agree without saying so: `.home.arpa` and its
/// like would stand out on the Internet, other people's domains must not be used, so the name is a bare host of the
/// kind that home servers and appliances carry.
fn host_name(key_hash: &[u8; 32]) -> String {
    let [a, b, c, d, ..] = key_hash;
    let pick = |words: [&'static str; 16], byte: &u8| words[usize::from(byte & 15)];
    format!("{}{}-{}.local", pick(FIRST, a), pick(SECOND, b), u16::from_be_bytes([*c, *d]) % 1000)
}

/// Year, month and day of a moment in UTC (proleptic Gregorian; the era arithmetic of Howard Hinnant's `civil_from_days`).
fn civil_date(now: UnixTime) -> (i32, u8, u8) {
    let days = now.0 / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    // All three are in range for any clock that a certificate can name.
    (i32::try_from(year).unwrap_or(9000).min(9000), month as u8, day as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime(1_772_323_200); // 2026-03-01

    #[test]
    fn dates_are_civil() {
        assert_eq!(civil_date(UnixTime(0)), (1970, 1, 1));
        assert_eq!(civil_date(UnixTime(951_782_400)), (2000, 2, 29));
        assert_eq!(civil_date(NOW), (2026, 3, 1));
    }

    #[test]
    fn an_identity_comes_back_from_its_bytes() {
        let made = TlsIdentity::generate(NOW).unwrap();
        let read =
            TlsIdentity::from_der(made.certificate_der().to_vec(), Zeroizing::new(made.key_der().to_vec()))
                .unwrap();
        assert_eq!(made.key_hash(), read.key_hash());
    }

    #[test]
    fn a_certificate_with_another_key_is_refused() {
        let (a, b) = (TlsIdentity::generate(NOW).unwrap(), TlsIdentity::generate(NOW).unwrap());
        assert!(
            TlsIdentity::from_der(a.certificate_der().to_vec(), Zeroizing::new(b.key_der().to_vec()))
                .is_err()
        );
        assert!(TlsIdentity::from_der(vec![1, 2, 3], Zeroizing::new(b.key_der().to_vec())).is_err());
    }

    #[test]
    fn the_certificate_names_what_the_dialler_asks_for() {
        let identity = TlsIdentity::generate(NOW).unwrap();
        let name = server_name(&TlsKeys::one(identity.key_hash())).unwrap();
        let certificate = CertificateDer::from(identity.certificate_der());
        let parsed = ParsedCertificate::try_from(&certificate).unwrap();
        rustls::client::verify_server_name(&parsed, &name).unwrap();
    }
}
