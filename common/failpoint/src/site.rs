//! The table of sites. One row each, in the order of a node's life; the name is what a test's output says.

/// What may go wrong at a site besides the death of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing: what is done there can't fail.
    Step,
    /// Nothing, and there is no "after": a place, such as the last moment of a process.
    Spot,
    /// An error of the disk.
    Io,
    /// An error of the disk, also in the middle of the bytes.
    Write,
}

macro_rules! sites {
    ($( $(#[$doc:meta])* $site:ident $kind:ident $name:literal, )+) => {
        /// A place in the programs; see the crate's header.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Site {
            $( $(#[$doc])* $site, )+
        }

        impl Site {
            /// All of them.
            pub const ALL: &[Site] = &[$( Site::$site, )+];

            /// What it is called, and what may go wrong there.
            const fn row(self) -> (&'static str, Kind) {
                match self {
                    $( Site::$site => ($name, Kind::$kind), )+
                }
            }
        }
    };
}

sites! {
    // The postmaster.
    /// postmaster.pid gets its lines.
    PidFileWrite Io "pid file write",
    /// It is removed, at the end of a node.
    PidFileRemove Io "pid file remove",
    /// A process is about to fork.
    Fork Spot "fork",
    /// The postmaster has forked, and doesn't watch its child yet.
    Forked Spot "watching a child",
    /// A new process, before it is anything but a copy.
    Born Spot "child born",
    /// It takes its slot and latch.
    Attach Step "child attach",
    /// It leaves them.
    Detach Step "child detach",
    /// The last moment of a process that ends by itself.
    Exit Spot "child exit",
    /// The postmaster learns how a child has ended.
    Reap Step "reap",
    /// The slot of a reaped child becomes free.
    SlotFree Step "slot free",
    /// Shared memory is made anew after a crash.
    Reinitialize Step "reinitialize",
    /// A latch is set, by whomever.
    SetLatch Step "set latch",

    // Small files: control file, settings, standby.signal.
    /// The new content goes into a temporary file.
    SmallFileWrite Write "small file write",
    /// It is fsynced.
    SmallFileSync Io "small file fsync",
    /// It gets its name.
    SmallFileRename Io "small file rename",
    /// The directory is fsynced.
    SmallFileDirectory Io "small file directory fsync",

    // Recovery.
    /// The tables' own log is written again and synced.
    RecoveryTables Io "recovery tables log",
    /// The log is written again and synced.
    RecoveryLog Step "recovery log",
    /// What is behind the log's end is cleared.
    RecoveryClear Step "recovery clear",
    /// The record of its end.
    EndOfRecovery Step "end of recovery",

    // The log.
    /// A record is copied into the ring and published, under the insert lock.
    LogInsert Step "log insert",
    /// A segment's zeros go into a temporary file.
    SegmentWrite Write "segment write",
    /// It is fsynced.
    SegmentSync Io "segment fsync",
    /// It gets its name.
    SegmentRename Io "segment rename",
    /// pg_wal is fsynced.
    LogDirectory Io "log directory fsync",
    /// Pages of the ring go into their file.
    LogWrite Write "log write",
    /// They are synced.
    LogSync Io "log fsync",
    /// The flush LSN moves.
    LogFlushed Step "log flushed",

    /// A segment that nobody needs is removed.
    SegmentRemove Io "segment remove",
    /// A segment is noted as one for the archive.
    ArchiveReady Io "archive ready",
    /// It is noted as archived.
    ArchiveDone Io "archive done",

    // Writes and their outcomes.
    /// A session gives its write to the startup process.
    RequestSent Step "request sent",
    /// The startup process gives the session its outcome.
    OutcomeSent Step "outcome sent",
    /// The tables commit.
    TablesCommit Step "tables commit",
    /// A record's rows are put: in recovery and on a standby.
    TablesPut Step "tables put",
    /// The tables' own log starts over.
    TablesRestart Step "tables log restart",

    // What SQLite itself writes (`engine::ffi::vfs`).
    /// A page goes into the tables' own log.
    TablesLogWrite Write "tables log write",
    /// SQLite syncs that log, before it copies it or starts it over.
    TablesLogSync Io "tables log fsync",
    /// A page is copied into the tables' file.
    TablesFileWrite Write "tables file write",
    /// The file is synced, before its log may start over.
    TablesFileSync Io "tables file fsync",

    // Checkpoints, in their order.
    /// The tables' own log is synced.
    CheckpointSync Io "checkpoint fsync",
    /// It is copied into the tables' file.
    CheckpointTables Step "checkpoint tables",
    /// The record, with its flush.
    CheckpointRecord Step "checkpoint record",
    /// The control file names it.
    CheckpointControl Step "checkpoint control",

    // Replication.
    /// A walsender sends a piece of the log.
    WalSenderSend Spot "walsender send",
    /// The walreceiver writes what it got.
    WalReceiverWrite Step "walreceiver write",
    /// It syncs that.
    WalReceiverSync Step "walreceiver fsync",
    /// It tells its own node.
    WalReceiverPublish Step "walreceiver publish",
    /// It tells the upstream.
    WalReceiverReport Step "walreceiver report",
    /// A slot's directory is made.
    SlotMake Io "slot make",
    /// It is removed.
    SlotRemove Io "slot remove",

    // A base backup, in its order.
    /// A page goes into the copy of the tables.
    BackupCopyWrite Write "backup copy write",
    /// A piece of the archive goes to the client.
    BackupSend Spot "backup send",
    /// The record of its end, with its flush.
    BackupEnd Step "backup end",

    // Promotion, in its order.
    /// The new timeline's first segment.
    PromotionSegment Step "promotion segment",
    /// Its history.
    PromotionHistory Step "promotion history",
    /// standby.signal goes.
    PromotionSignal Io "promotion signal",
    /// The control file names the timeline.
    PromotionControl Step "promotion control",
    /// Everybody is told, and what is left of the old timeline is looked after.
    PromotionFinish Step "promotion finish",

    // The command `standby clone`, in its order.
    /// A file of the backup is written and synced.
    CloneFile Io "clone file",
    /// The directories are synced.
    CloneDirectories Io "clone directories",
    /// Settings, standby.signal and, last, the control file.
    CloneComplete Io "clone complete",

    // The command `standby demote`, in its order.
    /// The settings name the new primary, and standby.signal comes.
    DemoteSignal Step "demote signal",
    /// The tables say that they end where the logs part.
    DemoteTables Step "demote tables",
    /// So does the control file.
    DemoteControl Step "demote control",
    /// What the new primary lacks is cut off the log.
    DemoteCut Step "demote cut",

    // A switchover, in its order.
    /// The command `standby promote --switchover` asks its own node to wait for the primary's end.
    SwitchoverWish Io "switchover wish",
    /// It asks the primary.
    SwitchoverAsk Step "switchover ask",
    /// The primary notes who takes over, and shuts down.
    SwitchoverNote Io "switchover note",
    /// It makes itself a standby.
    SwitchoverStandby Step "switchover standby",
}

impl Site {
    /// What it is called.
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// What may go wrong there.
    pub fn kind(self) -> Kind {
        self.row().1
    }
}
