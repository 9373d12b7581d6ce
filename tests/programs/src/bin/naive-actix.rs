//! The same service on actix-web, with its own signal handling and graceful shutdown.

use std::io;
use std::net::TcpListener;
use std::time::Duration;

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use programs::app::{counted, number};
use programs::arguments::Arguments;

fn main() -> io::Result<()> {
    let arguments = Arguments::from_command_line()?;
    actix_web::rt::System::new().block_on(serve(arguments))
}

async fn serve(arguments: Arguments) -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", arguments.port))?;
    let address = listener.local_addr()?;
    let slow = arguments.slow;
    let mut server = HttpServer::new(move || {
        App::new()
            .app_data(web::Data::new(slow))
            .route("/a", web::get().to(wait_and_count))
            .route("/b", web::get().to(async || count()))
            .route(
                "/orders",
                web::post().to(async |body: web::Bytes| HttpResponse::Ok().body(body)),
            )
    });
    if let Some(threads) = arguments.threads {
        server = server.workers(threads);
    }
    if let Some(grace) = arguments.grace {
        server = server.shutdown_timeout(grace.as_secs());
    }
    let server = server.listen(listener)?.run();
    programs::announce(address)?;
    server.await
}

async fn wait_and_count(request: HttpRequest, slow: web::Data<Duration>) -> HttpResponse {
    let wait = number(Some(request.query_string()), "ms").map_or(**slow, Duration::from_millis);
    actix_web::rt::time::sleep(wait).await;
    count()
}

fn count() -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(counted())
}
