//! The admin server: what health checks, scrapers and people ask, on a port of its own, until the process ends.

use std::convert::Infallible;
use std::fmt::Write;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use ::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use ::http::{Method, Request, Response, StatusCode};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use tower_service::Service;

use crate::error::Error;
use crate::handover::GoesOn;
use crate::http::connection;
use crate::lifecycle::{Lifecycle, Shared};
use crate::listener::Listener;
use crate::phase::Phase;
use crate::snapshot::Snapshot;
use crate::work::Hold;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
/// The Prometheus text exposition format.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

type Lines = Arc<dyn Fn(&mut String) + Send + Sync>;

impl Lifecycle {
    /// Serves `/livez`, `/readyz`, `/startupz`, `/metrics` and `/status` on a listener of their own.
    ///
    /// It answers from now on until the process ends: liveness stays 200 during the drain, since a failing one would
    /// have the process killed. Its connections never hold the drain. `metrics` appends the program's own lines in the
    /// Prometheus text format.
    ///
    /// # Errors
    ///
    /// None today: the signature leaves room for one.
    pub fn serve_admin(
        &self,
        listener: Listener,
        metrics: impl Fn(&mut String) + Send + Sync + 'static,
    ) -> Result<(), Error> {
        let admin = Admin { shared: Arc::downgrade(&self.shared), metrics: Arc::new(metrics) };
        let terms = self.terms();
        self.accept("admin", listener, Hold::Nothing, GoesOn::WithHttp, move |stream, read| {
            let connection = connection::serve(stream, read, admin.clone(), terms.clone());
            drop(tokio::spawn(connection));
        })
    }
}

#[derive(Clone)]
struct Admin {
    // Weak: the admin server must not keep alive the life it tells of.
    shared: std::sync::Weak<Shared>,
    metrics: Lines,
}

impl Admin {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let Some(shared) = self.shared.upgrade() else {
            // The life is over and told; the process has a moment left, in which it must not look as if it hung.
            return match request.uri().path() {
                "/livez" => health(true, "live"),
                _ => health(false, "stopped"),
            };
        };
        let life = Lifecycle { shared };
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return plain(StatusCode::METHOD_NOT_ALLOWED, TEXT, "use GET\n".to_owned());
        }
        let readiness = life.readiness();
        match request.uri().path() {
            "/livez" => health(true, "live"),
            "/readyz" => health(readiness.is_ready(), &life.phase().to_string()),
            "/startupz" => health(readiness.has_started(), &life.phase().to_string()),
            "/status" => plain(StatusCode::OK, JSON, life.snapshot().to_json() + "\n"),
            "/metrics" => {
                let mut text = render(&life.snapshot());
                (self.metrics)(&mut text);
                plain(StatusCode::OK, METRICS, text)
            }
            path => plain(
                StatusCode::NOT_FOUND,
                TEXT,
                format!("no {path} here; try /livez /readyz /startupz /metrics /status\n"),
            ),
        }
    }
}

fn health(good: bool, word: &str) -> Response<Full<Bytes>> {
    let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    plain(status, TEXT, format!("{word}\n"))
}

fn plain(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn render(snapshot: &Snapshot) -> String {
    let mut text = String::with_capacity(1024);
    let mut gauge = |name: &str, help: &str, kind: &str, value: String| {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    };
    let live = snapshot.live;
    let draining = snapshot.phase > Phase::Serving;
    gauge(
        "lameduck_ready",
        "Whether the service asks for new work.",
        "gauge",
        u8::from(snapshot.ready).to_string(),
    );
    gauge(
        "lameduck_draining",
        "Whether a stop is under way.",
        "gauge",
        u8::from(draining).to_string(),
    );
    gauge("lameduck_connections", "Open connections.", "gauge", live.connections.to_string());
    gauge(
        "lameduck_websockets",
        "Open WebSockets, which are among the connections.",
        "gauge",
        live.websockets.to_string(),
    );
    gauge("lameduck_requests_in_hand", "Requests in hand.", "gauge", live.requests.to_string());
    gauge(
        "lameduck_streams",
        "Streams under way, event streams among them; each is one of the requests.",
        "gauge",
        live.streams.to_string(),
    );
    gauge("lameduck_tasks", "Running named tasks.", "gauge", live.tasks.to_string());
    gauge("lameduck_blocking_calls", "Running blocking calls.", "gauge", live.blocking.to_string());
    gauge("lameduck_requests_total", "Requests answered.", "counter", snapshot.served.to_string());
    gauge(
        "lameduck_accept_errors_total",
        "Accept errors survived.",
        "counter",
        snapshot.accept_errors.to_string(),
    );
    let tally = snapshot.tally;
    for (name, help, count) in [
        ("websockets_moved", "WebSockets sent to a successor.", tally.websockets_moved),
        ("websockets_told", "WebSockets told to go at an upgrade.", tally.websockets_told),
        ("cut_for_age", "Connections cut for their age.", tally.cut_for_age),
        ("requests_cut_for_age", "Requests cut with them.", tally.requests_cut_for_age),
    ] {
        gauge(&format!("lameduck_{name}_total"), help, "counter", count.to_string());
    }
    gauge(
        "lameduck_uptime_seconds",
        "Seconds since the start.",
        "gauge",
        format!("{:.3}", snapshot.uptime.as_secs_f64()),
    );
    if let Some(left) = snapshot.left {
        gauge(
            "lameduck_deadline_seconds",
            "Seconds until the deadline of the stop under way.",
            "gauge",
            format!("{:.3}", left.as_secs_f64()),
        );
    }
    text
}

impl Service<Request<Incoming>> for Admin {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        ready(Ok(self.answer(&request)))
    }
}
