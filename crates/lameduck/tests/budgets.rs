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
