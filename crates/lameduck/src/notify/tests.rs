use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};

use super::teller::{BARRIER, EXTEND, EXTEND_PAST_DEADLINE, OWED_MOST, RETRY, Teller};
use super::*;
use crate::log::{Log, LogFormat};

/// How long a message may take to arrive.
const ARRIVES: Duration = Duration::from_secs(5);

/// A service manager's end: a datagram socket with an abstract name of its own.
struct Superior {
    name: String,
    socket: UnixDatagram,
}

impl Superior {
    fn new() -> Superior {
        use std::os::linux::net::SocketAddrExt;
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("lameduck-notify-test-{}-{number}", std::process::id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        socket.set_read_timeout(Some(ARRIVES)).unwrap();
        Superior { name: format!("@{name}"), socket }
    }

    fn notifier(&self) -> Notifier {
        notifier(&[("NOTIFY_SOCKET", &self.name)])
    }

    fn hears(&self) -> String {
        let mut bytes = [0; MESSAGE_MOST];
        let length = self.socket.recv(&mut bytes).expect("a message");
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    fn hears_nothing(&self) -> bool {
        self.socket.set_nonblocking(true).unwrap();
        let came = self.socket.recv(&mut [0; 1]);
        self.socket.set_nonblocking(false).unwrap();
        came.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    fn hears_with_descriptors(&self) -> (String, Vec<OwnedFd>) {
        let (mut bytes, mut space) = ([0; 256], [MaybeUninit::uninit(); 256]);
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut into = [io::IoSliceMut::new(&mut bytes)];
        let message =
            recvmsg(&self.socket, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
        assert!(!message.flags.contains(ReturnFlags::CTRUNC));
        let descriptors = control.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect::<Vec<_>>(),
            _ => Vec::new(),
        });
        let descriptors = descriptors.collect();
        (String::from_utf8(bytes[..message.bytes].to_vec()).unwrap(), descriptors)
    }

    /// Fills the queue and says how many messages that took.
    fn fill(&self) -> usize {
        let queue_at_most = 100_000;
        let mut sent = 0;
        // A sender's own buffer may be full before the queue is, where the system's bound on queues is large
        // (`net.unix.max_dgram_qlen`, which systemd raises): then the next sender goes on.
        loop {
            let notifier = self.notifier();
            let before = sent;
            while notifier.send(&[State::Status("filling")]).is_ok() {
                sent += 1;
                assert!(sent < queue_at_most, "the queue has a bound");
            }
            if sent == before {
                return sent;
            }
        }
    }
}

fn notifier(variables: &[(&str, &str)]) -> Notifier {
    let find = |name: &str| variables.iter().find(|(known, _)| *known == name);
    Notifier::from_variables(|name| find(name).map(|(_, value)| OsString::from(*value)), 4711)
}

fn teller(manager: &Superior, now: Instant) -> Teller {
    Teller::new(manager.notifier(), Arc::new(Log::new(LogFormat::Silent)), now)
}

#[test]
fn each_state_is_said_in_the_managers_words() {
    for (state, expected) in [
        (State::Ready, "READY=1"),
        (State::Stopping, "STOPPING=1"),
        (State::MainPid(42), "MAINPID=42"),
        (State::ExtendTimeout(Duration::from_millis(1500)), "EXTEND_TIMEOUT_USEC=1500000"),
        (State::Status("two\nlines\r\n"), "STATUS=two lines  "),
        (State::Watchdog, "WATCHDOG=1"),
    ] {
        assert_eq!(render(&[state]), expected);
    }
    let both = render(&[State::Stopping, State::Status("READY=1\nno")]);
    assert_eq!(both, "STOPPING=1\nSTATUS=READY=1 no", "a status cannot say another state");
}

#[test]
fn a_reload_carries_the_time_it_began() {
    let before = monotonic_micros();
    let text = render(&[State::Reloading]);
    let micros = text.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
    let micros: u128 = micros.parse().unwrap();
    assert!((before..=monotonic_micros()).contains(&micros));
}

#[test]
fn a_long_status_is_cut_between_characters() {
    let text = render(&[State::Status(&"ä".repeat(STATUS_MOST)), State::Ready]);
    assert_eq!(text, format!("STATUS={}\nREADY=1", "ä".repeat(STATUS_MOST / 2)));
    let odd = render(&[State::Status(&format!("a{}", "ä".repeat(STATUS_MOST)))]);
    assert_eq!(odd.len(), "STATUS=".len() + STATUS_MOST - 1);
}

#[test]
fn without_a_manager_nothing_is_sent_and_nothing_fails() {
    for nobody in [Notifier::none(), notifier(&[]), notifier(&[("NOTIFY_SOCKET", "")])] {
        assert!(!nobody.is_heard() && nobody.problems().is_empty());
        nobody.send(&[State::Ready]).unwrap();
        nobody.store("web", &[]).unwrap();
        nobody.forget("web").unwrap();
        nobody.barrier(Duration::ZERO).unwrap();
    }
}

#[test]
fn variables_that_make_no_sense_are_named_and_left_out() {
    let long = format!("/{}", "x".repeat(200));
    for (socket, words) in [
        ("relative", "NOTIFY_SOCKET='relative': neither a path nor an abstract name ('@name')"),
        ("@", "NOTIFY_SOCKET='@': neither a path nor an abstract name ('@name')"),
        ("vsock:2:1", "NOTIFY_SOCKET='vsock:2:1': neither a path nor an abstract name ('@name')"),
        (&long, "File name too long"),
    ] {
        let notifier = notifier(&[("NOTIFY_SOCKET", socket)]);
        assert!(!notifier.is_heard());
        let [problem] = notifier.problems() else { panic!("one problem with {socket}") };
        assert!(problem.contains(words), "{problem}");
    }
}

#[test]
fn the_watchdog_is_for_the_process_it_names() {
    let manager = Superior::new();
    let watch = |micros: &str, pid: Option<&str>| {
        let mut variables = vec![("NOTIFY_SOCKET", &*manager.name), ("WATCHDOG_USEC", micros)];
        variables.extend(pid.map(|pid| ("WATCHDOG_PID", pid)));
        let notifier = notifier(&variables);
        assert!(notifier.is_heard(), "a watchdog that makes no sense silences nothing");
        (notifier.watchdog(), notifier.problems().join(""))
    };
    let second = Some(Duration::from_secs(1));
    assert_eq!(watch("1000000", None), (second, String::new()));
    assert_eq!(watch("1000000", Some("4711")), (second, String::new()));
    assert_eq!(watch("1000000", Some("4712")), (None, String::new()));
    for bad in ["0", "-1", "soon", ""] {
        let problem = format!("WATCHDOG_USEC='{bad}': not a positive number");
        assert_eq!(watch(bad, None), (None, problem));
    }
    let problem = "WATCHDOG_PID='me': not a positive number".to_owned();
    assert_eq!(watch("1000000", Some("me")), (None, problem));
    assert_eq!(notifier(&[("WATCHDOG_USEC", "1000000")]).watchdog(), None);
}

#[test]
fn a_message_the_manager_would_drop_is_refused() {
    let manager = Superior::new();
    let many = vec![State::Status("x"); MESSAGE_MOST];
    let error = manager.notifier().send(&many).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    assert!(manager.hears_nothing());
}

#[test]
fn stored_descriptors_arrive_under_their_name() {
    let manager = Superior::new();
    let one = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let two = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    manager.notifier().store("web", &[one.as_fd(), two.as_fd()]).unwrap();
    let (text, descriptors) = manager.hears_with_descriptors();
    assert_eq!(text, "FDSTORE=1\nFDNAME=web\nFDPOLL=0");
    let addresses: Vec<_> = descriptors
        .into_iter()
        .map(|descriptor| std::net::TcpListener::from(descriptor).local_addr().unwrap())
        .collect();
    assert_eq!(addresses, [one.local_addr().unwrap(), two.local_addr().unwrap()]);
    manager.notifier().forget("web").unwrap();
    assert_eq!(manager.hears(), "FDSTOREREMOVE=1\nFDNAME=web");
}

#[test]
fn a_name_or_a_number_the_manager_would_refuse_is_refused() {
    let manager = Superior::new();
    let notifier = manager.notifier();
    for name in ["", "a:b", "a\nREADY=1", "ä", &"x".repeat(NAME_MOST + 1)] {
        let refused = |sent: io::Result<()>| sent.unwrap_err().kind();
        assert_eq!(refused(notifier.store(name, &[])), io::ErrorKind::InvalidInput);
        assert_eq!(refused(notifier.forget(name)), io::ErrorKind::InvalidInput);
    }
    let most = vec![manager.socket.as_fd(); STORED_AT_ONCE];
    notifier.store(&"x".repeat(NAME_MOST), &most).unwrap();
    let more = vec![manager.socket.as_fd(); STORED_AT_ONCE + 1];
    let error = notifier.store("web", &more).unwrap_err();
    assert_eq!(error.to_string(), "254 descriptors for 'web' at once, 253 are the most");
}

#[test]
fn a_barrier_ends_when_all_before_it_is_read() {
    let manager = Superior::new();
    let notifier = manager.notifier();
    notifier.send(&[State::Ready]).unwrap();
    let waits = std::thread::spawn(move || notifier.barrier(ARRIVES));
    assert_eq!(manager.hears(), "READY=1");
    let (text, descriptors) = manager.hears_with_descriptors();
    assert_eq!((text.as_str(), descriptors.len()), ("BARRIER=1", 1));
    assert!(!waits.is_finished());
    drop(descriptors);
    waits.join().unwrap().unwrap();
}

#[test]
fn a_barrier_nobody_reads_ends_at_its_bound() {
    let manager = Superior::new();
    let timed_out = |waited: io::Result<()>| waited.unwrap_err().kind() == io::ErrorKind::TimedOut;
    assert!(timed_out(manager.notifier().barrier(Duration::from_millis(20))));
    manager.fill();
    assert!(timed_out(manager.notifier().barrier(Duration::from_millis(20))));
}

#[test]
fn a_full_queue_delays_what_the_manager_acts_on_and_keeps_its_order() {
    let (manager, now) = (Superior::new(), Instant::now());
    let mut teller = teller(&manager, now);
    let filled = manager.fill();
    teller.ready(now);
    teller.progress(now, "lost: the next one says it again", None);
    teller.stopping(now, "stopping", Some(now));
    assert_eq!(teller.due(), Some(now + RETRY));
    teller.retry(now + RETRY);
    assert_eq!(teller.due(), Some(now + RETRY * 2), "still full");
    (0..filled).for_each(|_| drop(manager.hears()));
    teller.retry(now + RETRY * 2);
    assert_eq!(manager.hears(), "READY=1\nSTATUS=serving");
    let stopping = "STOPPING=1\nSTATUS=stopping\nEXTEND_TIMEOUT_USEC=1000000";
    assert_eq!(manager.hears(), stopping);
    assert!(manager.hears_nothing());
    assert_eq!(teller.due(), None);
}

#[test]
fn what_waits_for_a_full_queue_is_bounded() {
    let (manager, now) = (Superior::new(), Instant::now());
    let mut teller = teller(&manager, now);
    let filled = manager.fill();
    (0..=OWED_MOST).for_each(|number| teller.reloaded(now, &number.to_string()));
    (0..filled).for_each(|_| drop(manager.hears()));
    teller.retry(now + RETRY);
    assert_eq!(manager.hears(), "READY=1\nSTATUS=1", "the oldest is given up");
    (2..=OWED_MOST).for_each(|_| drop(manager.hears()));
    assert!(manager.hears_nothing());
}

#[test]
fn a_manager_that_is_gone_fails_nothing_and_one_that_came_back_is_told() {
    let (manager, now) = (Superior::new(), Instant::now());
    let mut teller = teller(&manager, now);
    let Superior { name, socket } = manager;
    drop(socket);
    teller.ready(now);
    assert_eq!(teller.due(), None, "not owed: nobody is there to hear it");
    use std::os::linux::net::SocketAddrExt;
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name[1..]).unwrap();
    let manager = Superior { name, socket: UnixDatagram::bind_addr(&address).unwrap() };
    manager.socket.set_read_timeout(Some(ARRIVES)).unwrap();
    teller.progress(now, "here", None);
    assert_eq!(manager.hears(), "STATUS=here\nEXTEND_TIMEOUT_USEC=5000000");
}

#[test]
fn the_successor_becomes_the_main_process_when_the_upgrade_is_final_and_speaks_alone_from_then_on()
{
    let (manager, now) = (Superior::new(), Instant::now());
    let mut teller = teller(&manager, now);
    teller.reloading(now);
    assert!(manager.hears().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    teller.upgraded(now, 42);
    assert_eq!(manager.hears(), "READY=1\nSTATUS=upgraded: process 42 serves, on probation");
    teller.handed_over(now);
    assert_eq!(manager.hears(), "MAINPID=42\nREADY=1\nSTATUS=serving");
    teller.progress(now, "draining", None);
    teller.stopping(now, "stopping", None);
    assert!(manager.hears_nothing());
    let end = std::thread::spawn(move || {
        teller.stopped(now, "finished", None);
        teller
    });
    // Reading closes the pipe's end that came with it, which is the manager's answer.
    assert_eq!(manager.hears(), "BARRIER=1");
    end.join().unwrap();
    assert!(manager.hears_nothing());
}

#[test]
fn a_manager_that_reads_no_more_holds_the_end_of_a_generation_for_the_bound_only() {
    let (manager, now) = (Superior::new(), Instant::now());
    let mut teller = teller(&manager, now);
    teller.upgraded(now, 42);
    teller.handed_over(now);
    let begun = Instant::now();
    teller.stopped(now, "finished", None);
    assert!(begun.elapsed() >= BARRIER, "it waited for an answer");
    drop(manager);
}

#[test]
fn a_successor_lost_on_probation_never_was_the_main_process() {
    let (manager, now) = (Superior::new(), Instant::now());
    let mut teller = teller(&manager, now);
    teller.upgraded(now, 42);
    assert_eq!(manager.hears(), "READY=1\nSTATUS=upgraded: process 42 serves, on probation");
    teller.taken_back(now);
    assert_eq!(manager.hears(), "READY=1\nSTATUS=serving again: the successor is lost");
    teller.handed_over(now);
    assert!(manager.hears_nothing(), "there is nobody to hand over to");
}

#[test]
fn a_stop_asks_for_no_more_time_than_its_deadline_needs() {
    let (manager, now) = (Superior::new(), Instant::now());
    let mut teller = teller(&manager, now);
    let micros = |time: Duration| format!("STATUS=x\nEXTEND_TIMEOUT_USEC={}", time.as_micros());
    let second = Duration::from_secs(1);
    for (deadline, expected) in [
        (None, EXTEND),
        (Some(now + 60 * second), EXTEND),
        (Some(now + second), second + EXTEND_PAST_DEADLINE),
        (Some(now), EXTEND_PAST_DEADLINE),
    ] {
        teller.progress(now, "x", deadline);
        assert_eq!(manager.hears(), micros(expected));
    }
    teller.stopped(now, "x", Some(now + 60 * second));
    assert_eq!(manager.hears(), micros(60 * second + EXTEND_PAST_DEADLINE));
    teller.stopped(now, "x", None);
    assert_eq!(manager.hears(), "STATUS=x");
}

#[test]
fn the_watchdog_hears_only_answers_of_the_runtime() {
    let (manager, now) = (Superior::new(), Instant::now());
    let watched = notifier(&[("NOTIFY_SOCKET", &manager.name), ("WATCHDOG_USEC", "2000000")]);
    let mut teller = Teller::new(watched, Arc::new(Log::new(LogFormat::Silent)), now);
    let second = Duration::from_secs(1);
    assert_eq!(teller.due(), Some(now), "the first question is asked at once");
    assert!(teller.asks_runtime(now));
    assert!(!teller.asks_runtime(now + 9 * second), "one question at a time");
    assert_eq!(teller.due(), None);
    assert!(manager.hears_nothing());
    teller.runtime_answered(now);
    assert_eq!(manager.hears(), "WATCHDOG=1");
    assert_eq!(teller.due(), Some(now + second), "half of what the manager allows");
    assert!(!teller.asks_runtime(now + second / 2));
    assert!(teller.asks_runtime(now + second));
    teller.stopped(now, "x", None);
    assert_eq!(manager.hears(), "STATUS=x");
    teller.runtime_answered(now);
    assert!(manager.hears_nothing());
}
