//! `lameduck upgrade`, `rollback` and `stop`: ask a running service, wait, and end with what came of it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lameduck::exit;
use lameduck::operate::{Answer, QUEUE, Reason, Verb};
use serde_json::Value;

use crate::complaint::Complaint;
use crate::flags::{Rollback, Stop, Upgrade};

/// Hands the service over to its program, started anew.
pub fn upgrade(flags: &Upgrade) -> Result<ExitCode, Complaint> {
    let arguments: &[String] = if flags.queue { &[QUEUE.to_owned()] } else { &[] };
    let answer = ask(&flags.control.path, Verb::Upgrade, arguments)?;
    match (answer.code, serde_json::from_str::<Value>(&answer.text)) {
        (exit::OK, Ok(successor)) => {
            print(&format!(
                "Upgraded: generation {}, pid {}\n",
                successor["generation"], successor["pid"]
            ));
            Ok(ExitCode::SUCCESS)
        }
        _ => {
            let (words, last_words) = answer.words();
            quote(last_words);
            let hint = what_to_do(answer.reason, &flags.control.path);
            Err(Complaint::failed(format!("upgrade failed: {words}"), hint))
        }
    }
}

/// What helps against an upgrade's refusal or failure.
fn what_to_do(reason: Option<Reason>, control: &Path) -> String {
    let control = control.display();
    match reason {
        Some(Reason::AnotherStarting) => {
            format!("wait for it, or follow it: `lameduck upgrade --queue --control {control}`")
        }
        Some(Reason::TooManyGenerations) => format!(
            "`lameduck status --control {control}` names them: wait, end one with `lameduck stop --generation`, or \
             start the service with --upgrade-grace or a greater --max-generations"
        ),
        Some(Reason::Stopping) => "too late: start the service again when it has ended".to_owned(),
        Some(Reason::HandedOn) => {
            format!("the control socket {control} leads to whoever serves by now: upgrade again")
        }
        Some(Reason::NotServing) => "nothing has changed: upgrade again when it serves".to_owned(),
        _ => "nothing has changed: mend what it says, then upgrade again".to_owned(),
    }
}

/// Gives the service back to the generation before.
pub fn rollback(flags: &Rollback) -> Result<ExitCode, Complaint> {
    let answer = ask(&flags.control.path, Verb::Rollback, &[])?;
    if answer.code == exit::OK {
        print("Rolled back: the previous generation serves again\n");
        return Ok(ExitCode::SUCCESS);
    }
    Err(Complaint::failed(
        format!("rollback failed: {}", answer.text),
        "nothing has changed; upgrade to the program you want instead",
    ))
}

/// Stops the service, every generation of it or one, and ends as they did.
pub fn stop(flags: &Stop) -> Result<ExitCode, Complaint> {
    let control = &flags.control.path;
    let mut generations = lameduck::operate::generations(control).unwrap_or_default();
    if let Some(wanted) = flags.generation {
        generations.retain(|(number, _)| *number == wanted);
        let [(_, socket)] = generations.as_slice() else {
            let hint = format!("`lameduck status --control {}` names them", control.display());
            return Err(Complaint::failed(format!("there is no generation {wanted}"), hint));
        };
        return told(&ask(socket, Verb::Stop, &[])?, "Stopped");
    }
    let mut asked = Vec::new();
    let mut code = stop_those_left(control, &mut asked);
    // One that took over at that moment was nobody's to stop.
    for _ in 0..lameduck::operate::FOLLOW {
        let left = lameduck::operate::generations(control).unwrap_or_default();
        if left.iter().all(|(number, _)| asked.contains(number)) {
            break;
        }
        let ended = stop_those_left(control, &mut asked);
        if code.as_ref().is_ok_and(|code| *code == ExitCode::SUCCESS) {
            code = ended;
        }
    }
    code
}

/// Stops every generation that was not `asked` yet, all at the same time.
fn stop_those_left(control: &Path, asked: &mut Vec<u32>) -> Result<ExitCode, Complaint> {
    let mut generations = lameduck::operate::generations(control).unwrap_or_default();
    let is_asked = |number: &u32| asked.contains(number);
    // Under the name answers whoever serves; the newest may be starting still, and ends with it.
    let active = generations.iter().find(|(_, socket)| is_active(control, socket));
    let active = active.map(|(number, _)| *number);
    let nobody_to_ask = match active {
        Some(active) => is_asked(&active),
        None => !generations.is_empty(),
    };
    generations.retain(|(number, _)| Some(*number) != active && !is_asked(number));
    asked.extend(active.into_iter().chain(generations.iter().map(|(number, _)| *number)));
    std::thread::scope(|scope| {
        let stop = |(number, socket): (u32, PathBuf)| {
            scope.spawn(move || (number, ask(&socket, Verb::Stop, &[])))
        };
        let others: Vec<_> = generations.into_iter().map(stop).collect();
        let mut code = match nobody_to_ask {
            true => Ok(ExitCode::SUCCESS),
            false => ask(control, Verb::Stop, &[]).and_then(|answer| told(&answer, "Stopped")),
        };
        for other in others {
            // One that left before it could answer has nothing to tell.
            let Ok((number, Ok(answer))) = other.join() else { continue };
            let ended = told(&answer, &format!("Stopped generation {number}"));
            if code.as_ref().is_ok_and(|code| *code == ExitCode::SUCCESS) {
                code = ended;
            }
        }
        code
    })
}

/// Tells how one generation ended.
fn told(answer: &Answer, who: &str) -> Result<ExitCode, Complaint> {
    let Ok(report) = serde_json::from_str::<Value>(&answer.text) else {
        return Err(Complaint::failed(
            format!("stop failed: {}", answer.text),
            "its log tells more",
        ));
    };
    print(&summary(who, &report));
    Ok(ExitCode::from(answer.code))
}

/// Asks, or says that there is nobody to ask.
pub fn ask(control: &Path, verb: Verb, arguments: &[String]) -> Result<Answer, Complaint> {
    lameduck::operate::ask(control, verb, arguments).map_err(|error| {
        if error.is_permission() {
            let hint = "only the user it runs as and root may ask a service";
            return Complaint::failed(format!("cannot {error}"), hint);
        }
        if control.is_dir() {
            let hint = "name the socket in it, as the service's own --control does";
            let control = control.display();
            return Complaint::failed(
                format!("{control} is a directory, not a control socket"),
                hint,
            );
        }
        match left_behind(control).as_slice() {
            [] => {
                let start = format!("`lameduck serve --control {}` starts one", control.display());
                Complaint::failed(format!("cannot {error}"), format!("is it running? {start}"))
            }
            left => nobody_serves(control, left),
        }
    })
}

/// The generations that live, oldest first, when none of them is the one that the name leads to.
pub fn left_behind(control: &Path) -> Vec<(u32, PathBuf)> {
    let generations = lameduck::operate::generations(control).unwrap_or_default();
    match generations.iter().any(|(_, socket)| is_active(control, socket)) {
        true => Vec::new(),
        false => generations,
    }
}

/// Whether the name leads to this socket.
fn is_active(control: &Path, socket: &Path) -> bool {
    let active = std::fs::canonicalize(control).ok();
    active.is_some() && active == std::fs::canonicalize(socket).ok()
}

/// The one that served is gone, and older ones still finish what they have in hand.
pub fn nobody_serves(control: &Path, left: &[(u32, PathBuf)]) -> Complaint {
    let numbers: Vec<String> = left.iter().map(|(number, _)| number.to_string()).collect();
    let who = match numbers.as_slice() {
        [one] => format!("generation {one} only finishes its work"),
        all => format!("generations {} only finish their work", all.join(", ")),
    };
    let control = control.display();
    Complaint::failed(
        format!("no generation serves at {control}: {who}"),
        format!(
            "start the service again, it takes the name over; `lameduck stop --control {control}` \
             ends what is left"
        ),
    )
}

/// Data for whoever reads standard output; a closed pipe has read what it wanted.
pub fn print(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

/// What somebody else wrote, in lines that cannot be taken for this command's own.
fn quote(words: &str) {
    let escaped = |c: char| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    let quoted = |line: &str| format!("| {}\n", line.chars().map(escaped).collect::<String>());
    let text: String = words.lines().map(quoted).collect();
    // Nobody reads standard error: the exit code still tells.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// A report in a line, and a line for each piece of work that was cut.
fn summary(who: &str, report: &Value) -> String {
    let took = report["ms"].as_f64().unwrap_or_default() / 1000.0;
    let mut text = format!(
        "{who}: {} in {}; finished {}; cut {}\n",
        report["outcome"].as_str().unwrap_or("ended"),
        in_words(took),
        counts(&report["finished"]),
        counts(&report["cut"]),
    );
    let word = |item: &Value, key| item[key].as_str().unwrap_or_default().to_owned();
    for item in report["cut_work"].as_array().into_iter().flatten() {
        text += &format!("  cut: {} {}\n", word(item, "kind"), word(item, "name"));
    }
    for resource in report["resources"].as_array().into_iter().flatten() {
        if resource["end"] != "closed" {
            let why = resource["error"].as_str().map_or_else(String::new, |why| format!(": {why}"));
            text += &format!("  {}: {}{why}\n", word(resource, "name"), word(resource, "end"));
        }
    }
    text
}

/// A short time in milliseconds, a longer one in seconds.
fn in_words(seconds: f64) -> String {
    match seconds < 1.0 {
        true => format!("{:.0} ms", seconds * 1000.0),
        false => format!("{seconds:.1} s"),
    }
}

/// Live, finished or cut work, each kind that there is, in the words and the order of the log: `3 requests, 1 task`.
pub fn counts(counts: &Value) -> String {
    let kinds = [
        ("requests", "request"),
        ("connections", "connection"),
        ("websockets", "websocket"),
        ("tasks", "task"),
        ("blocking", "blocking call"),
    ];
    let told = kinds.iter().filter_map(|(key, word)| match counts[*key].as_u64()? {
        0 => None,
        1 => Some(format!("1 {word}")),
        n => Some(format!("{n} {word}s")),
    });
    let told = told.collect::<Vec<_>>().join(", ");
    if told.is_empty() { "nothing".to_owned() } else { told }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_stop_is_told_in_a_line_and_a_line_for_each_loss() {
        let report = json!({
            "outcome": "deadline exceeded",
            "ms": 9012.3,
            "finished": { "requests": 3, "connections": 2, "websockets": 1, "tasks": 0, "blocking": 0 },
            "cut": { "requests": 1, "connections": 0, "tasks": 0, "blocking": 0 },
            "cut_work": [{ "kind": "request", "name": "GET /a" }],
            "resources": [
                { "name": "database", "end": "closed", "error": null },
                { "name": "counter", "end": "failed", "error": "disk full" },
            ],
        });
        assert_eq!(
            summary("Stopped", &report),
            "Stopped: deadline exceeded in 9.0 s; finished 3 requests, 2 connections, 1 websocket; cut 1 request\n  \
             cut: request GET /a\n  counter: failed: disk full\n"
        );
    }

    /// Another version may answer, or another program.
    #[test]
    fn a_time_that_means_nothing_is_no_panic() {
        for ms in [json!(-1), json!(1e300), json!("soon"), json!(null)] {
            assert!(summary("Stopped", &json!({ "ms": ms })).starts_with("Stopped: ended in "));
        }
    }

    #[test]
    fn a_stop_without_work_finished_nothing_and_cut_nothing() {
        let report = json!({ "outcome": "finished", "ms": 3.0, "finished": {}, "cut": {} });
        assert_eq!(
            summary("Stopped", &report),
            "Stopped: finished in 3 ms; finished nothing; cut nothing\n"
        );
    }
}
