//! A transaction block: what BEGIN … COMMIT has gathered.
//!
//! The writes of a block are run as one transaction at COMMIT: all or nothing. Until then they are a list, which
//! ROLLBACK drops and ROLLBACK TO SAVEPOINT cuts. Pure: the session gives it statements and sends what comes out.
//!
//! Follows PostgreSQL 15 src/backend/access/transam/xact.c (TBLOCK states); differs in: nothing is executed before COMMIT.

use engine::error::{SqlError, SqlState};

use super::notify::Mark;

/// The block a session is in.
#[derive(Debug, Default)]
pub(super) struct Block {
    writes: Vec<String>,
    /// Bytes of all writes.
    bytes: usize,
    savepoints: Vec<Savepoint>,
    /// A statement failed: everything but the end of the block is refused.
    pub(super) failed: bool,
    /// The client was told once that tags say 0 until COMMIT.
    pub(super) noticed: bool,
    /// BEGIN READ ONLY, SET TRANSACTION READ ONLY.
    pub(super) read_only: bool,
    /// Begun by the first statement of a query that goes on with BEGIN: that BEGIN is no surprise.
    pub(super) implicit: bool,
}

#[derive(Debug)]
struct Savepoint {
    name: String,
    /// How much of the list was there.
    writes: usize,
    bytes: usize,
    /// How much was to be notified.
    notifications: Mark,
}

impl Block {
    /// A new block.
    pub(super) fn new(read_only: bool) -> Block {
        Block { read_only, ..Block::default() }
    }

    /// Adds a write.
    ///
    /// # Errors
    /// 54000: the block has become longer than a request may be.
    pub(super) fn push(&mut self, sql: String, bytes_max: usize) -> Result<(), SqlError> {
        self.grow(sql.len(), bytes_max)?;
        self.writes.push(sql);
        Ok(())
    }

    fn grow(&mut self, bytes: usize, bytes_max: usize) -> Result<(), SqlError> {
        if self.bytes + bytes > bytes_max {
            return Err(SqlError::new(
                SqlState::PROGRAM_LIMIT_EXCEEDED,
                format!("the statements of the transaction exceed max_statement_size ({bytes_max} bytes)"),
            )
            .with_hint("Split the transaction, or raise max_statement_size on the server."));
        }
        self.bytes += bytes;
        Ok(())
    }

    /// Whether anything is to be done at COMMIT.
    pub(super) fn has_writes(&self) -> bool {
        !self.writes.is_empty()
    }

    /// The list, at COMMIT.
    pub(super) fn into_writes(self) -> Vec<String> {
        self.writes
    }

    /// SAVEPOINT name. It counts as a statement does, with what there is to remember of it.
    ///
    /// # Errors
    /// 54000, as for a write.
    pub(super) fn savepoint(
        &mut self,
        name: String,
        notifications: Mark,
        bytes_max: usize,
    ) -> Result<(), SqlError> {
        self.grow(name.len() + size_of::<Savepoint>(), bytes_max)?;
        self.savepoints.push(Savepoint { name, writes: self.writes.len(), bytes: self.bytes, notifications });
        Ok(())
    }

    /// RELEASE SAVEPOINT name: it and the later ones are gone, what was gathered stays.
    ///
    /// # Errors
    /// 3B001: there is none of that name.
    pub(super) fn release(&mut self, name: &str) -> Result<(), SqlError> {
        let at = self.find(name)?;
        self.savepoints.truncate(at);
        Ok(())
    }

    /// ROLLBACK TO SAVEPOINT name: what was gathered since is dropped, and a failed block goes on. What was given to
    /// `savepoint` comes back.
    ///
    /// # Errors
    /// 3B001: there is none of that name.
    pub(super) fn rollback_to(&mut self, name: &str) -> Result<Mark, SqlError> {
        let at = self.find(name)?;
        self.savepoints.truncate(at + 1);
        let savepoint = &self.savepoints[at];
        self.writes.truncate(savepoint.writes);
        self.bytes = savepoint.bytes;
        self.failed = false;
        Ok(savepoint.notifications)
    }

    fn find(&self, name: &str) -> Result<usize, SqlError> {
        self.savepoints
            .iter()
            .rposition(|savepoint| savepoint.name == name)
            .ok_or_else(|| SqlError::new(SqlState(*b"3B001"), format!("savepoint \"{name}\" does not exist")))
    }
}

/// 25P02, for every statement of a failed block but its end.
pub(super) fn aborted() -> SqlError {
    SqlError::new(
        SqlState::IN_FAILED_SQL_TRANSACTION,
        "current transaction is aborted, commands ignored until end of transaction block",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(statements: &[&str]) -> Block {
        let mut block = Block::default();
        for statement in statements {
            block.push((*statement).to_owned(), 1000).unwrap();
        }
        block
    }

    #[test]
    fn rollback_to_drops_what_came_after_and_keeps_the_savepoint() {
        let mut block = block(&["a"]);
        block.savepoint("s".to_owned(), Mark::default(), 1000).unwrap();
        block.push("b".to_owned(), 1000).unwrap();
        block.failed = true;
        block.rollback_to("s").unwrap();
        assert!(!block.failed);
        block.push("c".to_owned(), 1000).unwrap();
        block.rollback_to("s").unwrap();
        assert_eq!(block.into_writes(), ["a"]);
    }

    #[test]
    fn release_forgets_later_savepoints_and_keeps_the_writes() {
        let mut block = block(&["a"]);
        block.savepoint("s".to_owned(), Mark::default(), 1000).unwrap();
        block.savepoint("t".to_owned(), Mark::default(), 1000).unwrap();
        block.push("b".to_owned(), 1000).unwrap();
        block.release("s").unwrap();
        assert_eq!(block.rollback_to("t").unwrap_err().message, "savepoint \"t\" does not exist");
        assert_eq!(block.into_writes(), ["a", "b"]);
    }

    #[test]
    fn the_innermost_of_two_equal_names_counts() {
        let mut block = block(&["a"]);
        block.savepoint("s".to_owned(), Mark::default(), 1000).unwrap();
        block.push("b".to_owned(), 1000).unwrap();
        block.savepoint("s".to_owned(), Mark::default(), 1000).unwrap();
        block.push("c".to_owned(), 1000).unwrap();
        block.rollback_to("s").unwrap();
        assert_eq!(block.into_writes(), ["a", "b"]);
    }

    #[test]
    fn a_block_longer_than_a_request_is_refused() {
        let mut block = block(&["12345"]);
        let error = block.push("6".repeat(96), 100).unwrap_err();
        assert_eq!(error.sqlstate, SqlState::PROGRAM_LIMIT_EXCEEDED);
        block.push("7".to_owned(), 100).unwrap();
    }
}
