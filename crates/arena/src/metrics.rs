//! The service's own numbers, in Prometheus' text format.

use std::fmt::Write as _;

use crate::routes::App;

/// Appends them to what the admin server says about the lifecycle.
pub(crate) fn write(app: &App, text: &mut String) {
    // Writing to a string cannot fail.
    let _ = write_all(app, text);
}

fn write_all(app: &App, text: &mut String) -> std::fmt::Result {
    writeln!(text, "# HELP arena_counter The last number given out, over all runs.")?;
    writeln!(text, "# TYPE arena_counter counter")?;
    writeln!(text, "arena_counter {}", app.counter.current())?;
    writeln!(text, "# HELP arena_counter_flush_failures_total Flushes the database did not take.")?;
    writeln!(text, "# TYPE arena_counter_flush_failures_total counter")?;
    writeln!(text, "arena_counter_flush_failures_total {}", app.counter.failed_flushes())?;
    writeln!(text, "# HELP arena_orders_total Orders by what became of them, since the start.")?;
    writeln!(text, "# TYPE arena_orders_total counter")?;
    for (fate, count) in app.orders.tally() {
        writeln!(text, "arena_orders_total{{fate=\"{fate}\"}} {count}")?;
    }
    Ok(())
}
