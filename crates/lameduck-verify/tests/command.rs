//! The command `lameduck-load`: what it prints, and its exit codes.

mod support;

use lameduck_verify::target::{Exit, Ready, Signal, Start, Target, free_address};
use serde_json::Value;
use std::io::Write;
use support::{OK, SOON, Server, close_in_order, read_request, serve_well};

fn command(target: &str) -> Start {
    let command = Target::command(env!("CARGO_BIN_EXE_lameduck-load"));
    command.args(["--target", target, "--connections", "4", "--json"])
}

/// Its end, its standard output and its standard error.
fn run(start: Start) -> (Exit, String, String) {
    let mut load = start.start().unwrap();
    let exit = load.wait(SOON).unwrap();
    (exit, load.whole_stdout(SOON).unwrap(), load.whole_stderr(SOON).unwrap())
}

fn json(stdout: &str) -> Value {
    assert_eq!(stdout.lines().count(), 1, "one object: {stdout}");
    serde_json::from_str(stdout).unwrap()
}

#[test]
fn a_signal_ends_it_in_order() {
    let server = Server::start(serve_well);
    for signal in [Signal::TERM, Signal::INT] {
        let load = command(&server.place("/b").to_string()).args(["--duration", "10m"]);
        let mut load = load.ready(Ready::Stderr("started".into())).start().unwrap();
        load.signal(signal).unwrap();
        assert_eq!(load.wait(SOON).unwrap().code, Some(0));
        let report = json(&load.whole_stdout(SOON).unwrap());
        assert_eq!(report["lost_total"], 0, "{report}");
        assert!(report["answered"].as_u64().unwrap() >= 4, "{report}");
        assert!(report["latency_us"]["p999"].as_u64().unwrap() > 0, "{report}");
    }
}

#[test]
fn losses_have_an_exit_code_and_are_named() {
    let server = Server::start(|mut stream| {
        if read_request(&mut stream).is_some() && stream.write_all(OK).is_ok() {
            read_request(&mut stream);
            close_in_order(stream);
        }
    });
    let (exit, stdout, _) =
        run(command(&server.place("/").to_string()).args(["--duration", "200ms"]));
    assert_eq!(exit.code, Some(4));
    let report = json(&stdout);
    assert_eq!(report["lost"]["IDLE_CLOSE_RACE"], report["lost_total"], "{report}");
    let first = &report["first_losses"][0];
    assert_eq!(
        (&first["class"], &first["request_on_connection"]),
        (&"IDLE_CLOSE_RACE".into(), &2.into())
    );
}

#[test]
fn an_absent_server_is_a_failure_and_not_a_success() {
    let address = free_address().unwrap();
    let (exit, stdout, stderr) = run(command(&format!("http://{address}/")).arg("--until-gone"));
    assert_eq!(exit.code, Some(1));
    assert_eq!(json(&stdout)["sent"], 0);
    assert_eq!(stderr.trim(), "lameduck-load: no request was answered");
}

#[test]
fn bad_input_is_one_line_and_exit_code_2() {
    for (arguments, named) in [
        (vec!["--target", "ftp://x/"], "ftp://x/"),
        (vec!["--target", "http://127.0.0.1:1/", "--pause", "5"], "--pause"),
        (vec!["--target", "http://127.0.0.1:1/", "--connections", "0"], "--connections"),
        (vec!["--target", "http://127.0.0.1:1/", "--acked", "x"], "--acked"),
        (vec!["--target", "http://127.0.0.1:1/", "--mode", "magic"], "--mode"),
    ] {
        let start = Target::command(env!("CARGO_BIN_EXE_lameduck-load")).args(&arguments);
        let (exit, stdout, stderr) = run(start);
        assert_eq!((exit.code, stdout.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(stderr.lines().next().unwrap().contains(named), "{arguments:?}: {stderr}");
    }
}

#[test]
fn a_file_of_ids_that_cannot_be_opened_is_named() {
    let start =
        command("http://127.0.0.1:1/").args(["--mode", "post", "--acked", "/nonexistent/acked"]);
    let (exit, _, stderr) = run(start);
    assert_eq!(exit.code, Some(1));
    assert!(stderr.contains("/nonexistent/acked"), "{stderr}");
}

#[test]
fn a_rate_makes_it_an_open_loop() {
    let server = Server::start(serve_well);
    let open = ["--rate", "200", "--duration", "500ms"];
    let (exit, stdout, stderr) = run(command(&server.place("/").to_string()).args(open));
    assert_eq!((exit.code, stderr.trim()), (Some(0), "started"));
    let report = json(&stdout);
    assert_eq!((&report["answered"], &report["lost_total"]), (&100.into(), &0.into()), "{report}");
    assert!(report["lag_us"]["max"].as_u64().unwrap() > 0, "{report}");
    for wrong in [vec!["--rate", "-1"], vec!["--rate", "5", "--until-gone"]] {
        let (exit, _, _) = run(command(&server.place("/").to_string()).args(wrong));
        assert_eq!(exit.code, Some(2));
    }
    let signalled = command(&server.place("/").to_string()).args(["--rate", "100"]);
    let load = signalled.args(["--duration", "10m"]).ready(Ready::Stderr("started".into()));
    let mut load = load.start().unwrap();
    load.signal(Signal::TERM).unwrap();
    assert!(load.wait(SOON).unwrap().code.is_some_and(|code| code < 2));
}
