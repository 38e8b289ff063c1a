//! WAIT FOR LSN, read to its end. What its options say is the session's business, which knows units and positions.
//!
//! ```text
//! WAIT FOR LSN 'X/X' [ WITH ( option [ value ] [, ...] ) ]
//! WAIT FOR LSN 'X/X' TIMEOUT value        -- short for WITH (TIMEOUT value)
//! ```
//!
//! Follows PostgreSQL 19 src/backend/parser/gram.y (WaitStmt); the short form is our own.

use super::Kind;
use super::classify::Words;
use super::lexer::TokenKind;
use super::rewrite::string_content;
use crate::error::SqlError;

/// The command as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitForLsn {
    /// The position's text.
    pub lsn: String,
    /// In the order in which they were given.
    pub options: Vec<WaitOption>,
}

/// One option of the command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitOption {
    /// Lower case, unless it was quoted.
    pub name: String,
    /// Its value's text, if it has one.
    pub value: Option<String>,
    /// Where its name begins in the statement, bytes.
    pub offset: usize,
}

/// Behind WAIT.
pub(super) fn wait(words: &mut Words<'_>) -> Result<Kind, SqlError> {
    words.expect("FOR")?;
    words.expect("LSN")?;
    let lsn = string(words)?.ok_or_else(|| words.unexpected())?;
    let mut options = Vec::new();
    if words.peek_is("TIMEOUT") {
        options.push(option(words)?);
        if options[0].value.is_none() {
            return Err(words.unexpected());
        }
    } else if words.skip("WITH") {
        expect_sign(words, TokenKind::Open)?;
        options.push(option(words)?);
        while words.skip_sign(",") {
            options.push(option(words)?);
        }
        expect_sign(words, TokenKind::Close)?;
    }
    words.end()?;
    Ok(Kind::WaitForLsn(WaitForLsn { lsn, options }))
}

fn expect_sign(words: &mut Words<'_>, kind: TokenKind) -> Result<(), SqlError> {
    match words.token() {
        Some(token) if token.kind == kind => {
            words.at += 1;
            Ok(())
        }
        _ => Err(words.unexpected()),
    }
}

fn option(words: &mut Words<'_>) -> Result<WaitOption, SqlError> {
    let at = words.token().map_or(0, |token| token.start);
    let offset = at - words.tokens[0].start;
    let name = words.name()?;
    let value = match string(words)? {
        Some(text) => Some(text),
        None => number_or_word(words)?,
    };
    Ok(WaitOption { name, value, offset })
}

/// A string literal of any form, if that is what comes.
fn string(words: &mut Words<'_>) -> Result<Option<String>, SqlError> {
    let is_string = |kind| matches!(kind, TokenKind::Text | TokenKind::EscapeText | TokenKind::DollarText);
    let Some(token) = words.token().filter(|token| is_string(token.kind)) else { return Ok(None) };
    words.at += 1;
    string_content(words.source, token).map(Some)
}

/// A number with or without a sign, or a word such as TRUE, if that is what comes.
fn number_or_word(words: &mut Words<'_>) -> Result<Option<String>, SqlError> {
    let negative = words.skip_sign("-");
    let signed = negative || words.skip_sign("+");
    match words.token() {
        Some(token) if token.kind == TokenKind::Number => {
            words.at += 1;
            let sign = if negative { "-" } else { "" };
            Ok(Some(format!("{sign}{}", token.text(words.source))))
        }
        _ if signed => Err(words.unexpected()),
        Some(token) if matches!(token.kind, TokenKind::Word | TokenKind::Quoted) => words.name().map(Some),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Kind, parse};

    /// The position and each option as `name=value`.
    fn read(query: &str) -> Result<String, String> {
        let statements = parse(query).map_err(|error| format!("{}: {}", error.sqlstate, error.message))?;
        let Kind::WaitForLsn(command) = &statements[0].kind else { return Err("another kind".into()) };
        let options = command.options.iter().map(|option| {
            let value = option.value.as_ref().map(|value| format!("={value}")).unwrap_or_default();
            format!(" {}{value}@{}", option.name, option.offset)
        });
        Ok(command.lsn.clone() + &options.collect::<String>())
    }

    #[test]
    fn the_forms_of_postgresql_and_the_short_one_are_read() {
        for (query, expected) in [
            ("WAIT FOR LSN '0/3000060'", "0/3000060"),
            ("  wait for lsn E'0/1' with (No_Throw)", "0/1 no_throw@26"),
            ("WAIT FOR LSN '0/1' WITH (TIMEOUT '5s', no_throw, mode 'standby_flush')", {
                "0/1 timeout=5s@25 no_throw@39 mode=standby_flush@49"
            }),
            ("WAIT FOR LSN '0/1' WITH (timeout -1000, no_throw off)", "0/1 timeout=-1000@25 no_throw=off@40"),
            ("WAIT FOR LSN '0/1' TIMEOUT 100", "0/1 timeout=100@19"),
            ("WAIT FOR LSN '0/1' TIMEOUT '1.5s'", "0/1 timeout=1.5s@19"),
            ("WAIT FOR LSN 'no position' WITH (whatever)", "no position whatever@33"),
        ] {
            assert_eq!(read(query).as_deref(), Ok(expected), "{query}");
        }
    }

    #[test]
    fn what_has_no_form_is_a_syntax_error_where_it_is() {
        for (query, near) in [
            ("WAIT FOR TIMEOUT 1000", "at or near \"TIMEOUT\""),
            ("WAIT FOR LSN", "at end of input"),
            ("WAIT FOR LSN 5", "at or near \"5\""),
            ("WAIT FOR LSN '0/1' (timeout '100ms')", "at or near \"(\""),
            ("WAIT FOR LSN '0/1' WITH ()", "at or near \")\""),
            ("WAIT FOR LSN '0/1' WITH (timeout 1", "at end of input"),
            ("WAIT FOR LSN '0/1' WITH (timeout - 'x')", "at or near \"'x'\""),
            ("WAIT FOR LSN '0/1' TIMEOUT", "at end of input"),
            ("WAIT FOR LSN '0/1' TIMEOUT 1 NO_THROW", "at or near \"NO_THROW\""),
        ] {
            assert_eq!(read(query), Err(format!("42601: syntax error {near}")), "{query}");
        }
    }
}
