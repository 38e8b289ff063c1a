//! A session's writes: handed to the startup process, waited for, answered.
//!
//! The session waits with its latch for the answer (a large request or answer goes piece by piece, see
//! [`crate::requests`]); a cancel takes the request back when the startup process has not taken it yet, otherwise
//! that process sees the pending cancel itself. A session that is to end waits for the answer too: what was logged is
//! acknowledged, if the client still listens.
//!
//! With synchronous standbys the client is told when they have confirmed what the answer rests on. Who gives up that wait is
//! warned and told that it has committed, for so it has on this node; but nobody sees it before the standbys have it.

use engine::error::SqlError;
use engine::rows::CommandTag;
use engine::sql::{Kind, Statement};
use settings::table::SynchronousCommit;
use sys::clock::{self, MonoTime};

use super::Session;
use super::query::Failure;
use crate::requests::asked::Answered;
use crate::sync_rep::{self, Awaited};
use crate::write_request::{Answer, WriteMessage};

impl Session {
    /// Runs statements outside of a block, with a write among them, as one transaction in the startup process.
    pub(super) fn execute_together(&mut self, run: &[Statement<'_>]) -> Result<(), Failure> {
        let tag =
            run.iter().find(|statement| statement.kind.is_write()).map(|statement| statement.kind.tag());
        self.check_writable(tag.unwrap_or(CommandTag::Plain("WRITE")))?;
        self.start_statement()?;
        let is_session_command = |statement: &&Statement<'_>| !goes_to_writer(&statement.kind);
        let commands = run.iter().filter(is_session_command).count();
        let statements: Vec<_> = run.iter().filter(|statement| goes_to_writer(&statement.kind)).collect();
        let texts = statements
            .iter()
            .map(|statement| self.text_for_writer(statement))
            .collect::<Result<Vec<_>, _>>()?;
        if commands == 0 {
            let messages = self.write(texts, true)?;
            self.connection.output().extend_from_slice(&messages);
            return Ok(());
        }
        // Session commands first: if one fails nothing is written. Their answers go where the client expects them.
        let mut own_answers = Vec::with_capacity(commands);
        for statement in run.iter().filter(is_session_command) {
            let start = self.connection.output().len();
            self.session_command(&statement.kind)?;
            wire::backend::command_complete(self.connection.output(), &statement.kind.tag().to_string());
            own_answers.push(self.connection.output().split_off(start));
        }
        let messages = self.write(texts, true)?;
        let (mut own, mut written) = (own_answers.into_iter(), CompletedStatements(&messages));
        for statement in run {
            match goes_to_writer(&statement.kind) {
                true => self.connection.output().extend_from_slice(written.next().unwrap_or_default()),
                false => self.connection.output().extend(own.next().unwrap_or_default()),
            }
        }
        Ok(())
    }

    /// Has the startup process execute a transaction; the messages for the client, if `replies`.
    pub(super) fn write(&mut self, statements: Vec<String>, replies: bool) -> Result<Vec<u8>, Failure> {
        let notifications = self.notifications.borrow_mut().prepare();
        let remote_apply = self.commit_level()? == SynchronousCommit::RemoteApply;
        let asker = self.asker();
        let message = WriteMessage { replies, statements, notifications, remote_apply, asker };
        let bytes_max = self.node.settings().max_statement_size;
        if message.text_bytes() as u64 > bytes_max {
            return Err(too_long(bytes_max).into());
        }
        let (confirmation, began) = (message.confirmation(), clock::now());
        let Answered { answer, rests_on } = self.ask(&message.encode(), began)?;
        let rests_on = Awaited { lsn: rests_on, confirmation };
        match Answer::decode(answer) {
            Answer::Success { lsn, notifies_later, messages } => {
                if self.await_standbys(rests_on, began, lsn.is_valid())? {
                    self.last_write = self.last_write.max(lsn);
                    if notifies_later {
                        // By then they have been published.
                        self.wait_for_tables(rests_on.lsn)?;
                    }
                }
                self.notifications.borrow_mut().committed();
                Ok(messages)
            }
            Answer::Error(error) => {
                self.await_standbys(rests_on, began, false)?;
                Err(error.into())
            }
        }
    }

    /// Hands a request over, at `began`, and waits for its answer.
    fn ask(&mut self, request: &[u8], began: MonoTime) -> Result<Answered, SqlError> {
        let mut asked = self.node.requests.submit(self.me, request, self.control.deadline());
        loop {
            self.me.latch().reset();
            if let Some(answered) = asked.progress() {
                return Ok(answered);
            }
            if let Some(interruption) = self.control.interruption() {
                if asked.withdraw() {
                    return Err(interruption.error());
                }
                // It may have put the request off.
                self.node.wake_startup();
            }
            self.me.serve_barriers();
            // The answer may be there, waiting for standbys, without anybody having told this process.
            let warning =
                self.node.settings().sync_wait_warning.filter(|_| sync_rep::is_synchronous(self.node));
            let look = warning.map(|after| began.saturating_add(after)).filter(|look| *look > clock::now());
            self.control.wait(look, asked.wait_event());
        }
    }
}

/// Statements that the startup process can execute; the others are the session's own.
fn goes_to_writer(kind: &Kind) -> bool {
    kind.is_write() || matches!(kind, Kind::Read | Kind::Explain)
}

fn too_long(bytes_max: u64) -> SqlError {
    SqlError::new(
        engine::error::SqlState::PROGRAM_LIMIT_EXCEEDED,
        format!("the statement exceeds max_statement_size ({bytes_max} bytes)"),
    )
    .with_hint("Split the statement, or raise max_statement_size on the server.")
}

/// Cuts a series of protocol messages after each CommandComplete.
struct CompletedStatements<'a>(&'a [u8]);

impl<'a> Iterator for CompletedStatements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let mut at = 0;
        while let Some([tag, length @ ..]) = self.0.get(at..).and_then(|rest| rest.first_chunk::<5>()) {
            at += 1 + u32::from_be_bytes(*length) as usize;
            if *tag == b'C' {
                let (statement, rest) = self.0.split_at_checked(at)?;
                self.0 = rest;
                return Some(statement);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_cut_after_each_completion() {
        let mut messages = Vec::new();
        wire::backend::command_complete(&mut messages, "INSERT 0 1");
        let first = messages.len();
        let mut row = wire::backend::DataRow::begin(&mut messages);
        row.text("C");
        row.finish().unwrap();
        wire::backend::command_complete(&mut messages, "SELECT 1");
        let statements: Vec<_> = CompletedStatements(&messages).collect();
        assert_eq!(statements, [&messages[..first], &messages[first..]]);
    }
}
