//! An axum service behind tokio-rustls, on hyper-util's connection builder and its graceful shutdown, with a certificate
//! that it made itself.

use std::io;
use std::pin::pin;
use std::sync::Arc;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use programs::arguments::Arguments;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

fn main() -> io::Result<()> {
    let arguments = Arguments::from_command_line()?;
    arguments.runtime()?.block_on(serve(&arguments))
}

fn acceptor() -> Result<TlsAcceptor, Box<dyn std::error::Error + Send + Sync>> {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let key = own.signing_key.serialize_der().try_into()?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn serve(arguments: &Arguments) -> io::Result<()> {
    let acceptor = acceptor().map_err(io::Error::other)?;
    let listener = TcpListener::bind(("127.0.0.1", arguments.port)).await?;
    let mut stop = pin!(programs::stop_signal()?);
    programs::announce(listener.local_addr()?)?;
    let router = programs::app::router(arguments.slow);
    let graceful = GracefulShutdown::new();
    loop {
        let socket = tokio::select! {
            accepted = listener.accept() => accepted?.0,
            _ = &mut stop => break,
        };
        let (acceptor, router, watcher) = (acceptor.clone(), router.clone(), graceful.watcher());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(socket).await else { return };
            let builder = Builder::new(TokioExecutor::new());
            let service = TowerToHyperService::new(router);
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            // The client's errors are its own.
            let _ = watcher.watch(connection.into_owned()).await;
        });
    }
    drop(listener);
    graceful.shutdown().await;
    Ok(())
}
