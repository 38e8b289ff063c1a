//! A non-blocking socket with its buffers and its wait event set: what a served client and an upstream server have in
//! common.
//!
//! Everything here returns at once but [`BufferedSocket::wait`]. Bytes to send are appended to
//! [`BufferedSocket::output`]; they leave in order, and a part that the kernel did not take stays queued. One long-lived
//! set holds the socket, the latch and the postmaster's death (which ends the process). A program that is no process of
//! a node waits for the socket alone.
//!
//! [`crate::connection`] and [`crate::client`] give it PostgreSQL's behaviour and words.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::time::Duration;

use ipc::interrupt::Interrupts;
use ipc::process::Me;
use ipc::wait_event::WaitEvent;
use ipc::wait_event_set::{Events, Occurred, OnPostmasterDeath, Position, SocketEvents, WaitEventSet};
use sys::net::Stream;
use sys::{memory, signal};
use wire::framing::{FrameCheck, InputBuffer};

/// An output buffer that grew beyond this is given back once it is empty.
const OUTPUT_KEPT_MAX: usize = 1 << 20;

/// Enough for small messages.
const OUTPUT_SMALL: usize = 32 << 10;

/// What a read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fill {
    /// Some bytes.
    Bytes,
    /// Nothing is there now.
    Nothing,
    /// The peer has ended its side.
    End,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct BufferedSocket {
    me: Option<Me>,
    // Before the stream: a set goes before the descriptors that it waits for.
    set: WaitEventSet,
    socket: Position,
    occurred: Vec<Occurred>,
    stream: Stream,
    /// What was received and not yet taken.
    pub(crate) input: InputBuffer,
    output: Vec<u8>,
    /// The last read took all that there was. What has come since, the end and errors included, the next wait tells.
    drained: bool,
    /// How much of `output` the kernel has taken. Invariant: `sent <= output.len()`, and equal only when both are 0.
    sent: usize,
}

impl BufferedSocket {
    /// Takes a stream over. `me` is `None` in a program that is no process of a node.
    ///
    /// # Errors
    /// The kernel has no descriptors left.
    pub(crate) fn new(me: Option<Me>, stream: Stream, check: FrameCheck) -> io::Result<BufferedSocket> {
        let mut set = match &me {
            Some(me) => {
                let mut set = WaitEventSet::new(me, 3)?;
                set.add_latch()?;
                set.add_postmaster_death(OnPostmasterDeath::Exit)?;
                set
            }
            None => WaitEventSet::without_process(1)?,
        };
        let socket = set.add_socket(&stream, SocketEvents::READABLE)?;
        Ok(BufferedSocket {
            me,
            set,
            socket,
            occurred: Vec::new(),
            stream,
            input: InputBuffer::new(check),
            drained: false,
            output: Vec::new(),
            sent: 0,
        })
    }

    /// The process that this socket belongs to.
    pub(crate) fn me(&self) -> Option<Me> {
        self.me
    }

    /// Where messages to send are appended.
    pub(crate) fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Bytes that the kernel has not taken yet.
    pub(crate) fn pending_output(&self) -> usize {
        self.output.len() - self.sent
    }

    /// Whether sending has taken more memory than small messages need.
    pub(crate) fn holds_much(&self) -> bool {
        self.output.capacity() > OUTPUT_SMALL
    }

    /// Gives back the memory that larger messages have taken, for a peer that will get small ones.
    pub(crate) fn give_memory_back(&mut self) {
        if self.output.is_empty() {
            self.output = Vec::new();
        }
        memory::give_back();
    }

    /// Forgets what was not sent: the peer is beyond reach.
    pub(crate) fn discard_output(&mut self) {
        self.output = Vec::new();
        self.sent = 0;
    }

    /// The socket.
    pub(crate) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// The interrupts that have come and are not held; none outside of a node.
    pub(crate) fn pending_interrupts(&self) -> Interrupts {
        self.me.map_or(Interrupts::NONE, Me::pending)
    }

    /// Absorbs barriers: for a wait that the process's own loop is not a part of.
    pub(crate) fn serve_barriers(&self) {
        if let Some(me) = self.me {
            me.serve_barriers();
        }
    }

    /// Reads the process's signals, as a wait does: for who goes on without one.
    ///
    /// # Errors
    /// The descriptors are broken.
    pub(crate) fn poll_signals(&self) -> io::Result<()> {
        self.me.map_or(Ok(()), Me::poll_signals)
    }

    /// Resets the own latch. Look for work afterwards.
    pub(crate) fn reset_latch(&self) {
        if let Some(me) = self.me {
            me.latch().reset();
        }
    }

    /// Sets the own latch: what it stood for may not have been looked at.
    pub(crate) fn set_latch(&self) {
        if let Some(me) = self.me {
            me.latch().set();
        }
    }

    /// Reads once what has come. Says without asking the kernel that nothing is there, when the last read has taken all and
    /// there was no wait since: so a message that comes alone takes one system call.
    ///
    /// # Errors
    /// The connection is broken.
    pub(crate) fn fill(&mut self) -> io::Result<Fill> {
        if self.drained {
            return Ok(Fill::Nothing);
        }
        let room = self.input.spare();
        let most = room.len();
        match self.stream.read(room) {
            Ok(0) => Ok(Fill::End),
            Ok(count) => {
                self.drained = count < most;
                self.input.filled(count);
                Ok(Fill::Bytes)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Fill::Nothing),
            Err(error) => Err(error),
        }
    }

    /// Sends what the kernel takes now; whether that was all.
    ///
    /// # Errors
    /// The connection is broken.
    pub(crate) fn send_available(&mut self) -> io::Result<bool> {
        if self.output.is_empty() {
            return Ok(true);
        }
        let sent = self.send_queued(false)?;
        if sent {
            signal::end_message();
        }
        Ok(sent)
    }

    /// Sends what is queued, the beginning of a message, and then `length` bytes of `file` from `offset` on, its end, as far
    /// as the kernel takes them now. How many of the file's bytes that were: what is appended to the output next must be
    /// the others. What is wrong with the file, or now with the connection, is found out by whoever reads and sends these.
    ///
    /// # Errors
    /// The connection is broken.
    pub(crate) fn send_from_file(&mut self, file: &File, offset: u64, length: usize) -> io::Result<usize> {
        let mut taken = 0;
        if !self.send_queued(true)? {
            return Ok(taken);
        }
        while taken < length {
            match self.stream.write_from_file(file, offset + taken as u64, length - taken) {
                Ok(count) if count > 0 => taken += count,
                _ => return Ok(taken),
            }
        }
        signal::end_message();
        Ok(taken)
    }

    /// Sends what is queued as far as the kernel takes it now; whether that was all. `more`: something else follows.
    fn send_queued(&mut self, more: bool) -> io::Result<bool> {
        // Until the kernel has all of it the peer may have half a message, and stays so when it takes no more: what
        // SIGQUIT's handler sent then would be taken for the other half, of a walsender's for a piece of the log.
        signal::begin_message();
        while self.sent < self.output.len() {
            let rest = &self.output[self.sent..];
            match if more { self.stream.write_more(rest) } else { self.stream.write(rest) } {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.forget_sent();
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        self.sent = 0;
        if self.output.capacity() > OUTPUT_KEPT_MAX {
            self.output = Vec::new();
        } else {
            self.output.clear();
        }
        Ok(true)
    }

    /// Moves what is left to the front once more than half was sent: memory stays bounded though the buffer may never
    /// be empty, and no byte is moved more often than once for each that was sent.
    fn forget_sent(&mut self) {
        if self.sent > self.output.len() / 2 {
            self.output.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Waits for the latch, for `events` of the socket, or until `timeout` is over; what happened (nothing: the time
    /// is over). Ends the process when the postmaster is gone. Does not reset the latch.
    ///
    /// # Errors
    /// The descriptors are broken.
    pub(crate) fn wait(
        &mut self,
        events: SocketEvents,
        timeout: Option<Duration>,
        event: WaitEvent,
    ) -> io::Result<Events> {
        self.drained = false;
        self.set.modify(self.socket, events)?;
        self.set.wait(timeout, event, &mut self.occurred)?;
        Ok(self.occurred.iter().fold(Events::NONE, |all, one| all | one.events))
    }
}

/// An error in the words of strerror, as PostgreSQL writes it into its messages.
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}
