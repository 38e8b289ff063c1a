//! LISTEN, NOTIFY and UNLISTEN, read to their end.
//!
//! A channel is a name as any other: folded to lower case unless it is quoted. How long it may be is the session's
//! business, which can tell the client that it was cut.
//!
//! Follows PostgreSQL 15 src/backend/parser/gram.y (NotifyStmt, ListenStmt, UnlistenStmt).

use super::classify::Words;
use super::lexer::TokenKind;
use super::rewrite::string_content;
use super::{Kind, keywords};
use crate::error::{SqlError, SqlState};

/// LISTEN name
pub(super) fn listen(words: &mut Words<'_>) -> Result<Kind, SqlError> {
    let channel = channel(words)?;
    words.end()?;
    Ok(Kind::Listen(channel))
}

/// UNLISTEN name, UNLISTEN *
pub(super) fn unlisten(words: &mut Words<'_>) -> Result<Kind, SqlError> {
    let channel = if words.skip_sign("*") { None } else { Some(channel(words)?) };
    words.end()?;
    Ok(Kind::Unlisten(channel))
}

/// NOTIFY name [, 'payload']
pub(super) fn notify(words: &mut Words<'_>) -> Result<Kind, SqlError> {
    let channel = channel(words)?;
    let mut payload = String::new();
    if words.skip_sign(",") {
        payload = match words.token() {
            Some(token)
                if matches!(token.kind, TokenKind::Text | TokenKind::EscapeText | TokenKind::DollarText) =>
            {
                words.at += 1;
                string_content(words.source, token)?
            }
            _ => return Err(words.unexpected()),
        };
    }
    words.end()?;
    Ok(Kind::Notify { channel, payload })
}

fn channel(words: &mut Words<'_>) -> Result<String, SqlError> {
    let reserved = words
        .token()
        .filter(|token| token.kind == TokenKind::Word && keywords::is_reserved(token.text(words.source)));
    if reserved.is_some() {
        return Err(words.unexpected());
    }
    let at = words.token();
    let name = words.name()?;
    match at {
        Some(token) if name.is_empty() => {
            Err(SqlError::new(SqlState::SYNTAX_ERROR, "zero-length delimited identifier at or near \"\"\"\"")
                .at(token.start))
        }
        _ => Ok(name),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Kind, parse};

    fn kind(query: &str) -> Result<Kind, String> {
        parse(query)
            .map(|statements| statements[0].kind.clone())
            .map_err(|error| format!("{}: {}", error.sqlstate, error.message))
    }

    #[test]
    fn channels_fold_unless_quoted_and_payloads_are_strings_of_any_form() {
        let notify = |channel: &str, payload: &str| Kind::Notify {
            channel: channel.to_owned(),
            payload: payload.to_owned(),
        };
        for (query, expected) in [
            ("LISTEN Foo", Kind::Listen("foo".into())),
            ("listen \"Foo \"\"Bar\"", Kind::Listen("Foo \"Bar".into())),
            ("UNLISTEN *", Kind::Unlisten(None)),
            ("UNLISTEN Foo", Kind::Unlisten(Some("foo".into()))),
            ("NOTIFY Foo", notify("foo", "")),
            ("NOTIFY foo, 'it''s'", notify("foo", "it's")),
            ("NOTIFY foo , E'a\\nb'", notify("foo", "a\nb")),
            ("NOTIFY foo, $x$a$$b$x$", notify("foo", "a$$b")),
            ("NOTIFY foo, ''", notify("foo", "")),
        ] {
            assert_eq!(kind(query), Ok(expected), "{query}");
        }
    }

    #[test]
    fn what_postgresql_refuses_is_refused_in_its_words() {
        for (query, near) in [
            ("NOTIFY foo, 3", "at or near \"3\""),
            ("NOTIFY foo 'x'", "at or near \"'x'\""),
            ("NOTIFY 'x'", "at or near \"'x'\""),
            ("NOTIFY foo.bar", "at or near \".\""),
            ("NOTIFY select", "at or near \"select\""),
            ("NOTIFY", "at end of input"),
            ("LISTEN *", "at or near \"*\""),
            ("LISTEN a, b", "at or near \",\""),
            ("UNLISTEN", "at end of input"),
        ] {
            assert_eq!(kind(query), Err(format!("42601: syntax error {near}")), "{query}");
        }
        let error = "42601: zero-length delimited identifier at or near \"\"\"\"";
        assert_eq!(kind("LISTEN \"\""), Err(error.to_owned()));
    }
}
