//! A service whose requests are traced: each leaves a span, and OpenTelemetry sends spans in batches, from a thread of its own.
//!
//! `traced COLLECTOR` sends what is left once the last request is answered, and before it leaves; `traced COLLECTOR naive`
//! does what programs do: it shuts its telemetry down as soon as it is told to stop, and then finishes its requests.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::pin::Pin;
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use lameduck::{Error, Exit, Lifecycle};
use opentelemetry::trace::{Span, Tracer, TracerProvider};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider};

/// The batch that is not full yet is sent by nobody but the closing.
const BATCH_EVERY: Duration = Duration::from_secs(3_600);
/// How long the collector may take for the last batch: its part of the grace period.
const LAST_BATCH: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> Result<Exit, Error> {
    let mut arguments = std::env::args().skip(1);
    let telemetry = telemetry(&arguments.next().expect("the address of a collector"));
    let app = app(telemetry.tracer("traced"));
    if arguments.next().is_some() {
        naive(app, telemetry).await;
    }

    let life = Lifecycle::builder().start()?;
    life.on_close("telemetry").last().budget(LAST_BATCH).run(move || async move {
        // It waits for its own thread, and must not keep the runtime from what closes beside it.
        let flushed =
            tokio::task::spawn_blocking(move || telemetry.shutdown_with_timeout(LAST_BATCH));
        flushed.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    })?;
    let listener = life.listen("127.0.0.1:0").await?;
    println!("listening on {}", listener.address());
    life.serve("http", listener, app)?;
    Ok(life.run().await)
}

/// Shuts its telemetry down with TERM, finishes its requests, and is gone.
#[expect(clippy::disallowed_methods, reason = "it shows what is lost by it")]
async fn naive(app: Router, telemetry: SdkTracerProvider) -> ! {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).expect("a handler for TERM");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    println!("listening on {}", listener.local_addr().expect("it is bound"));
    let told = async move {
        terminate.recv().await;
        let flushed = tokio::task::spawn_blocking(move || telemetry.shutdown());
        flushed.await.expect("no panic").expect("the collector takes it");
        eprintln!("Shutting down server...");
    };
    axum::serve(listener, app).with_graceful_shutdown(told).await.expect("it serves");
    std::process::exit(0);
}

/// A request is answered with its own body, once that is whole. Its span ends before the answer begins.
fn app<T>(tracer: T) -> Router
where
    T: Tracer + Clone + Send + Sync + 'static,
    T::Span: Send,
{
    let echo = async move |body: String| {
        let mut span = tracer.start(format!("echo {body}"));
        span.end();
        body
    };
    Router::new().route("/", post(echo))
}

fn telemetry(collector: &str) -> SdkTracerProvider {
    let exporter = SpanExporter::builder().with_http().with_http_client(Plain);
    let exporter = exporter.with_endpoint(format!("http://{collector}/v1/traces")).build();
    let every = BatchConfigBuilder::default().with_scheduled_delay(BATCH_EVERY).build();
    let batches =
        BatchSpanProcessor::builder(exporter.expect("an endpoint")).with_batch_config(every);
    SdkTracerProvider::builder().with_span_processor(batches.build()).build()
}

/// The thread that sends batches has no runtime, so what it sends with blocks.
#[derive(Debug)]
struct Plain;

impl Plain {
    fn send(request: &Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let to = request.uri().authority().ok_or("no host")?.as_str();
        let mut stream = TcpStream::connect(to)?;
        stream.set_read_timeout(Some(LAST_BATCH))?;
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\n",
            request.uri().path()
        );
        let body = request.body();
        let length = body.len();
        write!(
            stream,
            "{head}content-type: application/x-protobuf\r\ncontent-length: {length}\r\n\r\n"
        )?;
        stream.write_all(body)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let status = answer.split(' ').nth(1).ok_or("no status")?.parse::<u16>()?;
        Ok(Response::builder().status(status).body(Bytes::new())?)
    }
}

impl HttpClient for Plain {
    fn send_bytes<'a: 'f, 'f>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'f>> {
        Box::pin(async move { Plain::send(&request) })
    }
}
