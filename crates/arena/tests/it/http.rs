//! The routes, called as the server calls them.

use std::sync::Arc;
use std::time::Duration;

use arena::counter::Counter;
use arena::orders::Orders;
use arena::routes::{App, CHUNK_BYTES, DOWNLOAD_LIMIT_BYTES, UPLOAD_LIMIT_BYTES, router};
use arena::store::Store;
use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use axum::response::Response;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower_service::Service as _;

use crate::counter::fresh_home;
use crate::databases::Database;

struct Service {
    router: Router,
    app: App,
    store: Store,
    /// Streams end with it.
    _life: lameduck::Lifecycle,
    _database: Database,
}

impl Service {
    async fn start() -> Self {
        let database = Database::sqlite();
        let store = database.open().await;
        let life = lameduck::Lifecycle::builder().without_signals().start().unwrap();
        let counter = Arc::new(Counter::continue_in(fresh_home(), 0, store.clone()));
        let app = App {
            events: arena::routes::Events::new(Arc::clone(&counter), life.streams()),
            counter,
            orders: Arc::new(Orders::start(store.clone())),
            jobs: arena::jobs::JobQueue::new(store.clone(), 1),
            slow: Duration::from_millis(30),
            version: "1.2.3".into(),
            generation: 4,
        };
        Self { router: router(&app), app, store, _life: life, _database: database }
    }

    async fn ask(&self, method: &str, uri: &str, body: impl Into<Body>) -> Response {
        let request = Request::builder().method(method).uri(uri).body(body.into()).unwrap();
        // A router is always ready.
        self.router.clone().call(request).await.unwrap()
    }

    async fn check(&self, method: &str, uri: &str, body: &str, status: u16, answer: Value) {
        let response = self.ask(method, uri, body.to_owned()).await;
        let got = (response.status(), json_of(response).await);
        assert_eq!(got, (StatusCode::from_u16(status).unwrap(), answer), "{method} {uri} {body}");
    }

    async fn refuses(&self, method: &str, uri: &str, body: &str, status: u16, error: &str) {
        let response = self.ask(method, uri, body.to_owned()).await;
        assert_eq!(response.status().as_u16(), status, "{method} {uri} {body}");
        let answer = json_of(response).await;
        let text = answer["error"].as_str().unwrap_or_else(|| panic!("{answer}"));
        assert!(text.contains(error), "`{text}` lacks `{error}`");
    }

    async fn close(self) {
        self.app.orders.close().await.unwrap();
        self.app.counter.close().await.unwrap();
        self.store.close().await.unwrap();
    }
}

async fn json_of(response: Response) -> Value {
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{error}: {body:?}"))
}

#[tokio::test]
async fn a_waits_and_b_does_not() {
    let service = Service::start().await;
    let (a, b) = tokio::join!(service.ask("GET", "/a", ""), service.ask("GET", "/b", ""));
    assert_eq!(json_of(a).await, json!({ "num": 2 }));
    assert_eq!(json_of(b).await, json!({ "num": 1 }));
    let version = json!({ "version": "1.2.3", "generation": 4, "pid": std::process::id() });
    service.check("GET", "/version", "", 200, version).await;
    service.close().await;
}

#[tokio::test]
async fn an_order_is_acknowledged_told_and_counted() {
    let service = Service::start().await;
    let order = r#"{"id": "o/1", "item": "tea", "quantity": 2}"#;
    let committed = json!({ "id": "o/1", "status": "committed" });
    service.check("POST", "/orders", order, 201, committed).await;
    let again = json!({ "id": "o/1", "status": "committed", "duplicate": true });
    service.check("POST", "/orders", order, 200, again).await;
    let other = r#"{"id": "o/1", "item": "tea", "quantity": 3}"#;
    service.refuses("POST", "/orders", other, 409, "another order has the id o/1").await;
    let stored = json!({ "id": "o/1", "item": "tea", "quantity": 2, "status": "committed" });
    service.check("GET", "/orders/o%2F1", "", 200, stored).await;
    service.check("GET", "/orders/count", "", 200, json!({ "count": 1 })).await;
    service.refuses("GET", "/orders/o-2", "", 404, "no order has the id o-2").await;
    service.close().await;
}

#[tokio::test]
async fn what_is_no_order_is_refused_by_its_kind() {
    let service = Service::start().await;
    for (body, status, error) in [
        ("", 400, "EOF"),
        ("{", 400, "EOF"),
        ("tea", 400, "expected"),
        ("{}", 422, "missing field `id`"),
        ("[]", 422, "invalid length"),
        (r#"{"id": "1", "item": "tea", "quantity": "2"}"#, 422, "invalid type"),
        (r#"{"id": "1", "item": "tea", "quantity": 2, "more": 1}"#, 422, "unknown field `more`"),
        (r#"{"id": "", "item": "tea", "quantity": 2}"#, 422, "id must not be empty"),
        (r#"{"id": "count", "item": "tea", "quantity": 2}"#, 422, "reserved"),
        (r#"{"id": "1", "item": "t\u0000a", "quantity": 2}"#, 422, "control characters"),
        (r#"{"id": "1", "item": "tea", "quantity": 0}"#, 422, "between 1 and"),
    ] {
        service.refuses("POST", "/orders", body, status, error).await;
    }
    let long = format!(r#"{{"id": "{}", "item": "tea", "quantity": 2}}"#, "x".repeat(129));
    service.refuses("POST", "/orders", &long, 422, "128 bytes").await;
    let huge = format!(r#"{{"id": "1", "item": "{}", "quantity": 2}}"#, "x".repeat(20_000));
    service.refuses("POST", "/orders", &huge, 413, "16384 bytes").await;
    service.check("GET", "/orders/count", "", 200, json!({ "count": 0 })).await;
    service.close().await;
}

#[tokio::test]
async fn closed_orders_ask_to_come_again() {
    let service = Service::start().await;
    service.app.orders.close().await.unwrap();
    let order = r#"{"id": "late", "item": "tea", "quantity": 2}"#;
    let response = service.ask("POST", "/orders", order).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()[header::RETRY_AFTER], "1");
    service.close().await;
}

#[tokio::test]
async fn bytes_are_counted_in_and_made_out() {
    let service = Service::start().await;
    let upload = "x".repeat(300_000);
    service.check("POST", "/upload", &upload, 200, json!({ "bytes": 300_000 })).await;

    let wanted = 2 * CHUNK_BYTES + 300;
    let response = service.ask("GET", &format!("/download?bytes={wanted}"), "").await;
    assert_eq!(response.headers()[header::CONTENT_LENGTH], wanted.to_string());
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body.len(), wanted);
    assert!(body.iter().enumerate().all(|(at, &byte)| byte == (at % 256) as u8));

    let response = service.ask("GET", "/download?bytes=0", "").await;
    assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
    service.close().await;
}

#[tokio::test]
async fn too_many_bytes_are_refused_before_they_are_sent() {
    /// Announces one byte too many and would never send it.
    struct Announced;
    impl http_body::Body for Announced {
        type Data = bytes::Bytes;
        type Error = std::convert::Infallible;
        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, Self::Error>>> {
            std::task::Poll::Pending
        }
        fn size_hint(&self) -> http_body::SizeHint {
            http_body::SizeHint::with_exact(UPLOAD_LIMIT_BYTES + 1)
        }
    }
    let service = Service::start().await;
    let response = service.ask("POST", "/upload", Body::new(Announced)).await;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let uri = format!("/download?bytes={}", DOWNLOAD_LIMIT_BYTES + 1);
    service.refuses("GET", &uri, "", 400, "a download may have").await;
    service.close().await;
}

#[tokio::test]
async fn everything_else_is_refused_in_json() {
    let service = Service::start().await;
    service.refuses("GET", "/nowhere", "", 404, "no such path: /nowhere").await;
    service.refuses("POST", "/b", "", 405, "/b does not answer this method").await;
    service.refuses("GET", "/download", "", 400, "/download?bytes=N").await;
    service.refuses("GET", "/download?bytes=-1", "", 400, "/download?bytes=N").await;
    assert_eq!(service.app.counter.current(), 0);
    service.close().await;
}
