//! What a service manager hears of an upgrade, and from whom.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use lameduck_verify::target::Signal;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::support::{BOUND, Service, Setup, wait_gone};

/// A service manager's socket. The kernel says who sent a message.
struct Superior(UnixDatagram);

impl Superior {
    fn at(path: &Path) -> Superior {
        let socket = UnixDatagram::bind(path).unwrap();
        rustix::net::sockopt::set_socket_passcred(&socket, true).unwrap();
        socket.set_read_timeout(Some(BOUND)).unwrap();
        Superior(socket)
    }

    /// The next message and its sender.
    fn hears(&self) -> (u32, String) {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let buffers = &mut [IoSliceMut::new(&mut bytes)];
        let came = recvmsg(&self.0, buffers, &mut control, RecvFlags::empty()).unwrap();
        let sender = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmCredentials(sender) => Some(sender.pid.as_raw_nonzero().get()),
            _ => None,
        });
        let text = String::from_utf8_lossy(&bytes[..came.bytes]).into_owned();
        (u32::try_from(sender.unwrap()).unwrap(), text)
    }

    /// Everything up to a message that holds `text`, with that.
    fn hears_until(&self, text: &str) -> Vec<(u32, String)> {
        let mut heard = Vec::new();
        loop {
            heard.push(self.hears());
            if heard.last().is_some_and(|(_, last)| last.contains(text)) {
                return heard;
            }
        }
    }
}

fn managed(watchdog: Option<Duration>, wish: &str) -> (Service, Superior) {
    let setup = Setup::new().wish(wish);
    let socket = setup.file("notify");
    let superior = Superior::at(&socket);
    let setup = setup.variable("NOTIFY_SOCKET", &socket);
    let setup = match watchdog {
        Some(allowed) => setup.variable("WATCHDOG_USEC", allowed.as_micros().to_string()),
        None => setup,
    };
    let service = setup.start();
    superior.hears_until("READY=1");
    (service, superior)
}

/// F37: the first word of a successor is that it serves, and one that comes to nothing says none.
#[test]
fn a_successor_says_nothing_to_the_superior_before_it_accepts() {
    let (mut service, superior) = managed(None, "probation 50");
    let first = service.target.pid();
    service.wish("slow 60000");
    service.target.signal(Signal::HUP).unwrap();
    let started = service.target.wait_stderr("Upgrading: started", BOUND).unwrap();
    service.target.wait_stderr("warming up", BOUND).unwrap();
    let successor = started.rsplit(' ').next().unwrap().parse().unwrap();
    service.signal(successor, Signal::KILL);
    wait_gone(successor);
    let heard = superior.hears_until("the upgrade failed");
    assert!(heard[0].1.starts_with("RELOADING=1"), "{heard:?}");
    assert!(heard.iter().all(|(sender, _)| *sender == first), "{heard:?}");

    service.wish("probation 50");
    let (second, _) = service.upgrade();
    let heard = superior.hears_until("MAINPID=");
    let of = |pid: u32| heard.iter().filter(move |(sender, _)| *sender == pid);
    let said: Vec<_> = of(first).map(|(_, text)| text.lines().next().unwrap()).collect();
    assert!(said[0].starts_with("RELOADING=1"), "{heard:?}");
    assert_eq!(said[1..], ["READY=1", &*format!("MAINPID={second}")], "{heard:?}");
    assert!(of(second).all(|(_, text)| text == "READY=1\nSTATUS=serving"), "{heard:?}");
    service.stop();
}

/// F36
#[test]
fn a_slow_upgrade_does_not_starve_the_watchdog() {
    const ALLOWED: Duration = Duration::from_millis(200);
    let (mut service, superior) = managed(Some(ALLOWED), "");
    let first = service.target.pid();
    service.wish("slow 1500");
    service.target.signal(Signal::HUP).unwrap();
    superior.hears_until("RELOADING=1");
    let heard = superior.hears_until("on probation");
    let is_alive = |(sender, text): &&(u32, String)| *sender == first && text == "WATCHDOG=1";
    let alive = heard.iter().filter(is_alive).count();
    assert!(alive > 1500 / ALLOWED.as_millis() as usize, "{alive} signs of life: {heard:?}");
    service.stop();
}

/// The main process hears the signal, and its successor on probation has the service: the superior is answered at once.
#[test]
fn a_signal_that_is_passed_on_is_answered_to_the_superior() {
    let (mut service, superior) = managed(None, "probation 3600000");
    let first = service.target.pid();
    service.upgrade();
    superior.hears_until("on probation");
    service.target.signal(Signal::HUP).unwrap();
    let heard = superior.hears_until("READY=1\nSTATUS=passed on");
    let of_first: Vec<_> = heard.iter().filter(|(sender, _)| *sender == first).collect();
    assert!(of_first[0].1.starts_with("RELOADING=1"), "{heard:?}");
    service.stop();
}
