//! A server under test, started so that it certainly serves, and gone when the test lets go of it.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use lameduck_verify::address::Place as Aim;
use lameduck_verify::probe::{Until, Wire, watch};
use lameduck_verify::target::{Exit, Ready, Signal, Start, Target};
use serde_json::Value;
use tempfile::TempDir;

/// How long a start, an answer or an end may take on a busy machine. Nothing is expected to need it.
pub const LIMIT: Duration = Duration::from_secs(30);

/// A force ends the process within this, on a busy machine.
pub const AT_ONCE: Duration = Duration::from_millis(500);

/// How many stops a test makes that repeats them; `LAMEDUCK_STOPS` asks for more than the few that a quick run makes.
pub fn stops() -> usize {
    const FEW: usize = 3;
    std::env::var("LAMEDUCK_STOPS").map_or(FEW, |text| {
        text.parse().unwrap_or_else(|_| panic!("LAMEDUCK_STOPS={text}: not a number of stops"))
    })
}

/// The Unix socket of the admin server, in the server's directory.
pub const ADMIN: &str = "admin.sock";
/// The flags that start it there.
pub const WITH_ADMIN: [&str; 2] = ["--admin", "unix:admin.sock"];

/// Who runs the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// Whoever runs the tests.
    Same,
    /// A user without any privilege, where the tests run as root; otherwise whoever runs them, who is one already.
    Nobody,
}

/// A running server and the directory it runs in.
pub struct Service {
    pub target: Target,
    /// Where it serves, in the order of its `--listen`.
    pub addresses: Vec<String>,
    // After the target: the files go when nobody uses them any more.
    directory: TempDir,
}

impl Service {
    /// `lameduck serve` on a free port, with these flags more.
    #[track_caller]
    pub fn start(flags: &[&str]) -> Service {
        Service::start_on(&["127.0.0.1:0"], flags)
    }

    #[track_caller]
    pub fn start_on(listen: &[&str], flags: &[&str]) -> Service {
        Service::start_as(User::Same, listen, flags)
    }

    #[track_caller]
    pub fn start_as(user: User, listen: &[&str], flags: &[&str]) -> Service {
        Service::start_in(new_directory(), user, listen, flags)
    }

    /// The same in a directory of an earlier run.
    #[track_caller]
    pub fn start_in(directory: TempDir, user: User, listen: &[&str], flags: &[&str]) -> Service {
        let addresses: Vec<&str> = listen.iter().flat_map(|at| ["--listen", at]).collect();
        let command = as_user(user).args(["serve"]).args(addresses).args(flags);
        Service::run(directory, command, Ready::Stderr("istening on ".into()), listen.len())
    }

    /// One of the small programs under `tests/programs`, on a free port.
    #[track_caller]
    pub fn program(name: &str, flags: &[&str]) -> Service {
        let command = Target::command(program(name)).args(["--port", "0"]).args(flags);
        Service::run(new_directory(), command, Ready::Stdout("istening on ".into()), 1)
    }

    /// Starts `command` in `directory` and waits until it listens. It speaks something else than bare HTTP there.
    #[track_caller]
    pub fn run_unasked(directory: TempDir, command: Start, ready: Ready) -> Service {
        let command = command.directory(directory.path()).ready(ready);
        let target = command.ready_limit(LIMIT).start().unwrap();
        let mut service = Service { target, addresses: Vec::new(), directory };
        service.addresses = vec![service.announced(0)];
        service
    }

    /// Starts `command` in `directory` and waits until it has answered on each of its addresses.
    #[track_caller]
    pub fn run(directory: TempDir, command: Start, ready: Ready, addresses: usize) -> Service {
        let command = command.directory(directory.path()).ready(ready);
        let target = command.ready_limit(LIMIT).start().unwrap();
        let mut service = Service { target, addresses: Vec::new(), directory };
        service.addresses = (0..addresses).map(|index| service.announced(index)).collect();
        for index in 0..addresses {
            // An answer says that it accepts: a stop from now on is not one during the start. It counts nothing.
            service.get_at(index, "/nowhere");
        }
        service
    }

    /// The nth address that the server said it listens on.
    fn announced(&self, index: usize) -> String {
        let deadline = std::time::Instant::now() + LIMIT;
        loop {
            let text = self.target.stderr() + &self.target.stdout();
            let mut found = text.lines().filter_map(|line| {
                let rest = line.split_once("istening on ")?.1;
                Some(rest.trim_end_matches(['"', '}']).to_owned())
            });
            if let Some(address) = found.nth(index) {
                return address;
            }
            assert!(std::time::Instant::now() < deadline, "no address {index} in {text}");
            // The first line is there, so the others are being written.
            std::thread::yield_now();
        }
    }

    /// Where to ask for `path`.
    pub fn place(&self, path: &str) -> Aim {
        self.place_at(0, path)
    }

    pub fn place_at(&self, index: usize, path: &str) -> Aim {
        let address = &self.addresses[index];
        let url = match address.strip_prefix("unix:") {
            Some(socket) => format!("unix:{}:{path}", self.path(socket).display()),
            // Who listens on every address is met on loopback.
            None => format!("http://{}{path}", address.replace("[::]", "127.0.0.1")),
        };
        url.parse().unwrap()
    }

    /// A file in the server's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Asks once, on a connection of its own.
    #[track_caller]
    pub fn get(&self, path: &str) -> (u16, String) {
        self.get_at(0, path)
    }

    #[track_caller]
    pub fn get_at(&self, index: usize, path: &str) -> (u16, String) {
        get(&self.place_at(index, path))
    }

    /// Waits until the admin server, asked again and again, says so of the service.
    #[track_caller]
    pub fn wait_status(&self, is_it: impl Fn(&Value) -> bool) -> Value {
        let place = format!("unix:{}:/status", self.path(ADMIN).display()).parse().unwrap();
        let deadline = std::time::Instant::now() + LIMIT;
        loop {
            let (_, status) = get(&place);
            let status: Value = serde_json::from_str(&status).unwrap();
            if is_it(&status) {
                return status;
            }
            assert!(std::time::Instant::now() < deadline, "{status:#}");
        }
    }

    /// Waits until this many requests are in hand.
    #[track_caller]
    pub fn wait_in_hand(&self, requests: u64) -> Value {
        self.wait_status(|status| status["live"]["requests"] == requests)
    }

    /// Asks for what takes as long as `--slow` says, and waits until that is in hand. For a service with an admin server.
    #[track_caller]
    pub fn begin_slow_request(&self) -> Wire {
        let place = self.place("/a");
        let mut wire = Wire::connect(&place.address).unwrap();
        wire.request(&place.get(""));
        self.wait_in_hand(1);
        wire
    }

    /// Waits until this is all that is live: connections of earlier requests have left.
    #[track_caller]
    pub fn wait_live(&self, requests: u64, connections: u64) {
        self.wait_status(|status| {
            let live = &status["live"];
            live["requests"] == requests && live["connections"] == connections
        });
    }

    #[track_caller]
    pub fn signal(&mut self, signal: Signal) {
        self.target.signal(signal).unwrap();
    }

    #[track_caller]
    pub fn wait(&mut self) -> Exit {
        self.target.wait(LIMIT).unwrap()
    }

    /// Asks for a graceful stop and waits for it.
    #[track_caller]
    pub fn stop(&mut self) -> Exit {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Sends each signal once the one before it was understood, and checks that the last one ended it at once. Gives its
    /// last words.
    #[track_caller]
    pub fn is_forced_by(&mut self, signals: &[Signal], code: i32) -> String {
        for (number, signal) in signals.iter().enumerate() {
            self.signal(*signal);
            if number + 1 < signals.len() {
                self.target.wait_stderr("Shutting down server...", LIMIT).unwrap();
            }
        }
        let exit = self.wait();
        let words = self.last_words();
        assert_eq!(exit.code, Some(code), "{exit}: {words}");
        assert!(exit.elapsed <= AT_ONCE, "{exit}: {words}");
        words
    }

    /// Everything it wrote to standard error, once it is gone.
    #[track_caller]
    pub fn last_words(&self) -> String {
        self.target.whole_stderr(LIMIT).unwrap()
    }

    /// The report of a server that ran with `--log json`, once it is gone.
    #[track_caller]
    pub fn report(&self) -> Value {
        let words = self.last_words();
        let lines = words.lines().map(|line| {
            serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"))
        });
        let reports: Vec<Value> = lines.filter(|line| line["event"] == "report").collect();
        let [report] = &reports[..] else { panic!("not exactly one report in {words}") };
        report.clone()
    }

    /// Waits for the end and checks that it was a clean one.
    #[track_caller]
    pub fn ends_clean(&mut self) -> Exit {
        let exit = self.wait();
        assert_eq!(exit.code, Some(0), "{exit}: {}", self.last_words());
        exit
    }

    /// Another run in the same directory, of which nothing more is to be asked.
    #[track_caller]
    pub fn replace(&mut self, command: Start) {
        let command = command.directory(self.directory.path());
        let ready = Ready::Stderr("istening on ".into());
        self.target = command.ready(ready).ready_limit(LIMIT).start().unwrap();
    }

    /// The directory, for another run in it.
    pub fn into_directory(self) -> TempDir {
        let Service { target, directory, .. } = self;
        drop(target);
        directory
    }
}

/// Lets time pass in which nobody does anything: the test is about what the server does by itself meanwhile.
pub fn let_pass(time: Duration) {
    std::thread::sleep(time);
}

/// A directory that any user may write to.
pub fn new_directory() -> TempDir {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    directory
}

/// The command, run by this user.
pub fn as_user(user: User) -> Start {
    const NOBODY: &str = "65534";
    match user {
        User::Same => Target::command(env!("CARGO_BIN_EXE_lameduck")),
        User::Nobody if !rustix::process::geteuid().is_root() => {
            Target::command(env!("CARGO_BIN_EXE_lameduck"))
        }
        User::Nobody => Target::command("setpriv").args([
            "--reuid",
            NOBODY,
            "--regid",
            NOBODY,
            "--clear-groups",
            "--bounding-set=-all",
            "--inh-caps=-all",
            "--no-new-privs",
            "--",
            reachable().to_str().unwrap(),
        ]),
    }
}

/// The binary where another user can reach it: a build directory may lie below a home that is closed to others.
fn reachable() -> PathBuf {
    use std::sync::OnceLock;
    static COPY: OnceLock<PathBuf> = OnceLock::new();
    let copy = COPY.get_or_init(|| {
        use std::os::unix::fs::PermissionsExt;
        let directory = std::env::temp_dir().join(format!("lameduck-it-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o755)).unwrap();
        let copy = directory.join("lameduck");
        // By another process: what this one writes to is inherited by whatever a thread beside starts, and busy then.
        run("cp", &[env!("CARGO_BIN_EXE_lameduck"), copy.to_str().unwrap()]);
        copy
    });
    copy.clone()
}

/// A program of `tests/programs`, which is built beside the command.
pub fn program(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_BIN_EXE_lameduck")).with_file_name(name);
    assert!(
        path.exists(),
        "{} is missing: `cargo build --package programs` builds it",
        path.display()
    );
    path
}

/// One request on a connection of its own: the status and the body.
#[track_caller]
pub fn get(place: &Aim) -> (u16, String) {
    let mut wire = Wire::connect(&place.address).unwrap();
    wire.request(&place.get("connection: close\r\n"));
    assert!(watch(std::slice::from_mut(&mut wire), Until::Closed, LIMIT).unwrap(), "{place}");
    let head = wire.answers().first().unwrap_or_else(|| panic!("no answer from {place}"));
    (head.status, body(&wire))
}

/// What follows the head of the first answer.
pub fn body(wire: &Wire) -> String {
    let text = String::from_utf8_lossy(wire.received()).into_owned();
    text.split_once("\r\n\r\n").map_or_else(String::new, |(_, body)| body.to_owned())
}

/// Runs a system tool that must work.
#[track_caller]
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("run {program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
