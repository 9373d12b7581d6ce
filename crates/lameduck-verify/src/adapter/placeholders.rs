//! What stands for a value that is known only when a server is started.

/// The placeholders there are.
const NAMES: [&str; 12] = [
    "port",
    "host",
    "address",
    "admin_port",
    "admin_address",
    "tls_port",
    "tls_address",
    "more_address",
    "dir",
    "build",
    "pid",
    "lameduck",
];

/// The values of one run of a server, by the placeholders' names.
#[derive(Clone, Debug, Default)]
pub struct Values(Vec<(&'static str, String)>);

impl Values {
    /// One more value. A name that is not a placeholder's stands for nothing.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Values {
        debug_assert!(NAMES.contains(&name), "{name}");
        self.0.push((name, value.into()));
        self
    }

    /// The text with the values put in. Other braces stay: configuration files are full of them.
    pub fn put_in(&self, text: &str) -> String {
        let one = |text: String, (name, value): &(&str, String)| {
            text.replace(&format!("{{{name}}}"), value)
        };
        self.0.iter().fold(text.to_owned(), one)
    }
}

/// Refuses what looks like a placeholder and is none, in a command.
pub(super) fn check(words: &[String]) -> Result<(), String> {
    let in_braces = words.iter().flat_map(|word| word.split('{').skip(1));
    for rest in in_braces {
        let Some((name, _)) = rest.split_once('}') else { continue };
        let looks_like_one =
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        if looks_like_one && !NAMES.contains(&name) {
            let names = NAMES.map(|name| format!("{{{name}}}")).join(" ");
            return Err(format!("no placeholder is called {{{name}}}; there are {names}"));
        }
    }
    Ok(())
}
