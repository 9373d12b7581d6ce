//! A TCP service without HTTP: each line that comes is sent back, and at the drain the service says `bye`.
//!
//! Closing right after `bye` would lose the lines that are on the wire at that moment, unheard. So `bye` only asks
//! the client to send no more: what still comes is answered until the client closes, or [`LAST_LINES`] are over.
//!
//! ```text
//! cargo run -p lameduck --example tcp_echo -- 127.0.0.1:7000
//! ```

use std::io;
use std::time::Duration;

use lameduck::{Drain, Error, Exit, Lifecycle, Stream};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};

/// How long a client may take to close after `bye`.
const LAST_LINES: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() -> Result<Exit, Error> {
    let life = Lifecycle::builder().start()?;
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:7000".to_owned());
    let listener = life.listen(&address).await?;
    life.log().line("listening", &format!("Listening on {}", listener.address()));
    life.serve_streams("echo", listener, async |stream, drain| {
        // An error is the client's end of the connection, or the deadline: nobody is left to hear of it.
        let _ = talk(stream, drain).await;
    })?;
    Ok(life.run().await)
}

async fn talk(stream: Stream, drain: Drain) -> io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    loop {
        // Only the wait for a line is given up for the drain, and `next_line` loses nothing by it; an answer that was
        // begun is written to its end.
        let line = tokio::select! {
            line = lines.next_line() => line?,
            () = drain.started() => break,
        };
        match line {
            Some(line) => say(&mut lines, &line).await?,
            None => return Ok(()),
        }
    }
    say(&mut lines, "bye").await?;
    // Running out of time is an end like any other.
    tokio::time::timeout(LAST_LINES, answer_the_rest(&mut lines)).await.unwrap_or(Ok(()))
}

async fn answer_the_rest(lines: &mut Lines<BufReader<Stream>>) -> io::Result<()> {
    while let Some(line) = lines.next_line().await? {
        say(lines, &line).await?;
    }
    Ok(())
}

async fn say(lines: &mut Lines<BufReader<Stream>>, line: &str) -> io::Result<()> {
    lines.get_mut().write_all(format!("{line}\n").as_bytes()).await
}
