//! Writes the few JSON objects the library prints. No reader, no types: a serializer would be the library's
//! largest dependency.

use std::fmt::Write;
use std::time::Duration;

/// Builds one JSON object, in order.
pub(crate) struct Object {
    text: String,
}

impl Object {
    pub(crate) fn new() -> Object {
        Object { text: "{".to_owned() }
    }

    fn key(&mut self, key: &str) {
        if self.text.len() > 1 {
            self.text.push(',');
        }
        string(&mut self.text, key);
        self.text.push(':');
    }

    pub(crate) fn string(mut self, key: &str, value: &str) -> Object {
        self.key(key);
        string(&mut self.text, value);
        self
    }

    pub(crate) fn optional(self, key: &str, value: Option<&str>) -> Object {
        match value {
            Some(value) => self.string(key, value),
            None => self.raw(key, "null"),
        }
    }

    pub(crate) fn number(self, key: &str, value: u64) -> Object {
        self.raw(key, &value.to_string())
    }

    pub(crate) fn flag(self, key: &str, value: bool) -> Object {
        self.raw(key, if value { "true" } else { "false" })
    }

    /// Milliseconds with three decimals.
    pub(crate) fn millis(self, key: &str, value: Duration) -> Object {
        self.raw(key, &format!("{:.3}", value.as_secs_f64() * 1000.0))
    }

    pub(crate) fn optional_millis(self, key: &str, value: Option<Duration>) -> Object {
        match value {
            Some(value) => self.millis(key, value),
            None => self.raw(key, "null"),
        }
    }

    /// A value that is JSON already.
    pub(crate) fn raw(mut self, key: &str, value: &str) -> Object {
        self.key(key);
        self.text.push_str(value);
        self
    }

    pub(crate) fn array(mut self, key: &str, values: impl IntoIterator<Item = String>) -> Object {
        self.key(key);
        self.text.push('[');
        for (index, value) in values.into_iter().enumerate() {
            if index > 0 {
                self.text.push(',');
            }
            self.text.push_str(&value);
        }
        self.text.push(']');
        self
    }

    pub(crate) fn end(mut self) -> String {
        self.text.push('}');
        self.text
    }
}

/// Appends `value` as a JSON string (RFC 8259 §7).
pub(crate) fn string(text: &mut String, value: &str) {
    text.push('"');
    for c in value.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            c if u32::from(c) < 0x20 => {
                let _ = write!(text, "\\u{:04x}", u32::from(c));
            }
            c => text.push(c),
        }
    }
    text.push('"');
}

/// `value` as a JSON string.
pub(crate) fn quoted(value: &str) -> String {
    let mut text = String::with_capacity(value.len() + 2);
    string(&mut text, value);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_client_sends_as_a_path_stays_inside_its_string() {
        assert_eq!(quoted("GET /\"\\\n\u{1}é"), "\"GET /\\\"\\\\\\n\\u0001é\"");
    }

    #[test]
    fn an_object_keeps_its_order() {
        let text = Object::new()
            .string("a", "b")
            .number("n", 3)
            .optional("none", None)
            .millis("ms", Duration::from_micros(1500))
            .array("list", [quoted("x"), quoted("y")])
            .end();
        assert_eq!(text, r#"{"a":"b","n":3,"none":null,"ms":1.500,"list":["x","y"]}"#);
    }
}
