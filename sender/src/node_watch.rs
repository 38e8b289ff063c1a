//! Watching a node from a command: its postmaster.pid as it changes, and its end.
//!
//! The loop to write: make the watch, look at [`NodeWatch::lines`], ask the node for something by a signal, and look again
//! at each [`NodeWatch::news`]. inotify tells of changes, so nothing polls, and none is missed that comes after the watch
//! was made.

use std::io;
use std::path::{Path, PathBuf};

use ipc::wait_event::WaitEvent;
use ipc::wait_event_set::{Events, SocketEvents, WaitEventSet};
use postmaster::pid_file::{FILE_NAME, PidFileLines};
use sys::clock::{self, MonoTime};
use sys::inotify::Inotify;
use sys::process::{Pid, PidFd};
use sys::signal::Signal;

/// How the wait for news has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// The file has changed, or may have.
    File,
    /// The postmaster has ended.
    Ended,
    /// The time is over.
    TimedOut,
}

/// A node that is watched.
#[derive(Debug)]
pub struct NodeWatch {
    pid_file: PathBuf,
    /// The postmaster.
    pub pid: Pid,
    process: PidFd,
    changes: Inotify,
    set: WaitEventSet,
}

impl NodeWatch {
    /// Watches the node of that postmaster in that data directory.
    ///
    /// # Errors
    /// The process or the file is gone, or there are no descriptors left.
    pub fn new(dir: &Path, pid: Pid) -> Result<NodeWatch, String> {
        NodeWatch::open(dir, pid).map_err(|error| format!("could not watch the node (PID {pid}): {error}"))
    }

    fn open(dir: &Path, pid: Pid) -> io::Result<NodeWatch> {
        let pid_file = dir.join(FILE_NAME);
        let process = PidFd::open(pid)?;
        // Before the first look at the file: no change is missed.
        let changes = Inotify::on_changes(&pid_file)?;
        let mut set = WaitEventSet::without_process(2)?;
        set.add_child_exit(&process)?;
        set.add_socket(&changes, SocketEvents::READABLE)?;
        Ok(NodeWatch { pid_file, pid, process, changes, set })
    }

    /// The file as it is now; none in the middle of a write, or when it is gone.
    pub fn lines(&self) -> Option<PidFileLines> {
        PidFileLines::parse(&std::fs::read_to_string(&self.pid_file).ok()?)
    }

    /// Sends a signal to the postmaster; `what` it is for is named in the error.
    ///
    /// # Errors
    /// The process is gone, or another user's.
    pub fn signal(&self, signal: Signal, what: &str) -> Result<(), String> {
        let sent = self.process.kill(signal);
        sent.map_err(|error| format!("could not send {what} signal (PID {}): {error}", self.pid))
    }

    /// Sleeps until there is news, or until `deadline`.
    ///
    /// # Errors
    /// The descriptors are broken.
    pub fn news(&mut self, deadline: MonoTime, event: WaitEvent) -> Result<News, String> {
        let failed = |error: io::Error| format!("could not wait for the node: {error}");
        let mut occurred = Vec::new();
        let timeout = deadline.saturating_since(clock::now());
        self.set.wait(Some(timeout), event, &mut occurred).map_err(failed)?;
        let happened = occurred.iter().fold(Events::NONE, |all, one| all | one.events);
        if happened.contains(Events::CHILD_EXIT) {
            return Ok(News::Ended);
        }
        let changed = self.changes.take().map_err(failed)?;
        Ok(if changed { News::File } else { News::TimedOut })
    }
}
