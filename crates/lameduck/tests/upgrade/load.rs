//! Upgrades under load: nothing is lost, and a kept-alive client never has to connect again.

use std::time::{Duration, Instant};

use lameduck::operate::{Verb, ask};
use lameduck_verify::load::{Load, Mode, Report, Until};
use lameduck_verify::target::{Ready, Signal};

use crate::support::{BOUND, Service, Setup, example, free_address, times, wait, who};

/// Clients of a load.
const CLIENTS: usize = 32;

/// Upgrades that one load sees in a quick run.
const FEW: u32 = 10;

/// Requests that a long run must have seen between two upgrades: of four kinds and a hundred upgrades, a million.
const MANY_REQUESTS: u64 = 2_500;

fn upgrades_under(mode: Mode, pause: Duration) -> Report {
    let service = Service::start();
    let load = Load::new(service.place("/"), mode).connections(CLIENTS).pause(pause);
    let running = load.until(Until::Elapsed(BOUND * 20)).start().unwrap();
    running.wait_flowing(BOUND).unwrap();
    let upgrades = times(FEW);
    let is_long = upgrades >= 100 && pause.is_zero();
    for number in 1..=upgrades {
        service.upgrade();
        if is_long {
            assert!(running.wait_answered(u64::from(number) * MANY_REQUESTS, BOUND));
        }
    }
    running.stop();
    let report = running.finish();
    println!("{upgrades} upgrades: {report}");
    assert_eq!(report.lost(), 0, "{report}\n{}", service.target.stderr());
    assert_eq!(who(&service.get("/")).0, 1 + upgrades);
    service.stop();
    report
}

#[test]
fn kept_connections_without_a_pause_lose_nothing_and_stay() {
    let report = upgrades_under(Mode::KeepAlive, Duration::ZERO);
    assert_eq!(report.connections_opened(), CLIENTS as u64, "{report}");
}

#[test]
fn kept_connections_with_pauses_lose_nothing_and_stay() {
    let report = upgrades_under(Mode::KeepAlive, Duration::from_millis(5));
    assert_eq!(report.connections_opened(), CLIENTS as u64, "{report}");
}

#[test]
fn posts_lose_nothing_and_stay() {
    let report = upgrades_under(Mode::Post, Duration::ZERO);
    assert_eq!(report.connections_opened(), CLIENTS as u64, "{report}");
}

#[test]
fn new_connections_lose_nothing() {
    let report = upgrades_under(Mode::NewConnection, Duration::ZERO);
    assert_eq!(report.tally().not_sent(), 0, "{report}");
}

#[test]
fn http2_streams_lose_nothing() {
    let report = upgrades_under(Mode::Http2 { streams: 4 }, Duration::ZERO);
    assert!(report.tally().answered() > 0, "{report}");
}

/// F25: a storm of reloads, ten a second.
#[test]
fn a_storm_of_signals_leaves_one_generation_and_loses_nothing() {
    /// Older generations that may drain at a time.
    const CAP: usize = 4;
    let service = Setup::new().wish(&format!("max-generations {CAP}")).start();
    let load = Load::new(service.place("/"), Mode::KeepAlive).connections(CLIENTS);
    let running = load.until(Until::Elapsed(BOUND * 2)).start().unwrap();
    running.wait_flowing(BOUND).unwrap();
    let begun = Instant::now();
    for number in 1..=times(100) {
        let (_, pid) = who(&service.get("/"));
        // It may be leaving already: then the signal is for nobody.
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        let _ = rustix::process::kill_process(pid, Signal::HUP);
        // Some leave at this moment, with nothing to do any more: those do not count.
        let busy = busy_older_generations(&service);
        assert!(busy <= CAP + 1, "{busy} older generations have work");
        // The rhythm of the storm, no wait for anybody.
        std::thread::sleep((begun + STORM * number).saturating_duration_since(Instant::now()));
    }
    running.stop();
    let report = running.finish();
    assert_eq!(report.lost(), 0, "{report}\n{}", service.target.stderr());
    assert_eq!(report.connections_opened(), CLIENTS as u64, "{report}");
    let serving = || {
        let status = service.status();
        let generations = status["generations"].as_array().unwrap();
        generations.iter().filter(|generation| generation["phase"] == "serving").count()
    };
    wait(|| serving() == 1, || service.status().to_string());
    let (generation, _) = who(&service.get("/"));
    assert!(generation > 5, "the storm was felt: {}", service.target.stderr());
    println!("{generation} generations: {report}");
    // The last signal may still be followed by an upgrade, and whoever was asked may have handed the service on meanwhile.
    let is_over = || {
        let _ = ask(&service.control(), Verb::Stop, &[]);
        service.processes().is_empty()
    };
    wait(is_over, || format!("{:?}: {}", service.processes(), service.target.stderr()));
}

fn busy_older_generations(service: &Service) -> usize {
    let Ok(answer) = ask(&service.control(), Verb::Status, &[]) else { return 0 };
    let status: serde_json::Value = serde_json::from_str(&answer.text).unwrap_or_default();
    let generations = status["generations"].as_array().cloned().unwrap_or_default();
    let is_busy = |it: &&serde_json::Value| it["live"]["requests"].as_u64().unwrap_or(0) > 0;
    generations.iter().skip(1).filter(is_busy).count()
}

/// Between two signals of a storm.
const STORM: Duration = Duration::from_millis(100);

/// The testers of the tester: what others do instead of an upgrade does lose requests, and the same clients see it.
mod others {
    use super::*;
    use std::net::SocketAddr;
    use tokio::runtime::Runtime;

    /// A server that stops in its framework's own graceful way.
    struct Plain {
        runtime: Runtime,
        stop: tokio::sync::oneshot::Sender<()>,
        ended: tokio::task::JoinHandle<()>,
    }

    impl Plain {
        fn start(address: SocketAddr, reuse_port: bool) -> Plain {
            use socket2::{Domain, Socket, Type};
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_reuse_address(true).unwrap();
            socket.set_reuse_port(reuse_port).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket.bind(&address.into()).unwrap();
            socket.listen(1024).unwrap();
            let runtime = Runtime::new().unwrap();
            let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
            let ended = runtime.spawn(async move {
                let listener = tokio::net::TcpListener::from_std(socket.into()).unwrap();
                let app = axum::Router::new().route("/", axum::routing::any(async || "plain"));
                let stopped = async { drop(stopped.await) };
                axum::serve(listener, app).with_graceful_shutdown(stopped).await.unwrap();
            });
            Plain { runtime, stop, ended }
        }

        fn stop(self) {
            self.stop.send(()).unwrap();
            self.runtime.block_on(self.ended).unwrap();
        }
    }

    fn load(address: SocketAddr, mode: Mode, until: Until) -> lameduck_verify::load::Running {
        let place = format!("http://{address}/").parse().unwrap();
        let running = Load::new(place, mode).connections(CLIENTS).until(until).start().unwrap();
        running.wait_flowing(BOUND).unwrap();
        running
    }

    #[test]
    fn a_stop_and_then_a_start_fail_some() {
        let address = free_address();
        let first = Plain::start(address, false);
        let running = load(address, Mode::NewConnection, Until::Gone { at_most: BOUND });
        first.stop();
        // Each of them has met nobody.
        assert!(running.wait_ended(BOUND));
        let second = Plain::start(address, false);
        let report = running.finish();
        assert!(report.tally().not_sent() + report.lost() >= CLIENTS as u64, "{report}");
        load(address, Mode::NewConnection, Until::Elapsed(BOUND)).stop();
        second.stop();
    }

    #[test]
    fn a_second_socket_at_the_same_port_loses_some() {
        /// A restart without a loss is luck; so many in a row are a defect of the clients.
        const RESTARTS: usize = 50;
        let address = free_address();
        let mut serving = Plain::start(address, true);
        let lost = (1..=RESTARTS).find_map(|_| {
            let running = load(address, Mode::NewConnection, Until::Elapsed(BOUND));
            let next = Plain::start(address, true);
            std::mem::replace(&mut serving, next).stop();
            running.stop();
            let report = running.finish();
            (report.lost() > 0).then_some(report)
        });
        serving.stop();
        let report = lost.expect("a restart that loses a request");
        assert_eq!(report.count(lameduck_verify::fate::Fate::Refused), 0, "{report}");
    }
}

/// The test of the tester: a service that dies and is started anew does lose requests, and these clients see it.
#[test]
fn a_kill_and_a_start_lose_some() {
    let mut service = Service::start();
    let load = Load::new(service.place("/slow"), Mode::KeepAlive).connections(CLIENTS);
    let running = load.until(Until::Elapsed(BOUND)).start().unwrap();
    let in_hand = || service.status()["generations"][0]["live"]["requests"] == CLIENTS;
    wait(in_hand, || service.status().to_string());
    service.target.kill().unwrap();
    let start = service.by_hand(&example("misbehaving_successor"));
    let _again = start.ready(Ready::Stderr("listens".to_owned())).start().unwrap();
    running.wait_flowing(BOUND).unwrap();
    running.stop();
    let report = running.finish();
    assert!(report.lost() > 0, "{report}");
    assert!(report.connections_opened() > CLIENTS as u64, "{report}");
}
