//! The mark of each fate: a shape that tells it without colour, and the colour of its kind.

use crate::fate::{Fate, Kind};
use maud::{Markup, html};
use serde_json::json;

/// A shape in a box of twelve by twelve, as an SVG path; the script draws the same path on its canvas.
pub(super) struct Glyph {
    kind: &'static str,
    path: &'static str,
    paint: Paint,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Paint {
    Fill,
    Stroke,
}

impl Glyph {
    pub(super) fn of(fate: Fate) -> Glyph {
        let (path, paint) = match fate {
            Fate::Answered => ("M1 4.5h10v3h-10z", Paint::Fill),

            // Not sent: outlines.
            Fate::Refused => ("M6 1.5a4.5 4.5 0 1 0 .01 0z", Paint::Stroke),
            Fate::ConnectTimedOut => ("M6 1.5a4.5 4.5 0 1 0 .01 0zM6 3.5v2.5l2 1.5", Paint::Stroke),
            Fate::ConnectFailed => ("M6 1.5a4.5 4.5 0 1 0 .01 0zM3 9l6 -6", Paint::Stroke),
            Fate::ClosedBeforeSend => ("M2 2h8v8h-8z", Paint::Stroke),
            Fate::GoAwayExcluded => ("M6 1l5 5l-5 5l-5 -5z", Paint::Stroke),

            // Lost: crosses for resets, solid shapes for the others.
            Fate::ResetBeforeResponse => ("M2 2l8 8M10 2l-8 8", Paint::Stroke),
            Fate::ResetMidResponse => ("M2 2l8 8M10 2l-8 8M1 6h10", Paint::Stroke),
            Fate::EofBeforeResponse => ("M1 2h10l-5 9z", Paint::Fill),
            Fate::Truncated => ("M1 1v10h10z", Paint::Fill),
            Fate::TimedOut => ("M2 1h8l-8 10h8z", Paint::Fill),
            Fate::Http5xx => ("M1.5 1.5h9v9h-9z", Paint::Fill),
            Fate::HttpOther => ("M6 .5l5.5 5.5l-5.5 5.5l-5.5 -5.5z", Paint::Fill),
            Fate::Malformed => ("M1.5 11v-10h2v10zM5 11v-10h2v10zM8.500 11v-10h2v10z", Paint::Fill),
            Fate::StreamReset => ("M6 1v10M1 6h10", Paint::Stroke),
            Fate::IdleCloseRace => ("M1 1.500l5 4.5l-5 4.5zM11 1.500l-5 4.5l5 4.5z", Paint::Fill),
            Fate::Duplicated => ("M1 3.500h6v6h-6zM5 1.500h6v6h-6z", Paint::Stroke),
            Fate::Stale => ("M6 1.500a4.5 4.5 0 1 0 .01 0zM6 3.500v3h2.500", Paint::Fill),
        };
        let kind = match fate.kind() {
            Kind::Answered => "answered",
            Kind::NotSent => "unsent",
            Kind::Lost => "lost",
        };
        Glyph { kind, path, paint }
    }

    pub(super) fn svg(&self) -> Markup {
        let paint = if self.paint == Paint::Fill { "fill" } else { "stroke" };
        html! {
            svg class=(format!("glyph {} {paint}", self.kind)) viewBox="0 0 12 12" aria-hidden="true" {
                path d=(self.path) {}
            }
        }
    }
}

/// Every fate with its mark, in the order of [`Fate::ALL`]: what the script draws with.
pub(super) fn as_json() -> String {
    let each = Fate::ALL.map(|fate| {
        let Glyph { kind, path, paint } = Glyph::of(fate);
        json!([fate.name(), fate.words(), kind, path, paint == Paint::Fill])
    });
    serde_json::Value::from_iter(each).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_fates_look_the_same_without_colour() {
        for (place, fate) in Fate::ALL.into_iter().enumerate() {
            for other in &Fate::ALL[..place] {
                assert_ne!(Glyph::of(fate).path, Glyph::of(*other).path, "{fate:?}, {other:?}");
            }
        }
    }
}
