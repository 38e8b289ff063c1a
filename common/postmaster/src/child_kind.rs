//! The kinds of children, in one table: name, slot, and which exits are in order.
//!
//! Why one table: launching, signalling, reaping and logging all ask "what is special about this kind?"; the answers
//! stand side by side here, and a new kind is one more row. When a kind is to run is for the state machine to say
//! (`state.rs`, [`crate::state::StateMachine::wants`]), what it does for the [`crate::roles::Roles`].
//!
//! A walsender begins as a client backend and is forked as one; it becomes the kind [`ChildKind::WalSender`] when it
//! marks its slot, which the postmaster reads each time it takes a census.
//!
//! Follows PostgreSQL 18 src/include/postmaster/proctypelist.h, child_process_kinds[] in launch_backend.c.

use std::fmt;

use failpoint::Process;
use ipc::proc::{BackendType, ProcNumber};
use ipc::process::SignalTable;
use sys::process::{ExitStatus, Pid};

/// What a child of the postmaster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChildKind {
    /// Recovers, then writes the tables (primary) or replays for ever (standby).
    Startup,
    /// Flushes what nobody waits for; primary only.
    WalWriter,
    /// Checkpoints; its last one is the shutdown checkpoint.
    Checkpointer,
    /// Streams from the upstream; standby only, on request of the startup process.
    WalReceiver,
    /// A client connection.
    Backend,
    /// A client connection that has turned into a replication connection.
    WalSender,
    /// Tells one client why it is not let in; has no slot.
    DeadEnd,
    /// Hands finished segments to the archive command; when archive_mode is on.
    Archiver,
}

impl ChildKind {
    /// As what failpoints know it.
    pub(crate) fn failpoint_process(self) -> Process {
        match self {
            ChildKind::Startup => Process::Startup,
            ChildKind::WalWriter => Process::WalWriter,
            ChildKind::Checkpointer => Process::Checkpointer,
            ChildKind::WalReceiver => Process::WalReceiver,
            ChildKind::Backend | ChildKind::WalSender => Process::Backend,
            ChildKind::DeadEnd => Process::DeadEnd,
            ChildKind::Archiver => Process::Archiver,
        }
    }
}

/// One row of the table.
#[derive(Debug)]
pub struct KindRow {
    /// The kind that the row describes.
    pub kind: ChildKind,
    /// How the log calls such a process when it dies.
    pub log_name: &'static str,
    /// Its type in its slot; `None`: it has no slot.
    pub backend_type: Option<BackendType>,
    /// Its fixed slot; `None`: it takes one from the free list, or has none.
    pub fixed_number: Option<ProcNumber>,
    /// What its signals mean to it, the postmaster's death among them.
    pub signals: SignalTable,
}

/// The table, in the order of [`ChildKind`].
pub const KINDS: [KindRow; ChildKind::COUNT] = [
    KindRow {
        kind: ChildKind::Startup,
        log_name: "startup process",
        backend_type: Some(BackendType::Startup),
        fixed_number: Some(ProcNumber::STARTUP),
        signals: SignalTable::STARTUP,
    },
    KindRow {
        kind: ChildKind::WalWriter,
        log_name: "WAL writer process",
        backend_type: Some(BackendType::WalWriter),
        fixed_number: Some(ProcNumber::WAL_WRITER),
        signals: SignalTable::STANDARD,
    },
    KindRow {
        kind: ChildKind::Checkpointer,
        log_name: "checkpointer process",
        backend_type: Some(BackendType::Checkpointer),
        fixed_number: Some(ProcNumber::CHECKPOINTER),
        signals: SignalTable::INSIDE_SQLITE,
    },
    KindRow {
        kind: ChildKind::WalReceiver,
        log_name: "WAL receiver process",
        backend_type: Some(BackendType::WalReceiver),
        fixed_number: Some(ProcNumber::WAL_RECEIVER),
        signals: SignalTable::STANDARD,
    },
    KindRow {
        kind: ChildKind::Backend,
        log_name: "server process",
        backend_type: Some(BackendType::ClientBackend),
        fixed_number: None,
        signals: SignalTable::INSIDE_SQLITE,
    },
    KindRow {
        kind: ChildKind::WalSender,
        log_name: "server process",
        backend_type: Some(BackendType::WalSender),
        fixed_number: None,
        signals: SignalTable::INSIDE_SQLITE,
    },
    KindRow {
        kind: ChildKind::DeadEnd,
        log_name: "server process",
        backend_type: None,
        fixed_number: None,
        signals: SignalTable::INSIDE_SQLITE,
    },
    KindRow {
        kind: ChildKind::Archiver,
        log_name: "archiver process",
        backend_type: Some(BackendType::Archiver),
        fixed_number: Some(ProcNumber::ARCHIVER),
        signals: SignalTable::STANDARD,
    },
];

impl ChildKind {
    /// How many kinds there are.
    pub const COUNT: usize = 8;

    /// Every kind, in table order.
    pub fn all() -> impl Iterator<Item = ChildKind> {
        KINDS.iter().map(|row| row.kind)
    }

    /// The kind's row of the table.
    pub fn row(self) -> &'static KindRow {
        &KINDS[self as usize]
    }
}

/// A set of kinds: whom a signal is for, who is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KindSet(u16);

impl KindSet {
    /// Every child.
    pub const ALL: KindSet = KindSet((1 << ChildKind::COUNT) - 1);

    /// The set of the kinds given.
    pub const fn of(kinds: &[ChildKind]) -> KindSet {
        let mut bits = 0;
        let mut i = 0;
        while i < kinds.len() {
            bits |= 1 << kinds[i] as u16;
            i += 1;
        }
        KindSet(bits)
    }

    /// This set without one kind.
    pub const fn without(self, kind: ChildKind) -> KindSet {
        KindSet(self.0 & !(1 << kind as u16))
    }

    /// Whether the kind is in the set.
    pub fn contains(self, kind: ChildKind) -> bool {
        self.0 & (1 << kind as u16) != 0
    }
}

/// How many children of each kind live (have not been reaped).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census([u32; ChildKind::COUNT]);

impl Census {
    /// Counts one more of the kind.
    pub fn add(&mut self, kind: ChildKind) {
        self.0[kind as usize] += 1;
    }

    /// How many of one kind.
    pub fn count(&self, kind: ChildKind) -> u32 {
        self.0[kind as usize]
    }

    /// How many of all kinds in the set.
    pub fn count_in(&self, set: KindSet) -> u32 {
        ChildKind::all().filter(|kind| set.contains(*kind)).map(|kind| self.count(kind)).sum()
    }
}

/// The log line for a child's end, in PostgreSQL's words, as in
/// `server process (PID 7) was terminated by signal 9: Killed`.
#[derive(Debug)]
pub struct ChildEnd {
    /// What it was.
    pub kind: ChildKind,
    /// Which process.
    pub pid: Pid,
    /// How it ended.
    pub status: ExitStatus,
    /// Whether it had given up its slot before it ended.
    pub detached: bool,
    /// The statement that it had begun last, if it served a client.
    pub activity: Option<String>,
}

impl ChildEnd {
    /// The same with a DETAIL of what it was doing, which is what an administrator wants to know of a crash.
    pub fn crash_report(&self) -> String {
        match &self.activity {
            Some(activity) => format!("{self}\nDETAIL:  Failed process was running: {activity}"),
            None => self.to_string(),
        }
    }
}

impl fmt::Display for ChildEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (PID {}) {}", self.kind.row().log_name, self.pid, self.status)?;
        // An exit status of 0 or 1 alone would leave the reader wondering why it counts as a crash.
        let in_doubt = !self.detached && matches!(self.status, ExitStatus::Exited(0 | 1));
        if in_doubt { f.write_str(" without detaching from shared memory") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_in_the_order_of_the_enum() {
        for (position, row) in KINDS.iter().enumerate() {
            assert_eq!(row.kind as usize, position);
        }
    }

    #[test]
    fn census_counts_in_sets() {
        let mut census = Census::default();
        census.add(ChildKind::Backend);
        census.add(ChildKind::Backend);
        census.add(ChildKind::DeadEnd);
        assert_eq!(census.count(ChildKind::Backend), 2);
        assert_eq!(census.count_in(KindSet::ALL), 3);
        assert_eq!(census.count_in(KindSet::ALL.without(ChildKind::DeadEnd)), 2);
        assert_eq!(census.count_in(KindSet::of(&[ChildKind::Startup, ChildKind::DeadEnd])), 1);
    }

    #[test]
    fn child_end_reads_as_postgresql_writes_it() {
        let end = |status, detached| {
            ChildEnd { kind: ChildKind::Backend, pid: Pid(7), status, detached, activity: None }.to_string()
        };
        assert_eq!(
            end(ExitStatus::Signaled(9), false),
            "server process (PID 7) was terminated by signal 9: Killed"
        );
        assert_eq!(end(ExitStatus::Exited(2), false), "server process (PID 7) exited with exit code 2");
        assert_eq!(
            end(ExitStatus::Exited(0), false),
            "server process (PID 7) exited with exit code 0 without detaching from shared memory"
        );
    }
}
