//! Line 9 of postmaster.pid: what came of the last reload, for who asked for it by SIGHUP and waits.
//!
//! A signal brings no answer, so the answer lies in a file that everybody who may send the signal can read, and be told of
//! when it changes (inotify). A reload has a number, which the line says *before* the file is read:
//!
//! ```text
//! command:    edit walship.conf ; read number n ; SIGHUP ; wait for a reload > n to end
//! postmaster: SIGHUP ; line "reload n+1 reading" ; read walship.conf ; …
//! ```
//!
//! So a reload with a number larger than the one that the command has seen read the file after the command began, also
//! if it was another's signal that set it off, or many signals became one.
//!
//! The line begins and ends with number and state, so that a read in the middle of a write isn't taken for an answer;
//! the write's end is the next change to be told of.
//!
//! ```text
//! reload 7 reading 7 reading                                        the file is being read
//! reload 7 absorbing PID 4711 (WAL writer process) 7 absorbing      published; who is late, if that was asked for (SIGUSR1)
//! reload 7 done parameter "port" cannot be … 7 done                 everybody has it; what waits for a restart
//! reload 7 refused … 7 refused                                      nothing has changed; why
//! ```

use std::fmt;

/// Most bytes of text kept, so that the whole file stays small.
const TEXT_BYTES_MAX: usize = 2000;

/// How far a reload is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReloadLine {
    /// Which; 0: there was none since the start.
    pub number: u64,
    /// How far.
    pub progress: ReloadProgress,
}

/// How far a reload is; a later one stands for those before it, which it overtook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReloadProgress {
    /// The file is being read.
    Reading,
    /// Some have not absorbed it yet: who, if that was asked for.
    Absorbing(String),
    /// Every process has absorbed it. What is left to say, line by line; empty: nothing.
    Done(String),
    /// The file can't be had, or has errors: nothing has changed. Why, line by line.
    Refused(String),
}

impl ReloadLine {
    /// Before the first reload.
    pub fn none_yet() -> ReloadLine {
        ReloadLine { number: 0, progress: ReloadProgress::Done(String::new()) }
    }

    /// Reads the line; none if it isn't such a line, as in the middle of a write.
    pub fn parse(line: &str) -> Option<ReloadLine> {
        let (number, rest) = line.strip_prefix("reload ")?.split_once(' ')?;
        let (word, rest) = rest.split_once(' ')?;
        let text = rest.strip_suffix(word)?.strip_suffix(' ')?.strip_suffix(number)?;
        let text = unescape(text.strip_suffix(' ').unwrap_or(text));
        let progress = match word {
            "reading" => ReloadProgress::Reading,
            "absorbing" => ReloadProgress::Absorbing(text),
            "done" => ReloadProgress::Done(text),
            "refused" => ReloadProgress::Refused(text),
            _ => return None,
        };
        Some(ReloadLine { number: number.parse().ok()?, progress })
    }
}

impl fmt::Display for ReloadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, text) = match &self.progress {
            ReloadProgress::Reading => ("reading", ""),
            ReloadProgress::Absorbing(late) => ("absorbing", late.as_str()),
            ReloadProgress::Done(note) => ("done", note.as_str()),
            ReloadProgress::Refused(why) => ("refused", why.as_str()),
        };
        let gap = if text.is_empty() { "" } else { " " };
        write!(f, "reload {0} {word} {1}{gap}{0} {word}", self.number, escape(text))
    }
}

fn escape(text: &str) -> String {
    let mut kept = &text[..text.floor_char_boundary(TEXT_BYTES_MAX)];
    if kept.len() < text.len() {
        kept = &kept[..kept.rfind('\n').unwrap_or(kept.len())];
    }
    kept.replace('\\', "\\\\").replace('\n', "\\n")
}

fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        plain.push(match c {
            '\\' => match characters.next() {
                Some('n') => '\n',
                other => other.unwrap_or('\\'),
            },
            c => c,
        });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: u64, progress: ReloadProgress) -> ReloadLine {
        ReloadLine { number, progress }
    }

    #[test]
    fn lines_read_back() {
        for (line, text) in [
            (ReloadLine::none_yet(), "reload 0 done 0 done"),
            (line(7, ReloadProgress::Reading), "reload 7 reading 7 reading"),
            (line(7, ReloadProgress::Absorbing(String::new())), "reload 7 absorbing 7 absorbing"),
            (
                line(7, ReloadProgress::Absorbing("PID 12 (x)".into())),
                "reload 7 absorbing PID 12 (x) 7 absorbing",
            ),
            (
                line(10, ReloadProgress::Refused("a\nb \\n 3".into())),
                "reload 10 refused a\\nb \\\\n 3 10 refused",
            ),
            (line(8, ReloadProgress::Done("note 8".into())), "reload 8 done note 8 8 done"),
        ] {
            assert_eq!(line.to_string(), text);
            assert_eq!(ReloadLine::parse(text), Some(line));
        }
    }

    #[test]
    fn no_part_of_a_write_is_an_answer() {
        let states = [
            line(12, ReloadProgress::Done("as before".into())),
            line(13, ReloadProgress::Reading),
            line(13, ReloadProgress::Absorbing(String::new())),
            line(13, ReloadProgress::Absorbing("PID 4711 (WAL writer process)".into())),
            line(13, ReloadProgress::Done(String::new())),
            line(14, ReloadProgress::Reading),
            line(14, ReloadProgress::Refused("work_men in line 13".into())),
        ];
        for pair in states.windows(2) {
            let (old, new) = (format!("{}\n", pair[0]), format!("{}\n", pair[1]));
            for cut in 0..=new.len() {
                // The reader gets the beginning of the new and what was behind it.
                let mixed = format!("{}{}", &new[..cut], old.get(cut..).unwrap_or_default());
                let got = mixed.lines().next().and_then(ReloadLine::parse);
                assert!(got.is_none() || pair.contains(got.as_ref().unwrap()), "{mixed:?}: {got:?}");
            }
        }
    }

    #[test]
    fn long_texts_are_cut_between_lines() {
        let why = format!("first\n{}", "x".repeat(5000));
        let text = line(1, ReloadProgress::Refused(why)).to_string();
        assert_eq!(text, "reload 1 refused first 1 refused");
    }
}
