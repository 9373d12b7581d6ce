//! Where a server is asked.

use super::text::Span;
use serde::Deserialize;

/// A server's paths.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Paths {
    /// Answers 2xx at once.
    pub fast: String,
    /// Answers 2xx after `slow_takes`.
    pub slow: Option<String>,
    /// How long `slow` takes.
    pub slow_takes: Option<Span>,
    /// Answers a large body, at least 10 MB.
    pub large: Option<String>,
    /// Answers 2xx after so many milliseconds, `{ms}` put in.
    pub slow_for: Option<String>,
    /// A request that never ends by itself.
    pub endless: Option<String>,
    /// Takes `POST` with an order `{"id":"…","item":"duck","quantity":1}` and answers 2xx.
    pub post: Option<String>,
    /// Tells how often an id was executed, `{id}` put in, or without it how many there are in all; the answer is a number
    /// or has a JSON field `count`.
    pub count: Option<String>,
    /// Takes a `POST` with a large body.
    pub upload: Option<String>,
    /// Answers early to a `POST` whose body it does not want.
    pub reject: Option<String>,
    /// Streams with chunks and an end.
    pub stream: Option<String>,
    /// Server-sent events.
    pub sse: Option<String>,
    /// A WebSocket that echoes.
    pub ws: Option<String>,
    /// A request that idles for a minute when nothing happens.
    pub long_poll: Option<String>,
    /// Starts a child process and answers.
    pub child: Option<String>,
    /// A method of gRPC that streams.
    pub grpc_stream: Option<String>,
    /// Readiness.
    pub ready: Option<String>,
    /// Liveness.
    pub live: Option<String>,
    /// Where `ready` and `live` are asked for, if not at the server's own address.
    pub admin: Option<String>,
}

impl Default for Paths {
    fn default() -> Paths {
        Paths {
            fast: "/".to_owned(),
            slow: None,
            slow_takes: None,
            large: None,
            slow_for: None,
            endless: None,
            post: None,
            count: None,
            upload: None,
            reject: None,
            stream: None,
            sse: None,
            ws: None,
            long_poll: None,
            child: None,
            grpc_stream: None,
            ready: None,
            live: None,
            admin: None,
        }
    }
}

impl Paths {
    /// The path of this key, if it is declared.
    ///
    /// # Panics
    /// When no path has this key: a mistake in a case, not in an adapter.
    pub fn get(&self, key: &str) -> Option<&str> {
        let path = match key {
            "fast" => return Some(&self.fast),
            "slow" => &self.slow,
            "large" => &self.large,
            "slow_for" => &self.slow_for,
            "endless" => &self.endless,
            "post" => &self.post,
            "count" => &self.count,
            "upload" => &self.upload,
            "reject" => &self.reject,
            "stream" => &self.stream,
            "sse" => &self.sse,
            "ws" => &self.ws,
            "long_poll" => &self.long_poll,
            "child" => &self.child,
            "grpc_stream" => &self.grpc_stream,
            "ready" => &self.ready,
            "live" => &self.live,
            "admin" => &self.admin,
            _ => panic!("no path has the key {key:?}"),
        };
        path.as_deref()
    }
}

/// Where a server tells who answers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// A field of each answer's head.
    #[serde(default)]
    pub header: Option<String>,
    /// A path whose answer tells it.
    #[serde(default)]
    pub path: Option<String>,
    /// The field of the JSON object there; the whole answer when nothing is said.
    #[serde(default)]
    pub field: Option<String>,
    /// Whether what it tells is a process id.
    #[serde(default)]
    pub tells: Tells,
}

/// What an identity is.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Tells {
    /// A number or name that differs between generations.
    #[default]
    Generation,
    /// The id of the process that answers and that signals go to.
    Pid,
    /// The id of a process that answers, started by the one that signals go to.
    Worker,
}
