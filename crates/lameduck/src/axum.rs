//! In the place of `axum::serve`: the same two arguments, a lossless stop (feature `axum08`).
//!
//! ```no_run
//! use axum::{Router, routing::get};
//!
//! #[tokio::main]
//! async fn main() -> lameduck::Exit {
//!     let app = Router::new().route("/", get(|| async { "hello" }));
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await.unwrap();
//!     lameduck::axum::serve(listener, app).await
//! }
//! ```

use std::future::IntoFuture;
use std::pin::Pin;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;

use crate::error::Error;
use crate::exit::Exit;
use crate::lifecycle::{Builder, Lifecycle};
use crate::listener::Listener;

/// Serves `app` on `listener` until a signal stops it, and loses nothing.
///
/// TERM and INT stop gracefully within a grace period of 30 s, a second one at once; the report goes to standard
/// error. Await it and return the [`Exit`] from `main`.
///
/// # Panics
///
/// When awaited outside a tokio runtime, with settings that cannot be used ([`Builder::start`] names them), or when the
/// system gives no thread or descriptor to arm the signals: as with `axum::serve`, there is nobody to return an error to.
pub fn serve(listener: TcpListener, app: Router) -> Serve {
    Serve { builder: Lifecycle::builder(), listener, app }
}

/// A service about to be served, made by [`serve`]: await it, or change its settings first.
///
/// Awaiting it ends when the stop has ended. Dropped while it is awaited, it gives the life up, as the last [`Lifecycle`] does.
#[must_use = "nothing is served before it is awaited"]
#[derive(Debug)]
pub struct Serve {
    builder: Builder,
    listener: TcpListener,
    app: Router,
}

impl Serve {
    /// The whole time from a stop to force; see [`Builder::grace_period`].
    pub fn grace_period(mut self, grace: Duration) -> Serve {
        self.builder = self.builder.grace_period(grace);
        self
    }

    /// Changes anything else about the life: `.configure(|life| life.lame_duck(Duration::from_secs(5)))`.
    pub fn configure(mut self, configure: impl FnOnce(Builder) -> Builder) -> Serve {
        self.builder = configure(self.builder);
        self
    }

    async fn run(self) -> Result<Exit, Error> {
        let life = self.builder.start()?;
        life.serve("http", Listener::from_tcp(self.listener)?, self.app)?;
        Ok(life.run().await)
    }
}

impl IntoFuture for Serve {
    type Output = Exit;
    type IntoFuture = Pin<Box<dyn Future<Output = Exit> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            match self.run().await {
                Ok(exit) => exit,
                Err(error) => panic!("{error:?}"),
            }
        })
    }
}
