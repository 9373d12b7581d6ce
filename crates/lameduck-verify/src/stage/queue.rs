//! Listening sockets as the kernel sees them: who waits in the accept queue, and which socket it is.

use super::Recorder;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two samples.
const SAMPLE_PAUSE: Duration = Duration::from_millis(2);

/// So much of the kernel's answer is read at once.
const ANSWER_BYTES: usize = 64 * 1024;

/// One listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listening {
    /// Connections that wait to be accepted.
    pub waiting: u32,
    /// As many as may wait.
    pub most: u32,
    /// Tells whether it still is the same socket.
    pub inode: u32,
}

/// The TCP sockets that listen at this port, on any address.
///
/// # Errors
/// When the kernel does not tell (it is asked over `NETLINK_SOCK_DIAG`).
pub fn listening(port: u16) -> io::Result<Vec<Listening>> {
    let socket = open()?;
    let mut found = Vec::new();
    for family in [AddressFamily::INET, AddressFamily::INET6] {
        found.extend(ask(&socket, family, port)?);
    }
    Ok(found)
}

/// Samples a listener's queue on a thread of its own until it is dropped.
#[derive(Debug)]
pub(super) struct Sampler {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sampler {
    pub(super) fn start(port: u16, recorder: &Recorder) -> io::Result<Sampler> {
        let ended = Arc::new(AtomicBool::new(false));
        let (seen, recorder) = (ended.clone(), recorder.clone());
        let work = move || sample(port, &recorder, &seen);
        let thread = std::thread::Builder::new().name("queue".into()).spawn(work)?;
        Ok(Sampler { ended, thread: Some(thread) })
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn sample(port: u16, recorder: &Recorder, ended: &AtomicBool) {
    // Where the kernel does not tell, the timeline has no queue.
    let Ok(socket) = open() else { return };
    let mut last = None;
    while !ended.load(Ordering::Relaxed) {
        let Ok(found) = ask(&socket, AddressFamily::INET, port) else { return };
        let now = (
            found.iter().map(|one| one.waiting).sum::<u32>(),
            found.iter().map(|one| one.most).sum::<u32>(),
        );
        if last != Some(now) {
            recorder.queue(now.0, now.1);
            last = Some(now);
        }
        std::thread::sleep(SAMPLE_PAUSE);
    }
}

fn open() -> io::Result<OwnedFd> {
    let family = AddressFamily::NETLINK;
    let kind = SocketType::RAW;
    Ok(socket_with(family, kind, SocketFlags::CLOEXEC, Some(netlink::SOCK_DIAG))?)
}

/// The numbers of `linux/netlink.h`, `linux/sock_diag.h` and `linux/inet_diag.h`.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_HEAD: usize = 16;
const IPPROTO_TCP: u8 = 6;
const TCP_LISTEN_BIT: u32 = 1 << 10;
/// `sizeof(struct inet_diag_req_v2)`.
const REQUEST: usize = 56;

fn ask(socket: &OwnedFd, family: AddressFamily, port: u16) -> io::Result<Vec<Listening>> {
    let mut request = Vec::with_capacity(NLMSG_HEAD + REQUEST);
    request.extend(((NLMSG_HEAD + REQUEST) as u32).to_ne_bytes());
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    request.extend([0; 8]);
    request.extend([family.as_raw() as u8, IPPROTO_TCP, 0, 0]);
    request.extend(TCP_LISTEN_BIT.to_ne_bytes());
    request.resize(NLMSG_HEAD + REQUEST, 0);
    sendto(socket, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut found = Vec::new();
    let mut buffer = vec![0; ANSWER_BYTES];
    loop {
        let (count, _) = recv(socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        let mut rest = &buffer[..count];
        while let Some((kind, body, after)) = message(rest) {
            match kind {
                NLMSG_DONE => return Ok(found),
                NLMSG_ERROR => {
                    return Err(io::Error::other("the kernel refuses NETLINK_SOCK_DIAG"));
                }
                _ => found.extend(listener(body, port)),
            }
            rest = after;
        }
        if count == 0 {
            return Ok(found);
        }
    }
}

/// The first netlink message: its type, its body, and what follows.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(NLMSG_HEAD..length)?;
    let next = length.next_multiple_of(4).min(bytes.len());
    Some((kind, body, &bytes[next..]))
}

/// A `struct inet_diag_msg`, if it is of this port.
fn listener(body: &[u8], port: u16) -> Option<Listening> {
    let number = |at: usize| Some(u32::from_ne_bytes(body.get(at..at + 4)?.try_into().ok()?));
    let own = u16::from_be_bytes(body.get(4..6)?.try_into().ok()?);
    (own == port).then_some(())?;
    Some(Listening { waiting: number(56)?, most: number(60)?, inode: number(68)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn the_kernel_tells_who_waits_to_be_accepted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let _first = TcpStream::connect(address).unwrap();
        let _second = TcpStream::connect(address).unwrap();
        let found = listening(address.port()).unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].waiting, found[0].most > 2), (2, true), "{found:?}");
        let link = std::fs::read_link(format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(&listener)
        ));
        assert_eq!(link.unwrap().to_str().unwrap(), format!("socket:[{}]", found[0].inode));
        drop(listener);
        assert_eq!(listening(address.port()).unwrap(), []);
    }
}
