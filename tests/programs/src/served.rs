//! The shared application under the library, as a program that uses it would write it.

use std::io;
use std::process::{ExitCode, Termination};

use lameduck::{Exit, Lifecycle};

use crate::arguments::Arguments;

/// Runs the application until it is stopped. `prepare` may add to the lifecycle before it starts.
///
/// Returns the exit code the library documents, or failure with one line of complaint.
pub fn main(prepare: impl FnOnce(&Lifecycle) -> Result<(), lameduck::Error>) -> ExitCode {
    match serve(prepare) {
        Ok(exit) => exit.report(),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(prepare: impl FnOnce(&Lifecycle) -> Result<(), lameduck::Error>) -> io::Result<Exit> {
    let arguments = Arguments::from_command_line()?;
    arguments.runtime()?.block_on(async {
        let mut builder = Lifecycle::builder();
        if let Some(grace) = arguments.grace {
            builder = builder.grace_period(grace);
        }
        let life = builder.start().map_err(io::Error::other)?;
        let address = format!("127.0.0.1:{}", arguments.port);
        let listener = life.listen(&address).await.map_err(io::Error::other)?;
        let bound = listener.address().parse().map_err(io::Error::other)?;
        life.serve("http", listener, crate::app::router(arguments.slow))
            .map_err(io::Error::other)?;
        prepare(&life).map_err(io::Error::other)?;
        crate::announce(bound)?;
        Ok(life.run().await)
    })
}
