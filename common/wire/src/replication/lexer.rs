//! Splits a replication command into tokens.
//!
//! The longest token at a place wins, so `DEAD/BEEF` is a position though `DEAD` is a word. Keywords are words in upper
//! case only; any other word is an identifier. Follows PostgreSQL 15 src/backend/replication/repl_scanner.l.

use wal::lsn::Lsn;

use crate::error::ErrorResponse;
use crate::sqlstate::SYNTAX_ERROR;
use crate::startup::truncate_name;

/// A piece of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// A word as it was written: a keyword, or an identifier that is not quoted.
    Word(String),
    /// An identifier in double quotes.
    Quoted(String),
    /// A text in single quotes.
    Text(String),
    /// A decimal number.
    Number(u32),
    /// A position in the log.
    Position(Lsn),
    /// One of `( ) , ; .`.
    Symbol(char),
}

impl Token {
    /// The name that an identifier stands for: lower case unless quoted, cut to the length of a name.
    pub(super) fn into_identifier(self) -> Option<String> {
        match self {
            Token::Word(word) if !KEYWORDS.contains(&word.as_str()) => {
                Some(truncate_name(&word.to_ascii_lowercase()).to_owned())
            }
            Token::Quoted(name) => Some(truncate_name(&name).to_owned()),
            _ => None,
        }
    }
}

/// Words that are no identifiers.
const KEYWORDS: [&str; 22] = [
    "BASE_BACKUP",
    "CREATE_REPLICATION_SLOT",
    "DROP_REPLICATION_SLOT",
    "EXPORT_SNAPSHOT",
    "IDENTIFY_SYSTEM",
    "LOGICAL",
    "NOEXPORT_SNAPSHOT",
    "PHYSICAL",
    "READ_REPLICATION_SLOT",
    "RESERVE_WAL",
    "SHOW",
    "SLOT",
    "START_REPLICATION",
    "TEMPORARY",
    "TIMELINE",
    "TIMELINE_HISTORY",
    "TWO_PHASE",
    "USE_SNAPSHOT",
    "WAIT",
    "MANIFEST",
    "MANIFEST_CHECKSUMS",
    "WAL",
];

/// The tokens of `text`.
///
/// # Errors
/// 42601: a quote without its end, a character that begins no token, a number too large.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, ErrorResponse> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_ascii_start();
    while !rest.is_empty() {
        let (token, after) = first_token(rest)?;
        tokens.push(token);
        rest = after.trim_ascii_start();
    }
    Ok(tokens)
}

/// The word at the start of `text` (after blanks), if it starts with one.
pub(super) fn first_word(text: &str) -> &str {
    let text = text.trim_ascii_start();
    if text.starts_with(is_word_start) { &text[..length_while(text, is_word_part)] } else { "" }
}

/// The first token of a text that begins with no blank, and what follows it.
fn first_token(text: &str) -> Result<(Token, &str), ErrorResponse> {
    if let Some((position, after)) = split_position(text) {
        return Ok((Token::Position(position), after));
    }
    let first = text.chars().next().ok_or_else(syntax_error)?;
    match first {
        '\'' => {
            let (content, after) = split_quoted(text, '\'')?;
            Ok((Token::Text(content), after))
        }
        '"' => {
            let (name, after) = split_quoted(text, '"')?;
            Ok((Token::Quoted(name), after))
        }
        '(' | ')' | ',' | ';' | '.' => Ok((Token::Symbol(first), &text[1..])),
        '0'..='9' => {
            let (digits, after) = text.split_at(length_while(text, |char| char.is_ascii_digit()));
            Ok((Token::Number(digits.parse().map_err(|_| syntax_error())?), after))
        }
        _ if is_word_start(first) => {
            let (word, after) = text.split_at(length_while(text, is_word_part));
            Ok((Token::Word(word.to_owned()), after))
        }
        _ => Err(syntax_error()),
    }
}

/// `hex/hex` at the start, unless a word or number there is longer.
fn split_position(text: &str) -> Option<(Lsn, &str)> {
    let high = length_while(text, |char| char.is_ascii_hexdigit());
    let low_text = text[high..].strip_prefix('/')?;
    let low = length_while(low_text, |char| char.is_ascii_hexdigit());
    let (position, after) = text.split_at(high + 1 + low);
    position.parse().ok().map(|position| (position, after))
}

/// The contents of the quotes that `text` begins with (a doubled quote is one), and what follows.
fn split_quoted(text: &str, quote: char) -> Result<(String, &str), ErrorResponse> {
    let unterminated = || ErrorResponse::error(SYNTAX_ERROR, "unterminated quoted string");
    let mut content = String::new();
    let mut rest = &text[1..];
    loop {
        let end = rest.find(quote).ok_or_else(unterminated)?;
        content.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix(quote) {
            Some(after) => {
                content.push(quote);
                rest = after;
            }
            None => return Ok((content, rest)),
        }
    }
}

fn length_while(text: &str, belongs: impl Fn(char) -> bool) -> usize {
    text.find(|char| !belongs(char)).unwrap_or(text.len())
}

fn is_word_start(char: char) -> bool {
    char.is_ascii_alphabetic() || char == '_' || !char.is_ascii()
}

fn is_word_part(char: char) -> bool {
    is_word_start(char) || char.is_ascii_digit() || char == '$'
}

pub(super) fn syntax_error() -> ErrorResponse {
    ErrorResponse::error(SYNTAX_ERROR, "syntax error")
}
