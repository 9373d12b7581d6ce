//! Whom TLS clients trust, and who they are.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::io;
use std::sync::Arc;

/// What a TLS client needs: whom it trusts, and who it is.
#[derive(Clone, Debug)]
pub struct Trust {
    verify: Verify,
    identity: Option<Identity>,
}

#[derive(Clone, Debug)]
enum Verify {
    Authorities(RootCertStore),
    Nothing,
}

#[derive(Debug)]
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Clone for Identity {
    fn clone(&self) -> Identity {
        Identity { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

impl Trust {
    /// The authorities in this PEM text, and nobody else.
    ///
    /// # Errors
    /// When there is no certificate in it, or one that cannot be used.
    pub fn authorities(pem: &[u8]) -> io::Result<Trust> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            roots.add(certificate.map_err(unusable)?).map_err(unusable)?;
        }
        if roots.is_empty() {
            return Err(unusable("no certificate in it"));
        }
        Ok(Trust { verify: Verify::Authorities(roots), identity: None })
    }

    /// Anybody: the server's certificate is not looked at.
    pub fn anybody() -> Trust {
        Trust { verify: Verify::Nothing, identity: None }
    }

    /// Shows this certificate, with its key, to a server that asks for one. Both are PEM texts.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub fn identity(mut self, certificate: &[u8], key: &[u8]) -> io::Result<Trust> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate).collect();
        let key = PrivateKeyDer::from_pem_slice(key).map_err(unusable)?;
        self.identity = Some(Identity { chain: chain.map_err(unusable)?, key });
        Ok(self)
    }

    /// The configuration of a client that offers these protocols. Clients that share it share its session tickets.
    ///
    /// # Errors
    /// When the identity's key does not belong to its certificate.
    pub fn client(&self, protocols: &[&[u8]]) -> io::Result<Arc<ClientConfig>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(unusable)?;
        let builder = match &self.verify {
            Verify::Authorities(roots) => builder.with_root_certificates(roots.clone()),
            Verify::Nothing => {
                builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)))
            }
        };
        let mut config = match self.identity.clone() {
            Some(Identity { chain, key }) => {
                builder.with_client_auth_cert(chain, key).map_err(unusable)?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Ok(Arc::new(config))
    }
}

fn unusable(why: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("certificate: {why}"))
}

/// Believes every certificate, but checks that the server has its key.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
