//! What was written to a connection, and whether a short write waits a turn for others.

use std::io;
use std::task::{Context, Poll};

use crate::work::Entry;

/// A write shorter than this may wait for answers that are nearly there; a longer one is worth a packet of its own.
const GATHERED: usize = 4 * 1024;

/// Whether everything given to the stream has been written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    All,
    /// The last write has to wait for the client.
    Blocked,
}

/// Whether a short write waits one turn of the runtime, so that several answers leave in one packet.
///
/// Each answer of an HTTP/2 connection is made by a task of its own, and wakes the connection's task to write it. The
/// runtime runs what was woken last first, so the connection would write, and its client read, one answer at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gather {
    /// HTTP/1.1 has one answer at a time: nothing to wait for.
    Never,
    /// The next short write waits.
    Next,
    /// It has waited; what is there by now is written.
    Waited,
}

/// The writing side of a connection.
#[derive(Debug)]
pub(super) struct Writing {
    written: Written,
    gather: Gather,
}

fn total(bufs: &[io::IoSlice<'_>]) -> usize {
    bufs.iter().map(|buf| buf.len()).sum()
}

impl Writing {
    /// Nothing has been written, and nothing waits.
    pub(super) fn new() -> Writing {
        Writing { written: Written::All, gather: Gather::Never }
    }

    /// Short writes wait for answers that are nearly there.
    pub(super) fn gathers(&mut self) {
        self.gather = Gather::Next;
    }

    /// Whether the last write has to wait for the client.
    pub(super) fn is_blocked(&self) -> bool {
        self.written == Written::Blocked
    }

    /// Notes what became of a write.
    pub(super) fn wrote(
        &mut self,
        bufs: &[io::IoSlice<'_>],
        result: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        self.written = match &result {
            Poll::Pending => Written::Blocked,
            Poll::Ready(_) => Written::All,
        };
        if self.gather == Gather::Waited {
            // What is left of a longer write follows at once.
            let whole = matches!(result, Poll::Ready(Ok(written)) if written == total(bufs));
            self.gather = if whole { Gather::Next } else { Gather::Waited };
        }
        result
    }

    /// Whether this write is put off to the next turn, which comes by itself: behind the tasks that are ready now, and
    /// at once where there are none.
    pub(super) fn puts_off(
        &mut self,
        bufs: &[io::IoSlice<'_>],
        entry: &Entry,
        cx: &Context<'_>,
    ) -> bool {
        if self.gather != Gather::Next || total(bufs) >= GATHERED || entry.requests() == 0 {
            return false;
        }
        self.gather = Gather::Waited;
        self.written = Written::Blocked;
        cx.waker().wake_by_ref();
        true
    }

    /// Notes what became of a flush: a write that was taken need not have left.
    pub(super) fn flushed(&mut self, flushed: &Poll<io::Result<()>>) {
        match (flushed, self.gather) {
            (Poll::Pending, _) => self.written = Written::Blocked,
            (Poll::Ready(_), Gather::Waited) => {}
            (Poll::Ready(_), Gather::Never | Gather::Next) => self.written = Written::All,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use tokio::io::AsyncWrite;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::connection::{Arrival, Socket, Stream};
    use crate::http::wire::{Io, Wire};
    use crate::work::{Clock, Hold, Peer, Registry, RequestName};

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Wakes>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn connected() -> (Arc<Wire>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).await.unwrap();
        let (socket, peer) = listener.accept().await.unwrap();
        socket.writable().await.unwrap();
        let guard = Registry::new().connect(Arc::from("test"), Peer::Tcp(peer), Hold::Drain);
        let stream = Stream::new(Socket::Tcp(socket), guard, Arrival::Open);
        (Wire::new(stream, Vec::new()), client)
    }

    fn request() -> RequestName {
        RequestName { method: ::http::Method::GET, path: None, since: Clock::now() }
    }

    /// Writes `length` bytes once; how many were taken, and how often the task was woken.
    fn write(wire: &Arc<Wire>, length: usize) -> (Option<usize>, usize) {
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let mut io = Io(Arc::clone(wire));
        let written =
            Pin::new(&mut io).poll_write(&mut Context::from_waker(&waker), &vec![0; length]);
        let written = match written {
            Poll::Ready(written) => Some(written.unwrap()),
            Poll::Pending => None,
        };
        (written, wakes.0.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn a_short_http2_write_waits_one_turn_for_the_answers_in_hand() {
        let (wire, _client) = connected().await;
        wire.becomes_http2();
        assert_eq!(write(&wire, 100), (Some(100), 0), "nothing is in hand");
        let slot = wire.entry().request_begins(request());
        for _ in 0..2 {
            assert_eq!(write(&wire, 100), (None, 1), "its next turn comes by itself");
            assert_eq!(write(&wire, 300), (Some(300), 0), "and it waits for one turn only");
        }
        assert_eq!(write(&wire, GATHERED), (Some(GATHERED), 0), "a long write goes at once");
        assert_eq!(write(&wire, 100), (None, 1));
        wire.entry().request_ends(slot);
        assert_eq!(write(&wire, 100), (Some(100), 0));
    }

    #[tokio::test]
    async fn an_http1_answer_never_waits() {
        let (wire, _client) = connected().await;
        let _slot = wire.entry().request_begins(request());
        assert_eq!(write(&wire, 100), (Some(100), 0));
    }
}
