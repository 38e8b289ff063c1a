//! The surface of SQL: what a simple query is made of, before SQLite sees it.
//!
//! [`parse`] splits a query into its statements, says of each what kind it is and rewrites what PostgreSQL writes
//! otherwise (`::` casts, `E''` strings, `pg_catalog.`). It looks at tokens alone; what a statement may really do is
//! decided by SQLite's authorizer when it is prepared, so a statement that this module takes for harmless is refused
//! there if it isn't.

mod classify;
mod keywords;
mod lexer;
mod notification;
mod rewrite;
pub mod role;
mod split;
pub mod wait_for;

use std::borrow::Cow;

use crate::error::{SqlError, SqlState};
use crate::rows::CommandTag;
use role::RoleCommand;
use wait_for::WaitForLsn;

pub(crate) use keywords::is_readable_pragma;

/// One statement of a simple query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement<'a> {
    /// What it is and, for the session's own commands, what it says.
    pub kind: Kind,
    /// The text to be given to [`crate::Reader`] or [`crate::Writer`].
    pub sql: Cow<'a, str>,
    /// Its own text, as the client wrote it, without the semicolon.
    pub source: &'a str,
    /// Where `source` begins in the query, in bytes.
    start: usize,
    /// (offset in `sql`, offset in the query) of each piece that was copied; ascending.
    map: Vec<(usize, usize)>,
}

impl Statement<'_> {
    /// Whether it is a write that returns rows.
    pub fn returns_rows(&self) -> bool {
        let returning = |token: &lexer::Token| token.is_word(self.source, "returning");
        self.kind.is_write() && lexer::lex(self.source).is_ok_and(|tokens| tokens.iter().any(returning))
    }

    /// The client's position (characters from 1) of an error's offset in `sql`.
    pub fn position(&self, query: &str, offset: u32) -> u32 {
        let offset = offset as usize;
        let byte = match self.map.iter().rev().find(|(from, _)| *from <= offset) {
            Some((from, to)) => to + (offset - from),
            None => self.start + offset,
        };
        position(query, byte)
    }
}

/// The client's position (characters from 1) of a byte of the query: what an error of [`parse`] carries.
pub fn position(query: &str, offset: usize) -> u32 {
    let end = query.floor_char_boundary(offset.min(query.len()));
    u32::try_from(query[..end].chars().count() + 1).unwrap_or(u32::MAX)
}

/// What kind of statement it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// BEGIN, START TRANSACTION
    Begin {
        /// START TRANSACTION: which its tag repeats
        start: bool,
        /// The modes
        modes: TransactionModes,
    },
    /// COMMIT, END
    Commit {
        /// AND CHAIN
        chain: bool,
    },
    /// ROLLBACK, ABORT
    Rollback {
        /// AND CHAIN
        chain: bool,
    },
    /// SAVEPOINT name
    Savepoint(String),
    /// RELEASE SAVEPOINT name
    Release(String),
    /// ROLLBACK TO SAVEPOINT name
    RollbackTo(String),
    /// SET name = value
    Set {
        /// SET LOCAL
        local: bool,
        /// Lower case
        name: String,
        /// `None` for DEFAULT
        value: Option<String>,
    },
    /// SET TRANSACTION, SET SESSION CHARACTERISTICS AS TRANSACTION
    SetTransaction {
        /// SESSION CHARACTERISTICS: for the transactions to come
        session: bool,
        /// The modes
        modes: TransactionModes,
    },
    /// SHOW name; `None` for ALL
    Show(Option<String>),
    /// RESET name; `None` for ALL
    Reset(Option<String>),
    /// DISCARD, DEALLOCATE ALL: nothing of it is kept by the engine
    Discard(Discarded),
    /// CHECKPOINT
    Checkpoint,
    /// LISTEN channel
    Listen(String),
    /// NOTIFY channel [, payload]
    Notify {
        /// As the client wrote it, folded if it was not quoted; of any length
        channel: String,
        /// Empty when none was given
        payload: String,
    },
    /// UNLISTEN channel; `None` for all
    Unlisten(Option<String>),
    /// WAIT FOR LSN
    WaitForLsn(WaitForLsn),
    /// EXPLAIN of anything: never executes it, runs on the reader
    Explain,
    /// Runs on the reader; SELECT, VALUES, WITH … SELECT, and all that SQLite will refuse
    Read,
    /// Runs on the writer, with its tag (the number still 0)
    Write(CommandTag),
    /// Runs on the writer and is logged as its text
    Ddl(CommandTag),
    /// CREATE ROLE and its kin. Runs on the writer, once the session has seen to the password in it
    Role(RoleCommand),
}

impl Kind {
    /// Whether the startup process has to execute it.
    pub fn is_write(&self) -> bool {
        matches!(self, Kind::Write(_) | Kind::Ddl(_) | Kind::Role(_))
    }

    /// The tag of its completion; the numbers are 0 (see [`CommandTag::with_rows`]).
    pub fn tag(&self) -> CommandTag {
        match self {
            Kind::Begin { start: true, .. } => CommandTag::Plain("START TRANSACTION"),
            Kind::Begin { start: false, .. } => CommandTag::Plain("BEGIN"),
            Kind::Commit { .. } => CommandTag::Plain("COMMIT"),
            Kind::Rollback { .. } | Kind::RollbackTo(_) => CommandTag::Plain("ROLLBACK"),
            Kind::Savepoint(_) => CommandTag::Plain("SAVEPOINT"),
            Kind::Release(_) => CommandTag::Plain("RELEASE"),
            Kind::Set { .. } | Kind::SetTransaction { .. } => CommandTag::Plain("SET"),
            Kind::Show(_) => CommandTag::Plain("SHOW"),
            Kind::Reset(_) => CommandTag::Plain("RESET"),
            Kind::Discard(what) => CommandTag::Plain(what.tag()),
            Kind::Checkpoint => CommandTag::Plain("CHECKPOINT"),
            Kind::Listen(_) => CommandTag::Plain("LISTEN"),
            Kind::Notify { .. } => CommandTag::Plain("NOTIFY"),
            Kind::Unlisten(_) => CommandTag::Plain("UNLISTEN"),
            Kind::WaitForLsn(_) => CommandTag::Plain("WAIT"),
            Kind::Explain => CommandTag::Plain("EXPLAIN"),
            Kind::Read => CommandTag::Select(0),
            Kind::Write(tag) | Kind::Ddl(tag) => *tag,
            Kind::Role(command) => command.tag(),
        }
    }
}

/// What a session is to forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discarded {
    /// All that it was told: settings, channels
    All,
    /// DISCARD PLANS
    Plans,
    /// DISCARD SEQUENCES
    Sequences,
    /// DISCARD TEMP
    Temporary,
    /// DEALLOCATE ALL
    Statements,
}

impl Discarded {
    fn tag(self) -> &'static str {
        match self {
            Discarded::All => "DISCARD ALL",
            Discarded::Plans => "DISCARD PLANS",
            Discarded::Sequences => "DISCARD SEQUENCES",
            Discarded::Temporary => "DISCARD TEMP",
            Discarded::Statements => "DEALLOCATE ALL",
        }
    }
}

/// ISOLATION LEVEL …, READ ONLY …; deferrability is accepted and means nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransactionModes {
    /// `None` when not said
    pub isolation: Option<Isolation>,
    /// `None` when not said
    pub read_only: Option<bool>,
}

/// Isolation levels by name. (The session has READ COMMITTED only.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Treated as READ COMMITTED, as in PostgreSQL
    ReadUncommitted,
    /// The default
    ReadCommitted,
    /// REPEATABLE READ
    RepeatableRead,
    /// SERIALIZABLE
    Serializable,
}

/// Splits, classifies and rewrites a simple query. An empty list for an empty query.
///
/// An error's offset counts in `query` (not in a statement, as those of the reader and the writer do).
pub fn parse(query: &str) -> Result<Vec<Statement<'_>>, SqlError> {
    let tokens = lexer::lex(query)?;
    let mut statements = Vec::new();
    for tokens in split::statements(query, &tokens) {
        let kind = classify::classify(tokens, query)?;
        let (start, end) = (tokens[0].start, tokens[tokens.len() - 1].end);
        let (sql, map) = match &kind {
            Kind::Role(command) => (Cow::Owned(command.to_string()), Vec::new()),
            _ => rewrite::rewrite(query, tokens, &kind)?,
        };
        statements.push(Statement { kind, sql, source: &query[start..end], start, map });
    }
    if statements.len() > STATEMENTS_MAX {
        return Err(SqlError::new(
            SqlState::PROGRAM_LIMIT_EXCEEDED,
            format!("a query cannot have more than {STATEMENTS_MAX} statements"),
        ));
    }
    Ok(statements)
}

/// Most statements that one simple query may have.
pub const STATEMENTS_MAX: usize = 10_000;

/// What kind one statement is and the text that SQLite runs, for those who execute it: they trust nobody's word for it.
pub(crate) fn executable(sql: &str) -> Result<(Kind, Cow<'_, str>), SqlError> {
    let tokens = lexer::lex(sql)?;
    let [tokens] = split::statements(sql, &tokens)[..] else {
        return Err(SqlError::new(SqlState::SYNTAX_ERROR, "not exactly one statement"));
    };
    let kind = classify::classify(tokens, sql)?;
    let text = match tokens[0].is_word(sql, "truncate") {
        true => Cow::Owned(rewrite::truncate(sql, tokens)?),
        false => Cow::Borrowed(sql),
    };
    Ok((kind, text))
}
