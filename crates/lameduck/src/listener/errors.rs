//! Accept errors: they are survived and counted, and those that the next try would meet again make the accept loop pause.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The first pause after an accept error that is not about one connection: no descriptor or no memory is left, or the
/// socket was shut down by whoever holds it too. Doubles up to [`BACK_OFF_MOST`].
pub const BACK_OFF: Duration = Duration::from_millis(5);

/// The longest pause after an accept error.
pub const BACK_OFF_MOST: Duration = Duration::from_millis(500);

/// What went wrong and was survived, for reports and metrics.
#[derive(Debug, Default)]
pub(crate) struct AcceptErrors(AtomicU64);

impl AcceptErrors {
    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Whether the next try would meet the same error: trying at once would only spin.
///
/// What accept(2) tells of one connection goes with that connection. Everything else is about the process or the socket,
/// and lasts: exhaustion, and a socket that accepts nothing any more.
pub(super) fn lasts(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let of_one_connection = [
        Errno::CONNABORTED,
        Errno::CONNRESET,
        Errno::HOSTDOWN,
        Errno::HOSTUNREACH,
        Errno::INTR,
        Errno::NETDOWN,
        Errno::NETUNREACH,
        Errno::NOPROTOOPT,
        Errno::PROTO,
        Errno::TIMEDOUT,
    ];
    let code = error.raw_os_error();
    !of_one_connection.iter().any(|errno| code == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::sync::Arc;

    use tokio::sync::{mpsc, oneshot};

    use super::super::accepting::{Accepting, Close, Handler, Order};
    use super::super::{Listener, gate};
    use super::*;
    use crate::generation::Closing;
    use crate::work::{Hold, Registry};

    /// What ends at once ends within this, on a busy machine.
    const LIMIT: Duration = Duration::from_secs(20);

    /// Runs it with a paused clock, on a thread that is left behind if it never ends.
    fn ends(work: impl Future<Output = ()> + Send + 'static) {
        let (done, is_done) = std::sync::mpsc::channel();
        drop(std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            runtime.enable_all().start_paused(true).build().unwrap().block_on(work);
            done.send(()).unwrap();
        }));
        is_done.recv_timeout(LIMIT).expect("it ends");
    }

    /// Whoever holds it too has shut it down (listen sockets are shared): accept(2) fails for ever, with `EINVAL`.
    async fn shut_down() -> Listener {
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let other = listener.duplicate().unwrap();
        rustix::net::shutdown(&other, rustix::net::Shutdown::Read).unwrap();
        listener
    }

    #[test]
    fn the_gate_of_a_socket_that_accepts_nothing_any_more_closes_all_the_same() {
        ends(async {
            let (mut listener, errors) = (shut_down().await, AcceptErrors::default());
            let registry = Registry::new();
            let terms = gate::Terms { errors: &errors, registry: &registry, cut_at: None };
            gate::close(&mut listener, terms, |_, _| panic!("nobody can have come")).await;
            assert!(errors.count() > 0);
        });
    }

    #[test]
    fn an_accept_loop_does_not_spin_on_a_socket_that_accepts_nothing_any_more() {
        ends(async {
            let (listener, errors) = (shut_down().await, Arc::new(AcceptErrors::default()));
            let (orders, received) = mpsc::unbounded_channel();
            let accepting = Accepting {
                server: Arc::from("test"),
                hold: Hold::Drain,
                registry: Registry::new(),
                errors: Arc::clone(&errors),
                orders: received,
            };
            let serve: Handler = Arc::new(|_, _| {});
            let running = tokio::spawn(accepting.run(listener, serve));
            let (ack, _) = oneshot::channel();
            orders.send(Order::Open { ack }).unwrap();
            // Of the paused clock.
            tokio::time::sleep(100 * BACK_OFF_MOST).await;
            assert!((1..=110).contains(&errors.count()), "{} tries", errors.count());
            let (ack, closed) = oneshot::channel();
            let close = Close { closing: Closing::Sole, cut_at: None, ack };
            orders.send(Order::Close(close)).unwrap();
            closed.await.unwrap();
            running.await.unwrap();
        });
    }
}
