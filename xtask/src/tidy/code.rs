//! Rust text made fit for searching: comments, strings and characters are blanked out, line by
//! line and byte by byte, so that places in the result are places in the file.

/// The blanked text of one Rust file.
pub struct Code {
    text: String,
    /// Where the tests at the end begin; the length of the text where there are none.
    tests_at: usize,
}

/// A function with a body.
pub struct Function {
    pub name: String,
    pub first_line: usize,
    pub lines: usize,
}

impl Code {
    pub fn of(source: &str) -> Self {
        let text = blank(source);
        let tests_at = start_of_tests(&text);
        Self { text, tests_at }
    }

    /// A file that is compiled for tests only.
    pub fn of_tests(source: &str) -> Self {
        Self { tests_at: 0, ..Self::of(source) }
    }

    /// Everything, tests included.
    pub fn all(&self) -> &str {
        &self.text
    }

    /// Everything before the test module that ends the file.
    pub fn without_tests(&self) -> &str {
        &self.text[..self.tests_at]
    }

    /// Identifiers and keywords with the line each stands on.
    pub fn words(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().flat_map(|(at, line)| words(line).map(move |w| (at + 1, w)))
    }

    /// Functions with bodies, nested ones as well.
    pub fn functions(&self) -> Vec<Function> {
        functions(&self.text)
    }
}

/// The identifiers and keywords of a piece of blanked code.
pub fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !is_word(c)).filter(|word| !word.is_empty())
}

/// The line (from 1) a byte of the text stands on.
pub fn line_at(text: &str, at: usize) -> usize {
    text[..at].bytes().filter(|byte| *byte == b'\n').count() + 1
}

pub fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn start_of_tests(code: &str) -> usize {
    let Some(at) = code.rfind("#[cfg(test)]") else { return code.len() };
    // Only a module that reaches to the end of the file is "the tests at the end".
    let after = code[at + "#[cfg(test)]".len()..].trim_start();
    let is_module = after.starts_with("mod ") && after.contains('{');
    if is_module && closes_at_end(after) { at } else { code.len() }
}

fn closes_at_end(module: &str) -> bool {
    let mut depth = 0usize;
    for (at, c) in module.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return module[at + 1..].trim().is_empty();
                }
            }
            _ => {}
        }
    }
    false
}

fn functions(code: &str) -> Vec<Function> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        if code[..at].chars().next_back().is_some_and(is_word) {
            continue;
        }
        let rest = &code[at + 3..];
        let name: String = rest.trim_start().chars().take_while(|c| is_word(*c)).collect();
        // `fn(u8) -> u8` is a type, not a function.
        if name.is_empty() {
            continue;
        }
        if let Some(end) = end_of_body(rest) {
            let first_line = line_at(code, at);
            let lines = rest[..end].matches('\n').count() + 1;
            found.push(Function { name, first_line, lines });
        }
    }
    found
}

/// Where the body after a signature ends; nothing for a signature without a body. Brackets are
/// counted, so that the `;` of `[u8; 4]` does not end the signature.
fn end_of_body(signature: &str) -> Option<usize> {
    let (mut braces, mut brackets) = (0usize, 0usize);
    for (at, c) in signature.char_indices() {
        match c {
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets = brackets.saturating_sub(1),
            ';' if braces == 0 && brackets == 0 => return None,
            '{' => braces += 1,
            '}' => {
                braces = braces.checked_sub(1)?;
                if braces == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

/// Replaces what the compiler does not read as code by spaces; newlines stay.
fn blank(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => end_of_line(bytes, at),
            b'/' if bytes[at..].starts_with(b"/*") => end_of_comment(bytes, at),
            b'"' => end_of_string(bytes, at),
            b'\'' => end_of_character(source, at),
            b'r' | b'b' | b'c' if !follows_word(bytes, at) => end_of_prefixed(source, at),
            _ => at,
        };
        if end == at {
            out.push(bytes[at]);
            at += 1;
        } else {
            out.extend(bytes[at..end].iter().map(|b| if *b == b'\n' { b'\n' } else { b' ' }));
            at = end;
        }
    }
    // Whole characters were either kept or turned into spaces byte by byte.
    String::from_utf8(out).unwrap_or_default()
}

fn follows_word(bytes: &[u8], at: usize) -> bool {
    at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_')
}

fn end_of_line(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |length| at + length)
}

fn end_of_comment(bytes: &[u8], start: usize) -> usize {
    let (mut depth, mut at) = (0usize, start);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

fn end_of_string(bytes: &[u8], quote: usize) -> usize {
    let mut at = quote + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// `'x'` and `'\n'` are characters, `'a` alone is a lifetime.
fn end_of_character(source: &str, quote: usize) -> usize {
    let rest = &source[quote + 1..];
    let mut characters = rest.char_indices();
    match characters.next() {
        Some((_, '\\')) => {
            // The character after the backslash may itself be a quote.
            let escaped = characters.next().map_or(1, |(at, c)| at + c.len_utf8());
            rest[escaped..].find('\'').map_or(quote, |length| quote + 1 + escaped + length + 1)
        }
        Some((_, first)) if rest[first.len_utf8()..].starts_with('\'') => {
            quote + 1 + first.len_utf8() + 1
        }
        _ => quote,
    }
}

/// `r"…"`, `r#"…"#`, `b"…"`, `b'…'`, `br#"…"#`, `c"…"`; the place itself where none begins.
fn end_of_prefixed(source: &str, start: usize) -> usize {
    let bytes = source.as_bytes();
    let mut at = start;
    while at < bytes.len() && at < start + 2 && matches!(bytes[at], b'r' | b'b' | b'c') {
        at += 1;
    }
    let raw = bytes[start..at].contains(&b'r');
    let hashes = bytes[at..].iter().take_while(|byte| **byte == b'#').count();
    match bytes.get(at + hashes) {
        Some(b'"') if raw => {
            let closing = format!("\"{}", "#".repeat(hashes));
            let body = at + hashes + 1;
            source[body..]
                .find(&closing)
                .map_or(bytes.len(), |length| body + length + closing.len())
        }
        Some(b'"') if hashes == 0 => end_of_string(bytes, at),
        Some(b'\'') if hashes == 0 && &bytes[start..at] == b"b" => {
            let end = end_of_character(source, at);
            if end == at { start } else { end }
        }
        _ => start,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_strings_and_characters_are_blank_and_code_stays_in_its_place() {
        let source = concat!(
            "let a = \"unsafe \\\" unsafe\"; // unsafe\n",
            "/* unsafe /* unsafe */ unsafe */ let b = 'u';\n",
            "let c = r#\"unsafe \" unsafe\"#; let d = b\"unsafe\"; let e = '\\'';\n",
            "fn f<'a>(x: &'a str) -> &'a str { x }\n",
        );
        let code = Code::of(source);
        assert!(!code.all().contains("unsafe"), "{}", code.all());
        assert_eq!(code.all().len(), source.len());
        assert_eq!(code.all().find("let e"), source.find("let e"));
        assert!(code.all().contains("fn f<'a>(x: &'a str) -> &'a str { x }"));
    }

    #[test]
    fn a_word_that_begins_like_a_raw_string_is_a_word() {
        let code = Code::of("let bar = br; let r = 1; crate::b::c(r)");
        assert_eq!(code.all(), "let bar = br; let r = 1; crate::b::c(r)");
    }

    #[test]
    fn only_a_test_module_at_the_end_is_cut_off() {
        let with = Code::of("fn a() {}\n#[cfg(test)]\nmod tests { fn b() {} }\n");
        assert_eq!(with.without_tests().trim(), "fn a() {}");
        let between = Code::of("#[cfg(test)]\nmod tests { fn b() {} }\nfn a() {}\n");
        assert!(between.without_tests().contains("fn a"));
        let item = Code::of("fn a() {}\n#[cfg(test)]\nfn only_for_tests() {}\n");
        assert!(item.without_tests().contains("only_for_tests"));
    }

    #[test]
    fn a_function_is_measured_from_its_name_to_its_last_brace() {
        let code =
            Code::of("trait T { fn no_body(&self) -> [u8; 4]; }\nfn a(\n) {\n    if x { }\n}\n");
        let found = code.functions();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].name.as_str(), found[0].first_line, found[0].lines), ("a", 2, 4));
    }
}
