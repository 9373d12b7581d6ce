//! A service in a directory of its own, asked over HTTP and over its control socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use lameduck::operate::{Answer, Verb, ask};
use lameduck_verify::address::Place;
use lameduck_verify::target::{Ready, Signal, Start, Target};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, kill_process, pidfd_open};

/// How long anything a test waits for may take, on a loaded machine.
pub const BOUND: Duration = Duration::from_secs(30);

/// Between two looks at what has no way to wait: `/proc`, and names in a directory.
const LOOK: Duration = Duration::from_millis(2);

/// How often a test repeats what it repeats: `few` times, or as often as the environment asks for.
pub fn times(few: u32) -> u32 {
    let Ok(asked) = std::env::var("LAMEDUCK_UPGRADES") else { return few };
    asked.parse().unwrap_or_else(|_| panic!("LAMEDUCK_UPGRADES={asked}: not a number of upgrades"))
}

/// Moments that are spread evenly over a time, in no order and as many as wanted: the golden section.
pub fn moments(within: Duration) -> impl Iterator<Item = Duration> {
    (0..).map(move |number| within.mul_f64(f64::from(number) * 0.618_034 % 1.0))
}

/// An address that was free a moment ago, and whose port no client of a load that runs beside can get: those come from
/// the first loopback address.
pub fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.2:0").unwrap().local_addr().unwrap()
}

/// A running service and its successors. All are killed when it is dropped.
pub struct Service {
    pub target: Target,
    pub address: SocketAddr,
    directory: Directory,
}

/// A directory for this user alone, removed when dropped.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Directory {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("lameduck-upgrade-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
        Directory(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A service to be started.
pub struct Setup {
    directory: Directory,
    program: PathBuf,
    wishes: String,
    variables: Vec<(String, std::ffi::OsString)>,
    more: Vec<String>,
    /// What starts it, with `{address}` where that belongs.
    launcher: Vec<String>,
}

impl Setup {
    pub fn new() -> Setup {
        let (directory, program) = (Directory::new(), example("misbehaving_successor"));
        let (wishes, variables, launcher) = (String::new(), Vec::new(), Vec::new());
        Setup { directory, program, wishes, variables, more: Vec::new(), launcher }
    }

    /// A file of the service's own directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs this file instead.
    pub fn program(mut self, program: impl Into<PathBuf>) -> Setup {
        self.program = program.into();
        self
    }

    /// One wish of the first generation, and of each after it unless it is told otherwise.
    pub fn wish(mut self, wish: &str) -> Setup {
        self.wishes.push_str(wish);
        self.wishes.push('\n');
        self
    }

    /// A variable in the environment of every generation.
    pub fn variable(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Setup {
        self.variables.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// One more address to listen on.
    pub fn listen(mut self, address: impl ToString) -> Setup {
        self.more.push(address.to_string());
        self
    }

    /// Whoever starts it has this many sockets of its address for it.
    pub fn group(mut self, sockets: usize) -> Setup {
        let group = example("reuseport_group").display().to_string();
        self.launcher = vec![group, sockets.to_string(), "{address}".to_owned()];
        self
    }

    /// It is process 1 of a namespace of its own.
    pub fn alone(mut self) -> Setup {
        let words = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
        self.launcher = words.map(str::to_owned).to_vec();
        self
    }

    /// The program, with wishes that stand in their file already.
    pub fn command(&self) -> Start {
        command(&self.program, self.directory.path(), free_address())
    }

    pub fn start(self) -> Service {
        let address = free_address();
        std::fs::write(self.file("wishes"), &self.wishes).unwrap();
        let with_address = |word: &String| word.replace("{address}", &address.to_string());
        let mut launcher = self.launcher.iter().map(with_address);
        let start = match launcher.next() {
            None => Target::command(&self.program),
            Some(first) => Target::command(first).args(launcher).arg(&self.program),
        };
        let start = told(start, self.directory.path(), address).args(self.more);
        let start =
            self.variables.iter().fold(start, |start, (name, value)| start.env(name, value));
        let target = start.ready(Ready::Stderr("Generation 1 listens".to_owned())).start().unwrap();
        let service = Service { target, address, directory: self.directory };
        service.get("/");
        service
    }
}

fn command(program: &Path, directory: &Path, address: SocketAddr) -> Start {
    told(Target::command(program), directory, address)
}

fn told(start: Start, directory: &Path, address: SocketAddr) -> Start {
    start
        .arg(directory.join("run").join("control"))
        .arg(directory.join("wishes"))
        .arg(address.to_string())
        .directory(directory)
}

/// Copies a program by another process: a descriptor that this one writes through would be inherited by whatever another
/// thread starts at the moment, and a program that somebody may write to does not start.
pub fn copy_program(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg(from).arg(to).status().unwrap();
    assert!(copied.success(), "cp {} {}: {copied}", from.display(), to.display());
}

/// `cargo test` builds the examples beside the test programs.
pub fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(path.exists(), "{} is missing: run cargo build --examples", path.display());
    path
}

impl Service {
    pub fn start() -> Service {
        Setup::new().start()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn control(&self) -> PathBuf {
        self.file("run").join("control")
    }

    pub fn place(&self, path: &str) -> Place {
        format!("http://{}{path}", self.address).parse().unwrap()
    }

    /// What the next generation is told when it starts.
    pub fn wish(&self, wishes: &str) {
        std::fs::write(self.file("wishes"), wishes).unwrap();
    }

    /// One more process of the same program, started by hand.
    pub fn by_hand(&self, program: &Path) -> Start {
        command(program, self.directory.path(), self.address)
    }

    /// Waits until the control name leads to whoever serves: after a death that may be a moment after it answers.
    pub fn wait_named(&self) {
        wait(|| ask(&self.control(), Verb::Status, &[]).is_ok(), || self.target.stderr());
    }

    pub fn ask(&self, verb: Verb) -> Answer {
        ask(&self.control(), verb, &[]).unwrap()
    }

    /// Upgrades and returns the successor's process and generation.
    pub fn upgrade(&self) -> (u32, u32) {
        let answer = self.ask(Verb::Upgrade);
        assert_eq!(answer.code, 0, "{}\n{}", answer.text, self.target.stderr());
        let told: serde_json::Value = serde_json::from_str(&answer.text).unwrap();
        let number = |name: &str| u32::try_from(told[name].as_u64().unwrap()).unwrap();
        (number("pid"), number("generation"))
    }

    /// Upgrades in vain and returns why; the same generation still answers, and no process is left of the successor.
    pub fn fail_to_upgrade(&self) -> String {
        let before = who(&self.get("/"));
        let answer = self.ask(Verb::Upgrade);
        assert_ne!(answer.code, 0, "{}", answer.text);
        assert_eq!(who(&self.get("/")), before, "{}", answer.text);
        wait(|| self.processes() == [before.1], || format!("{:?}", self.processes()));
        answer.text
    }

    /// Upgrades and waits until no older generation has a connection.
    pub fn upgrade_and_move(&self) -> (u32, u32) {
        let upgraded = self.upgrade();
        let moved = || {
            let status = self.status();
            let mut older = status["generations"].as_array().unwrap().iter().skip(1);
            // One that leaves at this moment may have no answer any more.
            older.all(|older| matches!(older["live"]["connections"].as_u64(), Some(0) | None))
        };
        wait(moved, || self.status().to_string());
        upgraded
    }

    pub fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.ask(Verb::Status).text).unwrap()
    }

    /// A new connection.
    pub fn connect(&self) -> Conversation {
        Conversation::tcp(self.address)
    }

    /// One answer on a connection of its own.
    pub fn get(&self, path: &str) -> String {
        self.connect().get(path)
    }

    /// One answer on a connection of its own, or none because the service is going away.
    pub fn try_get(&self, path: &str) -> Option<String> {
        let mut stream = std::net::TcpStream::connect(self.address).ok()?;
        stream.set_read_timeout(Some(BOUND)).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.starts_with("HTTP/1.1 200").then_some(answer)
    }

    /// Every process of the service, zombies too, by number.
    pub fn processes(&self) -> Vec<u32> {
        let mut found = group(self.target.pid());
        found.sort_unstable();
        found
    }

    /// Ends a generation by its process number, and waits until it is gone.
    pub fn signal(&self, pid: u32, signal: Signal) {
        kill_process(number(pid), signal).unwrap();
    }

    /// Waits until only these processes are left.
    pub fn wait_processes(&mut self, wanted: &[u32]) {
        let first = self.target.pid();
        let mut wanted = wanted.to_vec();
        wanted.sort_unstable();
        if !wanted.contains(&first) {
            // Ours to wait for, or it stays a zombie.
            self.target.wait(BOUND).unwrap();
        }
        wait(
            || self.processes() == wanted,
            || format!("{:?}, not {wanted:?}: {}", self.processes(), self.target.stderr()),
        );
    }

    /// Stops whoever is active, as an operator does, and waits until nothing is left.
    pub fn stop(mut self) {
        let answer = self.ask(Verb::Stop);
        assert_eq!(answer.code, 0, "{}", answer.text);
        self.wait_processes(&[]);
        let left: Vec<_> = std::fs::read_dir(self.file("run")).unwrap().flatten().collect();
        assert!(left.is_empty(), "{left:?} left behind: {}", self.target.stderr());
    }
}

fn number(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}

/// Waits until a process is gone.
pub fn wait_gone(pid: u32) {
    let Ok(process) = pidfd_open(number(pid), PidfdFlags::empty()) else { return };
    let limit = Timespec::try_from(BOUND).unwrap();
    let ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit)).unwrap();
    assert_eq!(ended, 1, "process {pid} is still there after {BOUND:?}");
}

/// Looks again and again at what has no way to wait.
pub fn wait(mut condition: impl FnMut() -> bool, tell: impl Fn() -> String) {
    let until = Instant::now() + BOUND;
    while !condition() {
        assert!(Instant::now() < until, "still not after {BOUND:?}: {}", tell());
        std::thread::sleep(LOOK);
    }
}

/// The processes of a process group. One that has ended counts while another of the group should wait for it: an orphan
/// that has ended is the system's to collect, which may take it seconds.
pub fn group(wanted: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let members =
        pids.filter_map(|pid| Some((pid, stat(pid)?))).filter(|(_, it)| it.group == wanted);
    let in_group = |pid| stat(pid).is_some_and(|it| it.group == wanted);
    let counts = |it: &Stat| it.state != "Z" || in_group(it.parent);
    members.filter(|(_, it)| counts(it)).map(|(pid, _)| pid).collect()
}

struct Stat {
    state: String,
    parent: u32,
    group: u32,
}

fn stat(pid: u32) -> Option<Stat> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the name in parentheses: state, parent, group.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.to_owned();
    let mut number = || fields.next()?.parse().ok();
    Some(Stat { state, parent: number()?, group: number()? })
}

/// The generation and the process that gave an answer.
pub fn who(answer: &str) -> (u32, u32) {
    let after = |word: &str| {
        let (_, rest) = answer.split_once(word).unwrap_or_else(|| panic!("'{word}' in {answer}"));
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap()
    };
    (after("generation "), after("pid "))
}

/// A kept-alive HTTP/1.1 connection that never reconnects.
pub struct Conversation {
    stream: BufReader<Box<dyn Stream>>,
}

pub trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

impl Conversation {
    pub fn tcp(address: SocketAddr) -> Conversation {
        let stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(BOUND)).unwrap();
        stream.set_nodelay(true).unwrap();
        Conversation { stream: BufReader::new(Box::new(stream)) }
    }

    pub fn unix(path: &Path) -> Conversation {
        let stream = std::os::unix::net::UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(BOUND)).unwrap();
        Conversation { stream: BufReader::new(Box::new(stream)) }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    pub fn ask(&mut self, path: &str) {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n").as_bytes());
    }

    /// Reads one answer; its body.
    pub fn answer(&mut self) -> String {
        let (mut length, mut line) = (0, String::new());
        self.stream.read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 200"), "answered with {line:?}");
        loop {
            line.clear();
            self.stream.read_line(&mut line).unwrap();
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line.trim_end().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
        String::from_utf8(body).unwrap()
    }

    pub fn get(&mut self, path: &str) -> String {
        self.ask(path);
        self.answer()
    }

    /// Reads on until the other end closes, in order and without another word.
    pub fn wait_closed(&mut self) {
        assert_eq!(self.stream.fill_buf().unwrap(), b"", "nothing more is said");
    }

    /// Begins a request and its answer that go on together.
    pub fn begin_echo(&mut self) {
        self.send(b"POST /echo HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n");
        self.send(b"5\r\nbegun\r\n");
        let status = self.line();
        assert!(status.starts_with("HTTP/1.1 200"), "{status}");
        while !self.line().is_empty() {}
        assert_eq!(self.chunk(), "begun");
    }

    /// One more piece there and back.
    pub fn echo(&mut self, piece: &str) -> String {
        self.send(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes());
        self.chunk()
    }

    pub fn end_echo(&mut self) {
        self.send(b"0\r\n\r\n");
        assert_eq!(self.chunk(), "");
    }

    fn chunk(&mut self) -> String {
        let length = usize::from_str_radix(&self.line(), 16).unwrap();
        let mut piece = vec![0; length];
        self.stream.read_exact(&mut piece).unwrap();
        assert_eq!(self.line(), "");
        String::from_utf8(piece).unwrap()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}
