//! The least axum can do: what the throughput, the instructions and the memory are compared with.

use std::io;

use programs::arguments::Arguments;
use tokio::net::TcpListener;

fn main() -> io::Result<()> {
    let arguments = Arguments::from_command_line()?;
    arguments.runtime()?.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", arguments.port)).await?;
        programs::announce(listener.local_addr()?)?;
        axum::serve(listener, programs::app::router(arguments.slow)).await
    })
}
