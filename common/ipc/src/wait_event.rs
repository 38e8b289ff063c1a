//! What a process waits for, as pg_stat_activity shows it: one table of names gives the enum, the text and
//! the documentation.
//!
//! A process publishes its wait in its slot with a plain store of one word before it sleeps, and clears it
//! afterwards. Names are PostgreSQL's where it has the wait; the others are at the end of their class.

/// Declares the classes and events.
macro_rules! wait_events {
    ($( $class:ident = $class_code:literal { $( $variant:ident $name:literal $description:literal )+ } )+) => {
        /// What a process waits for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum WaitEvent {
            $($(
                #[doc = concat!(stringify!($class), "/", $name, ": ", $description)]
                $variant,
            )+)+
        }

        impl WaitEvent {
            /// Every event, in the table's order.
            pub const ALL: &'static [WaitEvent] = &[$($( WaitEvent::$variant, )+)+];

            /// pg_stat_activity.wait_event_type.
            pub const fn type_name(self) -> &'static str {
                match self { $($( WaitEvent::$variant => stringify!($class), )+)+ }
            }

            /// pg_stat_activity.wait_event.
            pub const fn name(self) -> &'static str {
                match self { $($( WaitEvent::$variant => $name, )+)+ }
            }

            /// One sentence for the manual.
            pub const fn description(self) -> &'static str {
                match self { $($( WaitEvent::$variant => $description, )+)+ }
            }

            const fn class_code(self) -> u32 {
                match self { $($( WaitEvent::$variant => $class_code, )+)+ }
            }
        }
    };
}

wait_events! {
    Activity = 0x05 {
        ArchiverMain "ArchiverMain" "the archiver waits for a finished segment"
        CheckpointerMain "CheckpointerMain" "the checkpointer waits for the next checkpoint"
        RecoveryWalStream "RecoveryWalStream" "the startup process waits for more log to arrive"
        WalReceiverMain "WalReceiverMain" "the walreceiver waits for its upstream or its next deadline"
        WalSenderMain "WalSenderMain" "the walsender waits for log to send or for its client"
        WalWriterMain "WalWriterMain" "the walwriter waits for log to write"
        PostmasterMain "PostmasterMain" "the postmaster waits for connections, signals and child exits"
        StartupMain "StartupMain" "the writer waits for work"
    }
    Client = 0x06 {
        ClientRead "ClientRead" "the client's next message"
        ClientWrite "ClientWrite" "room to send to the client"
        WaitForWalFlush "WaitForWalFlush" "the log to be flushed up to a position (WAIT FOR LSN)"
        WaitForWalReplay "WaitForWalReplay" "the tables to have the log up to a position (WAIT FOR LSN)"
        WaitForWalWrite "WaitForWalWrite" "the log to be received and written up to a position (WAIT FOR LSN)"
        WalReceiverConnect "LibPQWalReceiverConnect" "the connection to the upstream server is being made"
        WalReceiverReceive "LibPQWalReceiverReceive" "the upstream server's answer"
        WalSenderWaitForWal "WalSenderWaitForWAL" "the walsender waits for log to be flushed"
        WalSenderWriteData "WalSenderWriteData" "room to send to the standby"
    }
    IPC = 0x08 {
        ArchiveCommand "ArchiveCommand" "the archive command's end"
        BackupWaitWalArchive "BackupWaitWalArchive" "the archive has the log of a base backup"
        BackendTermination "BackendTermination" "another process's end"
        CheckpointDone "CheckpointDone" "a checkpoint's end"
        CheckpointStart "CheckpointStart" "a checkpoint's start"
        MessageQueueReceive "MessageQueueReceive" "bytes from another process"
        MessageQueueSend "MessageQueueSend" "room for bytes to another process"
        ProcSignalBarrier "ProcSignalBarrier" "all processes absorb a barrier"
        Promote "Promote" "the node's promotion"
        RecoveryPause "RecoveryPause" "recovery is told to go on"
        ReplicationSlotDrop "ReplicationSlotDrop" "a replication slot becomes free to be dropped"
        RestoreCommand "RestoreCommand" "the restore command's end"
        SyncRep "SyncRep" "the synchronous standbys' confirmation"
        WalReceiverExit "WalReceiverExit" "the walreceiver's end"
        WalReceiverUpstreamCatchup "WalReceiverUpstreamCatchup" "the upstream's log to reach the end of this node's"
        WalReceiverWaitStart "WalReceiverWaitStart" "the startup process tells where to stream from"
        WriterOutcome "WriterOutcome" "session waits for the startup process to execute its write"
        TableApply "TableApply" "read waits for own write"
        WalFlush "WalFlush" "somebody else's flush of the log"
        Horizon "Horizon" "what is logged becomes safe to commit"
    }
    Timeout = 0x09 {
        PgSleep "PgSleep" "pg_sleep() or its like"
        RecoveryApplyDelay "RecoveryApplyDelay" "the delay set for replay"
        RecoveryRetrieveRetryInterval "RecoveryRetrieveRetryInterval" "the next attempt to find more log"
        BaseBackupThrottle "BaseBackupThrottle" "the rate limit of a base backup"
        CheckpointWriteDelay "CheckpointWriteDelay" "the pace of a spread checkpoint"
    }
    IO = 0x0A {
        BaseBackupRead "BaseBackupRead" "a read for a base backup"
        ControlFileRead "ControlFileRead" "a read of the control file"
        ControlFileSyncUpdate "ControlFileSyncUpdate" "the control file becomes durable"
        ControlFileWriteUpdate "ControlFileWriteUpdate" "a write of the control file"
        ReplicationSlotSync "ReplicationSlotSync" "a slot's state becomes durable"
        ReplicationSlotWrite "ReplicationSlotWrite" "a write of a slot's state"
        TimelineHistorySync "TimelineHistorySync" "a history file becomes durable"
        TimelineHistoryWrite "TimelineHistoryWrite" "a write of a history file"
        WalInitSync "WALInitSync" "a new segment becomes durable"
        WalInitWrite "WALInitWrite" "a new segment is filled with zeroes"
        WalRead "WALRead" "a read of the log"
        WalSenderTimelineHistoryRead "WALSenderTimelineHistoryRead" "a history file is read for a standby"
        WalSync "WALSync" "the log becomes durable"
        WalWrite "WALWrite" "a write of the log"
        TableRead "TableRead" "a read of the tables"
        TableWrite "TableWrite" "a commit of the tables"
        TableSync "TableSync" "the tables become durable"
    }
    LWLock = 0x01 {
        LockControlFile "ControlFile" "the lock of the control file"
        LockProcArray "ProcArray" "the lock of the process slots"
        LockReplicationSlotAllocation "ReplicationSlotAllocation" "the lock under which slots are made"
        LockReplicationSlotControl "ReplicationSlotControl" "the lock of the slots' list"
        LockSyncRep "SyncRep" "the lock of synchronous replication's queue"
        LockWalInsert "WALInsert" "the lock under which records enter the log"
        LockWalWrite "WALWrite" "the lock under which the log is written"
    }
}

impl WaitEvent {
    /// The word to publish: class in the top byte, position in the table (from 1) below. Never 0.
    pub const fn code(self) -> u32 {
        self.class_code() << 24 | (self as u32 + 1)
    }

    /// The event of a published word; None for 0 and for what no event has.
    pub fn from_code(code: u32) -> Option<WaitEvent> {
        let index = (code & 0x00FF_FFFF).checked_sub(1)?;
        WaitEvent::ALL.get(index as usize).copied().filter(|event| event.code() == code)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn wait_event_codes_are_distinct_and_read_back() {
        let codes: HashSet<u32> = WaitEvent::ALL.iter().map(|event| event.code()).collect();
        assert_eq!(codes.len(), WaitEvent::ALL.len());
        for event in WaitEvent::ALL {
            assert_eq!(WaitEvent::from_code(event.code()), Some(*event));
        }
        assert_eq!(WaitEvent::from_code(0), None);
        assert_eq!(WaitEvent::from_code(0x0500_FFFF), None);
    }

    #[test]
    fn wait_event_names_are_those_of_the_activity_view() {
        let shown = |event: WaitEvent| format!("{}/{}", event.type_name(), event.name());
        assert_eq!(shown(WaitEvent::WalWriterMain), "Activity/WalWriterMain");
        assert_eq!(shown(WaitEvent::WriterOutcome), "IPC/WriterOutcome");
        assert_eq!(shown(WaitEvent::WalSync), "IO/WALSync");
        assert_eq!(shown(WaitEvent::LockWalWrite), "LWLock/WALWrite");
    }
}
