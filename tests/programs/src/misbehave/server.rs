//! The life of the process: start, serve, lame duck, drain, force, leave.

use super::options::Options;
use super::{Fault, connection, control, log, tls, upgrade};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::sync::{Notify, watch};

/// What a server that looks now and then waits between two looks.
const LOOK_PAUSE: Duration = Duration::from_secs(2);
/// How long what was cut may take to close.
const CUT_LIMIT: Duration = Duration::from_millis(400);
/// How long closing functions may take.
const HOOK_LIMIT: Duration = Duration::from_secs(1);
/// Between two lines that tell how the drain gets on.
const PROGRESS_PAUSE: Duration = Duration::from_millis(200);
/// After a failed accept (out of descriptors, say) a moment passes before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// What a server that drops its queue takes for each accept.
const SLOW_ACCEPT: Duration = Duration::from_millis(5);
/// So many may wait in the accept queue.
const BACKLOG: i32 = 1024;
/// What a server whose readiness is too early needs until it can answer.
const WARM_UP: Duration = Duration::from_millis(700);

const CLEAN: u8 = 0;
const CUT: u8 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Serving,
    LameDuck,
    Draining,
    Forced,
}

pub(super) struct Server {
    pub(super) options: Options,
    pub(super) tls: Option<tokio_rustls::TlsAcceptor>,
    pub(super) began: Instant,
    phase: watch::Sender<Phase>,
    pub(super) count: AtomicU64,
    pub(super) sockets: AtomicUsize,
    pub(super) upgrades: AtomicUsize,
    upgrading: AtomicUsize,
    live: AtomicUsize,
    working: AtomicUsize,
    holding: AtomicUsize,
    changed: Notify,
    listener: Mutex<Option<TcpListener>>,
    children: Mutex<Vec<rustix::process::Pid>>,
}

/// Something is there until this is dropped.
pub(super) struct Guard<'a>(&'a AtomicUsize, &'a Notify);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
        self.1.notify_waiters();
    }
}

impl Server {
    pub(super) fn has(&self, fault: Fault) -> bool {
        self.options.fault == Some(fault)
    }

    pub(super) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    pub(super) fn is_draining(&self) -> bool {
        self.phase() >= Phase::Draining
    }

    /// Readiness of a server that warms up is a lie until it is warm.
    pub(super) fn is_cold(&self) -> bool {
        self.has(Fault::ReadyTooEarly) && self.began.elapsed() < WARM_UP
    }

    /// Waits until the phase is this one or a later one.
    pub(super) async fn reached(&self, phase: Phase) {
        // The sender lives as long as the server.
        let _ = self.phase.subscribe().wait_for(|now| *now >= phase).await;
    }

    /// For a fault: waits for the drain; without it, for ever.
    pub(super) async fn drained_by(&self, fault: Fault) {
        match self.has(fault) {
            true => self.reached(Phase::Draining).await,
            false => std::future::pending().await,
        }
    }

    pub(super) fn work(&self) -> Guard<'_> {
        self.enter(&self.working)
    }

    /// One upgrade at a time.
    pub(super) fn upgrade(&self) -> Option<Guard<'_>> {
        let begun = self.upgrading.compare_exchange(0, 1, SeqCst, SeqCst);
        begun.is_ok().then(|| Guard(&self.upgrading, &self.changed))
    }

    /// What the deadline waits for, wrongly.
    pub(super) fn hold(&self) -> Guard<'_> {
        self.enter(&self.holding)
    }

    fn enter<'a>(&'a self, count: &'a AtomicUsize) -> Guard<'a> {
        count.fetch_add(1, SeqCst);
        Guard(count, &self.changed)
    }

    pub(super) fn adopt(&self, child: rustix::process::Pid) {
        self.children.lock().unwrap_or_else(PoisonError::into_inner).push(child);
    }

    /// Another descriptor of the listener, while it is open.
    pub(super) fn listener(&self) -> Option<TcpListener> {
        let kept = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
        kept.as_ref().and_then(|listener| listener.try_clone().ok())
    }

    pub(super) fn say(&self, text: &str) {
        log::line(format!("misbehave {}: {text}\n", std::process::id()));
    }

    /// From a connection: nothing counts its end but this.
    fn spawn(self: &Arc<Self>, stream: TcpStream) {
        let server = self.clone();
        self.live.fetch_add(1, SeqCst);
        tokio::spawn(async move {
            connection::serve(&server, stream).await;
            server.live.fetch_sub(1, SeqCst);
            server.changed.notify_waiters();
        });
    }

    async fn idle(&self) {
        self.none(&self.live).await;
    }

    async fn none(&self, count: &AtomicUsize) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if count.load(SeqCst) == 0 {
                return;
            }
            changed.await;
        }
    }

    /// The deadline passed and nothing holds it back.
    async fn overdue(&self, deadline: Instant) {
        tokio::time::sleep_until(deadline.into()).await;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.holding.load(SeqCst) == 0 && !self.has(Fault::NoDeadline) {
                return;
            }
            changed.await;
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    upgrade: Signal,
}

impl Signals {
    fn install() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            upgrade: signal(SignalKind::user_defined2())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hang_up.recv() => Asked::Reload,
            _ = self.upgrade.recv() => Asked::Upgrade,
        }
    }

    async fn stop(&mut self) {
        while self.next().await != Asked::Stop {}
    }
}

#[derive(PartialEq, Eq)]
enum Asked {
    Stop,
    Reload,
    Upgrade,
}

/// Serves until it is stopped; says the exit code.
pub(super) async fn run(options: Options) -> io::Result<u8> {
    let mut signals = Signals::install()?;
    tokio::select! {
        () = tokio::time::sleep(options.start) => {}
        () = signals.stop(), if options.fault != Some(Fault::LateHandler) => return Ok(CLEAN),
    }
    if options.fault == Some(Fault::LateHandler) {
        // What came until now was for the old streams.
        signals = Signals::install()?;
    }
    let tls = options.tls.then(|| tls::acceptor(options.fault)).transpose()?;
    let listener = match options.predecessor {
        Some(_) if options.fault != Some(Fault::Rebind) => upgrade::inherited()?,
        Some(_) => {
            // Nobody would accept what the kernel puts into its queue.
            drop(upgrade::inherited()?);
            bind(options.port, true)?
        }
        None => bind(options.port, options.fault == Some(Fault::Rebind))?,
    };
    let address = listener.local_addr()?;
    if options.fault == Some(Fault::NeverReady) {
        signals.stop().await;
        return Ok(CLEAN);
    }
    let server = Arc::new(Server {
        tls,
        began: Instant::now(),
        phase: watch::channel(Phase::Serving).0,
        count: AtomicU64::new(0),
        sockets: AtomicUsize::new(0),
        upgrades: AtomicUsize::new(0),
        upgrading: AtomicUsize::new(0),
        live: AtomicUsize::new(0),
        working: AtomicUsize::new(0),
        holding: AtomicUsize::new(0),
        changed: Notify::new(),
        listener: Mutex::new(Some(listener.try_clone()?)),
        children: Mutex::new(Vec::new()),
        options,
    });
    if let Some(port) = server.options.admin_port {
        // Both generations of an upgrade tell theirs: right for a small test alone.
        tokio::spawn(accept_admin(server.clone(), bind(port, true)?));
    }
    for address in further(&server)? {
        tokio::spawn(accept_until_drained(server.clone(), bind_to(address, true)?));
    }
    let (upgraded, successors) = tokio::sync::mpsc::channel(1);
    // After what can fail, and before it is announced: whoever hears that looks for the control path at once.
    control::take_over(&server, &upgraded)?;
    let accepting = tokio::spawn(accept(server.clone(), listener));
    crate::announce(address)?;
    upgrade::tell_predecessor(&server);
    if server.has(Fault::DieWithSupervisor) {
        tokio::spawn(die_with(rustix::process::getppid()));
    }
    serve(&server, &mut signals, accepting, (upgraded, successors)).await
}

/// The addresses in the file, if there is one. A successor that keeps its predecessor's has none of its own here.
fn further(server: &Server) -> io::Result<Vec<SocketAddr>> {
    let Some(path) = &server.options.addresses else { return Ok(Vec::new()) };
    if server.has(Fault::FixedAddresses) && server.options.predecessor.is_some() {
        return Ok(Vec::new());
    }
    let text = std::fs::read_to_string(path)?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.map(|line| line.parse().map_err(io::Error::other)).collect()
}

async fn die_with(parent: Option<rustix::process::Pid>) {
    while rustix::process::getppid() == parent {
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
    std::process::abort();
}

/// Of a further address.
async fn accept_until_drained(server: Arc<Server>, listener: TcpListener) -> io::Result<()> {
    tokio::select! {
        () = server.reached(Phase::Draining) => Ok(()),
        ended = accept_admin(server.clone(), listener) => ended,
    }
}

async fn serve(
    server: &Arc<Server>,
    signals: &mut Signals,
    accepting: tokio::task::JoinHandle<()>,
    (upgraded, mut successors): (Sender<bool>, Receiver<bool>),
) -> io::Result<u8> {
    loop {
        tokio::select! {
            asked = signals.next() => match asked {
                Asked::Stop if server.has(Fault::IgnoreStop) => {}
                Asked::Stop => break,
                Asked::Reload => server.say("nothing to reload"),
                Asked::Upgrade => {
                    tokio::spawn(upgrade::run(server.clone(), upgraded.clone()));
                }
            },
            Some(has_successor) = successors.recv() => {
                server.say(if has_successor { "stopping after the upgrade" } else { "stopping" });
                return finish(server, signals, accepting, Duration::ZERO).await;
            }
        }
    }
    server.say("stopping");
    let lame_duck = server.options.lame_duck;
    finish(server, signals, accepting, lame_duck).await
}

/// The stop, beside the signals that force it.
async fn finish(
    server: &Arc<Server>,
    signals: &mut Signals,
    accepting: tokio::task::JoinHandle<()>,
    lame_duck: Duration,
) -> io::Result<u8> {
    let stopping = stop(server, accepting, lame_duck);
    tokio::pin!(stopping);
    loop {
        tokio::select! {
            code = &mut stopping => return Ok(code),
            asked = signals.next() => match asked {
                Asked::Stop if server.has(Fault::DieOfRepeats) => std::process::abort(),
                Asked::Stop if server.has(Fault::IgnoreSecondStop) => {}
                Asked::Stop => {
                    server.say("told again: leaving now");
                    leave(server);
                    return Ok(CUT);
                }
                Asked::Reload => {}
                Asked::Upgrade => server.say("it stops: no upgrade"),
            },
        }
    }
}

async fn stop(
    server: &Arc<Server>,
    accepting: tokio::task::JoinHandle<()>,
    lame_duck: Duration,
) -> u8 {
    let deadline = Instant::now() + server.options.grace;
    let began = Instant::now();
    server.phase.send_replace(Phase::LameDuck);
    if !server.has(Fault::NoLameDuck) {
        tokio::time::sleep(lame_duck).await;
    }
    server.phase.send_replace(Phase::Draining);
    if server.has(Fault::DieInDrain) && server.working.load(SeqCst) > 0 {
        std::process::abort();
    }
    // It ends by itself, but for the fault that keeps it.
    if !server.has(Fault::KeepAccepting) && !server.has(Fault::HangListener) {
        let _ = accepting.await;
    }
    if server.has(Fault::KeepAccepting) && server.upgrades.load(SeqCst) > 0 {
        tokio::time::sleep(server.options.grace).await;
    }
    let progress = tokio::spawn(tell_progress(server.clone(), began));
    let is_clean = tokio::select! {
        () = server.idle() => true,
        () = server.overdue(deadline) => false,
    };
    progress.abort();
    let cut = server.working.load(SeqCst);
    if !is_clean {
        server.phase.send_replace(Phase::Forced);
        let _ = tokio::time::timeout(CUT_LIMIT, server.idle()).await;
    }
    if server.has(Fault::ExitLate) {
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    if !server.has(Fault::OrphanSuccessor) {
        server.none(&server.upgrading).await;
    }
    close(server).await;
    leave(server);
    if !server.has(Fault::LastLineLost) {
        let told = if server.has(Fault::ExitZeroAfterCut) { 0 } else { cut };
        server.say(&format!("stopped: {told} requests cut"));
    }
    match is_clean || server.has(Fault::ExitZeroAfterCut) {
        true => CLEAN,
        false => CUT,
    }
}

async fn tell_progress(server: Arc<Server>, began: Instant) {
    while !server.has(Fault::SilentDrain) {
        tokio::time::sleep(PROGRESS_PAUSE).await;
        let (left, age) = (server.live.load(SeqCst), began.elapsed().as_millis());
        server.say(&format!("draining for {age} ms, {left} connections remaining"));
    }
}

async fn close(server: &Server) {
    let hook = tokio::time::sleep(server.options.hook);
    match server.has(Fault::HangingHook) {
        true => hook.await,
        false => drop(tokio::time::timeout(HOOK_LIMIT, hook).await),
    }
}

fn leave(server: &Server) {
    let children = server.children.lock().unwrap_or_else(PoisonError::into_inner);
    for child in children.iter().filter(|_| !server.has(Fault::LeaveChild)) {
        // It may have ended by itself.
        let _ = rustix::process::kill_process(*child, rustix::process::Signal::KILL);
    }
}

async fn accept(server: Arc<Server>, listener: TcpListener) {
    let Ok(listener) =
        listener.set_nonblocking(true).and_then(|()| tokio::net::TcpListener::from_std(listener))
    else {
        return;
    };
    loop {
        if server.has(Fault::DropQueue) {
            // A server that is quick enough has no queue to drop.
            tokio::time::sleep(SLOW_ACCEPT).await;
        }
        if server.has(Fault::KeepAccepting) && server.options.predecessor.is_some() {
            // The kernel wakes who began to wait last: without a pause here the predecessor would be passed over.
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
        tokio::select! {
            biased;
            () = server.reached(Phase::Draining), if !server.has(Fault::KeepAccepting) => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => server.spawn(stream),
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    }
    if server.has(Fault::HangListener) {
        return std::future::pending().await;
    }
    // The other descriptor first: the socket closes with the last one.
    server.listener.lock().unwrap_or_else(PoisonError::into_inner).take();
    if server.has(Fault::DropQueue) {
        return;
    }
    // Whoever is in the queue was promised a connection by the kernel: accept until it is empty, then close.
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((stream, _)) = listener.accept() {
        if let Ok(stream) = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream))
        {
            server.spawn(stream);
        }
    }
}

/// Until the process is gone.
async fn accept_admin(server: Arc<Server>, listener: TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let server = server.clone();
        tokio::spawn(async move { connection::serve(&server, stream).await });
    }
}

fn bind(port: u16, shares_port: bool) -> io::Result<TcpListener> {
    bind_to(SocketAddr::from(([127, 0, 0, 1], port)), shares_port)
}

fn bind_to(address: SocketAddr, shares_port: bool) -> io::Result<TcpListener> {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if shares_port {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
