//! A client so far away that its handshake takes longer than the gate waits without asking the kernel (loss 2).

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use lameduck::listener::HANDSHAKE_LONGEST;
use lameduck_verify::target::{Ready, Signal, Target};
use tempfile::TempDir;

use crate::service::{LIMIT, Service, new_directory};
use crate::upgrade::{BINARY, WITH_CONTROL};

const CLIENT: &str = include_str!("far_away/client.py");

/// Its round trip: across an ocean, and longer than five waits of the gate.
const ROUND_TRIP: Duration = Duration::from_millis(150);

/// What a stop takes besides, on a busy machine.
const BESIDES: Duration = Duration::from_millis(700);

/// A network of the service's own with a device behind which the client is the whole world. Nothing of it is left when the
/// service is gone. Without a detection of duplicates its IPv6 address is there at once.
const NETWORK: &str = "ip link set lo up &&
    ip tuntap add dev far mode tun &&
    ip address add 198.18.0.1/24 dev far &&
    ip address add fd00::1/64 dev far nodad &&
    ip link set far up &&
    exec \"$@\"";

/// Where it serves there, and where the client is and thinks that it is.
#[derive(Clone, Copy)]
struct Ends {
    listen: &'static str,
    client: &'static str,
    server: &'static str,
}

const V4: Ends = Ends { listen: "198.18.0.1:8080", client: "198.18.0.2", server: "198.18.0.1" };
const V6: Ends = Ends { listen: "[fd00::1]:8080", client: "fd00::2", server: "fd00::1" };
const BOTH: Ends = Ends { listen: "[::]:8080", client: "198.18.0.2", server: "198.18.0.1" };

/// Whether a network of one's own is to be had: for root, with `/dev/net/tun`, where the sandbox lets it.
fn has_networks() -> bool {
    let unshare = || Command::new("unshare").args(["--net", "true"]).status();
    let there = rustix::process::geteuid().is_root()
        && std::fs::File::open("/dev/net/tun").is_ok()
        && unshare().is_ok_and(|status| status.success());
    prerequisites::has("a network of its own (root, unshare(1) and /dev/net/tun)", there)
}

/// `lameduck serve` with these words more in a network of its own, and on a Unix socket at which it is asked whether it
/// serves.
#[track_caller]
fn serve(words: &[&str]) -> Service {
    serve_in(new_directory(), words)
}

#[track_caller]
fn serve_in(directory: TempDir, words: &[&str]) -> Service {
    let base = ["--net", "sh", "-c", NETWORK, "sh", BINARY, "serve", "--listen", "unix:x.sock"];
    let command = Target::command("unshare").args(base).args(words);
    Service::run(directory, command, Ready::Stderr("istening on ".into()), 1)
}

/// The client at work. It is gone when this is dropped.
struct FarAway {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl FarAway {
    /// A client whose SYN was answered, and which owes the third packet of its handshake.
    #[track_caller]
    fn answered(service: &Service, ends: Ends) -> FarAway {
        let network = format!("--net=/proc/{}/ns/net", service.target.pid());
        let mut child = Command::new("nsenter")
            .args([&network, "python3", "-c", CLIENT, "far", ends.client, ends.server, "8080"])
            .args([ROUND_TRIP.as_secs_f64().to_string(), LIMIT.as_secs_f64().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut client = FarAway { child, input, output: BufReader::new(output) };
        assert_eq!(client.says(), "answered");
        client
    }

    /// Its next word, for which it does not take longer than its own limit.
    fn says(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Completes the handshake after its round trip, asks, and tells what came of it.
    fn goes_on(&mut self) -> String {
        self.is_told("go")
    }

    /// The same, and wants no more than one answer.
    fn goes_on_and_leaves(&mut self) -> String {
        self.is_told("go and leave")
    }

    fn is_told(&mut self, order: &str) -> String {
        writeln!(self.input, "{order}").unwrap();
        self.says()
    }
}

impl Drop for FarAway {
    fn drop(&mut self) {
        // It has ended in most tests.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn is_answered(ends: Ends) {
    if !has_networks() {
        return;
    }
    let mut service = serve(&["--listen", ends.listen]);
    let mut client = FarAway::answered(&service, ends);
    service.signal(Signal::TERM);
    service.target.wait_stderr("Shutting down server...", LIMIT).unwrap();
    let end = client.goes_on();
    assert!(end.starts_with("closed behind b'HTTP/1.1 200 OK"), "{end}");
    service.ends_clean();
}

#[test]
fn a_client_far_away_whose_handshake_is_under_way_is_answered() {
    is_answered(V4);
}

#[test]
fn a_client_far_away_over_ipv6_is_answered() {
    is_answered(V6);
}

/// The kernel tells of it as of a client over IPv6.
#[test]
fn a_client_far_away_of_a_socket_for_both_families_is_answered() {
    is_answered(BOTH);
}

/// A scan, or a forged address: the stop waits as long as for a packet that was lost, and is a clean one also where the
/// grace period leaves less.
#[test]
fn a_handshake_that_never_completes_does_not_hold_the_exit() {
    if !has_networks() {
        return;
    }
    for (grace, longest) in [("9s", HANDSHAKE_LONGEST), ("1s", HANDSHAKE_LONGEST / 2)] {
        let mut service = serve(&["--listen", V4.listen, "--grace", grace]);
        let _client = FarAway::answered(&service, V4);
        service.signal(Signal::TERM);
        let exit = service.ends_clean();
        assert!(exit.elapsed <= longest + BESIDES, "{exit}: {}", service.last_words());
    }
}

/// Nobody else goes on accepting at an address that a new version leaves out.
#[test]
fn a_client_far_away_of_an_address_that_an_upgrade_drops_is_answered() {
    if !has_networks() {
        return;
    }
    let directory = new_directory();
    let words = directory.path().join("words");
    std::fs::write(&words, format!("--listen\n{}\n", V4.listen)).unwrap();
    let mut service =
        serve_in(directory, &["@words", WITH_CONTROL[0], WITH_CONTROL[1], "--probation", "100ms"]);
    let mut client = FarAway::answered(&service, V4);
    std::fs::write(words, "").unwrap();
    service.signal(Signal::HUP);
    service.target.wait_stderr("A successor accepts", LIMIT).unwrap();
    // Probation is over before its round trip is.
    let end = client.goes_on_and_leaves();
    assert!(end.starts_with("closed behind b'HTTP/1.1 200 OK"), "{end}");
    assert_eq!(service.operate("stop", &[]).code, Some(0));
}
