//! Subprocesses: a process runs a shell command and stays a process of its node meanwhile.
//!
//! PostgreSQL runs archive_command and restore_command with system(): until the command has ended its process hears of
//! nothing but a signal that happens to hit both. Here the wait for the command is a wait like any other: it ends when
//! the latch is set, too, and then the caller has its say.
//!
//! # How to use
//!
//! ```no_run
//! # use ipc::{interrupt::Interrupts, process::Me, subprocess::{self, Outcome}, wait_event::WaitEvent};
//! # use std::path::Path;
//! # fn example(me: Me) -> std::io::Result<()> {
//! let outcome = subprocess::run(&me, "cp a b", Path::new("/data"), WaitEvent::ArchiveCommand, || {
//!     // Called at the start and whenever the latch was set: serve what must not wait, and leave the rest pending.
//!     me.take(Interrupts::CONFIG_RELOAD);
//!     // Until when the command may go on: None is for ever, a point that has passed ends it.
//!     me.pending().contains(Interrupts::TERMINATE).then(sys::clock::now)
//! })?;
//! match outcome {
//!     Outcome::Ended(status) => println!("{}", subprocess::describe(status)),
//!     Outcome::Stopped(_) => println!("it was told to end, and has"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The callback must not wait. A command that has to end gets SIGTERM, and [`KILL_AFTER`] later SIGKILL; both go to its
//! whole process group. [`run`] returns when the command has ended, in every case.
//!
//! The command never outlives this process, nor does what it has started: see [`sys::command`]. The postmaster's death
//! ends this process in the wait (status 1), and so the command.
//!
//! Follows PostgreSQL 18 src/backend/archive/shell_archive.c, RestoreArchivedFile() in xlogarchive.c and
//! src/common/wait_error.c; differs in: interrupts are served while it runs, and it can be ended.

use std::{io, path::Path, time::Duration};

use sys::{
    clock::{self, MonoTime},
    command::Command,
    process::ExitStatus,
    signal::Signal,
};

use crate::{
    process::Me,
    wait_event::WaitEvent,
    wait_event_set::{OnPostmasterDeath, WaitEventSet},
};

/// How long a command has to heed SIGTERM before it gets SIGKILL.
pub const KILL_AFTER: Duration = Duration::from_secs(5);

/// The greatest exit status that a command gives by its own will. A shell says by the greater ones that it could not
/// run the command (126, 127) or that a signal ended it (128 and its number).
const OWN_STATUS_MAX: i32 = 125;

/// How a command came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// By itself.
    Ended(ExitStatus),
    /// After it was told to.
    Stopped(ExitStatus),
}

/// Runs `/bin/sh -c text` in `directory` until it has ended, publishing `event` while it waits; see the header for
/// `until`. A set of the own latch is not lost to the caller: the latch is set again before this returns.
///
/// # Errors
/// EAGAIN, ENOMEM, EMFILE: nothing was run, or nothing is left of it. InvalidInput for a text with a zero byte.
pub fn run(
    me: &Me,
    text: &str,
    directory: &Path,
    event: WaitEvent,
    mut until: impl FnMut() -> Option<MonoTime>,
) -> io::Result<Outcome> {
    let mut command = Command::start(text, directory)?;
    let mut set = WaitEventSet::new(me, 3)?;
    let latch = set.add_latch()?;
    set.add_postmaster_death(OnPostmasterDeath::Exit)?;
    set.add_child_exit(command.pidfd())?;
    let mut occurred = Vec::new();
    let mut force = Force::None;
    let mut woken = false;
    loop {
        let wanted = until();
        let deadline = force.apply(&command, wanted, clock::now());
        if let Some(status) = command.collect()? {
            if woken {
                me.latch().set();
            }
            return Ok(if force == Force::None { Outcome::Ended(status) } else { Outcome::Stopped(status) });
        }
        let timeout = deadline.map(|deadline| deadline.saturating_since(clock::now()));
        set.wait(timeout, event, &mut occurred)?;
        // Only when it was seen to be set: to the caller a set may mean work, so none must be made up.
        if occurred.iter().any(|occurred| occurred.position == latch) {
            me.latch().reset();
            woken = true;
        }
    }
}

/// What was done to end a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Force {
    None,
    /// SIGTERM; SIGKILL is due then.
    Asked(MonoTime),
    Killed,
}

impl Force {
    /// Does what is due at `now` and says when to come again. `until`: how long the command may go on.
    fn apply(&mut self, command: &Command, until: Option<MonoTime>, now: MonoTime) -> Option<MonoTime> {
        if *self == Force::None && until.is_some_and(|until| until <= now) {
            // It fails when the command has just ended.
            let _ended = command.kill(Signal::Term);
            *self = Force::Asked(now.saturating_add(KILL_AFTER));
        }
        match *self {
            Force::None => until,
            Force::Asked(due) if now < due => Some(due),
            Force::Asked(_) => {
                let _ended = command.kill(Signal::Kill);
                *self = Force::Killed;
                None
            }
            Force::Killed => None,
        }
    }
}

/// How a command has ended, in PostgreSQL's words.
pub fn describe(status: ExitStatus) -> String {
    match status {
        ExitStatus::Exited(127) => "command not found".to_owned(),
        ExitStatus::Exited(126) => "command not executable".to_owned(),
        status => format!("child process {status}"),
    }
}

/// Whether a signal ended the command (or the shell says so of what it ran), or it could not be run at all: not a
/// failure of the command's own, hence none that trying again mends.
pub fn is_any_signal(status: ExitStatus) -> bool {
    match status {
        ExitStatus::Signaled(_) => true,
        ExitStatus::Exited(status) => status > OWN_STATUS_MAX,
    }
}

/// Whether that very signal ended the command, or the shell says so of what it ran.
pub fn is_signal(status: ExitStatus, signal: Signal) -> bool {
    match status {
        ExitStatus::Signaled(number) => number == signal.number(),
        ExitStatus::Exited(status) => status == 128 + signal.number(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_worded_and_told_apart_as_postgresql_does() {
        let table = [
            (ExitStatus::Exited(0), "child process exited with exit code 0", false),
            (ExitStatus::Exited(1), "child process exited with exit code 1", false),
            (ExitStatus::Exited(125), "child process exited with exit code 125", false),
            (ExitStatus::Exited(126), "command not executable", true),
            (ExitStatus::Exited(127), "command not found", true),
            (ExitStatus::Exited(143), "child process exited with exit code 143", true),
            (ExitStatus::Signaled(9), "child process was terminated by signal 9: Killed", true),
        ];
        for (status, words, signal) in table {
            assert_eq!(describe(status), words);
            assert_eq!(is_any_signal(status), signal, "{status:?}");
        }
        for status in [ExitStatus::Signaled(15), ExitStatus::Exited(143)] {
            assert!(is_signal(status, Signal::Term) && !is_signal(status, Signal::Kill));
        }
        assert!(!is_signal(ExitStatus::Exited(15), Signal::Term));
    }
}
