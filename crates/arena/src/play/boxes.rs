//! The rules of dots and boxes, and nothing else.
//!
//! Sixteen dots, twenty-four lines between them, nine boxes. The players draw one line after the other; who closes a box
//! owns it and draws again. When no line is left, the one with more boxes has won; nine boxes leave no draw.

/// Boxes in a row, and rows.
pub const SIDE: usize = 3;
/// Lines that can be drawn: first the horizontal ones, row by row, then the vertical ones.
pub const LINES: usize = 2 * SIDE * (SIDE + 1);
/// Boxes that can be owned, row by row.
pub const BOXES: usize = SIDE * SIDE;

/// One of the two players: 0 draws first.
pub type Player = usize;

/// Why a line is not drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It is the other one's turn.
    NotYourTurn,
    /// There are no such two dots.
    NoSuchLine,
    /// It was drawn before.
    Drawn,
    /// No line is left.
    Over,
}

impl Refusal {
    /// In a few words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Refusal::NotYourTurn => "it is not your turn",
            Refusal::NoSuchLine => "there is no such line",
            Refusal::Drawn => "that line is drawn",
            Refusal::Over => "the match is over",
        }
    }
}

/// A match under way, or over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Boxes {
    lines: [Option<Player>; LINES],
    owners: [Option<Player>; BOXES],
    turn: Player,
}

impl Boxes {
    /// An empty board.
    #[must_use]
    pub fn new() -> Boxes {
        Boxes::default()
    }

    /// Draws a line.
    ///
    /// # Errors
    ///
    /// When the rules do not allow it; nothing has changed then.
    pub fn draw(&mut self, player: Player, line: usize) -> Result<(), Refusal> {
        if self.is_over() {
            return Err(Refusal::Over);
        }
        if player != self.turn {
            return Err(Refusal::NotYourTurn);
        }
        match self.lines.get_mut(line) {
            None => return Err(Refusal::NoSuchLine),
            Some(Some(_)) => return Err(Refusal::Drawn),
            Some(free) => *free = Some(player),
        }
        let mut closed = 0;
        for at in 0..BOXES {
            let is_closed = sides(at).iter().all(|side| self.lines[*side].is_some());
            if is_closed && self.owners[at].is_none() {
                self.owners[at] = Some(player);
                closed += 1;
            }
        }
        if closed == 0 {
            self.turn = 1 - player;
        }
        Ok(())
    }

    /// Who drew each line.
    #[must_use]
    pub fn lines(&self) -> &[Option<Player>; LINES] {
        &self.lines
    }

    /// Who owns each box.
    #[must_use]
    pub fn owners(&self) -> &[Option<Player>; BOXES] {
        &self.owners
    }

    /// Whose turn it is.
    #[must_use]
    pub fn turn(&self) -> Player {
        self.turn
    }

    /// How many boxes each owns.
    #[must_use]
    pub fn score(&self) -> [usize; 2] {
        [0, 1].map(|player| self.owners.iter().filter(|owner| **owner == Some(player)).count())
    }

    /// Whether no line is left.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.lines.iter().all(Option::is_some)
    }
}

/// The four lines around a box.
fn sides(at: usize) -> [usize; 4] {
    let (row, column) = (at / SIDE, at % SIDE);
    let horizontal = row * SIDE + column;
    let vertical = SIDE * (SIDE + 1) + row * (SIDE + 1) + column;
    [horizontal, horizontal + SIDE, vertical, vertical + 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_closes_a_box_owns_it_and_draws_again() {
        let mut game = Boxes::new();
        let [top, bottom, left, right] = sides(4);
        for (player, line) in [(0, top), (1, bottom), (0, left)] {
            assert_eq!(game.draw(player, line), Ok(()));
        }
        assert_eq!(game.draw(0, right), Err(Refusal::NotYourTurn));
        assert_eq!(game.draw(1, left), Err(Refusal::Drawn));
        assert_eq!(game.draw(1, LINES), Err(Refusal::NoSuchLine));
        assert_eq!(game.draw(1, right), Ok(()));
        assert_eq!((game.owners()[4], game.turn(), game.score()), (Some(1), 1, [0, 1]));
    }

    #[test]
    fn every_match_ends_with_all_boxes_owned_and_a_winner() {
        let mut game = Boxes::new();
        for line in 0..LINES {
            assert!(!game.is_over());
            assert_eq!(game.draw(game.turn(), line), Ok(()));
        }
        let [first, second] = game.score();
        assert!(game.is_over() && first + second == BOXES && first != second);
        assert_eq!(game.draw(game.turn(), 0), Err(Refusal::Over));
    }
}
