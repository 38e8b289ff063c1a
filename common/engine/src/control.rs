//! How a long statement is stopped: SQLite asks [`Control::check`] every few hundred of its steps.
//!
//! The engine knows no clock, no signal and no shared memory; its caller answers from them. The answer ends the
//! statement with PostgreSQL's 57014 (57P01, 08006) and its text.

use crate::error::{SqlError, SqlState};

/// Why a statement has to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interruption {
    /// The user asked (Ctrl-C, pg_cancel_backend).
    Cancel,
    /// `statement_timeout` of the session has passed.
    StatementTimeout,
    /// `write_statement_timeout` of the node has passed: nobody holds the writer longer.
    WriteStatementTimeout,
    /// The process has to end.
    Terminate,
    /// The client is gone, and its session ends.
    ClientLost,
    /// Others wait for the transaction that the statement runs in: its caller commits what came before and executes it
    /// again, so no client ever sees this.
    GiveWay,
    /// The read holds up the checkpoint of the tables' own log for too long (40001).
    HoldsUpCheckpoint,
}

impl Interruption {
    /// The error that the client of the stopped statement gets.
    pub fn error(self) -> SqlError {
        let canceled =
            |why: &str| SqlError::new(SqlState::QUERY_CANCELED, format!("canceling statement due to {why}"));
        match self {
            Interruption::Cancel => canceled("user request"),
            Interruption::StatementTimeout => canceled("statement timeout"),
            Interruption::WriteStatementTimeout => canceled("write_statement_timeout").with_hint(
                "All writes of a node pass through one process; split the statement or raise the setting.",
            ),
            Interruption::Terminate => {
                SqlError::new(SqlState::ADMIN_SHUTDOWN, "terminating connection due to administrator command")
            }
            Interruption::ClientLost => {
                SqlError::new(SqlState::CONNECTION_FAILURE, "connection to client lost")
            }
            Interruption::GiveWay => {
                SqlError::new(SqlState::INTERNAL_ERROR, "statement gave way and was not executed again")
            }
            Interruption::HoldsUpCheckpoint => SqlError::new(
                SqlState(*b"40001"),
                "canceling statement because it keeps the tables' log from being recycled",
            )
            .with_hint("Retry, or read in smaller pieces."),
        }
    }
}

/// What the caller of a statement knows about whether it may go on.
pub trait Control {
    /// Called from inside SQLite: must be quick, must not touch the engine.
    fn check(&self) -> Option<Interruption>;
}

/// A statement that nothing stops: recovery and tests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unstoppable;

impl Control for Unstoppable {
    fn check(&self) -> Option<Interruption> {
        None
    }
}
