//! The first packets of a connection, up to the one that says what it wants.
//!
//! Follows PostgreSQL 15 ProcessStartupPacket() in src/backend/postmaster/postmaster.c.

use std::sync::atomic::Ordering;

use ipc::interrupt::Interrupts;
use sys::clock::MonoTime;
use sys::process::Pid;
use wire::error::ErrorResponse;
use wire::startup::{CancelRequest, StartupDecoder, StartupMessage, StartupPacket};

use crate::backend_status::BackendStatus;
use crate::connection::{Connection, ReceivedPacket};
use crate::node::Node;
use crate::session::authenticate::timed_out;

/// What a connection wants.
pub(super) enum First {
    /// A session or a walsender.
    Startup(StartupMessage),
    /// The node's owner wants to know how it is.
    Status,
    /// Nothing more: it was a cancel request, or the client left.
    Done,
}

/// Reads packets until one says what the connection is for; answers requests for encryption with 'N'.
pub(super) fn read_startup(
    node: &'static Node,
    connection: &mut Connection,
    deadline: MonoTime,
) -> Result<First, ErrorResponse> {
    connection.set_read_deadline(Some(deadline));
    let mut decoder = StartupDecoder::default();
    loop {
        let packet = match connection.read_startup_packet()? {
            ReceivedPacket::Packet(bytes) => decoder.decode(bytes)?,
            ReceivedPacket::Interrupted => match connection.me() {
                Some(me) if me.pending().contains(Interrupts::TERMINATE) => return Err(super::terminated()),
                Some(me) => {
                    node.attend(&me);
                    me.take(me.pending().without(Interrupts::TERMINATE | Interrupts::BARRIER));
                    continue;
                }
                None => continue,
            },
            ReceivedPacket::TimedOut => return Err(timed_out()),
            ReceivedPacket::Eof => return Ok(First::Done),
        };
        match packet {
            StartupPacket::SslRequest | StartupPacket::GssEncRequest => {
                connection.output().push(b'N');
                connection.flush()?;
            }
            StartupPacket::Cancel(request) => {
                cancel(node, request);
                return Ok(First::Done);
            }
            StartupPacket::Status => return Ok(First::Status),
            StartupPacket::Startup(startup) => return Ok(First::Startup(startup)),
        }
    }
}

/// Cancels the statement of the session with that pid, if the key is its own. The client is told nothing either way.
fn cancel(node: &Node, request: CancelRequest) {
    let Some(address) = node.procs.find_pid(Pid(request.pid)) else {
        return tracing::info!("PID {} in cancel request did not match any process", request.pid);
    };
    let key = node.statuses[address.number.index()].cancel_key.load(Ordering::Acquire);
    if key == 0 || key != request.key {
        return tracing::info!("wrong key in cancel request for process {}", request.pid);
    }
    node.procs.send_interrupt(address, Interrupts::QUERY_CANCEL);
}

/// Makes this session's cancel key and publishes it.
pub(super) fn new_cancel_key(status: &BackendStatus) -> Result<CancelRequest, ErrorResponse> {
    let mut bytes = [0; 4];
    sys::random::fill(&mut bytes).map_err(|error| {
        ErrorResponse::fatal(
            wire::sqlstate::INTERNAL_ERROR,
            format!("could not generate random cancel key: {error}"),
        )
    })?;
    // 0 stands for "no key".
    let key = i32::from_le_bytes(bytes).max(1);
    status.cancel_key.store(key, Ordering::Release);
    Ok(CancelRequest { pid: sys::process::current_pid().0, key })
}
