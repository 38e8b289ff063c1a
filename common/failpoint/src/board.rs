//! The board: words shared by a node's processes and the test, by which the test says what is to happen where, and sees
//! what has.
//!
//! ```text
//! per point, five words:  | 0 | hits so far | 1 | action | 2 | hits to go | 3 | by whom (mask) | 4 | pid of who did it |
//! ```
//!
//! Words 1 and 4 hand over: the test writes 4, 2, 3, then 1 (release). A process that hits the point and finds an action
//! (acquire) that is meant for its kind takes one off word 2; who takes the last one clears word 1, writes its pid into
//! word 4 and acts. So an action is taken once, by one process, however many hit the point at once, and a node that
//! starts again because of it isn't met by it again.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::{Action, Moment, Point, Process, Site};

const HITS: usize = 0;
const ACTION: usize = 1;
const TO_GO: usize = 2;
const BY_WHOM: usize = 3;
const DONE_BY: usize = 4;
const WORDS_PER_POINT: usize = 5;

/// The words; see the module's header.
#[derive(Clone, Copy, Debug)]
pub struct Board {
    words: &'static [AtomicU32],
}

impl Board {
    /// Bytes that a board needs. All zero is one without hits and actions.
    pub const BYTES: usize = Site::ALL.len() * 2 * WORDS_PER_POINT * size_of::<AtomicU32>();

    /// The board in `words`, of [`Board::BYTES`] bytes at least.
    pub fn new(words: &'static [AtomicU32]) -> Board {
        assert!(size_of_val(words) >= Board::BYTES, "a board of another version");
        Board { words }
    }

    /// How often processes were there so far.
    pub fn hits(&self, point: Point) -> u32 {
        self.word(point, HITS).load(Ordering::Relaxed)
    }

    /// Has `action` happen at the `hit`-th time (1: the next) that a process of one of the kinds `by` (none: of any kind)
    /// is there. Replaces what was to happen there.
    pub fn arm(&self, point: Point, action: Action, hit: u32, by: &[Process]) {
        self.disarm(point);
        self.word(point, DONE_BY).store(0, Ordering::Relaxed);
        self.word(point, TO_GO).store(hit, Ordering::Relaxed);
        let mask = by.iter().fold(0, |mask, process| mask | process.bit());
        self.word(point, BY_WHOM).store(mask, Ordering::Relaxed);
        self.word(point, ACTION).store(action as u32, Ordering::Release);
    }

    /// Nothing is to happen there any more.
    pub fn disarm(&self, point: Point) {
        self.word(point, ACTION).store(0, Ordering::Relaxed);
    }

    /// Whether the last hit has come: it has happened, or does just now.
    pub fn is_taken(&self, point: Point) -> bool {
        self.word(point, TO_GO).load(Ordering::Relaxed) == 0
    }

    /// The process to which it has happened, if it has.
    pub fn done_by(&self, point: Point) -> Option<i32> {
        match self.word(point, DONE_BY).load(Ordering::Acquire) {
            0 => None,
            pid => i32::try_from(pid).ok(),
        }
    }

    /// A process of that kind is there: what it has to do.
    pub fn hit(&self, point: Point, process: Process) -> Option<Action> {
        self.word(point, HITS).fetch_add(1, Ordering::Relaxed);
        let action = Action::from_code(self.word(point, ACTION).load(Ordering::Acquire))?;
        let by = self.word(point, BY_WHOM).load(Ordering::Relaxed);
        if by != 0 && by & process.bit() == 0 {
            return None;
        }
        let to_go = self.word(point, TO_GO);
        // Fails at 0: somebody else was the last one.
        let before = to_go.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1));
        if before != Ok(1) {
            return None;
        }
        self.disarm(point);
        self.word(point, DONE_BY).store(std::process::id(), Ordering::Release);
        Some(action)
    }

    fn word(&self, point: Point, word: usize) -> &'static AtomicU32 {
        let row = point.site as usize * 2 + usize::from(point.moment == Moment::After);
        &self.words[row * WORDS_PER_POINT + word]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board() -> Board {
        let words = (0..Board::BYTES / size_of::<AtomicU32>()).map(|_| AtomicU32::new(0));
        Board::new(Box::leak(words.collect()))
    }

    const POINT: Point = Point { site: Site::LogSync, moment: Moment::After };

    #[test]
    fn action_happens_once_at_its_hit_to_the_kind_it_is_for() {
        let board = board();
        assert_eq!(board.hit(POINT, Process::Startup), None);
        board.arm(POINT, Action::Eio, 3, &[Process::WalWriter, Process::Startup]);
        let kinds = [Process::Startup, Process::Backend, Process::WalWriter, Process::Backend];
        assert!(kinds.iter().all(|kind| board.hit(POINT, *kind).is_none()));
        assert_eq!(board.done_by(POINT), None);
        assert_eq!(board.hit(POINT, Process::Startup), Some(Action::Eio));
        assert_eq!(board.done_by(POINT), i32::try_from(std::process::id()).ok());
        assert_eq!(board.hit(POINT, Process::Startup), None);
        assert_eq!(board.hits(POINT), 7);
    }

    #[test]
    fn points_have_words_of_their_own() {
        let board = board();
        for point in Point::all() {
            board.arm(point, Action::Pause, 1, &[]);
            assert_eq!(board.hit(point, Process::Command), Some(Action::Pause), "{point}");
        }
        assert!(Point::all().all(|point| board.hits(point) == 1));
    }

    #[test]
    fn disarmed_point_does_nothing() {
        let board = board();
        board.arm(POINT, Action::Kill, 1, &[]);
        board.disarm(POINT);
        assert_eq!(board.hit(POINT, Process::Startup), None);
    }
}
