//! A cable to a node that can be cut: nothing passes any more, and neither end is told.
//!
//! It stands for the network between machines. Others reach the node by the cable's port; whoever is on the node's own side
//! of the cut connects to the node directly, and goes on talking to it. What is sent into a cut cable (bytes, an end, a new
//! connection) arrives when it is mended, if the other side is still there. A thread waits for connections, and each
//! connection has two that wait for bytes; nothing is delayed by a look at a clock, nor by what the test does meanwhile.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

/// The line (from 0) of postmaster.pid with the port.
const PORT_LINE: usize = 3;

/// The cable. When it is dropped nobody gets a connection any more; those that there are end with their ends.
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
}

impl Cable {
    /// A cable to what listens on `port`, on a free port of its own.
    pub fn to(port: u16) -> Cable {
        Cable::to_found(move || Some(port))
    }

    /// A cable to the node of a data directory, which may be there or not yet, running or not.
    pub fn to_node_in(dir: PathBuf) -> Cable {
        Cable::to_found(move || {
            let text = fs::read_to_string(dir.join("postmaster.pid")).ok()?;
            text.lines().nth(PORT_LINE)?.trim().parse().ok()
        })
    }

    /// A cable to the port that is found when somebody connects.
    fn to_found(find: impl Fn() -> Option<u16> + Send + 'static) -> Cable {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let cable = Cable { port, shared: Arc::clone(&shared) };
        in_thread(move || {
            for client in listener.incoming() {
                if shared.wait_whole().is_gone {
                    return;
                }
                // A node that is away refuses; dropping the client's socket tells it.
                if let Ok(client) = client
                    && let Some(port) = find()
                    && let Ok(server) = TcpStream::connect(("127.0.0.1", port))
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

    /// Everything passes again.
    pub fn mend(&self) {
        self.shared.lock().is_cut = false;
        self.shared.changed.notify_all();
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

    fn wait_whole(&self) -> MutexGuard<'_, State> {
        self.changed.wait_while(self.lock(), |state| state.is_cut).unwrap()
    }

    fn join(self: &Arc<Shared>, client: TcpStream, server: TcpStream) {
        for stream in [&client, &server] {
            stream.set_nodelay(true).unwrap();
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
            drop(self.wait_whole());
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        // An end, too, is told only where the cable is whole.
        drop(self.wait_whole());
        for end in [from, to] {
            let _closed_before = end.shutdown(Shutdown::Both);
        }
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
    use crate::scenario::Scenario;

    fn connect(cable: &Cable) -> TcpStream {
        TcpStream::connect(("127.0.0.1", cable.port())).unwrap()
    }

    #[test]
    fn cut_cable_delivers_nothing_until_it_is_mended() {
        let node = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let cable = Cable::to(node.local_addr().unwrap().port());
        let mut byte = [0];
        let mut client = connect(&cable);
        let (mut server, _) = node.accept().unwrap();
        client.write_all(b"a").unwrap();
        server.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"a");
        cable.cut();
        client.write_all(b"b").unwrap();
        drop(client);
        let mut late = connect(&cable);
        late.write_all(b"c").unwrap();
        server.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        assert_eq!(server.read(&mut byte).unwrap_err().kind(), ErrorKind::WouldBlock);
        node.set_nonblocking(true).unwrap();
        assert_eq!(node.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        cable.mend();
        server.set_read_timeout(None).unwrap();
        server.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"b");
        assert!(matches!(server.read(&mut byte), Ok(0) | Err(_)), "the client has gone");
        node.set_nonblocking(false).unwrap();
        let (mut server, _) = node.accept().unwrap();
        server.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"c");
        server.write_all(b"d").unwrap();
        late.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"d");
    }

    #[test]
    fn node_is_looked_up_when_somebody_connects() {
        let scenario = Scenario::new("cable");
        let cable = Cable::to_node_in(scenario.root().to_owned());
        assert!(matches!(connect(&cable).read(&mut [0]), Ok(0) | Err(_)), "there is no node");
        let node = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = node.local_addr().unwrap().port();
        scenario.write("postmaster.pid", &format!("1\n/data\n0\n{port}\n"));
        let _client = connect(&cable);
        node.accept().unwrap();
    }
}
