//! The socket that upgrades are asked for on, and the file with the process id: both are put in place by rename when a
//! generation is about to say that it serves.

use super::server::Server;
use super::{Fault, upgrade};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use tokio::sync::mpsc::Sender;

/// How long half of a process id stays alone in its file, where it is written in two halves.
const TORN: Duration = Duration::from_millis(20);

/// Takes the control path and the pid file over.
pub(super) fn take_over(server: &Arc<Server>, upgraded: &Sender<bool>) -> io::Result<()> {
    if let Some(path) = &server.options.pid_file {
        tell_pid(server, path)?;
    }
    let Some(path) = server.options.control.clone() else { return Ok(()) };
    let beside = beside(&path);
    let listener = UnixListener::bind(&beside)?;
    let mode = if server.has(Fault::OpenControl) { 0o666 } else { 0o600 };
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(mode))?;
    std::fs::rename(&beside, &path)?;
    let (server, upgraded) = (server.clone(), upgraded.clone());
    tokio::spawn(async move {
        while let Ok((mut asking, _)) = listener.accept().await {
            let (server, upgraded) = (server.clone(), upgraded.clone());
            tokio::spawn(async move {
                let words = match upgrade::run(server.clone(), upgraded).await {
                    Ok(()) => "done".to_owned(),
                    Err(_) if server.has(Fault::RefuseSilently) => "failed: ".to_owned(),
                    Err(why) => format!("failed: {why}"),
                };
                // Whoever asked may have gone.
                let _ = asking.write_all(words.as_bytes()).await;
            });
        }
    });
    Ok(())
}

fn tell_pid(server: &Server, path: &Path) -> io::Result<()> {
    let text = std::process::id().to_string();
    if !server.has(Fault::TearPidFile) {
        let beside = beside(path);
        std::fs::write(&beside, text)?;
        return std::fs::rename(&beside, path);
    }
    let (first, rest) = text.split_at(text.len() / 2);
    let mut file = std::fs::File::create(path)?;
    file.write_all(first.as_bytes())?;
    std::thread::sleep(TORN);
    file.write_all(rest.as_bytes())
}

fn beside(path: &Path) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    beside.into()
}

/// `misbehave upgrade PATH`: asks for an upgrade, and ends when it is done or has failed.
pub(super) fn ask(path: &str) -> ExitCode {
    let asked = UnixStream::connect(path).and_then(|mut stream| {
        let mut words = String::new();
        stream.read_to_string(&mut words)?;
        Ok(words)
    });
    match asked.as_deref() {
        Ok("done") => ExitCode::SUCCESS,
        Ok(words) => {
            eprint!("{}", words.trim_start_matches("failed: "));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("misbehave: ask {path}: {error}");
            ExitCode::FAILURE
        }
    }
}
