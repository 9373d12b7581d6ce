//! `cargo xtask setup`: the real clients and servers that tests and benches talk to.
//!
//! Looks before it installs: where everything is there already, no package manager runs and no
//! privilege is needed. PostgreSQL is installed here but started by the tests themselves, as a
//! private cluster of their own.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::shell;

/// How to see, without asking the package manager, that a part is there.
enum Sign {
    /// A program on the path (or in the system administrator's directories).
    Program(&'static str),
    /// A file of a library.
    File(&'static str),
    /// A program that ends well when it is run like this.
    Command(&'static str, &'static [&'static str]),
    /// A program in a directory that carries a version: `directory/*/rest`.
    Versioned { directory: &'static str, rest: &'static str },
}

struct Part {
    package: &'static str,
    sign: Sign,
    why: &'static str,
}

/// Another package manager may be at work, on a fresh machine above all: five minutes for it.
const LOCK_PATIENCE: &str = "--option=DPkg::Lock::Timeout=300";

const PARTS: &[Part] = &[
    Part { package: "wrk", sign: Sign::Program("wrk"), why: "HTTP/1.1 load" },
    Part { package: "nghttp2-client", sign: Sign::Program("h2load"), why: "HTTP/2 load" },
    Part { package: "nginx-light", sign: Sign::Program("nginx"), why: "a real server" },
    Part { package: "haproxy", sign: Sign::Program("haproxy"), why: "a real balancer" },
    Part { package: "golang-go", sign: Sign::Program("go"), why: "builds the Go program" },
    Part {
        package: "golang-github-gin-gonic-gin-dev",
        sign: Sign::File("/usr/share/gocode/src/github.com/gin-gonic/gin/gin.go"),
        why: "what the Go program is written in",
    },
    Part {
        package: "postgresql",
        sign: Sign::Versioned { directory: "/usr/lib/postgresql", rest: "bin/initdb" },
        why: "orders on PostgreSQL",
    },
    Part { package: "curl", sign: Sign::Program("curl"), why: "a real client" },
    Part { package: "openssl", sign: Sign::Program("openssl"), why: "certificates of adapters" },
    Part { package: "python3", sign: Sign::Program("python3"), why: "a real client" },
    Part {
        package: "systemd",
        sign: Sign::Program("systemd-socket-activate"),
        why: "hands over a listening socket as the service manager does",
    },
    Part {
        package: "util-linux",
        sign: Sign::Program("setpriv"),
        why: "setpriv, unshare and prlimit: an ordinary user, process 1, few descriptors",
    },
    Part { package: "chromium", sign: Sign::Program("chromium"), why: "a real browser" },
    Part {
        package: "fonts-liberation",
        sign: Sign::File("/usr/share/fonts/truetype/liberation/LiberationSans-Regular.ttf"),
        why: "what the browser writes with",
    },
    Part { package: "nats-server", sign: Sign::Program("nats-server"), why: "a real broker" },
    Part { package: "nodejs", sign: Sign::Program("node"), why: "a server to compare with" },
    Part {
        package: "python3-venv",
        sign: Sign::Command("python3", &["-c", "import venv, ensurepip"]),
        why: "holds the Python servers and clients",
    },
    Part { package: "valgrind", sign: Sign::Program("valgrind"), why: "instruction counts" },
];

/// Servers and clients written in Python, in an environment of the project's own below the build directory.
const PYTHON_PACKAGES: &[&str] =
    &["uvicorn", "gunicorn", "grpcio", "grpcio-health-checking", "websockets"];

/// Installs what is missing; does nothing at all where nothing is.
pub fn run() -> Result<()> {
    packages()?;
    python()
}

/// Where the programs of [`PYTHON_PACKAGES`] are, `python3` with their libraries among them.
pub fn python_programs() -> Result<PathBuf> {
    Ok(shell::target_directory()?.join("python/bin"))
}

fn python() -> Result<()> {
    let programs = python_programs()?;
    let environment = programs.parent().expect("programs are in a directory of the environment");
    let stamp = environment.join("installed");
    let wanted = PYTHON_PACKAGES.join(" ");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        println!("setup: the Python programs are installed ({wanted})");
        return Ok(());
    }
    let path = environment.to_string_lossy();
    shell::run(&mut shell::command("python3", &["-m", "venv", "--clear", &path]))?;
    let pip = programs.join("pip");
    let mut arguments = vec!["install", "--quiet", "--disable-pip-version-check"];
    arguments.extend_from_slice(PYTHON_PACKAGES);
    shell::run(&mut shell::command(&pip, &arguments))?;
    std::fs::write(&stamp, wanted).with_context(|| format!("write {}", stamp.display()))
}

fn packages() -> Result<()> {
    let missing: Vec<&Part> = PARTS.iter().filter(|part| !part.sign.is_there()).collect();
    if missing.is_empty() {
        println!("setup: all {} real parts are installed", PARTS.len());
        return Ok(());
    }
    for part in &missing {
        println!("setup: {} is missing ({})", part.package, part.why);
    }
    let packages: Vec<&str> = missing.iter().map(|part| part.package).collect();
    let list = packages.join(" ");
    if shell::find_program("apt-get").is_none() {
        bail!(
            "no apt-get on this machine: install the counterparts of these Debian packages: {list}"
        );
    }
    if !rustix::process::geteuid().is_root() {
        bail!("installing needs root: sudo apt-get install --no-install-recommends {list}");
    }
    install(&packages)?;
    let still: Vec<&str> =
        missing.iter().filter(|part| !part.sign.is_there()).map(|part| part.package).collect();
    if !still.is_empty() {
        bail!("apt-get succeeded, but these are still not to be found: {}", still.join(" "));
    }
    Ok(())
}

/// The package lists of a fresh machine are empty or old: they are fetched only when the first
/// attempt fails for that reason or another.
fn install(packages: &[&str]) -> Result<()> {
    let mut arguments = vec!["install", "--yes", "--no-install-recommends", LOCK_PATIENCE];
    arguments.extend_from_slice(packages);
    let apt = |arguments: &[&str]| {
        let mut command = shell::command("apt-get", arguments);
        command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
        shell::run(&mut command)
    };
    match apt(&arguments) {
        Ok(()) => Ok(()),
        Err(first) => {
            println!("setup: {first}; fetching the package lists and trying once more");
            apt(&["update"])?;
            apt(&arguments)
        }
    }
}

impl Sign {
    fn is_there(&self) -> bool {
        match self {
            Sign::Program(name) => shell::find_program(name).is_some(),
            Sign::Command(program, arguments) => {
                shell::read(&mut shell::command(program, arguments)).is_ok()
            }
            Sign::File(path) => Path::new(path).is_file(),
            Sign::Versioned { directory, rest } => {
                let Ok(versions) = std::fs::read_dir(directory) else { return false };
                versions.flatten().any(|version| version.path().join(rest).is_file())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_exists_is_seen_and_one_that_does_not_is_not() {
        assert!(Sign::Program("sh").is_there());
        assert!(!Sign::Program("no-such-program-anywhere").is_there());
    }

    #[test]
    fn a_file_below_any_version_counts() {
        let root = shell::root();
        let directory: &'static str = Box::leak(root.to_string_lossy().into_owned().into());
        assert!(Sign::Versioned { directory, rest: "src/main.rs" }.is_there());
        assert!(!Sign::Versioned { directory, rest: "src/absent.rs" }.is_there());
    }

    #[test]
    fn each_part_is_named_once() {
        let mut packages: Vec<&str> = PARTS.iter().map(|part| part.package).collect();
        packages.sort_unstable();
        packages.dedup();
        assert_eq!(packages.len(), PARTS.len());
    }
}
