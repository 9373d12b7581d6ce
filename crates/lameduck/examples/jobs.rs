//! Background jobs on a queue of one's own: here a directory, in which each file is a job.
//!
//! A claim moves a file from `waiting` to `claimed`, its end moves it on to `done`, and what a stop leaves moves back. Several
//! of these may work on one directory.
//!
//! ```text
//! mkdir -p /tmp/q/waiting && touch /tmp/q/waiting/{1..50}
//! cargo run -p lameduck --example jobs /tmp/q     # stop it with Ctrl-C: nothing is left in /tmp/q/claimed
//! ```

use std::fs::{create_dir_all, read_dir, rename};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use lameduck::jobs::{CancellationToken, JobEnd, Queue};
use lameduck::{Exit, Lifecycle};

/// How long a stop may take, and how long a job does.
const GRACE: Duration = Duration::from_secs(2);
const TAKES: Duration = Duration::from_secs(5);
/// How often it looks for new files.
const LOOK_EVERY: Duration = Duration::from_millis(50);

struct Directory(PathBuf);

impl Directory {
    fn moves(&self, job: &str, from: &str, to: &str) -> io::Result<()> {
        rename(self.0.join(from).join(job), self.0.join(to).join(job))
    }
}

impl Queue for Directory {
    type Job = String;
    type Error = io::Error;

    async fn claim(&self, most: usize) -> io::Result<Vec<String>> {
        let names = read_dir(self.0.join("waiting"))?.flatten();
        let names = names.filter_map(|entry| entry.file_name().into_string().ok());
        // Of several workers one moves the file, and the others find it gone.
        Ok(names.filter(|name| self.moves(name, "waiting", "claimed").is_ok()).take(most).collect())
    }

    async fn arrival(&self) {
        tokio::time::sleep(LOOK_EVERY).await;
    }

    async fn work(&self, job: String, cancel: CancellationToken) -> io::Result<JobEnd> {
        // What could be half done is not given up for the token; a wait can be.
        if cancel.run_until_cancelled(tokio::time::sleep(TAKES)).await.is_none() {
            return Ok(JobEnd::Unfinished);
        }
        self.moves(&job, "claimed", "done").map(|()| JobEnd::Ended)
    }

    async fn give_back(&self, claimed: Vec<String>) -> io::Result<()> {
        claimed.iter().try_for_each(|job| match self.moves(job, "claimed", "waiting") {
            // Given back or done before.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        })
    }

    async fn charge(&self, job: String, _why: String) -> io::Result<()> {
        self.moves(&job, "claimed", "failed")
    }
}

#[tokio::main]
async fn main() -> Result<Exit, Box<dyn std::error::Error>> {
    let directory = PathBuf::from(std::env::args().nth(1).ok_or("which directory?")?);
    for state in ["waiting", "claimed", "done", "failed"] {
        create_dir_all(directory.join(state))?;
    }
    let life = Lifecycle::builder().grace_period(GRACE).start()?;
    let mut worker = life.jobs("files", Directory(directory)).concurrency(3).start()?;
    let log = life.log();
    drop(tokio::spawn(async move {
        let counts = worker.reached(|counts| counts.claimed > 0).await;
        log.line("working", &format!("Claimed {}", counts.claimed));
    }));
    Ok(life.run().await)
}
