//! What was acknowledged, in a file: the first and the last of a run of numbers.
//!
//! Rows are written one after the other, and the next one only when the one before is known to be there; so all that there
//! is to know fits a line. The file is replaced as a whole, so it is complete whenever the client is killed; it may then be
//! one row behind what the node acknowledged, never ahead of it.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use sender::datadir::replace_file;

use super::Failure;

/// The rows from `first` to `last` were acknowledged; none if `last` is before `first`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Note {
    /// The first row that is not deleted again.
    pub first: u64,
    /// The last row that was acknowledged.
    pub last: u64,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.first, self.last)
    }
}

impl Note {
    /// Nothing was acknowledged yet.
    pub const EMPTY: Note = Note { first: 1, last: 0 };

    /// How many rows.
    pub fn count(self) -> u64 {
        (self.last + 1).saturating_sub(self.first)
    }

    /// Reads the file; `None` when there is none.
    ///
    /// # Errors
    /// It can't be read, or is no note.
    pub fn read(path: &Path) -> Result<Option<Note>, Failure> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure(format!("could not read \"{}\": {error}", path.display()))),
        };
        let note = Note::parse(&text);
        note.map(Some).ok_or_else(|| Failure(format!("\"{}\" is no note of this client", path.display())))
    }

    fn parse(text: &str) -> Option<Note> {
        let (first, last) = text.trim_end().split_once(" to ")?;
        let note = Note { first: first.parse().ok()?, last: last.parse().ok()? };
        (note.first > 0 && note.last < u64::MAX).then_some(note)
    }

    /// Replaces the file, durably.
    ///
    /// # Errors
    /// It can't be written.
    pub fn write(self, path: &Path) -> Result<(), Failure> {
        replace_file(path, format!("{self}\n").as_bytes())
            .map_err(|error| Failure(format!("could not write \"{}\": {error}", path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("note");
        assert_eq!(Note::read(&path).unwrap(), None);
        for note in [Note::EMPTY, Note { first: 1, last: 7 }, Note { first: 50_001, last: 100_000 }] {
            note.write(&path).unwrap();
            assert_eq!(Note::read(&path).unwrap(), Some(note));
        }
        assert_eq!((Note::EMPTY.count(), Note { first: 3, last: 7 }.count()), (0, 5));
    }

    #[test]
    fn what_is_no_note_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("note");
        for text in ["", "7", "0 to 3", "1 to", "1 to x", "1 to 18446744073709551615"] {
            fs::write(&path, text).unwrap();
            let said = Note::read(&path).unwrap_err().to_string();
            assert!(said.ends_with("is no note of this client"), "{said}");
        }
    }
}
