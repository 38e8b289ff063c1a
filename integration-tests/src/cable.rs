//! A cable to a node that can be cut: nothing passes any more, and neither end is told.
//!
//! It stands for the network between machines. Others reach the node by the cable's port; whoever is on the node's own side
//! of the cut connects to the node directly, and goes on talking to it. Bytes that are under way when it is cut are never
//! delivered, as every connection of before is closed when it is mended. A thread waits for connections, and each connection
//! has two that wait for bytes; nothing is delayed by a look at a clock.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

/// The cable. Dropping it closes its connections.
#[derive(Debug)]
pub struct Cable {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// It was mended, or is gone.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_cut: bool,
    is_gone: bool,
    /// Both ends of every connection since it was last mended.
    ends: Vec<TcpStream>,
}

impl Cable {
    /// A cable to the node on `node_port`, on a free port of its own.
    pub fn to(node_port: u16) -> Cable {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let cable = Cable { port, shared: Arc::clone(&shared) };
        in_thread(move || {
            for client in listener.incoming() {
                if shared.lock().is_gone {
                    return;
                }
                // A node that is away refuses; dropping the client's socket tells it.
                if let Ok(client) = client
                    && let Ok(server) = TcpStream::connect(("127.0.0.1", node_port))
                {
                    shared.join(client, server);
                }
            }
        });
        cable
    }

    /// The port to connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on nothing passes.
    pub fn cut(&self) {
        self.shared.lock().is_cut = true;
    }

    /// Ends the connections that there are; new ones pass again.
    pub fn mend(&self) {
        self.shared.lock().is_cut = false;
        self.shared.end_connections();
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.shared.lock().is_gone = true;
        self.mend();
        // So that the thread that accepts looks.
        let _gone = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn join(self: &Arc<Shared>, client: TcpStream, server: TcpStream) {
        for stream in [&client, &server] {
            stream.set_nodelay(true).unwrap();
            self.lock().ends.push(stream.try_clone().unwrap());
        }
        for (from, to) in [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)] {
            let shared = Arc::clone(self);
            in_thread(move || shared.carry(from, to));
        }
    }

    /// Carries bytes until one of the ends is closed.
    fn carry(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = [0; 65536];
        while let Ok(count) = from.read(&mut buffer)
            && count > 0
        {
            drop(self.changed.wait_while(self.lock(), |state| state.is_cut).unwrap());
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        // An end, too, is told only where the cable is whole.
        drop(self.changed.wait_while(self.lock(), |state| state.is_cut).unwrap());
        for end in [from, to] {
            let _closed_before = end.shutdown(Shutdown::Both);
        }
    }

    fn end_connections(&self) {
        for end in self.lock().ends.drain(..) {
            let _closed_before = end.shutdown(Shutdown::Both);
        }
        self.changed.notify_all();
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "who uses a cable starts programs, and never goes on after a fork"
)]
fn in_thread(work: impl FnOnce() + Send + 'static) {
    thread::spawn(work);
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::time::Duration;

    use super::*;

    #[test]
    fn cut_cable_delivers_nothing_and_tells_nobody_until_it_is_mended() {
        let node = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let cable = Cable::to(node.local_addr().unwrap().port());
        let connect = || {
            let client = TcpStream::connect(("127.0.0.1", cable.port())).unwrap();
            (client, node.accept().unwrap().0)
        };
        let mut byte = [0];
        let (mut client, mut server) = connect();
        client.write_all(b"a").unwrap();
        server.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"a");
        cable.cut();
        client.write_all(b"b").unwrap();
        server.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        assert_eq!(server.read(&mut byte).unwrap_err().kind(), ErrorKind::WouldBlock);
        cable.mend();
        server.set_read_timeout(None).unwrap();
        assert!(matches!(server.read(&mut byte), Ok(0) | Err(_)), "what was under way is lost");
        let (mut client, mut server) = connect();
        server.write_all(b"c").unwrap();
        client.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"c");
    }
}
