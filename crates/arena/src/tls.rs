//! The service's certificates: read at the start, and again whenever their files change.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lameduck::http::tls::Tls;
use lameduck::tickets::Tickets;
use lameduck::{Lifecycle, Log};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::Error;
use crate::config::TlsFiles;
use crate::error::system;

/// How soon new certificates are noticed. A look at the files costs nothing, and unlike a watch of the file system it
/// also sees what a mount, a link or another machine put there.
pub(crate) const LOOK: Duration = Duration::from_secs(1);

/// What `Builder::tls` needs, loaded; and kept fresh from then on.
pub(crate) fn start(life: &Lifecycle, files: &TlsFiles) -> Result<Tls, Error> {
    let tickets = life.tickets().map_err(|error| {
        Error::start(format!("cannot {error}"), "upgrade by way of a version that reads it")
    })?;
    let seen = Stamp::of(files);
    let tls = life.tls(load(files, &tickets)?).map_err(|error| {
        Error::start(format!("cannot {error}"), "upgrade by way of a version that reads it")
    })?;
    let fresh = Fresh { files: files.clone(), tickets, tls: tls.clone(), log: life.log() };
    // No task of the lifecycle: it has nothing to finish, and a service that was rolled back to needs it again.
    drop(tokio::spawn(fresh.keep(seen)));
    Ok(tls)
}

/// Whether the files can be used.
pub(crate) fn check(files: &TlsFiles) -> Result<(), Error> {
    let cannot = |error| Error::start(format!("cannot {error}"), "report this bug");
    let life = Lifecycle::builder().without_signals().start().map_err(cannot)?;
    load(files, &life.tickets().map_err(cannot)?).map(drop)
}

/// Reads a configuration from its files.
fn load(files: &TlsFiles, tickets: &Tickets) -> Result<ServerConfig, Error> {
    let chain = certificates(&files.cert, "--tls-cert")?;
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key, "--tls-key")?)
        .map_err(|_| no_pem(&files.key, "--tls-key", "private key"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(files, &error))?;
    let (builder, trusted) = match &files.client_ca {
        None => (builder.with_no_client_auth(), Vec::new()),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(path, "--tls-client-ca")? {
                roots
                    .add(authority)
                    .map_err(|_| no_pem(path, "--tls-client-ca", "certificates"))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|_| no_pem(path, "--tls-client-ca", "certificates"))?;
            (builder.with_client_cert_verifier(verifier), read(path, "--tls-client-ca")?)
        }
    };
    let mut config =
        builder.with_single_cert(chain, key).map_err(|error| unusable(files, &error))?;
    // A client that resumes is not asked again, so its ticket is good only where the same authorities are trusted.
    config.ticketer = Arc::new(tickets.bound_to(&trusted));
    Ok(config)
}

fn read(path: &Path, flag: &str) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|error| {
        Error::start(
            format!("cannot read {flag} {}: {}", path.display(), system(&error)),
            "name a PEM file that this user can read",
        )
    })
}

fn certificates(path: &Path, flag: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let pem = read(path, flag)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) | Err(_) => Err(no_pem(path, flag, "certificates")),
    }
}

fn no_pem(path: &Path, flag: &str, what: &str) -> Error {
    Error::start(
        format!("cannot use {flag} {}: no {what} in it", path.display()),
        format!("name a PEM file with {what}: it has lines that begin with -----BEGIN"),
    )
}

fn unusable(files: &TlsFiles, error: &rustls::Error) -> Error {
    let (cert, key) = (files.cert.display(), files.key.display());
    match error {
        rustls::Error::InconsistentKeys(_) => Error::start(
            format!("cannot use --tls-cert {cert}: its key is not the one in {key}"),
            "give the key that the certificate was issued for",
        ),
        other => Error::start(
            format!("cannot use --tls-cert {cert} with --tls-key {key}: {other}"),
            "give a certificate chain, its own certificate first, and its unencrypted key",
        ),
    }
}

/// What tells one state of the files from another.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp(Vec<Option<(SystemTime, u64, u64)>>);

impl Stamp {
    fn of(files: &TlsFiles) -> Stamp {
        use std::os::unix::fs::MetadataExt;
        let stamp = |path: &Path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
        };
        let paths = [Some(&files.cert), Some(&files.key), files.client_ca.as_ref()];
        Stamp(paths.into_iter().flatten().map(|path| stamp(path)).collect())
    }
}

/// Keeps a running server's certificates as its files have them.
struct Fresh {
    files: TlsFiles,
    tickets: Tickets,
    tls: Tls,
    log: Arc<Log>,
}

impl Fresh {
    /// Ends with the runtime.
    async fn keep(self, mut seen: Stamp) {
        let mut ticks = tokio::time::interval(LOOK);
        let fresh = Arc::new(self);
        loop {
            ticks.tick().await;
            let again = Arc::clone(&fresh);
            let before = seen.clone();
            // Files may lie on a disk that hangs.
            let looked = tokio::task::spawn_blocking(move || again.look(before)).await;
            if let Ok(now) = looked {
                seen = now;
            }
        }
    }

    /// Takes new files if they can be used. A certificate and its key are rarely written at once: what does not fit
    /// together yet changes nothing, and is looked at again when one of the files changes.
    fn look(&self, seen: Stamp) -> Stamp {
        let now = Stamp::of(&self.files);
        if now == seen {
            return now;
        }
        match load(&self.files, &self.tickets) {
            Ok(config) => {
                self.tls.reload(config);
                let text = format!("Certificates reloaded from {}", self.files.cert.display());
                self.log.line("certificates", &text);
            }
            Err(error) => {
                let text = format!("Certificates kept as they were: {error}");
                self.log.line("certificates-kept", &text);
            }
        }
        now
    }
}
