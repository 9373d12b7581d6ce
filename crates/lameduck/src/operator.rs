//! Answers on the control socket: operators' commands, and successors that ask for the service.
//!
//! Whoever connects must be this user or root, and has [`FIRST_WORD`] to say what it wants; [`CONVERSATIONS`] may go on at
//! once, and as many may be silent. Whatever cannot be understood is refused with a reason and closed.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinHandle;

use crate::control::{self, Message as ToControl, Scope, View};
use crate::conversation::{SEND, is_of_one_message, unless};
use crate::exit;
use crate::generation::Queue;
use crate::generations::Place;
use crate::json::Object;
use crate::operate::{ADOPT, AGAIN, JOIN, QUEUE, RELOAD, Verb, is_gone};
use crate::phase::Phase;
use crate::report::Report;
use crate::snapshot::Snapshot;
use crate::succeed::Adopting;
use crate::takeover::channel::{AsyncChannel, Came, Channel, ControlSocket};
use crate::takeover::wire::{Command, MAX_REPLY, Message, Reason, Reply, Why};
use crate::text::cut;
use crate::upgrade::Outcome;
use crate::work::{Counts, WorkKind};

/// How long a connection may take to say what it wants.
pub const FIRST_WORD: Duration = Duration::from_secs(5);

/// Conversations that may go on at once, and connections that may say nothing meanwhile: whoever comes then takes the
/// place of the one that has been silent for longest.
pub const CONVERSATIONS: usize = 64;

/// How long another generation may take to answer for the status.
pub const STATUS: Duration = Duration::from_secs(1);

/// What one generation asks another for: everything about that one alone, as JSON.
const OWN: &str = "own";

/// How much is live in that one, as a number.
const LIVE: &str = "live";

/// What answers are made of.
pub(crate) struct Operator {
    pub(crate) control: Arc<control::Sender>,
    pub(crate) place: Place,
    pub(crate) own: u32,
    pub(crate) snapshot: Box<dyn Fn() -> Option<Snapshot> + Send + Sync>,
    pub(crate) report: watch::Receiver<Option<Report>>,
    /// Operators that wait for an answer.
    pub(crate) waiting: Arc<Waiting>,
    /// Whether the process ends with the life.
    pub(crate) scope: Scope,
    pub(crate) view: watch::Receiver<View>,
    pub(crate) adopting: Arc<Adopting>,
    pub(crate) strangers: Strangers,
}

/// Who is at the control socket.
pub(crate) struct Strangers {
    silent: Mutex<Silent>,
    room: Semaphore,
}

impl Strangers {
    pub(crate) fn none() -> Strangers {
        Strangers { silent: Mutex::default(), room: Semaphore::new(CONVERSATIONS) }
    }
}

/// Counts operators that are still to be answered, so that the process does not leave before.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    count: AtomicUsize,
    none: tokio::sync::Notify,
}

/// One operator that is still to be answered, until it is dropped.
struct Answering<'a>(&'a Waiting);

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.none.notify_waiters();
        }
    }
}

impl Waiting {
    fn begins(&self) -> Answering<'_> {
        self.count.fetch_add(1, Ordering::AcqRel);
        Answering(self)
    }

    /// Returns when everybody has been told, or after `bound`.
    pub(crate) async fn told(&self, bound: Duration) {
        let none = self.none.notified();
        if self.count.load(Ordering::Acquire) > 0 {
            let _ = tokio::time::timeout(bound, none).await;
        }
    }
}

/// Those who have connected and not said what they want, oldest first.
#[derive(Default)]
struct Silent {
    next: u64,
    waiting: VecDeque<(u64, JoinHandle<()>)>,
}

impl Silent {
    /// Who has said nothing for longest, when there is no room for whoever comes now.
    fn makes_room(&mut self) -> Option<JoinHandle<()>> {
        let is_full = self.waiting.len() >= CONVERSATIONS;
        let (_, oldest) = if is_full { self.waiting.pop_front()? } else { return None };
        oldest.abort();
        Some(oldest)
    }

    fn comes(&mut self, converses: impl Future<Output = ()> + Send + 'static) {
        self.waiting.push_back((self.next, tokio::spawn(converses)));
        self.next += 1;
    }

    fn speaks(&mut self, id: u64) {
        self.waiting.retain(|(waits, _)| *waits != id);
    }
}

impl Operator {
    pub(crate) async fn run(self, socket: ControlSocket) {
        let operator = Arc::new(self);
        // In a process of its own the control thread stays as long as that, and so does this.
        let mut life = operator.view.clone();
        let mut is_gone = pin!(async { while life.changed().await.is_ok() {} });
        while let Some(accepted) = unless(is_gone.as_mut(), socket.accept()).await {
            match accepted {
                Ok(channel) => {
                    let oldest = operator.silent().makes_room();
                    if let Some(oldest) = oldest {
                        // Its descriptor is closed before the next one is taken: strangers cost so many and no more.
                        let _ = oldest.await;
                    }
                    let here = Arc::clone(&operator);
                    let mut silent = operator.silent();
                    let id = silent.next;
                    silent.comes(async move { here.meet(id, channel).await });
                }
                // Out of descriptors, most likely: the next one may find some.
                Err(_) => tokio::time::sleep(crate::listener::BACK_OFF_MOST).await,
            }
        }
    }

    fn silent(&self) -> MutexGuard<'_, Silent> {
        self.strangers.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the first word. Until it has come this may be cut at any time.
    async fn meet(self: Arc<Self>, id: u64, channel: Channel) {
        if let Err(error) = channel.check_peer() {
            let why = Why::new(Reason::NotAllowed, error.to_string());
            let _ = channel.send_by(Instant::now(), &Message::Refuse(why), &[]);
            self.silent().speaks(id);
            return;
        }
        let word = tokio::time::timeout(FIRST_WORD, first_word(channel)).await;
        self.silent().speaks(id);
        let Ok(Ok((came, channel))) = word else { return };
        let Ok(_place) = self.strangers.room.try_acquire() else {
            let words = format!("{CONVERSATIONS} conversations go on already");
            let why = Message::Refuse(Why::new(Reason::Limits, words));
            let _ = channel.send_by(Instant::now(), &why, &[]);
            return;
        };
        self.converse(came, channel).await;
    }

    async fn converse(&self, came: io::Result<Message>, channel: Channel) {
        match came {
            Ok(Message::Hello(hello)) => {
                self.control.send(ToControl::Hello { channel, hello });
            }
            Ok(Message::Command(command)) if command.verb == ADOPT => {
                if let Ok(channel) = channel.into_async() {
                    self.adopt(channel, &command);
                }
            }
            Ok(Message::Command(command)) => {
                if let Ok(channel) = channel.into_async() {
                    let stops = Verb::of(&command.verb) == Some(Verb::Stop);
                    self.obey(&channel, command).await;
                    if stops && self.scope == Scope::Process {
                        #[expect(
                            clippy::disallowed_methods,
                            reason = "its end tells whoever asked that the \
                                 process is gone, and not just its work: only the kernel may say so"
                        )]
                        std::mem::forget(channel);
                    }
                }
            }
            Ok(message) => {
                let words = format!("a conversation does not begin with {}", message.kind().name());
                let why = Message::Refuse(Why::new(Reason::Unexpected, words));
                let _ = channel.send_by(Instant::now(), &why, &[]);
            }
            Err(error) => {
                let why = Message::Refuse(Why::new(Reason::Unexpected, error.to_string()));
                let _ = channel.send_by(Instant::now(), &why, &[]);
            }
        }
    }

    async fn obey(&self, channel: &AsyncChannel, command: Command) {
        // Until the answer's last part is with the kernel: what ends this process may be what is asked for.
        let _answering = self.waiting.begins();
        let argument = |word: &str| command.arguments.iter().any(|argument| argument == word);
        let Told { code, text, reason } = match Verb::of(&command.verb) {
            Some(Verb::Status) if argument(OWN) => Told::done(self.own_status()),
            Some(Verb::Status) if argument(LIVE) => Told::done(self.live().to_string()),
            Some(Verb::Status) => Told::done(self.status().await),
            Some(Verb::Stop) => self.stop().await,
            Some(Verb::Upgrade) => {
                let queue = match (argument(QUEUE), argument(JOIN)) {
                    (_, true) => Queue::Join,
                    (true, false) => Queue::Wait,
                    (false, false) => Queue::Refuse,
                };
                self.upgrade(queue).await
            }
            Some(Verb::Rollback) => self.rollback().await,
            None if command.verb == RELOAD => self.reload(),
            None => Told::of(exit::USAGE, format!("no command '{}' here", command.verb)),
        };
        let mut parts = chunks(&text).peekable();
        while let Some(part) = parts.next() {
            let last = parts.peek().is_none();
            let reply = Message::Reply(Reply { code, text: part.to_owned(), last, reason });
            if channel.send_within(SEND, &reply, &[]).await.is_err() {
                return;
            }
        }
    }

    /// Goes on with the connections of an older generation whose own successor is gone, as long as this one serves.
    fn adopt(&self, channel: AsyncChannel, command: &Command) {
        let whose = command.arguments.first().map_or("?", String::as_str);
        // Entered before the phase is looked at: the drain cannot end with a connection on the way.
        let guard = self.adopting.registry.begin(WorkKind::Task, &format!("handover from {whose}"));
        let serves = self.view.borrow().phase == Phase::Serving;
        let (adopting, mut view) = (Arc::clone(&self.adopting), self.view.clone());
        drop(tokio::spawn(async move {
            let _guard = guard;
            let code = if serves { exit::OK } else { exit::FAILED };
            let servers = adopting.handover.goes_on().unwrap_or_default();
            let reply =
                Message::Reply(Reply { code, text: servers.join("\n"), last: true, reason: None });
            let told = channel.send_within(SEND, &reply, &[]).await;
            if !serves || told.is_err() {
                return;
            }
            let mut serves = pin!(async {
                let _ = view.wait_for(|view| view.phase != Phase::Serving).await;
            });
            let mut open = true;
            loop {
                let came = match open {
                    true => unless(serves.as_mut(), channel.receive()).await,
                    false => Some(channel.receive().await),
                };
                let Some(came) = came else {
                    channel.shut();
                    open = false;
                    continue;
                };
                match came {
                    Ok(Came::Message(Message::Connection(connection), descriptors)) => {
                        adopting.go_on_with(connection, descriptors);
                    }
                    Ok(Came::Message(..)) => {}
                    Ok(Came::End) => return,
                    Err(error) if is_of_one_message(&error) => adopting.lost(&error),
                    Err(_) => return,
                }
            }
        }));
    }

    fn own_status(&self) -> String {
        (self.snapshot)().map_or_else(|| "null".to_owned(), |snapshot| snapshot.to_json())
    }

    /// How much is live.
    fn live(&self) -> usize {
        (self.snapshot)().map_or(0, |snapshot| {
            // A WebSocket is one of the connections, a stream one of the requests.
            let Counts { requests, connections, tasks, blocking, websockets: _, streams: _ } =
                snapshot.live;
            requests + connections + tasks + blocking
        })
    }

    /// Every generation, newest first.
    async fn status(&self) -> String {
        let mut generations = vec![(self.own, self.own_status())];
        for (generation, path) in self.place.others(self.own) {
            let status = ask(&path, OWN).await.unwrap_or_else(|_| {
                Object::new()
                    .number("generation", u64::from(generation))
                    .string("phase", "not answering")
                    .end()
            });
            generations.push((generation, status));
        }
        generations.sort_by_key(|(generation, _)| std::cmp::Reverse(*generation));
        let active = self.active(&generations);
        Object::new()
            .raw("active", &active.map_or_else(|| "null".to_owned(), |number| number.to_string()))
            .array("generations", generations.into_iter().map(|(_, status)| status))
            .end()
    }

    /// The generation that serves, if one of these does: the name of one that died still leads to it.
    fn active(&self, generations: &[(u32, String)]) -> Option<u32> {
        let target = std::fs::read_link(self.place.name()).ok();
        let named = target.and_then(|target| target.to_str()?.rsplit_once(".g")?.1.parse().ok());
        let lives = |named: &u32| generations.iter().any(|(generation, _)| generation == named);
        let serves = || (self.view.borrow().phase == Phase::Serving).then_some(self.own);
        named.filter(lives).or_else(serves)
    }

    async fn stop(&self) -> Told {
        self.control.send(ToControl::End);
        let mut report = self.report.clone();
        let ended = report.wait_for(Option::is_some).await;
        match ended.ok().and_then(|report| report.clone()) {
            Some(report) => Told::of(report.exit_code(), report.to_json()),
            None => Told::failed("the service ended without a report"),
        }
    }

    async fn upgrade(&self, queue: Queue) -> Told {
        let (reply, outcome) = oneshot::channel();
        self.control.send(ToControl::Upgrade { queue, reply });
        match outcome.await {
            Ok(Outcome::Upgraded(successor)) => {
                let text = Object::new()
                    .number("pid", u64::from(successor.pid))
                    .number("generation", u64::from(successor.generation))
                    .end();
                Told::done(text)
            }
            Ok(Outcome::AskAgain) => Told::done(AGAIN.to_owned()),
            Ok(Outcome::Failed(why)) => Told { reason: Some(why.reason), ..Told::failed(why.text) },
            Err(_) => Told::failed("the service ended before the upgrade was decided"),
        }
    }

    /// A signal came to an older generation. What comes of it stands in this one's log.
    fn reload(&self) -> Told {
        match self.view.borrow().phase {
            Phase::Serving => {
                self.control.send(ToControl::Input(crate::generation::Input::Reload));
                Told::done(String::new())
            }
            phase => Told::failed(format!("generation {} is in phase {phase}", self.own)),
        }
    }

    async fn rollback(&self) -> Told {
        let (reply, done) = oneshot::channel();
        self.control.send(ToControl::RollBack { reply });
        match done.await {
            Ok(Ok(())) => Told::done(String::new()),
            Ok(Err(why)) => Told::failed(why),
            Err(_) => Told::failed("the service ended before the rollback"),
        }
    }
}

/// The answer to a command.
struct Told {
    code: u8,
    text: String,
    reason: Option<Reason>,
}

impl Told {
    fn of(code: u8, text: String) -> Told {
        Told { code, text, reason: None }
    }

    fn done(text: String) -> Told {
        Told::of(exit::OK, text)
    }

    fn failed(text: impl Into<String>) -> Told {
        Told::of(exit::FAILED, text.into())
    }
}

/// Waits for the first message without giving the channel to the runtime for good: a takeover goes on elsewhere.
async fn first_word(channel: Channel) -> io::Result<(io::Result<Message>, Channel)> {
    let channel = channel.into_async()?;
    let came = channel.receive().await;
    let channel = channel.into_blocking();
    match came {
        Ok(Came::Message(message, _)) => Ok((Ok(message), channel)),
        Ok(Came::End) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(error) => Ok((Err(error), channel)),
    }
}

/// Whether another generation still has work in hand, as far as it can be asked.
pub(crate) async fn is_busy(path: &Path) -> bool {
    match ask(path, LIVE).await {
        Ok(live) => live != "0",
        Err(error) => !is_gone(&error),
    }
}

/// Asks another generation for this part of its status, no longer than [`STATUS`].
async fn ask(path: &Path, part: &str) -> io::Result<String> {
    match tokio::time::timeout(STATUS, ask_status(path, part)).await {
        Ok(answer) => answer,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

async fn ask_status(path: &Path, part: &str) -> io::Result<String> {
    let channel = Channel::connect_when_there_is_room(path).await?.into_async()?;
    let command =
        Command { verb: Verb::Status.word().to_owned(), arguments: vec![part.to_owned()] };
    channel.send(&Message::Command(command), &[]).await?;
    let mut text = String::new();
    loop {
        match channel.receive().await? {
            Came::Message(Message::Reply(reply), _) => {
                text.push_str(&reply.text);
                if reply.last {
                    return Ok(text);
                }
            }
            Came::Message(..) => return Err(io::ErrorKind::InvalidData.into()),
            Came::End => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// `text` in parts that fit a reply; one empty part for an empty text.
fn chunks(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let left = rest?;
        let (part, behind) = left.split_at(cut(left, MAX_REPLY).len());
        rest = (!behind.is_empty()).then_some(behind);
        Some(part)
    })
}
