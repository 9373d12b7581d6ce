//! What cannot fit into the grace period is refused when it is said, not found out at the stop.

use std::time::Duration;

use lameduck::{Error, Lifecycle};

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[tokio::test]
async fn budgets_that_do_not_fit_are_refused() -> Result<(), Error> {
    let builder = Lifecycle::builder().without_signals().grace_period(seconds(10));
    let error = builder.clone().lame_duck(seconds(11)).start().unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("lame duck of 11s"), "{error}");

    let life = builder.lame_duck(seconds(4)).start()?;
    let close = async || ();
    life.on_close("database").budget(seconds(3)).run(close)?;
    // Beside the database, so only the longer of the two counts.
    life.on_close("cache").budget(seconds(3)).run(close)?;
    let chain = life.on_close("counter").uses(["database"]).budget(seconds(4)).run(close);
    let error = chain.unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("closing budgets of 7s"), "{error}");
    Ok(())
}

#[tokio::test]
async fn without_a_deadline_every_budget_fits() -> Result<(), Error> {
    let builder = Lifecycle::builder().without_signals().no_deadline();
    let life = builder.lame_duck(seconds(3_600)).start()?;
    life.on_close("database").budget(seconds(86_400)).run(async || ())
}

/// Two that follow one another, however long: their sum has an end too.
#[tokio::test]
async fn without_a_deadline_any_budget_can_be_chosen() -> Result<(), Error> {
    let life = Lifecycle::builder().without_signals().no_deadline().start()?;
    life.on_close("database").budget(Duration::MAX).run(async || ())?;
    life.on_close("counter").uses(["database"]).budget(Duration::MAX).run(async || ())?;
    life.on_close("logs").last().budget(Duration::MAX).run(async || ())?;
    life.stop();
    assert_eq!(life.run().await.code(), lameduck::exit::OK);
    Ok(())
}

/// A connection measures its own times: none of them may lie beyond what a clock can tell.
#[cfg(feature = "http")]
#[tokio::test]
async fn any_linger_and_any_age_can_be_chosen() -> Result<(), Error> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let builder = Lifecycle::builder().without_signals().linger(Duration::MAX);
    let builder = builder.max_connection_age(Duration::MAX, Duration::MAX);
    let life = builder.upgrade_linger(Duration::MAX).grace_period(seconds(2)).start()?;
    let listener = life.listen("127.0.0.1:0").await?;
    let mut client = tokio::net::TcpStream::connect(listener.address()).await.unwrap();
    let hello = axum::routing::get(async || "hello");
    life.serve("http", listener, axum::Router::new().route("/", hello))?;
    life.ready();
    let mut answer = [0; 1024];
    for stops in [false, true] {
        if stops {
            life.stop();
            life.drain().started().await;
        }
        client.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
        let read = client.read(&mut answer).await.unwrap();
        let answer = std::str::from_utf8(&answer[..read]).unwrap();
        assert!(answer.ends_with("hello"), "{answer:?}, {stops}");
    }
    assert_eq!(life.run().await.code(), lameduck::exit::OK);
    Ok(())
}
