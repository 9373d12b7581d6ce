//! An axum service with the framework's own graceful shutdown, as its documentation shows it.

use std::io;

use programs::arguments::Arguments;
use tokio::net::TcpListener;

fn main() -> io::Result<()> {
    let arguments = Arguments::from_command_line()?;
    arguments.runtime()?.block_on(serve(&arguments))
}

async fn serve(arguments: &Arguments) -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", arguments.port)).await?;
    let stop = programs::stop_signal()?;
    programs::announce(listener.local_addr()?)?;
    axum::serve(listener, programs::app::router(arguments.slow)).with_graceful_shutdown(stop).await
}
