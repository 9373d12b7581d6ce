//! Close frames from the library, whatever the handler does.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::extract::Extension;
use axum::extract::ws::{Message as AxumMessage, WebSocketUpgrade};
use axum::http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use axum::http::{Request, Response, StatusCode};
use axum::routing::get;
use axum::{Router, body::Body};
use futures_util::{SinkExt, StreamExt};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use lameduck::phase::Outcome;
use lameduck::websocket::{CloseFrames, Handle};
use lameduck::work::WorkKind;
use lameduck::{Builder, Exit, Lifecycle};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::clients::{BOUND, End, connect, end, round_trip, router};

fn builder() -> Builder {
    Lifecycle::builder().without_signals().linger(Duration::ZERO).grace_period(BOUND)
}

async fn serve(builder: Builder, app: Router) -> (Lifecycle, SocketAddr) {
    let life = builder.start().unwrap();
    let listener = life.listen("127.0.0.1:0").await.unwrap();
    let address = listener.address().parse().unwrap();
    life.serve("http", listener, app).unwrap();
    life.ready();
    (life, address)
}

async fn ended(life: Lifecycle) -> Exit {
    tokio::time::timeout(2 * BOUND, life.ended()).await.expect("it ends by its deadline")
}

#[tokio::test]
async fn a_handler_that_knows_nothing_of_the_stop_has_its_client_told() {
    let (life, address) = serve(builder(), router()).await;
    let mut client = connect(address, "/echo").await;
    round_trip(&mut client, "hello").await;
    let snapshot = life.snapshot();
    assert_eq!((snapshot.live.connections, snapshot.live.websockets), (1, 1));
    let named = &snapshot.work[0];
    assert_eq!((named.kind, &*named.name), (WorkKind::WebSocket, "GET /echo"));
    life.stop();
    let (messages, how, _) = end(&mut client).await;
    assert_eq!(how, End::Closed(1001, "the server stops".to_owned()));
    assert_eq!(messages, []);
    let exit = ended(life).await;
    let report = exit.report();
    assert_eq!((report.outcome, report.finished.websockets), (Outcome::Finished, 1));
    assert!(report.took < BOUND / 2, "{:?}", report.took);
}

#[tokio::test]
async fn code_and_reason_can_be_chosen() {
    let closes = CloseFrames::new().stop(4001, "come back");
    let (life, address) = serve(builder().close_frames(closes), router()).await;
    let mut client = connect(address, "/echo").await;
    life.stop();
    assert_eq!(end(&mut client).await.1, End::Closed(4001, "come back".to_owned()));
    assert_eq!(ended(life).await.report().outcome, Outcome::Finished);
}

/// 1,000 at once; how evenly they were told is a time, which `no_window_of_the_spread_has_more_than_its_share` decides
/// and the bench measures.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_websockets_get_their_close_frames() {
    const CLIENTS: usize = 1_000;
    const SPREAD: Duration = Duration::from_secs(2);
    let closes = CloseFrames::new().spread(SPREAD);
    let (life, address) = serve(builder().close_frames(closes), router()).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = connect(address, "/echo").await;
        round_trip(&mut client, "hello").await;
        clients.push(client);
    }
    assert_eq!(life.snapshot().live.websockets, CLIENTS);
    // Their patience begins when all are there.
    let ending = |mut client| tokio::spawn(async move { end(&mut client).await });
    let clients: Vec<_> = clients.into_iter().map(ending).collect();
    life.stop();
    let mut times = Vec::new();
    for client in clients {
        let (_, how, at) = client.await.unwrap();
        assert_eq!(how, End::Closed(1001, "the server stops".to_owned()));
        times.push(at);
    }
    times.sort();
    println!("the last one {:?} after the first", times[CLIENTS - 1] - times[0]);
    println!("most in 100 ms: {}", most_within(&times, Duration::from_millis(100)));
    let exit = ended(life).await;
    let report = exit.report();
    assert_eq!((report.outcome, report.cut.connections), (Outcome::Finished, 0));
    assert_eq!(report.finished.websockets, CLIENTS);
}

fn most_within(times: &[Instant], window: Duration) -> usize {
    let within = |from: Instant| times.iter().filter(move |at| (from..from + window).contains(at));
    times.iter().map(|from| within(*from).count()).max().unwrap_or(0)
}

/// The handler is in the middle of a long message, whose client reads slowly: the frame comes after it, whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_frame_waits_for_the_message_under_way() {
    const BYTES: usize = 16 * 1024 * 1024;
    let app = Router::new().route(
        "/large",
        get(|upgrade: WebSocketUpgrade| async {
            upgrade.on_upgrade(|mut socket| async move {
                let large = AxumMessage::Binary(vec![7; BYTES].into());
                let _ = socket.send(large).await;
                let _ = socket.send(AxumMessage::Text("after".into())).await;
                while let Some(Ok(_)) = socket.recv().await {}
            })
        }),
    );
    let (life, address) = serve(builder(), app).await;
    let mut client = connect(address, "/large").await;
    // The first bytes have come, so the rest is under way.
    client.get_ref().readable().await.unwrap();
    life.stop();
    life.drain().started().await;
    let (messages, how, _) = end(&mut client).await;
    assert_eq!(how, End::Closed(1001, "the server stops".to_owned()));
    let lengths: Vec<usize> = messages.iter().map(Message::len).collect();
    assert_eq!(lengths, [BYTES]);
    assert_eq!(ended(life).await.report().outcome, Outcome::Finished);
}

#[tokio::test]
async fn a_handler_that_drops_its_websocket_at_the_drain_has_its_client_told() {
    let builder = builder();
    let life = builder.start().unwrap();
    let drain = life.drain();
    let app = Router::new().route(
        "/drop",
        get(move |upgrade: WebSocketUpgrade| async move {
            upgrade.on_upgrade(|mut socket| async move {
                tokio::select! {
                    _ = socket.recv() => {}
                    () = drain.started() => {}
                }
            })
        }),
    );
    let listener = life.listen("127.0.0.1:0").await.unwrap();
    let address = listener.address().parse().unwrap();
    life.serve("http", listener, app).unwrap();
    life.ready();
    let mut client = connect(address, "/drop").await;
    life.stop();
    assert_eq!(end(&mut client).await.1, End::Closed(1001, "the server stops".to_owned()));
    assert_eq!(ended(life).await.report().outcome, Outcome::Finished);
}

#[tokio::test]
async fn a_handler_that_closes_itself_is_left_alone_until_shortly_before_the_cut() {
    let app = Router::new().route(
        "/match",
        get(|upgrade: WebSocketUpgrade, Extension(own): Extension<Handle>| async move {
            own.label("match 17");
            own.closes_itself();
            upgrade.on_upgrade(crate::clients::echo)
        }),
    );
    let (life, address) = serve(builder().grace_period(Duration::from_secs(3)), app).await;
    let (mut ends, mut plays) =
        (connect(address, "/match").await, connect(address, "/match").await);
    assert_eq!(life.snapshot().work[0].name, "GET /match: match 17");
    life.stop();
    life.drain().started().await;
    for number in 0..10 {
        round_trip(&mut plays, &format!("move {number}")).await;
        round_trip(&mut ends, &format!("move {number}")).await;
    }
    ends.close(None).await.unwrap();
    let _ = end(&mut ends).await;
    let (_, how, _) = end(&mut plays).await;
    assert_eq!(how, End::Closed(1001, "the server stops".to_owned()));
    let exit = ended(life).await;
    assert_eq!((exit.report().outcome, exit.report().finished.websockets), (Outcome::Finished, 2));
}

/// A client that never answers does not hold the stop; its handler reads an end of file.
#[tokio::test]
async fn a_client_that_does_not_answer_is_waited_for_no_longer_than_its_bound() {
    let closes = CloseFrames::new().answer_within(Duration::from_millis(200));
    let (life, address) = serve(builder().close_frames(closes), router()).await;
    let mut client = connect(address, "/echo").await;
    round_trip(&mut client, "hello").await;
    life.stop();
    let exit = ended(life).await;
    assert_eq!(exit.report().outcome, Outcome::Finished);
    // The frame lies in the client's queue, however late it looks.
    assert_eq!(end(&mut client).await.1, End::Closed(1001, "the server stops".to_owned()));
}

/// A client that reads nothing, with a handler that writes until it is blocked: no frame fits, and it is named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_reads_is_cut_at_the_deadline_and_named() {
    let app = Router::new().route(
        "/flood",
        get(|upgrade: WebSocketUpgrade| async {
            upgrade.on_upgrade(|mut socket| async move {
                let large = vec![7; 1 << 20];
                while socket.send(AxumMessage::Binary(large.clone().into())).await.is_ok() {}
            })
        }),
    );
    let (life, address) = serve(builder().grace_period(Duration::from_secs(1)), app).await;
    let client = connect(address, "/flood").await;
    client.get_ref().readable().await.unwrap();
    life.stop();
    let exit = ended(life).await;
    let report = exit.report();
    assert_eq!((report.outcome, report.cut.websockets), (Outcome::DeadlineExceeded, 1));
    let cut = &report.cut_work[0];
    assert_eq!((cut.kind, &*cut.name), (WorkKind::WebSocket, "GET /flood"));
}

/// hyper's own upgrade with tokio-tungstenite on top.
async fn plain(mut request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let key = request.headers()[SEC_WEBSOCKET_KEY].clone();
    let upgrading = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let io = TokioIo::new(upgrading.await.unwrap());
        let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() && socket.send(message).await.is_err() {
                return;
            }
        }
    });
    let answer = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(CONNECTION, "upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes()));
    Ok(answer.body(Body::empty()).unwrap())
}

#[derive(Clone)]
struct Plain;

impl tower_service::Service<Request<Incoming>> for Plain {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::pin::Pin<
        Box<dyn std::future::Future<Output = Result<Response<Body>, Infallible>> + Send>,
    >;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        Box::pin(plain(request))
    }
}

#[tokio::test]
async fn a_websocket_of_plain_hyper_is_closed_with_a_frame() {
    let life = builder().start().unwrap();
    let listener = life.listen("127.0.0.1:0").await.unwrap();
    let address = listener.address().parse().unwrap();
    life.serve("http", listener, Plain).unwrap();
    life.ready();
    let mut client = connect(address, "/plain").await;
    round_trip(&mut client, "hello").await;
    life.stop();
    assert_eq!(end(&mut client).await.1, End::Closed(1001, "the server stops".to_owned()));
    let exit = ended(life).await;
    assert_eq!((exit.report().outcome, exit.report().finished.websockets), (Outcome::Finished, 1));
}

/// What a client sends in the same moment as the close frame is still handed to the handler.
#[tokio::test]
async fn what_the_client_sent_before_its_own_close_frame_is_read() {
    let (heard, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let app = Router::new().route(
        "/hear",
        get(move |upgrade: WebSocketUpgrade| async move {
            upgrade.on_upgrade(|mut socket| async move {
                while let Some(Ok(AxumMessage::Text(text))) = socket.recv().await {
                    heard.send(text.to_string()).unwrap();
                }
            })
        }),
    );
    let (life, address) = serve(builder(), app).await;
    let mut client = connect(address, "/hear").await;
    life.stop();
    // The close frame lies there, and is not read before these are sent.
    client.get_ref().readable().await.unwrap();
    for number in 0..100 {
        client.send(Message::text(number.to_string())).await.unwrap();
    }
    assert_eq!(end(&mut client).await.1, End::Closed(1001, "the server stops".to_owned()));
    for number in 0..100 {
        assert_eq!(hears.recv().await.unwrap(), number.to_string());
    }
    assert_eq!(ended(life).await.report().outcome, Outcome::Finished);
}

/// A connection that became something else is left as it is.
#[tokio::test]
async fn another_protocol_is_not_sent_close_frames() {
    let app = Router::new().route(
        "/",
        get(|request: axum::extract::Request| async {
            let upgraded = hyper::upgrade::on(request);
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded.await.unwrap()));
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
            (StatusCode::SWITCHING_PROTOCOLS, [(CONNECTION, "upgrade"), (UPGRADE, "echo")])
        }),
    );
    let (life, address) = serve(builder(), app).await;
    let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = b"GET / HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    client.write_all(head).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(client.read_u8().await.unwrap());
    }
    life.stop();
    life.drain().started().await;
    for _ in 0..10 {
        client.write_all(b"ping").await.unwrap();
        let mut back = [0; 4];
        client.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"ping");
    }
    drop(client);
    let exit = ended(life).await;
    assert_eq!((exit.report().outcome, exit.report().finished.websockets), (Outcome::Finished, 0));
}
