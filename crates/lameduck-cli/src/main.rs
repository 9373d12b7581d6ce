//! The command `lameduck`.
//!
//! Data goes to standard output, everything else to standard error; the exit code is the result, and a command that
//! could not do what it was asked says so in one `error:` line and one `hint:` line.

mod complaint;
mod duration;
mod flags;
mod init;
mod operate;
mod serve;
mod status;
mod verify;
mod words;

use std::process::ExitCode;

use flags::{Command, Early};

fn main() -> ExitCode {
    let result = match flags::read() {
        Ok(flags) => match flags.command {
            Command::Serve(flags) => serve::run(*flags),
            Command::Upgrade(flags) => operate::upgrade(&flags),
            Command::Rollback(flags) => operate::rollback(&flags),
            Command::Stop(flags) => operate::stop(&flags),
            Command::Status(flags) => status::run(&flags),
            Command::Verify(flags) => verify::run(*flags),
        },
        Err(Early::Answer(answer)) => {
            // A closed pipe (`| head`) has read what it wanted.
            let _ = answer.print();
            return ExitCode::SUCCESS;
        }
        Err(Early::Complaint(complaint)) => Err(complaint),
    };
    result.unwrap_or_else(|complaint| complaint.print())
}
