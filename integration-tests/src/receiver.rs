//! A receiver that throws the log away: a client of the replication protocol that costs a server what pg_receivewal costs it,
//! and its own machine next to nothing: the kernel throws away what it doesn't have to look at.
//!
//! It reports what it has got when it is asked to, and never otherwise. Like [`crate::client`] it has a decoder of its own.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use sys::net;
use wal::lsn::Lsn;

use crate::client::{Address, Client, ClientError, parse_error};

/// Most bytes looked at at once: small messages whole, of large ones hardly more than the beginning.
const BUFFER: usize = 4096;
/// Tag, length, kind, start, end of the log and time: what stands before the log in a 'w'.
const WAL_HEADER: usize = 5 + 25;
/// Likewise of a 'k', which ends with the request for a reply.
const KEEPALIVE: usize = 5 + 18;

/// A receiver that streams.
#[derive(Debug)]
pub struct Receiver {
    client: Client,
    buffer: Vec<u8>,
    /// How much of `buffer` is the beginning of a message that has not come whole.
    held: usize,
    /// Bytes of the log that are still to come of the present message.
    skip: u64,
    /// Everything before this has come.
    position: Lsn,
}

impl Receiver {
    /// Streams timeline 1 from `start` on.
    ///
    /// # Errors
    /// The server refuses.
    pub fn start(address: &Address, start: Lsn) -> Result<Receiver, ClientError> {
        let mut client = Client::connect(address, &[("replication", "true")])?;
        client.send_query(&format!("START_REPLICATION {start} TIMELINE 1"))?;
        let message = client.read_message()?;
        match message.tag {
            b'W' => Ok(Receiver { client, buffer: vec![0; BUFFER], held: 0, skip: 0, position: start }),
            b'E' => Err(ClientError::Server(parse_error(&message.body))),
            other => Err(io::Error::other(format!("{:?} instead of a stream", char::from(other))).into()),
        }
    }

    /// Everything before this has come.
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// Takes what is there, waiting for it if nothing is.
    ///
    /// # Errors
    /// The stream has ended, or stood still.
    pub fn take(&mut self) -> Result<(), ClientError> {
        if self.skip > 0 {
            let most = usize::try_from(self.skip).unwrap_or(usize::MAX);
            let skipped = net::discard(self.as_fd(), most)?;
            if skipped == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            self.skip -= skipped as u64;
            self.position += skipped as u64;
            return Ok(());
        }
        let count = self.client.read_some(&mut self.buffer[self.held..])?;
        let filled = self.held + count;
        let mut at = 0;
        loop {
            let skipped = self.skip.min((filled - at) as u64);
            self.skip -= skipped;
            self.position += skipped;
            at += usize::try_from(skipped).expect("at most what is in the buffer");
            let message = &self.buffer[at..filled];
            if message.len() < KEEPALIVE || message[5] == b'w' && message.len() < WAL_HEADER {
                break;
            }
            at += match (message[0], message[5]) {
                (b'd', b'w') => {
                    let length = u32::from_be_bytes(message[1..5].try_into().expect("four bytes"));
                    self.position = Lsn(u64::from_be_bytes(message[6..14].try_into().expect("eight bytes")));
                    self.skip = u64::from(length) + 1 - WAL_HEADER as u64;
                    WAL_HEADER
                }
                (b'd', b'k') => {
                    if message[KEEPALIVE - 1] != 0 {
                        self.report()?;
                    }
                    KEEPALIVE
                }
                (other, _) => {
                    return Err(io::Error::other(format!("{:?} ends the stream", char::from(other))).into());
                }
            };
        }
        self.buffer.copy_within(at..filled, 0);
        self.held = filled - at;
        Ok(())
    }

    /// Says how far it is.
    fn report(&mut self) -> Result<(), ClientError> {
        let mut body = vec![b'r'];
        for number in [self.position, self.position, Lsn::INVALID, Lsn::INVALID] {
            body.extend_from_slice(&number.0.to_be_bytes());
        }
        body.push(0);
        self.client.send_message(b'd', &body)
    }
}

impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.client.as_fd()
    }
}
