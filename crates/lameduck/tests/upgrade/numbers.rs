//! Numbers of processes, and whose they are: F28, where one is used again, and F31, whose children outlive it.

use std::process::Command;

use lameduck::operate::Verb;
use lameduck_verify::target::proc;

use crate::support::{BOUND, Setup, example, group, wait, wait_gone};

/// Runs a shell in the namespace that this process is the first of, and returns what it says.
fn inside(init: u32, script: &str, arguments: &[&str]) -> String {
    let mut command = Command::new("nsenter");
    command.args(["--target", &init.to_string(), "--pid", "--mount", "sh", "-c", script, "sh"]);
    let output = command.args(arguments).output().unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// F28: a successor leaves with the commit in hand, another process gets its number, and the successor is to be killed
/// because it never said that it accepts. Only root may choose the next number; as anybody else there is nothing to look at.
#[test]
fn a_process_with_the_number_of_a_successor_that_left_is_not_killed() {
    if !prerequisites::is_root() {
        return;
    }
    let service = Setup::new().alone().start();
    let init = proc::descendants(service.target.pid())[0];
    service.wish("raw ready-and-leave");
    let program = example("misbehaving_successor");
    let (control, wishes) = (service.control(), service.file("wishes"));
    let told = [program.to_str(), control.to_str(), wishes.to_str()].map(Option::unwrap);
    // The shell becomes the successor, and tells its number before.
    let successor = inside(init, "echo $$; exec \"$@\" >&2", &told);
    // The next process gets it, unless a thread of the service was quicker.
    let script = "for try in $(seq 1000); do
        echo $(($1 - 1)) > /proc/sys/kernel/ns_last_pid
        sleep 3600 > /dev/null 2>&1 &
        [ $! = $1 ] && exit 0
        kill $!
    done; exit 1";
    inside(init, script, &[&successor]);
    service.target.wait_stderr("did not say that it does", BOUND).unwrap();
    // An answer says that whatever was to be done then has been done.
    assert_eq!(service.ask(Verb::Status).code, 0);
    let name = inside(init, "cat /proc/$1/comm; kill -0 $1", &[&successor]);
    assert_eq!(name, "sleep", "process {successor} was killed");
    assert!(!service.target.stderr().contains("could not be killed"));
}

/// F31: the children that belong to an old generation end with it, and those of the new one stay.
#[test]
fn the_children_of_an_old_generation_end_with_it() {
    let service = Setup::new().wish("child").wish("probation 200").start();
    let child_of = |generation: u32| {
        let line = format!("Generation {generation} has child ");
        let words = service.target.wait_stderr(&line, BOUND).unwrap();
        let number = words.split("child ").nth(1).and_then(|rest| rest.split(' ').next());
        number.and_then(|number| number.parse::<u32>().ok()).unwrap_or_else(|| panic!("{words}"))
    };
    let old = child_of(1);
    wait(|| group(old).len() == 3, || format!("{:?}", group(old)));
    service.upgrade();
    let new = child_of(2);
    wait_gone(service.target.pid());
    wait(|| group(old).is_empty(), || format!("{:?} are left of {old}", group(old)));
    assert!(!group(new).is_empty(), "the new generation's own are there");
    service.stop();
    wait(|| group(new).is_empty(), || format!("{:?} are left of {new}", group(new)));
}
