//! The history of a timeline: the timelines it descends from, and where each was left for the next.
//!
//! A history file holds one line for each timeline left, oldest first: `parent <TAB> switch point <TAB> reason`. The
//! timeline whose file it is is not listed; the first timeline has no file. Lines that begin with '#' and blank lines
//! mean nothing. Timelines rise strictly.
//!
//! Follows PostgreSQL 15 src/backend/access/transam/timeline.c.

use std::fmt;

use crate::lsn::Lsn;
use crate::timeline::TimelineId;

/// A timeline and those that it descends from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineHistory {
    tli: TimelineId,
    entries: Vec<HistoryEntry>,
    /// The file as it was read or is to be written: a child's file begins with it, comments and all.
    text: String,
}

/// A timeline that was left for another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The timeline that was left.
    pub tli: TimelineId,
    /// Where it was left: the first position that does not belong to it.
    pub switch_point: Lsn,
    /// Why, for people: "no recovery target specified".
    pub reason: String,
}

/// A history file that cannot be one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryError {
    /// PostgreSQL's message.
    pub message: String,
    /// PostgreSQL's hint.
    pub hint: &'static str,
}

impl fmt::Display for HistoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.hint)
    }
}

impl std::error::Error for HistoryError {}

impl TimelineHistory {
    /// The history of a timeline that has no history file: that of the first timeline, or of one whose file is not at
    /// hand.
    pub fn without_file(tli: TimelineId) -> TimelineHistory {
        TimelineHistory { tli, entries: Vec::new(), text: String::new() }
    }

    /// Reads the history file of timeline `tli`.
    pub fn parse(tli: TimelineId, text: &str) -> Result<TimelineHistory, HistoryError> {
        let mut entries: Vec<HistoryEntry> = Vec::new();
        for line in text.lines() {
            let line = line.trim_start();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let entry = parse_line(line)?;
            if entries.last().is_some_and(|last| entry.tli <= last.tli) {
                return Err(HistoryError {
                    message: format!("invalid data in history file: {line}"),
                    hint: "Timeline IDs must be in increasing sequence.",
                });
            }
            entries.push(entry);
        }
        if entries.last().is_some_and(|last| tli <= last.tli) {
            let name = crate::segment::history_file_name(tli);
            return Err(HistoryError {
                message: format!("invalid data in history file \"{name}\""),
                hint: "Timeline IDs must be less than child timeline's ID.",
            });
        }
        Ok(TimelineHistory { tli, entries, text: text.to_owned() })
    }

    /// The history of a new timeline that forks off this one at `switch_point`. `reason` is one line for people.
    ///
    /// Panics if `tli` is not greater than this timeline's number: the caller picked it to be.
    pub fn child(&self, tli: TimelineId, switch_point: Lsn, reason: &str) -> TimelineHistory {
        assert!(tli > self.tli, "a child's number is greater than its parent's");
        let reason = reason.replace(['\n', '\r'], " ");
        let mut text = self.text.clone();
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&format!("{}\t{switch_point}\t{reason}\n", self.tli));
        let mut entries = self.entries.clone();
        entries.push(HistoryEntry { tli: self.tli, switch_point, reason });
        TimelineHistory { tli, entries, text }
    }

    /// The content of the history file; empty for a timeline that has none.
    pub fn format(&self) -> &str {
        &self.text
    }

    /// The timeline whose history this is.
    pub fn tli(&self) -> TimelineId {
        self.tli
    }

    /// The timelines that were left, oldest first.
    pub fn entries(&self) -> &[HistoryEntry] {
        &self.entries
    }

    /// The timeline that the byte at `lsn` belongs to.
    pub fn tli_of_point(&self, lsn: Lsn) -> TimelineId {
        self.entries.iter().find(|entry| lsn < entry.switch_point).map_or(self.tli, |entry| entry.tli)
    }

    /// Where `tli` was left for the next; `None` if it never was (it is this timeline) or is not in this history.
    pub fn switch_point(&self, tli: TimelineId) -> Option<Lsn> {
        self.entries.iter().find(|entry| entry.tli == tli).map(|entry| entry.switch_point)
    }

    /// The timeline for which `tli` was left; `None` as for [`TimelineHistory::switch_point`].
    pub fn next_tli(&self, tli: TimelineId) -> Option<TimelineId> {
        let index = self.entries.iter().position(|entry| entry.tli == tli)?;
        Some(self.entries.get(index + 1).map_or(self.tli, |entry| entry.tli))
    }

    /// Whether `tli` is this timeline or one that it descends from.
    pub fn contains(&self, tli: TimelineId) -> bool {
        tli == self.tli || self.is_child_of(tli)
    }

    /// Whether this timeline descends from `tli`.
    pub fn is_child_of(&self, tli: TimelineId) -> bool {
        self.entries.iter().any(|entry| entry.tli == tli)
    }

    /// Whether the log of `tli` up to `lsn` is part of this history: a node there can follow this timeline.
    pub fn contains_point(&self, tli: TimelineId, lsn: Lsn) -> bool {
        tli == self.tli || self.switch_point(tli).is_some_and(|switch_point| lsn <= switch_point)
    }

    /// Where the logs of this history and of another's part: the timeline that both were on, and the first position that
    /// they needn't have in common. `Lsn::MAX`: the other has all of this one's log.
    ///
    /// Two promotions to the same number, even at one position, are told apart by their reasons.
    pub fn fork_point(&self, other: &TimelineHistory) -> (TimelineId, Lsn) {
        let mut fork = (self.entries.first().map_or(self.tli, |entry| entry.tli), Lsn::INVALID);
        for number in 0..=self.entries.len() {
            let (ours, theirs) = (self.stretch(number), other.stretch(number));
            let (Some((tli, left)), Some((their_tli, their_left))) = (ours, theirs) else { return fork };
            if tli != their_tli {
                return fork;
            }
            fork = (
                tli,
                match (left, their_left) {
                    (None, None) => Lsn::MAX,
                    (Some(entry), None) | (None, Some(entry)) => entry.switch_point,
                    (Some(ours), Some(theirs)) => ours.switch_point.min(theirs.switch_point),
                },
            );
            if left.is_none() || left != their_left {
                return fork;
            }
        }
        fork
    }

    /// The n-th timeline from the oldest, and how it was left; the last one wasn't.
    fn stretch(&self, number: usize) -> Option<(TimelineId, Option<&HistoryEntry>)> {
        match self.entries.get(number) {
            Some(entry) => Some((entry.tli, Some(entry))),
            None => (number == self.entries.len()).then_some((self.tli, None)),
        }
    }

    /// The timelines newest first, each with the position where it begins (0 for the oldest).
    pub fn newest_first(&self) -> impl Iterator<Item = (TimelineId, Lsn)> + '_ {
        let ended = self.entries.iter().rev().map(|entry| entry.switch_point).chain([Lsn::INVALID]);
        std::iter::once(self.tli).chain(self.entries.iter().rev().map(|entry| entry.tli)).zip(ended)
    }
}

fn parse_line(line: &str) -> Result<HistoryEntry, HistoryError> {
    let wrong = |hint| HistoryError { message: format!("syntax error in history file: {line}"), hint };
    let mut fields = line.splitn(2, char::is_whitespace);
    let tli = fields.next().unwrap_or_default();
    let tli = tli.parse().map_err(|_| wrong("Expected a numeric timeline ID."))?;
    let rest = fields.next().unwrap_or_default().trim_start();
    let (switch_point, reason) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let no_location = |_| wrong("Expected a write-ahead log switchpoint location.");
    let switch_point = switch_point.parse().map_err(no_location)?;
    Ok(HistoryEntry { tli, switch_point, reason: reason.trim().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str =
        "# a comment\n\n1\t0/A02040\tno recovery target specified\n  2 1/0 before 2026-01-01\n4\t1/20";

    fn history() -> TimelineHistory {
        TimelineHistory::parse(TimelineId(5), FILE).unwrap()
    }

    #[test]
    fn history_file_is_read() {
        let history = history();
        assert_eq!(
            history.entries()[0],
            HistoryEntry {
                tli: TimelineId(1),
                switch_point: Lsn(0xA0_2040),
                reason: "no recovery target specified".into()
            }
        );
        assert_eq!(history.entries()[1].reason, "before 2026-01-01");
        assert_eq!(history.entries()[2].switch_point, Lsn(0x1_0000_0020));
        assert_eq!(history.format(), FILE);
    }

    #[test]
    fn history_answers() {
        let history = history();
        for (lsn, tli) in
            [(0, 1), (0xA0_203F, 1), (0xA0_2040, 2), (1 << 32, 4), (0x1_0000_0020, 5), (u64::MAX, 5)]
        {
            assert_eq!(history.tli_of_point(Lsn(lsn)), TimelineId(tli), "{lsn:X}");
        }
        assert_eq!(history.switch_point(TimelineId(2)), Some(Lsn(1 << 32)));
        assert_eq!(history.switch_point(TimelineId(5)), None);
        assert_eq!(history.switch_point(TimelineId(3)), None);
        assert_eq!(history.next_tli(TimelineId(2)), Some(TimelineId(4)));
        assert_eq!(history.next_tli(TimelineId(4)), Some(TimelineId(5)));
        assert_eq!(history.next_tli(TimelineId(5)), None);
        assert!(history.contains(TimelineId(5)) && history.contains(TimelineId(1)));
        assert!(!history.contains(TimelineId(3)));
        assert!(history.is_child_of(TimelineId(4)) && !history.is_child_of(TimelineId(5)));
        assert!(history.contains_point(TimelineId(1), Lsn(0xA0_2040)));
        assert!(!history.contains_point(TimelineId(1), Lsn(0xA0_2041)));
        let newest: Vec<_> = history.newest_first().map(|(tli, begin)| (tli.0, begin.0)).collect();
        assert_eq!(newest, [(5, 0x1_0000_0020), (4, 1 << 32), (2, 0xA0_2040), (1, 0)]);
    }

    #[test]
    fn history_of_a_child_is_the_parents_and_one_line() {
        let first = TimelineHistory::without_file(TimelineId::FIRST);
        let second = first.child(TimelineId(2), Lsn(0xA0_2040), "no recovery target specified");
        assert_eq!(second.format(), "1\t0/A02040\tno recovery target specified\n");
        let sixth = history().child(TimelineId(6), Lsn(0x1_0000_0040), "two\nlines");
        assert_eq!(sixth.format(), format!("{FILE}\n5\t1/40\ttwo lines\n"));
        assert_eq!(TimelineHistory::parse(TimelineId(6), sixth.format()), Ok(sixth));
    }

    #[test]
    fn fork_point_is_where_the_first_different_promotion_was() {
        let of = |tli, text: &str| TimelineHistory::parse(TimelineId(tli), text).unwrap();
        let first = TimelineHistory::without_file(TimelineId(1));
        let fork = |ours: &TimelineHistory, theirs: &TimelineHistory| {
            let (tli, lsn) = ours.fork_point(theirs);
            (tli.0, lsn.0)
        };
        let max = u64::MAX;
        let two = of(2, "1\t0/200\ta\n");
        assert_eq!(fork(&first, &first), (1, max));
        assert_eq!(fork(&first, &two), (1, 0x200));
        assert_eq!(fork(&two, &first), (1, 0x200));
        assert_eq!(fork(&two, &two), (2, max));
        // Two promotions to one number: at different positions, and at the same.
        assert_eq!(fork(&two, &of(2, "1\t0/180\tb\n")), (1, 0x180));
        assert_eq!(fork(&two, &of(2, "1\t0/200\tb\n")), (1, 0x200));
        assert_eq!(fork(&two, &of(3, "1\t0/200\tb\n")), (1, 0x200));
        // Of the same descent.
        let three = of(3, "1\t0/200\ta\n2\t0/300\tc\n");
        assert_eq!(fork(&two, &three), (2, 0x300));
        assert_eq!(fork(&three, &two), (2, 0x300));
        assert_eq!(fork(&three, &of(4, "1\t0/200\ta\n2\t0/280\td\n")), (2, 0x280));
        assert_eq!(fork(&three, &of(4, "1\t0/200\ta\n3\t0/280\td\n")), (1, 0x200));
        // Nothing in common.
        assert_eq!(fork(&of(7, "5\t0/200\ta\n"), &two), (5, 0));
    }

    #[test]
    fn history_faults_have_postgresql_messages() {
        let increasing = "Timeline IDs must be in increasing sequence.";
        let less = "Timeline IDs must be less than child timeline's ID.";
        let numeric = "Expected a numeric timeline ID.";
        let location = "Expected a write-ahead log switchpoint location.";
        for (text, message, hint) in [
            ("x\t0/1\tr", "syntax error in history file: x\t0/1\tr", numeric),
            ("1", "syntax error in history file: 1", location),
            ("1\tnonsense", "syntax error in history file: 1\tnonsense", location),
            ("2\t0/1\tr\n2\t0/2\tr", "invalid data in history file: 2\t0/2\tr", increasing),
            ("5\t0/1\tr", "invalid data in history file \"00000005.history\"", less),
        ] {
            let error = TimelineHistory::parse(TimelineId(5), text).unwrap_err();
            assert_eq!((error.message.as_str(), error.hint), (message, hint));
        }
    }
}
