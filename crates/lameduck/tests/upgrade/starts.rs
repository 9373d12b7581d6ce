//! First starts of one service at the same moment.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use lameduck::operate::{Verb, ask};

use crate::support::{Directory, example, free_address, times};

/// One that was started in a service's directory.
struct Started {
    child: Child,
    words: String,
    serves: bool,
}

impl Started {
    fn spawn(directory: &Path) -> Child {
        Command::new(example("misbehaving_successor"))
            .arg(directory.join("run").join("control"))
            .arg(directory.join("wishes"))
            .arg(free_address().to_string())
            .current_dir(directory)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Reads on until it listens, or has ended.
    fn watch(mut child: Child) -> Started {
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut words = String::new();
        while stderr.read_line(&mut words).unwrap() > 0 {
            if words.contains(" listens\n") {
                child.stderr = Some(stderr.into_inner());
                return Started { child, words, serves: true };
            }
        }
        Started { child, words, serves: false }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // It has ended, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn of_two_first_starts_at_once_one_serves_and_the_other_is_told() {
    for _ in 0..times(50) {
        let directory = Directory::new();
        std::fs::write(directory.path().join("wishes"), "").unwrap();
        let both = [(); 2].map(|()| Started::spawn(directory.path()));
        let mut both = both.map(Started::watch);
        both.sort_by_key(|started| !started.serves);
        let [first, second] = &mut both;
        assert!(first.serves, "{}\n{}", first.words, second.words);
        assert!(!second.serves, "{}\n{}", first.words, second.words);
        assert_eq!(second.child.wait().unwrap().code(), Some(1), "{}", second.words);
        assert!(second.words.contains("control socket"), "{}", second.words);

        let control = directory.path().join("run").join("control");
        let status = ask(&control, Verb::Status, &[]).unwrap();
        let told: serde_json::Value = serde_json::from_str(&status.text).unwrap();
        assert_eq!(told["generations"][0]["pid"], first.child.id(), "{}", status.text);
        assert_eq!(told["generations"].as_array().unwrap().len(), 1, "{}", status.text);
        assert_eq!(ask(&control, Verb::Stop, &[]).unwrap().code, 0);
        assert_eq!(first.child.wait().unwrap().code(), Some(0));
        let left = std::fs::read_dir(directory.path().join("run")).unwrap().count();
        assert_eq!(left, 0, "nothing is left behind");
    }
}
