//! The archiver: hands each complete file of the log to the archive command, oldest first.
//!
//! Started by the postmaster when `archive_mode` says so, on a primary after recovery, on a standby (`always`) from
//! recovery on. Sleeps on its latch, the postmaster's death and, after a failure, the next attempt; while a command runs,
//! on the command's end as well ([`ipc::subprocess`]). Its latch is set by who makes a file ready
//! ([`crate::archive_status`]).
//!
//! Normal stop: STOP (SIGUSR2) when the shutdown checkpoint is written and its segment closed; what is ready by then is
//! archived, but no command gets longer for it than `archiver_shutdown_timeout`. What is left stays ready for the next
//! start. SIGTERM begins nothing new and waits for that. A command that was ended by a signal, or that the shell could
//! not run, is FATAL: the process exits with 1, and the postmaster starts another one. Any other end is a crash.
//!
//! A command that hangs holds up nothing but the archive: the archiver goes on to serve interrupts, and goes at once when
//! the node is shut down immediately or its postmaster dies; its command goes with it.
//!
//! Must never be added: anything that others wait for.
//!
//! Follows PostgreSQL 15 src/backend/postmaster/pgarch.c; differs in: the limit at shutdown, and nothing polls.

mod schedule;

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use ipc::interrupt::Interrupts;
use ipc::process::Me;
use ipc::shmem::SharedStr;
use ipc::subprocess::{self, Outcome};
use ipc::wait_event::WaitEvent;
use sys::clock;
use sys::process::ExitStatus;
use wal::timestamp::Timestamp;

use self::schedule::{Attempt, Schedule, Step};
use crate::archive_status;
use crate::log::fatal;
use crate::node::Node;
use crate::shell_text;

ipc::shared_struct! {
    /// What pg_stat_archiver shows, since the node's start. Written by the archiver alone; times in µs since 2000-01-01,
    /// 0 for none.
    pub struct ArchiverCtl {
        /// Files archived.
        pub archived_count: AtomicU64,
        /// The last of them.
        pub last_archived_wal: SharedStr<64>,
        /// When that was.
        pub last_archived_time: AtomicI64,
        /// Attempts that failed.
        pub failed_count: AtomicU64,
        /// The file of the last of them.
        pub last_failed_wal: SharedStr<64>,
        /// When that was.
        pub last_failed_time: AtomicI64,
        /// Since when is counted.
        pub reset_time: AtomicI64,
    }
}

/// Main function of the archiver; returns its exit status.
pub fn archiver_main(node: &'static Node, me: Me) -> i32 {
    let mut archiver = Archiver { node, me, schedule: Schedule::new() };
    match archiver.run() {
        Ok(()) => 0,
        Err(Fatal(message)) => {
            fatal(&message);
            1
        }
    }
}

/// Why the process gives up.
struct Fatal(String);

struct Archiver {
    node: &'static Node,
    me: Me,
    schedule: Schedule,
}

impl Archiver {
    /// The latch is reset only before a look, or before the schedule is told that it was set: so no set is lost.
    fn run(&mut self) -> Result<(), Fatal> {
        loop {
            self.attend();
            match self.schedule.next(clock::now()) {
                Step::Look => {
                    self.me.latch().reset();
                    let ready = archive_status::ready(self.node)
                        .map_err(|error| Fatal(format!("could not read archive_status: {error}")))?;
                    self.schedule.found(ready);
                }
                Step::Archive(name) => {
                    let attempt = self.archive(&name)?;
                    if self.schedule.attempted(clock::now(), attempt) {
                        tracing::warn!(
                            "archiving write-ahead log file \"{name}\" failed too many times, will try again later"
                        );
                    }
                }
                Step::Sleep(until) => {
                    let timeout = until.map(|until| until.saturating_since(clock::now()));
                    let woken = ipc::wait_latch(&self.me, timeout, WaitEvent::ArchiverMain)
                        .expect("waiting on the own latch doesn't fail");
                    if woken {
                        self.me.latch().reset();
                        self.schedule.woken();
                    }
                }
                Step::Exit => return Ok(()),
            }
        }
    }

    /// What must not wait for a command's end. Needs no reset of the latch: it looks at bits alone.
    fn attend(&mut self) {
        if self.me.pending().is_empty() {
            return;
        }
        self.node.attend(&self.me);
        if !self.me.take(Interrupts::TERMINATE).is_empty() {
            self.schedule.terminate(clock::now());
        }
        if !self.me.take(Interrupts::STOP).is_empty() {
            self.schedule.stop();
        }
    }

    /// One attempt at one file.
    fn archive(&mut self, name: &str) -> Result<Attempt, Fatal> {
        let settings = self.node.settings();
        if settings.archive_command.is_empty() {
            tracing::warn!("archive_mode enabled, yet archiving is not configured");
            return Ok(Attempt::NotConfigured);
        }
        if !self.node.data.pg_wal().join(name).exists() {
            return Ok(self.forget(name));
        }
        let path = format!("pg_wal/{name}");
        let command = shell_text::expand(&settings.archive_command, &[('p', &path), ('f', name)]);
        tracing::debug!("executing archive command \"{command}\"");
        let status = match self.run_command(&command) {
            Ok(Outcome::Ended(status)) => status,
            Ok(Outcome::Stopped(_)) => {
                self.note_failure(name);
                tracing::warn!(
                    "archiving write-ahead log file \"{name}\" was cut short by the shutdown, will try again at the next start\nDETAIL:  The archive command was: {command}"
                );
                return Ok(Attempt::CutOff);
            }
            Err(error) => {
                self.note_failure(name);
                tracing::warn!("could not start archive command \"{command}\": {error}");
                return Ok(Attempt::Failed);
            }
        };
        if status == ExitStatus::Exited(0) {
            return Ok(self.note_success(name));
        }
        self.note_failure(name);
        let detail = format!("DETAIL:  The failed archive command was: {command}");
        let message = match status {
            ExitStatus::Exited(code) => format!("archive command failed with exit code {code}\n{detail}"),
            status => format!("archive command {status}\n{detail}"),
        };
        if subprocess::is_any_signal(status) {
            return Err(Fatal(message));
        }
        tracing::info!("{message}");
        Ok(Attempt::Failed)
    }

    fn run_command(&mut self, command: &str) -> std::io::Result<Outcome> {
        let (node, me) = (self.node, self.me);
        let mut stop_by = None;
        subprocess::run(&me, command, node.data.root(), WaitEvent::ArchiveCommand, || {
            self.attend();
            if stop_by.is_none() && self.schedule.is_stopping() {
                let patience = node.settings().archiver_shutdown_timeout;
                stop_by = patience.map(|patience| clock::now().saturating_add(patience));
            }
            stop_by
        })
    }

    /// The file was ready, but isn't there: nothing can be archived, so it isn't ready.
    fn forget(&self, name: &str) -> Attempt {
        match archive_status::forget(&self.node.data, name) {
            Ok(()) => {
                tracing::warn!("removed orphan archive status file \"pg_wal/archive_status/{name}.ready\"");
                Attempt::Over
            }
            Err(error) => {
                tracing::warn!(
                    "could not remove orphan archive status file \"pg_wal/archive_status/{name}.ready\": {error}"
                );
                Attempt::Failed
            }
        }
    }

    fn note_success(&self, name: &str) -> Attempt {
        tracing::debug!("archived write-ahead log file \"{name}\"");
        if let Err(error) = archive_status::mark_archived(&self.node.data, name) {
            self.note_failure(name);
            tracing::warn!(
                "could not rename file \"pg_wal/archive_status/{name}.ready\" to \"pg_wal/archive_status/{name}.done\": {error}"
            );
            return Attempt::Failed;
        }
        let shown = self.node.archiver;
        shown.last_archived_wal.set(name);
        shown.last_archived_time.store(now(), Ordering::Relaxed);
        shown.archived_count.fetch_add(1, Ordering::Relaxed);
        // A base backup may wait for this file.
        self.node.wake_walsenders();
        Attempt::Over
    }

    fn note_failure(&self, name: &str) {
        let shown = self.node.archiver;
        shown.last_failed_wal.set(name);
        shown.last_failed_time.store(now(), Ordering::Relaxed);
        shown.failed_count.fetch_add(1, Ordering::Relaxed);
    }
}

fn now() -> i64 {
    Timestamp::from_unix_micros(clock::unix_micros()).0
}
