//! tonic's own server with its graceful shutdown, given up on after a while, as its examples and its users do it.

use std::io;
use std::time::Duration;

use programs::arguments::Arguments;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

/// How long the shutdown may take when nothing is said.
const GRACE: Duration = Duration::from_secs(5);

fn main() -> io::Result<()> {
    let arguments = Arguments::from_command_line()?;
    arguments.runtime()?.block_on(serve(&arguments))
}

async fn serve(arguments: &Arguments) -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", arguments.port)).await?;
    programs::announce(listener.local_addr()?)?;
    let stop = programs::stop_signal()?;
    let (stopping, stopped) = tokio::sync::oneshot::channel();
    let (_reporter, health) = tonic_health::server::health_reporter();
    let serving = Server::builder().add_service(health).serve_with_incoming_shutdown(
        TcpIncoming::from(listener),
        async move {
            stop.await;
            // Whoever waits for it is gone only with this function.
            let _ = stopping.send(());
        },
    );
    let given_up = async {
        // Dropped unsent only with the server.
        let _ = stopped.await;
        tokio::time::sleep(arguments.grace.unwrap_or(GRACE)).await;
    };
    tokio::select! {
        served = serving => served.map_err(io::Error::other),
        () = given_up => Ok(()),
    }
}
