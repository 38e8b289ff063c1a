//! What a base backup sends to its client: pieces of the archive, as fast as the client takes them and the rate allows.
//!
//! Never waits for anything else than the client, the rate and the interrupts: a client that takes nothing, and a slow
//! rate, hold up neither barriers nor the end of the node.

use std::fs::File;
use std::io::Read;

use failpoint::Site;
use ipc::interrupt::Interrupts;
use ipc::process::Me;
use ipc::wait_event::WaitEvent;
use ipc::wait_event_set::{Events, SocketEvents};
use sys::clock::{self, MonoTime};
use wal::timestamp::Timestamp;
use wire::error::ErrorResponse;
use wire::replication::backup::BackupMessage;
use wire::sqlstate;

use super::checksum::Checksum;
use super::io_error;
use super::manifest::Manifest;
use super::progress::BackupProgress;
use super::tar::{self, Owner, PathTooLong};
use super::throttle::Throttle;
use crate::connection::Connection;
use crate::node::Node;
use crate::session::{client_lost, terminated};

/// Bytes of a file in one message.
const PIECE: usize = 64 * 1024;
/// The client is told how far the archive is after so many bytes, but not more often than
const PROGRESS_BYTES: u64 = 64 * 1024;
/// so many ns.
const PROGRESS_INTERVAL: u64 = 1_000_000_000;
/// What ends a backup.
const ENDS: Interrupts = Interrupts::TERMINATE
    .union(Interrupts::WALSND_INIT_STOPPING)
    .union(Interrupts::STOP)
    .union(Interrupts::QUERY_CANCEL);

/// See the module.
pub(super) struct Outlet<'a> {
    node: &'static Node,
    me: Me,
    connection: &'a mut Connection,
    throttle: Option<Throttle>,
    /// Whether the client wants to know how far it is.
    progress: bool,
    /// Bytes of the archive sent so far, and where others see that.
    sent: u64,
    shown: &'a BackupProgress,
    /// Of these, told; and when.
    told: (u64, MonoTime),
    owner: Owner,
    /// Lists the files that are sent.
    pub(super) manifest: Option<Manifest>,
}

impl<'a> Outlet<'a> {
    pub(super) fn new(
        node: &'static Node,
        me: Me,
        connection: &'a mut Connection,
        shown: &'a BackupProgress,
        manifest: Option<Manifest>,
    ) -> Outlet<'a> {
        let owner = Owner { uid: sys::process::effective_uid(), gid: sys::process::effective_gid() };
        let told = (0, clock::now());
        Outlet {
            node,
            me,
            connection,
            throttle: None,
            progress: false,
            sent: 0,
            shown,
            told,
            owner,
            manifest,
        }
    }

    /// Begins the archive. `rate`: KiB per second, if there is a limit.
    pub(super) fn begin(&mut self, rate: Option<u32>, progress: bool) -> Result<(), ErrorResponse> {
        self.throttle = rate.map(|rate| Throttle::new(rate, clock::now()));
        self.progress = progress;
        self.message(BackupMessage::Archive { name: "base.tar", location: "" })
    }

    /// Where answers are appended that are no part of the archive.
    pub(super) fn output(&mut self) -> &mut Vec<u8> {
        self.connection.output()
    }

    /// Takes the interrupts that have come.
    ///
    /// # Errors
    /// One of them ends the backup, or the process.
    pub(super) fn heed(&mut self) -> Result<(), ErrorResponse> {
        // An error means that the signalfd is gone; the next wait will say so.
        let _ = self.me.poll_signals();
        if self.me.pending().is_empty() {
            return Ok(());
        }
        self.node.attend(&self.me);
        let taken = self.me.take(self.me.pending().without(Interrupts::BARRIER));
        if taken.contains(Interrupts::QUERY_CANCEL) {
            return Err(ErrorResponse::error(
                sqlstate::QUERY_CANCELED,
                "canceling statement due to user request",
            ));
        }
        if taken.intersects(ENDS) { Err(terminated()) } else { Ok(()) }
    }

    /// As [`Outlet::heed`], and sees to it that the client is still there: for work that sends nothing.
    pub(super) fn heed_client(&mut self) -> Result<(), ErrorResponse> {
        self.heed()?;
        if self.connection.client_is_gone()? { Err(client_lost()) } else { Ok(()) }
    }

    /// Sleeps until the latch is set, or `until`. Look at the condition after a reset of the latch, and before this.
    pub(super) fn sleep(&mut self, until: Option<MonoTime>, event: WaitEvent) -> Result<(), ErrorResponse> {
        let timeout = until.map(|until| until.saturating_since(clock::now()));
        let happened = self.connection.wait(SocketEvents::CLOSED, timeout, event)?;
        if happened.contains(Events::SOCKET_CLOSED) { Err(client_lost()) } else { Ok(()) }
    }

    /// Sends what is queued.
    pub(super) fn flush(&mut self) -> Result<(), ErrorResponse> {
        loop {
            self.heed()?;
            if self.connection.flush_unless(ENDS)? {
                return Ok(());
            }
        }
    }

    pub(super) fn message(&mut self, message: BackupMessage<'_>) -> Result<(), ErrorResponse> {
        message.encode(self.connection.output());
        self.flush()
    }

    /// Sends bytes of the archive.
    pub(super) fn data(&mut self, bytes: &[u8]) -> Result<(), ErrorResponse> {
        if bytes.is_empty() {
            return Ok(());
        }
        failpoint::pass(Site::BackupSend);
        self.message(BackupMessage::Data(bytes))?;
        self.sent += bytes.len() as u64;
        self.shown.set_streamed(self.sent);
        self.wait_for_rate(bytes.len())?;
        let now = clock::now();
        let due = now.saturating_since(self.told.1).as_nanos() >= u128::from(PROGRESS_INTERVAL);
        if due && self.sent - self.told.0 >= PROGRESS_BYTES { self.tell_progress(now) } else { Ok(()) }
    }

    fn tell_progress(&mut self, now: MonoTime) -> Result<(), ErrorResponse> {
        self.told = (self.sent, now);
        if self.progress { self.message(BackupMessage::Progress(self.sent)) } else { Ok(()) }
    }

    fn wait_for_rate(&mut self, bytes: usize) -> Result<(), ErrorResponse> {
        let Some(until) = self.throttle.as_mut().and_then(|throttle| throttle.sent(clock::now(), bytes))
        else {
            return Ok(());
        };
        while clock::now() < until {
            self.me.latch().reset();
            self.heed()?;
            self.sleep(Some(until), WaitEvent::BaseBackupThrottle)?;
        }
        Ok(())
    }

    /// Sends an empty directory.
    pub(super) fn directory(&mut self, path: &str, modified: Timestamp) -> Result<(), ErrorResponse> {
        let header = self.owner.directory(path, modified).map_err(|error| too_long(path, error))?;
        self.data(&header)
    }

    /// Sends a file made of `content`, and lists it in the manifest.
    pub(super) fn content(
        &mut self,
        path: &str,
        content: &[u8],
        modified: Timestamp,
    ) -> Result<(), ErrorResponse> {
        self.file(path, modified, content.len() as u64, content)
    }

    /// Sends the first `size` bytes of `file`, and lists it. Where it has become shorter it goes on with zeros: its size is
    /// in the header already.
    pub(super) fn file(
        &mut self,
        path: &str,
        modified: Timestamp,
        size: u64,
        file: impl Read,
    ) -> Result<(), ErrorResponse> {
        let mut checksum = self.manifest.as_ref().map(|manifest| Checksum::new(manifest.checksums()));
        self.unlisted(path, modified, size, file, |piece| {
            if let Some(checksum) = &mut checksum {
                checksum.update(piece);
            }
        })?;
        if let (Some(manifest), Some(checksum)) = (&mut self.manifest, checksum) {
            manifest.add(path, size, modified, checksum);
        }
        Ok(())
    }

    /// Sends a file that the manifest doesn't list. Each piece is shown to `seen`.
    pub(super) fn unlisted(
        &mut self,
        path: &str,
        modified: Timestamp,
        size: u64,
        file: impl Read,
        mut seen: impl FnMut(&[u8]),
    ) -> Result<(), ErrorResponse> {
        let header = self.owner.file(path, size, modified).map_err(|error| too_long(path, error))?;
        self.data(&header)?;
        let mut file = file.take(size);
        let mut left = size;
        let mut piece = vec![0; PIECE];
        while left > 0 {
            let len = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            self.read(&mut file, &mut piece[..len]).map_err(|error| io_error("read", path, &error))?;
            seen(&piece[..len]);
            self.data(&piece[..len])?;
            left -= len as u64;
        }
        self.data(tar::padding(size))
    }

    /// Fills `piece` from the file; with zeros where that has no more.
    fn read(&self, file: &mut impl Read, piece: &mut [u8]) -> std::io::Result<()> {
        let _published = self.me.publish_wait(WaitEvent::BaseBackupRead);
        let mut read = 0;
        while read < piece.len() {
            match file.read(&mut piece[read..]) {
                Ok(0) => break,
                Ok(bytes) => read += bytes,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        piece[read..].fill(0);
        Ok(())
    }

    /// Ends the archive.
    pub(super) fn end(&mut self) -> Result<(), ErrorResponse> {
        self.data(&tar::END)?;
        self.tell_progress(clock::now())
    }

    /// Sends the manifest.
    pub(super) fn manifest(&mut self, text: &str) -> Result<(), ErrorResponse> {
        self.message(BackupMessage::Manifest)?;
        for piece in text.as_bytes().chunks(PIECE) {
            self.message(BackupMessage::Data(piece))?;
        }
        Ok(())
    }
}

/// When a file was last written.
pub(super) fn modified(file: &File) -> std::io::Result<Timestamp> {
    use std::os::unix::fs::MetadataExt;
    Ok(Timestamp::from_unix_micros(file.metadata()?.mtime().saturating_mul(1_000_000)))
}

fn too_long(path: &str, _: PathTooLong) -> ErrorResponse {
    let message = format!("file name too long for tar format: \"{path}\"");
    ErrorResponse::error(sqlstate::PROGRAM_LIMIT_EXCEEDED, message)
}
