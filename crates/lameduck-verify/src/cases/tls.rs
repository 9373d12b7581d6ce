//! TLS.

use crate::adapter::Protocol;
use crate::address::Address;
use crate::case::{Case, Fault, Need, Outcome, fail, inconclusive, pass, skip};
use crate::probe::tls::{TlsClient, TlsEnd, config};
use crate::stage::{SOON, Stage};
use crate::verdict::Level::{Must, Should};
use rustls::ClientConfig;
use std::sync::Arc;
use std::time::Duration;

const TLS: Need = Need::Speaks(Protocol::Tls);
/// How long the handshake pauses after the stop.
const PAUSE: Duration = Duration::from_millis(300);
/// What an exit may take beyond the deadline.
const QUICK: Duration = Duration::from_secs(1);

pub(super) const CASES: &[Case] = &[
    Case {
        id: "TLS/1",
        level: Must,
        title: "a handshake under way ends, and does not hold up the exit",
        setup: "two connections with a ClientHello sent, which then pause",
        action: "the stop signal; 300 ms later one goes on, the other never does",
        criterion: "the first is served, or closed; the process is gone at most 1 s after the deadline",
        why: "between accept and the end of the handshake a connection belongs to nobody",
        source: "accepted is not yet established",
        needs: &[Need::Stop, Need::Deadline, TLS],
        run: paused_handshake,
    },
    Case {
        id: "TLS/2",
        level: Should,
        title: "a session is resumed after an upgrade",
        setup: "a client with a session ticket of the old generation",
        action: "an upgrade, then the client connects again",
        criterion: "the session is resumed",
        why: "an upgrade that voids all tickets makes every client pay a full handshake at the same time",
        source: "Meta: handshakes of reconnecting clients take up to a fifth of the processor",
        needs: &[Need::Upgrade, TLS],
        run: resumed,
    },
    Case {
        id: "TLS/3",
        level: Should,
        title: "the end of a connection is authentic",
        setup: "a kept-alive connection, idle after an answer",
        action: "the stop signal",
        criterion: "close_notify comes before the FIN",
        why: "without it a client cannot tell the server's end from an attacker's cut",
        source: "RFC 8446, section 6.1",
        needs: &[Need::Stop, TLS],
        run: notified,
    },
];

/// A connection that has been answered once.
fn answered(
    stage: &Stage<'_>,
    address: &Address,
    config: &Arc<ClientConfig>,
) -> Result<TlsClient, Fault> {
    let mut client = TlsClient::hello(address, config)?;
    if !client.handshake(SOON)? {
        return Err(Fault(format!("no TLS handshake with {address}")));
    }
    client.send(&stage.fast().get(""))?;
    match client.wait(|client| client.text().contains("\r\n\r\n"), SOON)? {
        true => Ok(client),
        false => Err(Fault(format!("no answer over TLS from {address}: {:?}", client.end()))),
    }
}

fn paused_handshake(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let (address, config) = (stage.tls()?, config());
    // The target speaks TLS there: otherwise anything that follows would look like a close.
    drop(answered(stage, &address, &config)?);
    let mut resumes = TlsClient::hello(&address, &config)?;
    let paused = TlsClient::hello(&address, &config)?;
    std::thread::sleep(PAUSE);
    let told = stage.stop()?;
    std::thread::sleep(PAUSE);
    let request = stage.fast().get("");
    let is_served = resumes.handshake(SOON)?
        && resumes.send(&request).is_ok()
        && resumes.wait(|client| client.text().contains("\r\n\r\n"), SOON)?;
    let limit = stage.lame_duck() + stage.deadline() + QUICK;
    let gone = stage.wait_gone(limit.saturating_sub(told.elapsed()));
    let end = resumes.end();
    stage.recorder.wire("resumes its handshake", &resumes.wire);
    stage.recorder.wire("paused in its handshake", &paused.wire);
    if gone.is_none() {
        return fail(format!("the process still runs {limit:?} after the stop"));
    }
    match (is_served, end) {
        (true, _) => pass("the one that went on was served, and the exit was in time"),
        (false, TlsEnd::Open) => fail("the one that went on was neither served nor closed"),
        (false, end) => {
            pass(format!("the one that went on was closed ({end:?}), and the exit was in time"))
        }
    }
}

fn resumed(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let (address, config) = (stage.tls()?, config());
    drop(answered(stage, &address, &config)?);
    let again = answered(stage, &address, &config)?;
    if !again.is_resumed() {
        return skip("the target resumes no session, also without an upgrade");
    }
    // The newest ticket is the one before the upgrade.
    drop(again);
    let upgraded = stage.upgrade()?;
    // An old worker that answers once more resumes its own session.
    stage.wait_changed(&upgraded);
    let after = answered(stage, &stage.tls()?, &config)?;
    stage.recorder.wire("after the upgrade", &after.wire);
    match after.is_resumed() {
        true => pass("the session was resumed by the new generation"),
        false => fail("the new generation asked for a full handshake"),
    }
}

fn notified(stage: &mut Stage<'_>) -> Outcome {
    stage.start()?;
    let mut client = answered(stage, &stage.tls()?, &config())?;
    stage.stop()?;
    client.wait(|client| client.end() != TlsEnd::Open, stage.exit_limit())?;
    stage.recorder.wire("TLS", &client.wire);
    match client.end() {
        TlsEnd::Notified => pass("close_notify, then the FIN"),
        TlsEnd::Bare => fail("a FIN without close_notify"),
        TlsEnd::Broken => fail("a reset without close_notify"),
        TlsEnd::Open => inconclusive("the connection was not closed"),
    }
}
