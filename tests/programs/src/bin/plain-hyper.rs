//! The same service on hyper alone, with hyper-util's `GracefulShutdown`.

use std::io;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use programs::arguments::Arguments;
use tokio::net::TcpListener;

/// After a failed accept (out of descriptors, say) a moment passes before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

fn main() -> io::Result<()> {
    let arguments = Arguments::from_command_line()?;
    arguments.runtime()?.block_on(serve(&arguments))
}

async fn serve(arguments: &Arguments) -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", arguments.port)).await?;
    let stop = programs::stop_signal()?;
    programs::announce(listener.local_addr()?)?;
    let app = programs::app::router(arguments.slow);
    let graceful = GracefulShutdown::new();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => connection(stream, app.clone(), &graceful),
                Err(error) => {
                    eprintln!("accept failed: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            () = &mut stop => break,
        }
    }
    drop(listener);
    graceful.shutdown().await;
    Ok(())
}

fn connection(stream: tokio::net::TcpStream, app: Router, graceful: &GracefulShutdown) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    builder.http2().timer(TokioTimer::new());
    let service = TowerToHyperService::new(app);
    let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
    let watched = graceful.watch(connection);
    // A client that goes away is no error of this server.
    tokio::spawn(async move { watched.await.ok() });
}
