//! A served client: its socket, its buffers, and the waits of a session and a walsender.
//!
//! How to use it, as a session:
//! ```text
//! loop {
//!     match connection.read_message()? {
//!         Received::Message(message) => … append answers to connection.output(),
//!                                         connection.flush_when_full(Interrupts::NONE)? while rows go out …
//!         Received::Interrupted => … take the pending interrupts and act …
//!         Received::TimedOut => … the read deadline is over …
//!         Received::Eof => break,
//!     }
//!     connection.flush()?;
//! }
//! ```
//! A walsender never blocks in a read or a write: [`Connection::try_read_message`],
//! [`Connection::flush_if_writable`], [`Connection::wait`]. Signals are read in waits (and by
//! [`Connection::read_message`]): who sends on without waiting calls [`Me::poll_signals`] now and then.
//!
//! How it fails: every error is a report. One of severity `CommError` is for the log alone, as nothing can be said to
//! the client any more (it is gone, or out of step, or the process must end while the client takes nothing); one of
//! severity FATAL may still be sent. In both cases the connection is over.
//!
//! Invariants: interrupts are looked at before every sleep, after the latch was reset; a wake-up of the latch that a
//! write used up is given back. What is queued are whole messages, so an answer can be appended whenever a flush gives
//! way.
//!
//! Follows PostgreSQL 15 src/backend/libpq/pqcomm.c, be-secure.c, src/backend/tcop/postgres.c
//! (ProcessClientReadInterrupt, ProcessClientWriteInterrupt).

use std::fs::File;
use std::io;
use std::time::Duration;

use ipc::interrupt::Interrupts;
use ipc::process::Me;
use ipc::wait_event::WaitEvent;
use ipc::wait_event_set::{Events, SocketEvents};
use sys::clock::{self, MonoTime};
use sys::net::{PeerAddr, Stream};
use wire::error::ErrorResponse;
use wire::framing::{FrameCheck, Message};
use wire::frontend;
use wire::sqlstate::{ADMIN_SHUTDOWN, CONNECTION_FAILURE, PROTOCOL_VIOLATION};

use crate::buffered_socket::{BufferedSocket, Fill, reason};

/// More queued output than this is sent before more is made ([`Connection::flush_when_full`]).
pub const OUTPUT_FULL: usize = 64 * 1024;

/// What a wait for the client brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// A message.
    Message(Message<'a>),
    /// Interrupts are pending ([`Me::pending`]); take them, then read again.
    Interrupted,
    /// The read deadline is over.
    TimedOut,
    /// The client has left, between two messages.
    Eof,
}

/// What a wait for the first packets of a client brought.
#[derive(Debug, PartialEq, Eq)]
pub enum ReceivedPacket<'a> {
    /// A packet, without its length word.
    Packet(&'a [u8]),
    /// Interrupts are pending.
    Interrupted,
    /// The read deadline is over.
    TimedOut,
    /// The client has left without a word, as a port scanner does.
    Eof,
}

/// Why a wait for input ended.
enum Input {
    Ready,
    Interrupted,
    TimedOut,
    Eof,
}

/// One client.
#[derive(Debug)]
pub struct Connection {
    socket: BufferedSocket,
    peer: PeerAddr,
    read_deadline: Option<MonoTime>,
    write_deadline: Option<MonoTime>,
}

impl Connection {
    /// Takes an accepted stream over.
    ///
    /// # Errors
    /// The kernel has no descriptors left.
    pub fn new(me: Me, stream: Stream, peer: PeerAddr) -> io::Result<Connection> {
        let socket = BufferedSocket::new(Some(me), stream, frontend::check_frame)?;
        Ok(Connection { socket, peer, read_deadline: None, write_deadline: None })
    }

    /// For a process without a slot, which only tells the client why it is not let in.
    ///
    /// # Errors
    /// The kernel has no descriptors left.
    pub fn unattached(stream: Stream, peer: PeerAddr) -> io::Result<Connection> {
        let socket = BufferedSocket::new(None, stream, frontend::check_frame)?;
        Ok(Connection { socket, peer, read_deadline: None, write_deadline: None })
    }

    /// The process that serves the client, if it has a slot.
    pub fn me(&self) -> Option<Me> {
        self.socket.me()
    }

    /// Who the client is.
    pub fn peer(&self) -> PeerAddr {
        self.peer
    }

    /// The socket, for what the kernel can set on it.
    pub fn stream(&self) -> &Stream {
        self.socket.stream()
    }

    /// From the next message on, `check` decides which messages may come: a walsender's stream takes others than a
    /// session.
    pub fn set_check(&mut self, check: FrameCheck) {
        self.socket.input.set_check(check);
    }

    /// From the next message on, the body of a longer one is left out ([`wire::frontend::FrontendMessage::TooLong`]).
    pub fn set_body_max(&mut self, bytes: usize) {
        self.socket.input.set_body_max(bytes);
    }

    /// Until when reads wait ([`Received::TimedOut`]); `None` is for ever.
    pub fn set_read_deadline(&mut self, deadline: Option<MonoTime>) {
        self.read_deadline = deadline;
    }

    /// Until when flushes that can give way wait for the client; `None` is for ever.
    pub fn set_write_deadline(&mut self, deadline: Option<MonoTime>) {
        self.write_deadline = deadline;
    }

    /// Waits for the next message. Pending interrupts come first, also before a message that is there already.
    ///
    /// # Errors
    /// The connection is broken or out of step.
    pub fn read_message(&mut self) -> Result<Received<'_>, ErrorResponse> {
        let ready = |socket: &mut BufferedSocket| socket.input.has_message();
        Ok(match self.wait_for_input(ready)? {
            Input::Ready => {
                let message = self.socket.input.next_message()?;
                Received::Message(message.expect("a whole message is there"))
            }
            Input::Interrupted => Received::Interrupted,
            Input::TimedOut => Received::TimedOut,
            Input::Eof if self.socket.input.is_empty() => Received::Eof,
            Input::Eof => return Err(incomplete("incomplete message from client")),
        })
    }

    /// Waits for a startup packet. Pending interrupts come first.
    ///
    /// # Errors
    /// The connection is broken, or the packet is longer or shorter than one can be.
    pub fn read_startup_packet(&mut self) -> Result<ReceivedPacket<'_>, ErrorResponse> {
        let ready = |socket: &mut BufferedSocket| socket.input.has_startup_packet();
        Ok(match self.wait_for_input(ready)? {
            Input::Ready => {
                let packet = self.socket.input.next_startup_packet()?;
                ReceivedPacket::Packet(packet.expect("a whole packet is there"))
            }
            Input::Interrupted => ReceivedPacket::Interrupted,
            Input::TimedOut => ReceivedPacket::TimedOut,
            Input::Eof if self.socket.input.is_empty() => ReceivedPacket::Eof,
            Input::Eof => return Err(incomplete("incomplete startup packet")),
        })
    }

    fn wait_for_input(
        &mut self,
        ready: impl Fn(&mut BufferedSocket) -> Result<bool, ErrorResponse>,
    ) -> Result<Input, ErrorResponse> {
        let mut waited = false;
        loop {
            self.socket.reset_latch();
            if !self.socket.pending_interrupts().is_empty() {
                return Ok(Input::Interrupted);
            }
            if ready(&mut self.socket)? {
                if waited {
                    return Ok(Input::Ready);
                }
                // A client that never lets us wait must not keep signals from being seen.
                self.socket.poll_signals().map_err(wait_failed)?;
                waited = true;
                continue;
            }
            match self.socket.fill().map_err(receive_failed)? {
                Fill::Bytes => continue,
                Fill::End => return Ok(Input::Eof),
                Fill::Nothing => {}
            }
            let timeout = self.read_deadline.map(|deadline| deadline.saturating_since(clock::now()));
            let happened = self
                .socket
                .wait(SocketEvents::READABLE, timeout, WaitEvent::ClientRead)
                .map_err(wait_failed)?;
            if happened.is_empty() {
                return Ok(Input::TimedOut);
            }
            waited = true;
        }
    }

    /// The next message if all of it is there or can be read at once; `None` if not. Interrupts are not looked at.
    ///
    /// # Errors
    /// The connection is broken or out of step.
    pub fn try_read_message(&mut self) -> Result<Option<Received<'_>>, ErrorResponse> {
        while !self.socket.input.has_message()? {
            match self.socket.fill().map_err(receive_failed)? {
                Fill::Bytes => {}
                Fill::Nothing => return Ok(None),
                Fill::End if self.socket.input.is_empty() => return Ok(Some(Received::Eof)),
                Fill::End => return Err(incomplete("incomplete message from client")),
            }
        }
        Ok(self.socket.input.next_message()?.map(Received::Message))
    }

    /// Where messages to the client are appended ([`wire::backend`]). Nothing leaves before a flush.
    pub fn output(&mut self) -> &mut Vec<u8> {
        self.socket.output()
    }

    /// Whether something is queued that the kernel has not taken yet.
    pub fn has_pending_output(&self) -> bool {
        self.socket.pending_output() > 0
    }

    /// Sends all that is queued, waiting as long as the client needs to take it.
    ///
    /// # Errors
    /// The connection is broken; or the process was asked to end while the client takes nothing, so that the client
    /// can't be told.
    pub fn flush(&mut self) -> Result<(), ErrorResponse> {
        self.flush_unless(Interrupts::NONE).map(|_| ())
    }

    /// As [`Connection::flush`], but gives way (false) when one of `interrupts` comes, or the write deadline, while the
    /// client takes nothing. What is left stays queued and in order.
    ///
    /// # Errors
    /// As [`Connection::flush`].
    pub fn flush_unless(&mut self, interrupts: Interrupts) -> Result<bool, ErrorResponse> {
        if self.flush_if_writable()? {
            return Ok(true);
        }
        let result = self.wait_until_sent(interrupts);
        // The waits used wake-ups up that may have been meant for something else.
        self.socket.set_latch();
        result
    }

    fn wait_until_sent(&mut self, interrupts: Interrupts) -> Result<bool, ErrorResponse> {
        loop {
            self.socket.reset_latch();
            self.socket.serve_barriers();
            let pending = self.socket.pending_interrupts();
            if pending.contains(Interrupts::TERMINATE) {
                self.socket.discard_output();
                let message = "terminating connection due to administrator command";
                return Err(ErrorResponse::comm_error(ADMIN_SHUTDOWN, message));
            }
            if pending.intersects(interrupts) {
                return Ok(false);
            }
            if self.flush_if_writable()? {
                return Ok(true);
            }
            let deadline = self.write_deadline.filter(|_| !interrupts.is_empty());
            let timeout = deadline.map(|deadline| deadline.saturating_since(clock::now()));
            let happened = self
                .socket
                .wait(SocketEvents::WRITEABLE, timeout, WaitEvent::ClientWrite)
                .map_err(wait_failed)?;
            if happened.is_empty() {
                return Ok(false);
            }
        }
    }

    /// [`Connection::flush_unless`] once [`OUTPUT_FULL`] is queued, else nothing: to be called after each row, so that
    /// a result of any size needs a bounded buffer. False: gave way to one of `interrupts`.
    ///
    /// # Errors
    /// As [`Connection::flush`].
    pub fn flush_when_full(&mut self, interrupts: Interrupts) -> Result<bool, ErrorResponse> {
        if self.socket.pending_output() < OUTPUT_FULL {
            return Ok(true);
        }
        self.flush_unless(interrupts)
    }

    /// Sends what is queued, the beginning of a message, and then its end from a file; see
    /// [`BufferedSocket::send_from_file`].
    ///
    /// # Errors
    /// The connection is broken.
    pub(crate) fn send_from_file(
        &mut self,
        file: &File,
        offset: u64,
        length: usize,
    ) -> Result<usize, ErrorResponse> {
        let taken = self.socket.send_from_file(file, offset, length);
        taken.map_err(|error| self.give_up(error))
    }

    /// Sends what the kernel takes at once; whether that was all.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn flush_if_writable(&mut self) -> Result<bool, ErrorResponse> {
        let sent = self.socket.send_available();
        sent.map_err(|error| self.give_up(error))
    }

    /// See [`BufferedSocket::holds_much`].
    pub(crate) fn holds_much(&self) -> bool {
        self.socket.holds_much()
    }

    /// See [`BufferedSocket::give_memory_back`].
    pub(crate) fn give_memory_back(&mut self) {
        self.socket.give_memory_back();
    }

    /// Nothing that is queued will reach the client.
    fn give_up(&mut self, error: io::Error) -> ErrorResponse {
        self.socket.discard_output();
        lost("could not send data to client", error)
    }

    /// Waits for the latch, for `events` of the socket, or until `timeout` is over; what happened (nothing: the time is
    /// over). For who looks at its latch, its interrupts and its buffers before each wait; the latch is not reset.
    ///
    /// # Errors
    /// The descriptors are broken.
    pub fn wait(
        &mut self,
        events: SocketEvents,
        timeout: Option<Duration>,
        event: WaitEvent,
    ) -> Result<Events, ErrorResponse> {
        self.socket.wait(events, timeout, event).map_err(wait_failed)
    }

    /// Whether the client has closed its side or the connection broke, without reading what it may have sent before:
    /// for a look now and then during a long command.
    ///
    /// # Errors
    /// The descriptors are broken.
    pub fn client_is_gone(&mut self) -> Result<bool, ErrorResponse> {
        let happened = self.wait(SocketEvents::CLOSED, Some(Duration::ZERO), WaitEvent::ClientRead)?;
        Ok(happened.contains(Events::SOCKET_CLOSED))
    }
}

fn incomplete(message: &str) -> ErrorResponse {
    ErrorResponse::comm_error(PROTOCOL_VIOLATION, message)
}

fn receive_failed(error: io::Error) -> ErrorResponse {
    lost("could not receive data from client", error)
}

fn wait_failed(error: io::Error) -> ErrorResponse {
    lost("could not wait for the client", error)
}

fn lost(what: &str, error: io::Error) -> ErrorResponse {
    ErrorResponse::comm_error(CONNECTION_FAILURE, format!("{what}: {}", reason(&error)))
}
