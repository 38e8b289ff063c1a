//! Parity: one scenario, two servers. A scenario is a function that drives a [`Server`] of either kind and notes what it is
//! answered; [`compare`] runs it on Walship and on a real PostgreSQL 15, and the notes must be the same, word for word.
//!
//! Nothing is expected by hand: PostgreSQL says what is right. What differs on purpose is not noted, and a comment at that place
//! says why. What can't be the same (positions, pids, identifiers) is masked or asked for as yes or no.
//!
//! `WALSHIP_PARITY` picks the servers: `walship`, `postgresql` or `both`, which is the default; without an installed PostgreSQL
//! a scenario runs on Walship alone, and says that it was not compared.

use std::fmt::Display;

use crate::client::{Answer, Client, ServerError};
use crate::programs;
use crate::scenario::{Scenario, skip};

pub mod server;
pub mod standby;

pub use self::server::Server;

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The programs of this workspace.
    Walship,
    /// PostgreSQL 15.
    PostgreSql,
}

/// What a scenario was answered, in order.
#[derive(Debug, Default)]
pub struct Notes {
    lines: Vec<String>,
}

/// Runs a scenario on both servers and panics where their answers differ.
pub fn compare(name: &str, scenario: fn(Kind, &Scenario, &mut Notes)) {
    let run = |kind: Kind| {
        let directory = Scenario::new(&format!("parity-{name}-{kind:?}").to_lowercase());
        let mut notes = Notes::default();
        scenario(kind, &directory, &mut notes);
        assert!(!notes.lines.is_empty(), "nothing was noted of {kind:?}");
        notes.lines
    };
    let wanted = std::env::var("WALSHIP_PARITY").unwrap_or_else(|_| "both".to_owned());
    match wanted.as_str() {
        "walship" => drop(run(Kind::Walship)),
        "postgresql" => drop(run(Kind::PostgreSql)),
        "both" if programs::find_postgres("postgres").is_none() => {
            drop(run(Kind::Walship));
            skip("PostgreSQL 15 is not installed: nothing was compared");
        }
        "both" => assert_same(&run(Kind::PostgreSql), &run(Kind::Walship)),
        other => panic!("WALSHIP_PARITY={other}: walship, postgresql or both"),
    }
}

/// Panics with every line in which they differ.
fn assert_same(theirs: &[String], ours: &[String]) {
    let none = String::from("(nothing)");
    let lines = theirs.len().max(ours.len());
    let pairs = (0..lines).map(|at| (theirs.get(at).unwrap_or(&none), ours.get(at).unwrap_or(&none)));
    let differ: Vec<String> = pairs
        .filter(|(theirs, ours)| theirs != ours)
        .map(|(theirs, ours)| format!("PostgreSQL: {theirs}\nWalship:    {ours}\n"))
        .collect();
    assert!(differ.is_empty(), "{} of {lines} answers differ:\n{}", differ.len(), differ.join("\n"));
}

impl Notes {
    /// Notes an answer to a question.
    pub fn note(&mut self, question: &str, answer: impl Display) {
        self.lines.push(format!("{question} => {answer}"));
    }

    /// Runs a query and notes all of its answer.
    pub fn query(&mut self, client: &mut Client, sql: &str) {
        let answer =
            client.answer(sql).map_or_else(|error| format!("lost: {error}"), |answer| shown(&answer));
        self.note(sql, answer);
    }

    /// Runs a query and notes its answer without positions of the log and identifiers of systems.
    pub fn masked(&mut self, client: &mut Client, sql: &str) {
        let answer =
            client.answer(sql).map_or_else(|error| format!("lost: {error}"), |answer| shown(&answer));
        self.note(&mask(sql), mask(&answer));
    }

    /// Runs a query and notes names and types of its columns.
    pub fn columns(&mut self, client: &mut Client, sql: &str) {
        let answer = client.answer(sql).expect("the server answers");
        let columns = answer.columns.iter().zip(&answer.types).map(|(name, kind)| format!("{name} {kind}"));
        let error = answer.error.as_ref().map(said).unwrap_or_default();
        self.note(sql, columns.collect::<Vec<_>>().join(", ") + &error);
    }
}

/// Rows, tags, notices, the error and the state of the transaction.
pub fn shown(answer: &Answer) -> String {
    let mut text = String::new();
    // Whether columns are told before a statement fails that then has no rows differs, and nobody sees it.
    if !answer.columns.is_empty() && (answer.error.is_none() || !answer.rows.is_empty()) {
        text += &format!("({})", answer.columns.join(", "));
    }
    for row in &answer.rows {
        let values: Vec<&str> = row.iter().map(|value| value.as_deref().unwrap_or("NULL")).collect();
        text += &format!(" [{}]", values.join("|"));
    }
    answer.tags.iter().for_each(|tag| text += &format!(" {tag};"));
    answer.notices.iter().for_each(|notice| text += &format!(" {}", said(notice)));
    answer.error.iter().for_each(|error| text += &format!(" {}", said(error)));
    format!("{} {}", text.trim_start(), answer.status)
}

/// An error or notice, with its detail and hint.
pub fn said(error: &ServerError) -> String {
    let ServerError { severity, sqlstate, message, detail, hint } = error;
    let more = |label: &str, text: &str| match text {
        "" => String::new(),
        text => format!(" {label}: {text}"),
    };
    format!("<{severity} {sqlstate}: {message}{}{}>", more("DETAIL", detail), more("HINT", hint))
}

/// Positions become X/X, long numbers (identifiers of systems) N.
pub fn mask(text: &str) -> String {
    let mut masked = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_part = |c: char| c.is_ascii_hexdigit() || c == '/';
        let before_is_word = masked.chars().last().is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
        if !is_part(first) || before_is_word {
            masked.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let halves: Vec<&str> = word.split('/').collect();
        let is_position = halves.len() == 2 && halves.iter().all(|half| !half.is_empty());
        let is_identifier = word.len() >= 16 && word.bytes().all(|byte| byte.is_ascii_digit());
        masked.push_str(match (is_position, is_identifier) {
            (true, _) => "X/X",
            (_, true) => "N",
            _ => word,
        });
        rest = after;
    }
    masked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_and_identifiers_are_masked_and_nothing_else() {
        for (text, expected) in [
            ("starting point 0/3000060 on timeline 1", "starting point X/X on timeline 1"),
            ("[7123456789012345678|1|16/B374D848|NULL]", "[N|1|X/X|NULL]"),
            ("and/or a/b feed the 23505 \"s_1\"", "and/or X/X feed the 23505 \"s_1\""),
        ] {
            assert_eq!(mask(text), expected);
        }
    }
}
