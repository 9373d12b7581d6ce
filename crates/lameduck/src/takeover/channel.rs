//! Frames and descriptors over a `SOCK_SEQPACKET` Unix socket: one frame is one message, an end of file is the death of
//! the other end. The only file that passes descriptors.
//!
//! # Invariants
//!
//! 1. Every descriptor received is close-on-exec from its first moment (`MSG_CMSG_CLOEXEC`).
//! 2. A message whose descriptors were cut off (`MSG_CTRUNC`, as when the process is out of descriptors) is an error, and
//!    what did arrive is closed.
//! 3. The other end's uid is checked before its first frame is read ([`Channel::check_peer`]).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use rustix::process::Pid;
use tokio::io::unix::AsyncFd;

use super::wire::{self, MAX_DESCRIPTORS, MAX_FRAME, Message, Received};

/// Connections that may wait to be accepted on a control socket.
const CONTROL_QUEUE: i32 = 64;

/// One end of a conversation, before it belongs to a runtime: for a start that has nothing else to do.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: OwnedFd,
}

/// A message with its descriptors, or the end of the conversation.
#[derive(Debug)]
pub(crate) enum Came {
    Message(Message, Vec<OwnedFd>),
    /// The other end is gone.
    End,
}

/// A listening control socket.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    socket: AsyncFd<OwnedFd>,
}

impl ControlSocket {
    /// Binds `path`, for this user alone. It is made at `beside`, in the same directory.
    pub(crate) fn bind(path: &Path, beside: &Path) -> io::Result<ControlSocket> {
        let socket = seqpacket()?;
        // Put in place by rename once it listens: until then it refuses whoever connects, and others take a socket
        // that refuses for one that a dead generation left, and remove it.
        let _ = std::fs::remove_file(beside);
        rustix::net::bind(&socket, &SocketAddrUnix::new(beside)?)?;
        // The directory is ours alone (checked before), so nobody connects between bind and chmod.
        rustix::fs::chmod(beside, rustix::fs::Mode::from_raw_mode(0o600))?;
        rustix::net::listen(&socket, CONTROL_QUEUE)?;
        std::fs::rename(beside, path)?;
        Ok(ControlSocket { socket: crate::sys::async_fd(socket)? })
    }

    pub(crate) async fn accept(&self) -> io::Result<Channel> {
        loop {
            let mut ready = self.socket.readable().await?;
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match ready.try_io(|socket| Ok(rustix::net::accept_with(socket, flags)?)) {
                Ok(accepted) => return Ok(Channel { socket: accepted? }),
                Err(_would_block) => {}
            }
        }
    }
}

/// How long to wait between two looks at a control socket whose queue is full.
pub(crate) const QUEUE_PAUSE: Duration = Duration::from_millis(2);

fn seqpacket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

impl Channel {
    /// Connects to the control socket at `path`.
    pub(crate) fn connect(path: &Path) -> io::Result<Channel> {
        let socket = seqpacket()?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Channel { socket })
    }

    /// The same, and again and again for at most `bound` while the queue of those who wait to be let in is full, which the kernel tells at
    /// once and does not wait for.
    pub(crate) fn connect_within(path: &Path, bound: Duration) -> io::Result<Channel> {
        let until = Instant::now() + bound;
        loop {
            match Channel::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if Instant::now() >= until {
                        let words = format!("nobody was let in from its full queue for {bound:?}");
                        return Err(io::Error::new(io::ErrorKind::TimedOut, words));
                    }
                    std::thread::sleep(QUEUE_PAUSE);
                }
                connected => return connected,
            }
        }
    }

    /// The same for a task: it waits for room as long as its caller lets it.
    pub(crate) async fn connect_when_there_is_room(path: &Path) -> io::Result<Channel> {
        loop {
            match Channel::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    tokio::time::sleep(QUEUE_PAUSE).await;
                }
                connected => return connected,
            }
        }
    }

    /// Refuses another user, root excepted.
    pub(crate) fn check_peer(&self) -> io::Result<()> {
        const ROOT: u32 = 0;
        let peer = crate::sys::peer(self.socket.as_fd())?.user;
        let own = rustix::process::geteuid().as_raw();
        if peer == own || peer == ROOT {
            Ok(())
        } else {
            Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("uid {peer} is not uid {own}"),
            ))
        }
    }

    pub(crate) fn send_by(
        &self,
        until: Instant,
        message: &Message,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let frame = encode(message)?;
        loop {
            match send(&self.socket, &frame, descriptors) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(until, PollFlags::OUT)?;
                }
                sent => return sent,
            }
        }
    }

    pub(crate) fn receive_by(&self, until: Instant) -> io::Result<Came> {
        loop {
            match receive(&self.socket) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(until, PollFlags::IN)?;
                }
                Ok(Some(came)) => return Ok(came),
                Ok(None) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn wait(&self, until: Instant, flags: PollFlags) -> io::Result<()> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let timeout =
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        let mut fds = [PollFd::new(&self.socket, flags)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The process at the other end. Held from now on, it is that one also when its number is another's.
    pub(crate) fn process(&self) -> io::Result<OwnedFd> {
        crate::sys::peer_process(self.socket.as_fd()).or_else(|_| {
            // An older kernel tells its number, which is its own as long as it has not ended: it spoke a moment ago.
            let peer = crate::sys::peer(self.socket.as_fd())?;
            let known = i32::try_from(peer.process).ok().and_then(Pid::from_raw);
            let pid = known
                .ok_or_else(|| io::Error::other("it runs in another namespace of processes"))?;
            Ok(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?)
        })
    }

    /// Hands the conversation to the runtime.
    pub(crate) fn into_async(self) -> io::Result<AsyncChannel> {
        Ok(AsyncChannel { socket: crate::sys::async_fd(self.socket)? })
    }
}

/// One end of a conversation inside the runtime.
#[derive(Debug)]
pub(crate) struct AsyncChannel {
    socket: AsyncFd<OwnedFd>,
}

impl AsyncChannel {
    /// Both ends of a conversation.
    #[cfg(test)]
    pub(crate) fn pair() -> io::Result<(AsyncChannel, AsyncChannel)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (one, other) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Channel { socket: one }.into_async()?, Channel { socket: other }.into_async()?))
    }

    /// Takes the conversation back from the runtime.
    pub(crate) fn into_blocking(self) -> Channel {
        Channel { socket: self.socket.into_inner() }
    }

    /// Sends a message. Not cancel safe only in that a cancelled send may or may not have happened, whole.
    pub(crate) async fn send(
        &self,
        message: &Message,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let frame = encode(message)?;
        loop {
            let mut ready = self.socket.writable().await?;
            match ready.try_io(|socket| send(socket.get_ref(), &frame, descriptors)) {
                Ok(sent) => return sent,
                Err(_would_block) => {}
            }
        }
    }

    /// The same at once or not at all, from any thread.
    pub(crate) fn try_send(
        &self,
        message: &Message,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        send(self.socket.get_ref(), &encode(message)?, descriptors)
    }

    /// Keeps the other end from sending anything more. What it has sent can still be received, and then the end.
    pub(crate) fn shut(&self) {
        // A conversation that is over already has nothing to keep out.
        let _ = rustix::net::shutdown(self.socket.get_ref(), rustix::net::Shutdown::Read);
    }

    /// Sends within `bound`: a peer that never reads is an error, not a wait.
    pub(crate) async fn send_within(
        &self,
        bound: Duration,
        message: &Message,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        match tokio::time::timeout(bound, self.send(message, descriptors)).await {
            Ok(sent) => sent,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// The next message. Cancel safe.
    pub(crate) async fn receive(&self) -> io::Result<Came> {
        loop {
            let mut ready = self.socket.readable().await?;
            match ready.try_io(|socket| receive(socket.get_ref())) {
                Ok(Ok(Some(came))) => return Ok(came),
                Ok(Ok(None)) => {}
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
    }
}

fn encode(message: &Message) -> io::Result<Vec<u8>> {
    wire::encode(message, wire::PROTOCOLS.newest).map_err(invalid)
}

fn invalid(error: wire::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

fn send(socket: &OwnedFd, frame: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("more descriptors than one message carries"));
    }
    // No SIGPIPE: a peer that is gone is an error like any other.
    let flags = SendFlags::NOSIGNAL;
    rustix::net::sendmsg(socket, &[IoSlice::new(frame)], &mut control, flags)?;
    Ok(())
}

/// One message; `None` for one that may be skipped.
fn receive(socket: &OwnedFd) -> io::Result<Option<Came>> {
    // One byte more than a frame may have, so that a longer one is seen to be longer.
    let mut bytes = vec![0; MAX_FRAME + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let buffers = &mut [IoSliceMut::new(&mut bytes)];
    let received = match rustix::net::recvmsg(socket, buffers, &mut control, flags) {
        // How the kernel tells the end of a peer that left something of ours unread.
        Err(rustix::io::Errno::CONNRESET) => return Ok(Some(Came::End)),
        received => received?,
    };
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(came) = message {
            descriptors.extend(came);
        }
    }
    if received.bytes == 0 {
        return Ok(Some(Came::End));
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::other(
            "descriptors were cut off on the way: this process may have no room for more",
        ));
    }
    match wire::decode(&bytes[..received.bytes], descriptors.len()).map_err(invalid)? {
        Received::Message(message) => Ok(Some(Came::Message(message, descriptors))),
        Received::Skipped { .. } => Ok(None),
    }
}

/// The descriptors of `owned`, borrowed, for sending.
pub(crate) fn borrow<'a>(owned: impl IntoIterator<Item = &'a OwnedFd>) -> Vec<BorrowedFd<'a>> {
    owned.into_iter().map(AsFd::as_fd).collect()
}
