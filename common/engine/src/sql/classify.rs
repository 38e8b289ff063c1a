//! What kind of statement it is, from its first words; the session's own commands are read to their end.

use super::keywords;
use super::lexer::{Token, TokenKind};
use super::{Discarded, Isolation, Kind, TransactionModes, notification, role, wait_for};
use crate::error::{SqlError, SqlState};
use crate::rows::CommandTag;

pub(crate) fn classify(tokens: &[Token], source: &str) -> Result<Kind, SqlError> {
    let mut words = Words { tokens, source, at: 0 };
    let first = words.upper();
    match first.as_str() {
        "SELECT" | "VALUES" | "TABLE" => Ok(Kind::Read),
        "" if tokens[0].kind == TokenKind::Open => Ok(Kind::Read),
        "INSERT" | "REPLACE" => Ok(Kind::Write(CommandTag::Insert(0))),
        "UPDATE" => Ok(Kind::Write(CommandTag::Update(0))),
        "DELETE" => Ok(Kind::Write(CommandTag::Delete(0))),
        "TRUNCATE" => Ok(Kind::Write(CommandTag::Plain("TRUNCATE TABLE"))),
        "WITH" => Ok(with(tokens, source)),
        "EXPLAIN" => explain(&mut words),
        "CREATE" => create(&mut words),
        "DROP" => drop(&mut words),
        "ALTER" => alter(&mut words),
        "ANALYZE" | "ANALYSE" => Ok(Kind::Ddl(CommandTag::Plain("ANALYZE"))),
        "REINDEX" => Ok(Kind::Ddl(CommandTag::Plain("REINDEX"))),
        "BEGIN" => {
            words.skip_any(&["WORK", "TRANSACTION"]);
            modes(&mut words).map(|modes| Kind::Begin { start: false, modes })
        }
        "START" => {
            words.expect("TRANSACTION")?;
            modes(&mut words).map(|modes| Kind::Begin { start: true, modes })
        }
        "COMMIT" | "END" => {
            words.skip_any(&["WORK", "TRANSACTION"]);
            if words.skip("PREPARED") {
                return Err(two_phase());
            }
            Ok(Kind::Commit { chain: chain(&mut words)? })
        }
        "ROLLBACK" | "ABORT" => rollback(&mut words, &first),
        "SAVEPOINT" => Ok(Kind::Savepoint(words.last_name()?)),
        "RELEASE" => {
            words.skip("SAVEPOINT");
            Ok(Kind::Release(words.last_name()?))
        }
        "SET" => set(&mut words),
        "SHOW" => Ok(Kind::Show(setting_or_all(&mut words)?)),
        "RESET" => Ok(Kind::Reset(setting_or_all(&mut words)?)),
        "LISTEN" => notification::listen(&mut words),
        "NOTIFY" => notification::notify(&mut words),
        "UNLISTEN" => notification::unlisten(&mut words),
        "WAIT" => wait_for::wait(&mut words),
        "DISCARD" => discard(&mut words),
        "CHECKPOINT" => words.end().map(|()| Kind::Checkpoint),
        "DEALLOCATE" if words.peek_is("ALL") => Ok(Kind::Discard(Discarded::Statements)),
        "PRAGMA" => pragma(&mut words),
        "GRANT" | "REVOKE" => role::grant(&mut words, first == "GRANT"),
        "PREPARE" if words.peek_is("TRANSACTION") => Err(two_phase()),
        other => match keywords::unsupported_command(other) {
            Some((command, hint)) => Err(SqlError::unsupported(command, hint)),
            None => Err(SqlError::syntax(tokens[0].text(source)).at(tokens[0].start)),
        },
    }
}

/// A cursor over the statement's tokens.
pub(super) struct Words<'a> {
    pub(super) tokens: &'a [Token],
    pub(super) source: &'a str,
    pub(super) at: usize,
}

impl Words<'_> {
    pub(super) fn token(&self) -> Option<Token> {
        self.tokens.get(self.at).copied()
    }

    /// The next token in upper case if it is a word; empty otherwise. Goes on in any case.
    pub(super) fn upper(&mut self) -> String {
        let word = match self.token() {
            Some(token) if token.kind == TokenKind::Word => token.text(self.source).to_ascii_uppercase(),
            _ => String::new(),
        };
        self.at += 1;
        word
    }

    pub(super) fn peek_is(&self, word: &str) -> bool {
        self.token().is_some_and(|token| token.is_word(self.source, word))
    }

    pub(super) fn skip(&mut self, word: &str) -> bool {
        let found = self.peek_is(word);
        self.at += usize::from(found);
        found
    }

    fn skip_any(&mut self, words: &[&str]) -> bool {
        words.iter().any(|word| self.skip(word))
    }

    pub(super) fn skip_sign(&mut self, sign: &str) -> bool {
        let found = self.token().is_some_and(|token| token.is_sign(self.source, sign));
        self.at += usize::from(found);
        found
    }

    pub(super) fn expect(&mut self, word: &str) -> Result<(), SqlError> {
        if self.skip(word) { Ok(()) } else { Err(self.unexpected()) }
    }

    /// 42601 at the current token.
    pub(super) fn unexpected(&self) -> SqlError {
        match self.token() {
            Some(token) => SqlError::syntax(token.text(self.source)).at(token.start),
            None => SqlError::new(SqlState::SYNTAX_ERROR, "syntax error at end of input")
                .at(self.tokens[self.tokens.len() - 1].end),
        }
    }

    pub(super) fn end(&self) -> Result<(), SqlError> {
        if self.token().is_none() { Ok(()) } else { Err(self.unexpected()) }
    }

    pub(super) fn name(&mut self) -> Result<String, SqlError> {
        match self.token() {
            Some(token) if matches!(token.kind, TokenKind::Word | TokenKind::Quoted) => {
                self.at += 1;
                Ok(token.name(self.source))
            }
            _ => Err(self.unexpected()),
        }
    }

    pub(super) fn last_name(&mut self) -> Result<String, SqlError> {
        let name = self.name()?;
        self.end()?;
        Ok(name)
    }

    /// A setting's name: dots belong to it.
    fn setting(&mut self) -> Result<String, SqlError> {
        let mut name = self.name()?;
        while self.skip_sign(".") {
            name.push('.');
            name.push_str(&self.name()?);
        }
        Ok(name.to_ascii_lowercase())
    }
}

fn discard(words: &mut Words<'_>) -> Result<Kind, SqlError> {
    let what = if words.skip("ALL") {
        Discarded::All
    } else if words.skip("PLANS") {
        Discarded::Plans
    } else if words.skip("SEQUENCES") {
        Discarded::Sequences
    } else if words.skip_any(&["TEMP", "TEMPORARY"]) {
        Discarded::Temporary
    } else {
        return Err(words.unexpected());
    };
    words.end()?;
    Ok(Kind::Discard(what))
}

fn two_phase() -> SqlError {
    SqlError::unsupported("two-phase commit", "Use COMMIT.")
}

/// WITH …: the first of the verbs outside of parentheses says what it is.
fn with(tokens: &[Token], source: &str) -> Kind {
    let mut depth = 0_u32;
    for token in tokens {
        match token.kind {
            TokenKind::Open => depth += 1,
            TokenKind::Close => depth = depth.saturating_sub(1),
            TokenKind::Word if depth == 0 => match token.text(source).to_ascii_uppercase().as_str() {
                "SELECT" | "VALUES" => return Kind::Read,
                "INSERT" | "REPLACE" => return Kind::Write(CommandTag::Insert(0)),
                "UPDATE" => return Kind::Write(CommandTag::Update(0)),
                "DELETE" => return Kind::Write(CommandTag::Delete(0)),
                _ => {}
            },
            _ => {}
        }
    }
    Kind::Read
}

fn explain(words: &mut Words<'_>) -> Result<Kind, SqlError> {
    if words.skip("ANALYZE") || words.skip("ANALYSE") {
        return Err(SqlError::unsupported("EXPLAIN ANALYZE", "Use EXPLAIN; psql's \\timing measures."));
    }
    if words.token().is_some_and(|token| token.kind == TokenKind::Open) {
        return Err(SqlError::unsupported("EXPLAIN with options", "Use plain EXPLAIN."));
    }
    Ok(Kind::Explain)
}

fn create(words: &mut Words<'_>) -> Result<Kind, SqlError> {
    if words.skip_any(&["TEMP", "TEMPORARY"]) {
        return Err(SqlError::unsupported("temporary objects", "Use an ordinary table and delete its rows."));
    }
    if words.skip("OR") {
        return Err(SqlError::unsupported("CREATE OR REPLACE", "Drop the object first."));
    }
    let what = words.upper();
    match what.as_str() {
        "TABLE" => create_table(words),
        "UNIQUE" => {
            words.expect("INDEX")?;
            Ok(Kind::Ddl(CommandTag::Plain("CREATE INDEX")))
        }
        "INDEX" => Ok(Kind::Ddl(CommandTag::Plain("CREATE INDEX"))),
        "VIEW" => Ok(Kind::Ddl(CommandTag::Plain("CREATE VIEW"))),
        "TRIGGER" => Ok(Kind::Ddl(CommandTag::Plain("CREATE TRIGGER"))),
        "ROLE" | "USER" | "GROUP" => role::create(words, what == "USER"),
        "VIRTUAL" => Err(SqlError::unsupported("CREATE VIRTUAL TABLE", "Use an ordinary table.")),
        "" => {
            words.at -= 1;
            Err(words.unexpected())
        }
        _ => Err(SqlError::unsupported(
            &format!("CREATE {what}"),
            "There are tables, indexes, views and triggers.",
        )),
    }
}

fn create_table(words: &mut Words<'_>) -> Result<Kind, SqlError> {
    if words.skip("IF") {
        words.expect("NOT")?;
        words.expect("EXISTS")?;
    }
    words.name()?;
    if words.skip_sign(".") {
        words.name()?;
    }
    // Rows that CREATE TABLE … AS writes never pass SQLite's hook, so they could not be logged.
    if words.peek_is("AS") {
        return Err(SqlError::unsupported("CREATE TABLE AS", "Create the table, then use INSERT … SELECT."));
    }
    Ok(Kind::Ddl(CommandTag::Plain("CREATE TABLE")))
}

fn drop(words: &mut Words<'_>) -> Result<Kind, SqlError> {
    let what = words.upper();
    let tag = match what.as_str() {
        "TABLE" => "DROP TABLE",
        "INDEX" => "DROP INDEX",
        "VIEW" => "DROP VIEW",
        "TRIGGER" => "DROP TRIGGER",
        "ROLE" | "USER" | "GROUP" => return role::drop(words),
        "" => {
            words.at -= 1;
            return Err(words.unexpected());
        }
        _ => {
            return Err(SqlError::unsupported(
                &format!("DROP {what}"),
                "There are tables, indexes, views and triggers.",
            ));
        }
    };
    Ok(Kind::Ddl(CommandTag::Plain(tag)))
}

fn alter(words: &mut Words<'_>) -> Result<Kind, SqlError> {
    let what = words.upper();
    if what == "TABLE" {
        return Ok(Kind::Ddl(CommandTag::Plain("ALTER TABLE")));
    }
    if matches!(what.as_str(), "ROLE" | "USER") {
        return role::alter(words);
    }
    if what == "SYSTEM" {
        return Err(SqlError::unsupported("ALTER SYSTEM", "Edit walship.conf and reload."));
    }
    Err(SqlError::unsupported(&format!("ALTER {what}"), "Tables can be altered."))
}

fn pragma(words: &mut Words<'_>) -> Result<Kind, SqlError> {
    let mut name = words.name()?;
    if words.skip_sign(".") {
        name = words.name()?;
    }
    let set = words.token().is_some_and(|token| token.is_sign(words.source, "="));
    if keywords::is_readable_pragma(&name) && !set {
        return Ok(Kind::Read);
    }
    let (command, hint) = keywords::unsupported_command("PRAGMA").expect("PRAGMA is in the table");
    Err(SqlError::unsupported(&format!("{command} {name}"), hint))
}

fn rollback(words: &mut Words<'_>, verb: &str) -> Result<Kind, SqlError> {
    words.skip_any(&["WORK", "TRANSACTION"]);
    if verb == "ROLLBACK" && words.skip("TO") {
        words.skip("SAVEPOINT");
        return Ok(Kind::RollbackTo(words.last_name()?));
    }
    if words.skip("PREPARED") {
        return Err(two_phase());
    }
    Ok(Kind::Rollback { chain: chain(words)? })
}

fn chain(words: &mut Words<'_>) -> Result<bool, SqlError> {
    let mut chain = false;
    if words.skip("AND") {
        chain = !words.skip("NO");
        words.expect("CHAIN")?;
    }
    words.end()?;
    Ok(chain)
}

fn modes(words: &mut Words<'_>) -> Result<TransactionModes, SqlError> {
    let mut modes = TransactionModes::default();
    while words.token().is_some() {
        words.skip_sign(",");
        if words.skip("ISOLATION") {
            words.expect("LEVEL")?;
            modes.isolation = Some(isolation(words)?);
        } else if words.skip("READ") {
            modes.read_only = Some(words.skip("ONLY"));
            if modes.read_only == Some(false) {
                words.expect("WRITE")?;
            }
        } else {
            words.skip("NOT");
            words.expect("DEFERRABLE")?;
        }
    }
    Ok(modes)
}

fn isolation(words: &mut Words<'_>) -> Result<Isolation, SqlError> {
    if words.skip("SERIALIZABLE") {
        return Ok(Isolation::Serializable);
    }
    if words.skip("REPEATABLE") {
        words.expect("READ")?;
        return Ok(Isolation::RepeatableRead);
    }
    words.expect("READ")?;
    if words.skip("UNCOMMITTED") {
        return Ok(Isolation::ReadUncommitted);
    }
    words.expect("COMMITTED")?;
    Ok(Isolation::ReadCommitted)
}

fn set(words: &mut Words<'_>) -> Result<Kind, SqlError> {
    if words.skip("TRANSACTION") {
        return Ok(Kind::SetTransaction { session: false, modes: modes(words)? });
    }
    let local = words.skip("LOCAL");
    if !local && words.skip("SESSION") {
        if words.skip("CHARACTERISTICS") {
            words.expect("AS")?;
            words.expect("TRANSACTION")?;
            return Ok(Kind::SetTransaction { session: true, modes: modes(words)? });
        }
        if words.peek_is("AUTHORIZATION") {
            return Err(SqlError::unsupported("SET SESSION AUTHORIZATION", "Connect as the other user."));
        }
    }
    let name = if words.skip("TIME") {
        words.expect("ZONE")?;
        "timezone".to_owned()
    } else if words.skip("NAMES") {
        "client_encoding".to_owned()
    } else {
        let name = words.setting()?;
        if !words.skip_sign("=") {
            words.expect("TO")?;
        }
        name
    };
    Ok(Kind::Set { local, name, value: set_value(words)? })
}

/// A value, or several with commas between them; DEFAULT is `None`.
fn set_value(words: &mut Words<'_>) -> Result<Option<String>, SqlError> {
    if words.skip("DEFAULT") {
        words.end()?;
        return Ok(None);
    }
    let mut value = String::new();
    loop {
        let negative = words.skip_sign("-");
        let Some(token) = words.token() else { return Err(words.unexpected()) };
        if negative {
            value.push('-');
        }
        match token.kind {
            // The case of a bare word is kept: application_name = MyApp, client_encoding TO UTF8.
            TokenKind::Word | TokenKind::Number => value.push_str(token.text(words.source)),
            TokenKind::Quoted => value.push_str(&token.name(words.source)),
            TokenKind::Text => {
                let text = token.text(words.source);
                value.push_str(&text[1..text.len() - 1].replace("''", "'"));
            }
            _ => return Err(words.unexpected()),
        }
        words.at += 1;
        if words.token().is_none() {
            return Ok(Some(value));
        }
        if !words.skip_sign(",") {
            return Err(words.unexpected());
        }
        value.push_str(", ");
    }
}

fn setting_or_all(words: &mut Words<'_>) -> Result<Option<String>, SqlError> {
    if words.skip("ALL") {
        words.end()?;
        return Ok(None);
    }
    let name = if words.skip("TIME") {
        words.expect("ZONE")?;
        "timezone".to_owned()
    } else if words.skip("TRANSACTION") {
        words.expect("ISOLATION")?;
        words.expect("LEVEL")?;
        "transaction_isolation".to_owned()
    } else {
        words.setting()?
    };
    words.end()?;
    Ok(Some(name))
}

#[cfg(test)]
mod tests {
    use super::super::{Discarded, Isolation, Kind, TransactionModes, parse};
    use crate::rows::CommandTag;

    fn kind(query: &str) -> Result<Kind, String> {
        parse(query)
            .map(|statements| statements[0].kind.clone())
            .map_err(|error| format!("{}: {}", error.sqlstate, error.message))
    }

    #[test]
    fn statements_are_classified_by_their_first_words() {
        let plain = |tag| Kind::Ddl(CommandTag::Plain(tag));
        for (query, expected) in [
            ("select 1", Kind::Read),
            ("VALUES (1)", Kind::Read),
            ("WITH a AS (DELETE FROM b) SELECT 1", Kind::Read),
            ("WITH a(b) AS (SELECT 1) INSERT INTO c SELECT * FROM a", Kind::Write(CommandTag::Insert(0))),
            ("with recursive a as (select 1) update c set d = 1", Kind::Write(CommandTag::Update(0))),
            ("REPLACE INTO a VALUES (1)", Kind::Write(CommandTag::Insert(0))),
            ("delete from a", Kind::Write(CommandTag::Delete(0))),
            ("TRUNCATE a", Kind::Write(CommandTag::Plain("TRUNCATE TABLE"))),
            ("EXPLAIN DELETE FROM a", Kind::Explain),
            ("CREATE TABLE IF NOT EXISTS main.a(b)", plain("CREATE TABLE")),
            ("CREATE UNIQUE INDEX a ON b(c)", plain("CREATE INDEX")),
            ("DROP VIEW a", plain("DROP VIEW")),
            ("ALTER TABLE a ADD b", plain("ALTER TABLE")),
            ("ANALYZE", plain("ANALYZE")),
            ("REINDEX a", plain("REINDEX")),
            ("PRAGMA table_info(a)", Kind::Read),
            ("DISCARD ALL", Kind::Discard(Discarded::All)),
            ("DISCARD TEMP", Kind::Discard(Discarded::Temporary)),
            ("DEALLOCATE ALL", Kind::Discard(Discarded::Statements)),
            ("checkpoint", Kind::Checkpoint),
            ("SAVEPOINT \"A b\"", Kind::Savepoint("A b".into())),
            ("ROLLBACK TO SAVEPOINT A", Kind::RollbackTo("a".into())),
            ("RELEASE a", Kind::Release("a".into())),
            ("END WORK AND CHAIN", Kind::Commit { chain: true }),
            ("ABORT", Kind::Rollback { chain: false }),
            ("SHOW all", Kind::Show(None)),
            ("SHOW Server_Version", Kind::Show(Some("server_version".into()))),
            ("RESET TIME ZONE", Kind::Reset(Some("timezone".into()))),
        ] {
            assert_eq!(kind(query), Ok(expected), "{query}");
        }
    }

    #[test]
    fn transaction_modes_and_settings_are_read_to_their_end() {
        let modes = TransactionModes { isolation: Some(Isolation::Serializable), read_only: Some(true) };
        assert_eq!(
            kind("BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY NOT DEFERRABLE"),
            Ok(Kind::Begin { start: false, modes })
        );
        assert_eq!(
            kind("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"),
            Ok(Kind::SetTransaction {
                session: true,
                modes: TransactionModes { isolation: None, read_only: Some(true) },
            })
        );
        for (query, local, name, value) in [
            ("SET statement_timeout = 100", false, "statement_timeout", Some("100")),
            ("SET LOCAL statement_timeout TO '5s'", true, "statement_timeout", Some("5s")),
            ("SET SESSION datestyle TO ISO, MDY", false, "datestyle", Some("ISO, MDY")),
            ("SET TIME ZONE 'UTC'", false, "timezone", Some("UTC")),
            ("SET a.b = -1", false, "a.b", Some("-1")),
            ("SET x TO DEFAULT", false, "x", None),
            ("SET NAMES 'UTF8'", false, "client_encoding", Some("UTF8")),
        ] {
            let expected = Kind::Set { local, name: name.into(), value: value.map(str::to_owned) };
            assert_eq!(kind(query), Ok(expected), "{query}");
        }
    }

    #[test]
    fn what_is_not_there_is_refused_by_name() {
        for (query, expected) in [
            ("COPY a FROM STDIN", "0A000: COPY is not supported"),
            ("load x", "0A000: LOAD is not supported"),
            ("DISCARD x", "42601: syntax error at or near \"x\""),
            ("VACUUM ANALYZE", "0A000: VACUUM is not supported"),
            ("ATTACH 'x' AS y", "0A000: ATTACH is not supported"),
            ("PRAGMA journal_mode = delete", "0A000: PRAGMA journal_mode is not supported"),
            ("PRAGMA table_info = a", "0A000: PRAGMA table_info is not supported"),
            ("CREATE TABLE a AS SELECT 1", "0A000: CREATE TABLE AS is not supported"),
            ("CREATE TABLE IF NOT EXISTS \"x y\".a AS SELECT 1", "0A000: CREATE TABLE AS is not supported"),
            ("CREATE TEMP TABLE a(b)", "0A000: temporary objects is not supported"),
            ("CREATE VIRTUAL TABLE a USING fts5(b)", "0A000: CREATE VIRTUAL TABLE is not supported"),
            ("PREPARE TRANSACTION 'a'", "0A000: two-phase commit is not supported"),
            ("EXPLAIN ANALYZE SELECT 1", "0A000: EXPLAIN ANALYZE is not supported"),
            ("SELEC 1", "42601: syntax error at or near \"SELEC\""),
            ("SET x 1", "42601: syntax error at or near \"1\""),
            ("BEGIN IMMEDIATE", "42601: syntax error at or near \"IMMEDIATE\""),
            ("COMMIT x", "42601: syntax error at or near \"x\""),
            ("CHECKPOINT x", "42601: syntax error at or near \"x\""),
            ("SAVEPOINT", "42601: syntax error at end of input"),
        ] {
            assert_eq!(kind(query), Err(expected.to_owned()), "{query}");
        }
    }
}
