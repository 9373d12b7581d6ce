//! Words of somebody else's that are to fit: into a line, a frame, a message.

/// The beginning of `text` that has `most` bytes at the most, cut at a character.
pub(crate) fn cut(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The same without control characters, which would end a line or move a cursor.
pub(crate) fn printable(text: &str, most: usize) -> String {
    let mut text: String = text.chars().filter(|c| !c.is_control()).collect();
    text.truncate(cut(&text, most).len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_at_a_character() {
        assert_eq!([cut("öö", 4), cut("öö", 3), cut("öö", 1), cut("", 9)], ["öö", "ö", "", ""]);
    }

    #[test]
    fn what_ends_a_line_or_moves_a_cursor_is_left_out_before_it_is_cut() {
        assert_eq!(printable("a\n\u{1b}[2J\u{85}öz", 7), "a[2Jöz");
        assert_eq!(printable("a\nöz", 2), "a");
    }
}
