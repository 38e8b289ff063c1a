//! A relay between a standby (or any client) and its primary that changes one byte on the way, or stops in the middle, and keeps
//! what it has moved.
//!
//! It stands where a broken network card or a cut cable would: the standby's primary_conninfo names the proxy's port. It has no
//! process of its own, so the test must call [`Proxy::pump`] while it waits for something ([`Proxy::until`] does).

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

use crate::wait;

/// The relay.
#[derive(Debug)]
pub struct Proxy {
    listener: TcpListener,
    upstream_port: u16,
    pairs: Vec<Pair>,
    /// What the server sends is searched for this and its first byte changed, once.
    target: Option<Vec<u8>>,
    /// How many bytes more the clients get.
    left: usize,
    /// All that went through it, both ways, as it came.
    recorded: Vec<u8>,
}

#[derive(Debug)]
struct Pair {
    client: TcpStream,
    server: TcpStream,
    to_client: Vec<u8>,
    to_server: Vec<u8>,
    ended: bool,
}

impl Proxy {
    /// A relay to the server on `upstream_port`, on a free port of its own.
    pub fn new(upstream_port: u16) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        Proxy {
            listener,
            upstream_port,
            pairs: Vec::new(),
            target: None,
            left: usize::MAX,
            recorded: Vec::new(),
        }
    }

    /// The port to connect to.
    pub fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    /// The first time that the server sends `bytes`, one bit of the first of them is flipped.
    pub fn flip_bit_in(&mut self, bytes: &[u8]) {
        self.target = Some(bytes.to_vec());
    }

    /// Whether the bit was flipped.
    pub fn flipped(&self) -> bool {
        self.target.is_none()
    }

    /// From now on the clients get so many bytes of the server, and then nothing more, until this is said again.
    pub fn stop_after(&mut self, bytes: usize) {
        self.left = bytes;
    }

    /// All that went through it so far.
    pub fn recorded(&self) -> &[u8] {
        &self.recorded
    }

    /// Moves what there is to move.
    pub fn pump(&mut self) {
        while let Ok((client, _)) = self.listener.accept() {
            // A server that is away refuses; dropping the client's socket tells it.
            let Ok(server) = TcpStream::connect(("127.0.0.1", self.upstream_port)) else { continue };
            for stream in [&client, &server] {
                stream.set_nonblocking(true).unwrap();
                stream.set_nodelay(true).unwrap();
            }
            self.pairs.push(Pair {
                client,
                server,
                to_client: Vec::new(),
                to_server: Vec::new(),
                ended: false,
            });
        }
        let mut without_end = usize::MAX;
        for pair in &mut self.pairs {
            let before = [pair.to_server.len(), pair.to_client.len()];
            pair.ended |= receive(&mut pair.client, &mut pair.to_server).is_err();
            pair.ended |= receive(&mut pair.server, &mut pair.to_client).is_err();
            self.recorded.extend_from_slice(&pair.to_server[before[0]..]);
            self.recorded.extend_from_slice(&pair.to_client[before[1]..]);
            if let Some(target) = &self.target
                && let Some(at) = pair.to_client.windows(target.len()).position(|window| window == target)
            {
                pair.to_client[at] ^= 1;
                self.target = None;
            }
            pair.ended |= send(&mut pair.server, &mut pair.to_server, &mut without_end).is_err();
            pair.ended |= send(&mut pair.client, &mut pair.to_client, &mut self.left).is_err();
        }
        self.pairs.retain(|pair| !pair.ended);
    }

    /// [`wait::until`] with the relay at work.
    pub fn until<T>(&mut self, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
        wait::until(what, || {
            self.pump();
            condition()
        })
    }
}

fn receive(from: &mut TcpStream, into: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; 65536];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => into.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn send(to: &mut TcpStream, from: &mut Vec<u8>, left: &mut usize) -> io::Result<()> {
    while !from.is_empty() && *left > 0 {
        match to.write(&from[..from.len().min(*left)]) {
            Ok(count) => {
                drop(from.drain(..count));
                *left -= count;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
