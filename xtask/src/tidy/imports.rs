//! Who may import whom inside the library.
//!
//! The arrows: an adapter (`axum`) → http → listener, connection, work; http (a feature) and the
//! adapters hang themselves on the lifecycle; lifecycle → everything but those; the pure modules → nothing
//! but `std`; `error` ← everyone. A new arrow is a change of this table, made with two readers.

use std::collections::HashMap;

use super::Fault;
use super::code;
use super::tree::Tree;

const LIBRARY: &str = "crates/lameduck/src/";
const MANIFEST: &str = "crates/lameduck/Cargo.toml";

/// Everyone may name these.
const FREE_FOR_ALL: &[&str] = &["error"];

/// Reading a clock is the driver's business alone: a pure module is told the time.
const CLOCKS: &[&str] = &["Instant::now", "SystemTime"];

/// One module for each framework, the topmost layer: nobody imports them but the front door.
const ADAPTERS: &[&str] = &["axum", "tonic"];

/// What the parts do not know.
const DRIVER_AND_ABOVE: &[&str] = &["lifecycle", "http", "child", "jobs", "axum", "tonic"];

enum Imports {
    /// These modules of the library, itself and [`FREE_FOR_ALL`].
    Only(&'static [&'static str]),
    /// Nothing of the library but [`FREE_FOR_ALL`], of other crates nothing but `std`, no clock.
    OnlyStd(&'static [&'static str]),
    /// Any but these.
    AllBut(&'static [&'static str]),
}

struct ModuleLaw {
    /// As in `crate::name`; `name::*` is every module below it without a law of its own, and `*`
    /// every other.
    module: &'static str,
    imports: Imports,
    why: &'static str,
}

const LAWS: &[ModuleLaw] = &[
    ModuleLaw {
        module: "lib",
        imports: Imports::AllBut(&[]),
        why: "the front door shows what is inside",
    },
    ModuleLaw {
        module: "error",
        imports: Imports::OnlyStd(&[]),
        why: "everyone imports it, so it imports no one",
    },
    ModuleLaw {
        module: "phase",
        imports: Imports::OnlyStd(&[]),
        why: "what happens next is decided without runtime, descriptors or clock",
    },
    ModuleLaw {
        module: "generation",
        imports: Imports::OnlyStd(&[
            "generation",
            "phase",
            "takeover",
            "takeover::wire",
            "takeover::predecessor",
            "takeover::successor",
        ]),
        why: "what one generation does is decided without runtime, descriptors or clock",
    },
    ModuleLaw {
        module: "takeover",
        imports: Imports::OnlyStd(&[
            "takeover::wire",
            "takeover::predecessor",
            "takeover::successor",
        ]),
        why: "both ends of a takeover are decided without runtime, descriptors or clock",
    },
    ModuleLaw {
        module: "takeover::wire",
        imports: Imports::OnlyStd(&[]),
        why: "bytes to messages and back, nothing else",
    },
    ModuleLaw {
        module: "takeover::*",
        imports: Imports::OnlyStd(&["takeover", "takeover::wire"]),
        why: "both ends of a takeover are decided without runtime, descriptors or clock",
    },
    ModuleLaw {
        module: "takeover::wire::*",
        imports: Imports::OnlyStd(&["takeover::wire"]),
        why: "bytes to messages and back, nothing else",
    },
    ModuleLaw {
        module: "listener::diag",
        imports: Imports::OnlyStd(&[]),
        why: "a question and its answer as bytes, nothing else",
    },
    ModuleLaw {
        module: "takeover::channel",
        imports: Imports::AllBut(DRIVER_AND_ABOVE),
        why: "descriptors and peer credentials; the driver calls it, not the other way",
    },
    ModuleLaw {
        module: "axum",
        imports: Imports::AllBut(ADAPTERS),
        why: "the topmost layer: thin, and it knows no other framework",
    },
    ModuleLaw {
        module: "tonic",
        imports: Imports::AllBut(ADAPTERS),
        why: "the topmost layer: thin, and it knows no other framework",
    },
    ModuleLaw {
        module: "http",
        imports: Imports::AllBut(&["axum", "control", "takeover"]),
        why: "a feature hangs itself on the lifecycle (`serve`), so that the core builds without it",
    },
    ModuleLaw {
        module: "http::admin",
        imports: Imports::AllBut(&["axum", "control", "takeover"]),
        why: "a feature hangs itself on the lifecycle (`serve_admin`) and shows what it sees",
    },
    ModuleLaw {
        module: "websocket::session",
        imports: Imports::AllBut(&["axum", "control"]),
        why: "a feature hangs itself on the lifecycle (`websockets`) and on HTTP's byte stream",
    },
    ModuleLaw {
        module: "http::tls",
        imports: Imports::AllBut(&["axum", "control", "takeover"]),
        why: "a feature hangs itself on the lifecycle (`serve_tls`)",
    },
    ModuleLaw {
        module: "http::streams",
        imports: Imports::AllBut(&["axum", "control", "takeover"]),
        why: "a feature hangs itself on the lifecycle (`streams`) and hears of the drain as a program would",
    },
    ModuleLaw {
        module: "http::farewell",
        imports: Imports::AllBut(&["axum", "control", "takeover"]),
        why: "WebSockets are seen off when the lifecycle asks for it, and it knows what for",
    },
    ModuleLaw {
        module: "http::*",
        imports: Imports::Only(&["listener", "connection", "handover", "websocket", "work"]),
        why: "the protocol stands on the parts and is driven without knowing by whom",
    },
    ModuleLaw {
        module: "child",
        imports: Imports::AllBut(&["http", "axum", "control", "takeover"]),
        why: "it hangs itself on the lifecycle (`child`), as a program's own task would",
    },
    ModuleLaw {
        module: "jobs",
        imports: Imports::AllBut(&["http", "axum", "control", "takeover"]),
        why: "it hangs itself on the lifecycle (`jobs`), as a program's own task and resource would",
    },
    ModuleLaw {
        module: "lifecycle",
        imports: Imports::AllBut(&["http", "child", "jobs", "axum"]),
        why: "the driver works the same with no HTTP at all, and whatever stands on top",
    },
    ModuleLaw {
        module: "*",
        imports: Imports::AllBut(DRIVER_AND_ABOVE),
        why: "the parts do not know what drives them",
    },
];

pub fn check(tree: &Tree) -> Vec<Fault> {
    let reexports = reexports(tree);
    let foreign = foreign_crates(tree);
    let mut faults = Vec::new();
    for (file, code) in tree.rust() {
        let Some(inside) = file.path.strip_prefix(LIBRARY) else { continue };
        let module = module_of(inside);
        let law = law_of(&module);
        let text = code.without_tests();
        for (line, path) in imports(text, &module) {
            let target = resolve(&path, &reexports);
            if !law.imports.allows(&module, &target) {
                let name = target.join("::");
                let text = format!("`{module}` may not import `{name}`: {}", law.why);
                faults.push(Fault::fails(&file.path, line, text));
            }
        }
        if let Imports::OnlyStd(_) = law.imports {
            for (line, name) in impurities(text, &foreign) {
                let text = format!("`{module}` may not use `{name}`: {}", law.why);
                faults.push(Fault::fails(&file.path, line, text));
            }
        }
    }
    faults
}

/// The law of a module, or else of the modules below the nearest one around it that has one.
fn law_of(module: &str) -> &'static ModuleLaw {
    let find = |name: &str| LAWS.iter().find(|law| law.module == name);
    let mut law = find(module);
    let mut around = module;
    while let (None, Some((outer, _))) = (law, around.rsplit_once("::")) {
        law = find(&format!("{outer}::*")).or_else(|| find(outer));
        around = outer;
    }
    law.unwrap_or(&LAWS[LAWS.len() - 1])
}

impl Imports {
    fn allows(&self, module: &str, target: &[String]) -> bool {
        let is_in = |names: &[&str]| names.iter().any(|name| begins_with(target, name));
        if target.is_empty() || is_in(FREE_FOR_ALL) {
            return true;
        }
        match self {
            Imports::OnlyStd(names) => is_in(names) || begins_with(target, module),
            Imports::Only(names) => is_in(names) || is_in_the_same_tree(module, target),
            Imports::AllBut(names) => !is_in(names) || is_in_the_same_tree(module, target),
        }
    }
}

fn begins_with(path: &[String], name: &str) -> bool {
    // `crate::takeover::Offer` is in `takeover`, but `crate::takeover::channel::send` is in the
    // module below it, which has a law of its own.
    let segments: Vec<&str> = name.split("::").collect();
    let below = path.get(segments.len()).map(|next| format!("{name}::{next}"));
    let has_own_law = below.is_some_and(|below| LAWS.iter().any(|law| law.module == below));
    path.iter().map(String::as_str).take(segments.len()).eq(segments.iter().copied())
        && !has_own_law
}

fn is_in_the_same_tree(module: &str, target: &[String]) -> bool {
    module.split("::").next() == target.first().map(String::as_str)
}

/// `http/h1.rs` and `http/h1/mod.rs` are `http::h1`.
fn module_of(path: &str) -> String {
    let path = path.strip_suffix(".rs").unwrap_or(path);
    path.strip_suffix("/mod").unwrap_or(path).replace('/', "::")
}

/// Every path that begins at the library's root, as the code names it: `crate::…`, and
/// `super::…` counted upwards from the module.
fn imports(code: &str, module: &str) -> Vec<(usize, Vec<String>)> {
    let here: Vec<String> =
        if module == "lib" { Vec::new() } else { module.split("::").map(str::to_owned).collect() };
    let mut found = Vec::new();
    for keyword in ["crate::", "super::"] {
        for (at, _) in code.match_indices(keyword) {
            let before = &code[..at];
            if before.ends_with("::") || before.chars().next_back().is_some_and(code::is_word) {
                continue;
            }
            let line = code::line_at(code, at);
            let mut rest = code[at..].trim_start_matches("crate::");
            let mut from = Vec::new();
            if keyword == "super::" {
                from = here.clone();
                while let Some(further) = rest.strip_prefix("super::") {
                    from.pop();
                    rest = further;
                }
            }
            let mut paths = Vec::new();
            expand(rest, &from, &mut paths);
            found.extend(paths.into_iter().map(|path| (line, path)));
        }
    }
    found
}

/// Takes `a::{b, c::d}` apart into its paths and returns what follows it.
fn expand<'code>(tree: &'code str, from: &[String], paths: &mut Vec<Vec<String>>) -> &'code str {
    let tree = tree.trim_start();
    if let Some(mut inside) = tree.strip_prefix('{') {
        loop {
            inside = expand(inside, from, paths);
            // `name as other` goes on to the next comma or brace.
            let Some(stop) = inside.find([',', '}']) else { return "" };
            let closes = inside[stop..].starts_with('}');
            inside = inside[stop + 1..].trim_start();
            if closes {
                return inside;
            }
            if let Some(after) = inside.strip_prefix('}') {
                return after;
            }
        }
    }
    let length = tree.find(|c| !code::is_word(c)).unwrap_or(tree.len());
    let (name, rest) = tree.split_at(length);
    let mut path = from.to_vec();
    if !name.is_empty() && name != "self" {
        path.push(name.to_owned());
    }
    match rest.strip_prefix("::") {
        Some(further) => expand(further, &path, paths),
        None => {
            paths.push(path);
            rest
        }
    }
}

/// What the crate root shows under a shorter name: `Lifecycle` is `lifecycle::Lifecycle`.
fn reexports(tree: &Tree) -> HashMap<String, Vec<String>> {
    let mut found = HashMap::new();
    let root = format!("{LIBRARY}lib.rs");
    let Some(code) = tree.file(&root).and_then(|file| file.code.as_ref()) else { return found };
    let text = code.without_tests();
    for (at, _) in text.match_indices("use ") {
        let mut paths = Vec::new();
        let rest = text[at + "use ".len()..].trim_start();
        let rest = rest.strip_prefix("crate::").or(rest.strip_prefix("self::")).unwrap_or(rest);
        expand(rest, &[], &mut paths);
        for path in paths.into_iter().filter(|path| path.len() > 1) {
            if let Some(name) = path.last().cloned() {
                found.insert(name, path);
            }
        }
    }
    found
}

fn resolve(path: &[String], reexports: &HashMap<String, Vec<String>>) -> Vec<String> {
    match path.first().and_then(|first| reexports.get(first)) {
        Some(full) => full.iter().chain(&path[1..]).cloned().collect(),
        None => path.to_vec(),
    }
}

/// The library's dependencies, as its code names them.
fn foreign_crates(tree: &Tree) -> Vec<String> {
    let Some(manifest) = tree.file(MANIFEST) else { return Vec::new() };
    let mut names = Vec::new();
    let mut inside = false;
    for line in manifest.text.lines() {
        if line.starts_with('[') {
            inside = line.trim() == "[dependencies]";
        } else if inside {
            let name: String =
                line.chars().take_while(|c| code::is_word(*c) || *c == '-').collect();
            if !name.is_empty() {
                names.push(name.replace('-', "_"));
            }
        }
    }
    names
}

/// Uses of other crates and of clocks.
fn impurities(code: &str, foreign: &[String]) -> Vec<(usize, String)> {
    let crates = foreign.iter().map(|name| format!("{name}::"));
    let clocks = CLOCKS.iter().map(|name| (*name).to_owned());
    let mut found = Vec::new();
    for name in crates.chain(clocks) {
        for (at, _) in code.match_indices(&name) {
            let before = &code[..at];
            let is_crate = name.ends_with("::");
            let goes_on = before.chars().next_back().is_some_and(code::is_word)
                || (is_crate && before.ends_with("::"));
            if !goes_on {
                found.push((code::line_at(code, at), name.trim_end_matches("::").to_owned()));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(files: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<(String, &str)> =
            files.iter().map(|(path, text)| (format!("{LIBRARY}{path}"), *text)).collect();
        let mut files: Vec<(&str, &str)> =
            files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
        files.push((MANIFEST, "[dependencies]\ntokio = { }\ntokio-util.workspace = true\n"));
        check(&Tree::of(&files)).into_iter().map(|fault| fault.text).collect()
    }

    #[test]
    fn a_pure_module_that_uses_a_runtime_or_a_clock_fails() {
        for (path, text) in [
            ("phase.rs", "use tokio::time::sleep;"),
            ("phase.rs", "fn f() { tokio_util::x() }"),
            ("phase.rs", "fn f() { let now = Instant::now(); }"),
            ("takeover/wire.rs", "use std::time::SystemTime;"),
            ("takeover.rs", "use crate::listener::Listener;"),
            ("takeover.rs", "use self::x; use super::work;"),
            ("takeover/mod.rs", "use crate::takeover::channel::send;"),
        ] {
            assert_eq!(faults(&[(path, text)]).len(), 1, "{path}: {text}");
        }
    }

    #[test]
    fn a_pure_module_may_use_std_its_own_parts_and_error_and_test_with_anything() {
        let phase = "use std::time::Instant;\nuse crate::error::Error;\n\
                     #[cfg(test)]\nmod tests { use tokio::time; use crate::work::Work; }\n";
        assert!(faults(&[("phase.rs", phase)]).is_empty());
        assert!(faults(&[("takeover.rs", "use crate::takeover::wire::Hello;")]).is_empty());
    }

    #[test]
    fn an_arrow_upwards_fails_however_it_is_written() {
        for text in [
            "use crate::lifecycle::Lifecycle;",
            "use crate::{error::Error, lifecycle::Lifecycle};",
            "use crate::{\n    work::{Work, Kind as K},\n    axum::serve,\n};",
            "fn f() -> crate::http::Server { }",
            "use super::lifecycle;",
        ] {
            assert_eq!(faults(&[("listener.rs", text)]).len(), 1, "{text}");
        }
        assert_eq!(faults(&[("http/h1.rs", "use super::super::lifecycle::Drive;")]).len(), 1);
        assert_eq!(faults(&[("lifecycle.rs", "use crate::axum::serve;")]).len(), 1);
        assert_eq!(faults(&[("lifecycle.rs", "use crate::http::Server;")]).len(), 1);
        assert_eq!(faults(&[("http.rs", "use crate::control::Command;")]).len(), 1);
    }

    #[test]
    fn a_name_shown_at_the_root_counts_as_the_module_it_is_from() {
        let lib = ("lib.rs", "pub use lifecycle::{Builder, Lifecycle};\npub use work::Work;");
        assert_eq!(faults(&[lib, ("work.rs", "fn f(_: crate::Lifecycle) {}")]).len(), 1);
        assert!(faults(&[lib, ("http.rs", "fn f(_: crate::Work) {}")]).is_empty());
    }

    #[test]
    fn the_arrows_of_the_design_pass() {
        assert!(
            faults(&[
                ("axum.rs", "use crate::http::Server; use crate::lifecycle::Lifecycle;"),
                ("http/h1.rs", "use crate::connection::C; use crate::http::Body; use super::x;"),
                ("lifecycle.rs", "use crate::{closing, control, phase, work};"),
                ("http.rs", "use crate::lifecycle::Lifecycle; impl Lifecycle {}"),
                ("work.rs", "use crate::report::seconds;"),
            ])
            .is_empty()
        );
    }
}
