//! A small node with one child, and both ends of a connection.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use ipc::postmaster_death::PostmasterDeath;
use ipc::proc::{BackendType, ProcArray, ProcNumber};
use ipc::process::{Me, Postmaster, SignalTable};
use ipc::shmem::Shmem;
use ipc::wait_event::WaitEvent;
use ipc::wait_event_set::WaitEventSet;
use sender::connection::Connection;
use sys::clock;
use sys::fork::fork_process;
use sys::net::{Listener, PeerAddr};
use sys::process::{ExitStatus, PidFd};
use sys::signal::Signal;
use wire::framing::{FrameCheck, InputBuffer};

/// Longer than anything here takes, also on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

const CHILD: ProcNumber = ProcNumber::FIRST_BACKEND;

pub(crate) struct Node {
    procs: &'static ProcArray,
    death: &'static PostmasterDeath,
    postmaster: Postmaster,
}

impl Node {
    pub(crate) fn start() -> Node {
        let shmem = Shmem::create(1 << 20).unwrap();
        let procs = ProcArray::create(&shmem, CHILD.0 + 1);
        let death = Box::leak(Box::new(PostmasterDeath::create().unwrap()));
        Node { procs, death, postmaster: Postmaster::start(procs).unwrap() }
    }

    /// Forks a child that runs `body` and ends well.
    pub(crate) fn child(&self, body: impl FnOnce(Me)) -> Child {
        self.procs.assign(CHILD).unwrap();
        let pid = fork_process(|| {
            self.postmaster.close_in_child();
            let signals = &SignalTable::STANDARD;
            let me = Me::attach(self.procs, CHILD, BackendType::ClientBackend, self.death, signals).unwrap();
            body(me);
            me.detach();
            0
        });
        Child { procs: self.procs, pidfd: PidFd::open(pid.unwrap()).unwrap(), ended: false }
    }

    /// Forks a child that serves the client that is returned.
    pub(crate) fn session(&self, body: impl FnOnce(Me, &mut Connection)) -> (Child, Peer) {
        let listener = Listener::tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap().unwrap()).unwrap();
        let (stream, peer) = listener.accept().unwrap();
        assert_eq!(peer, PeerAddr::Tcp(client.local_addr().unwrap()));
        let mut client = Some(Peer::new(client, wire::client::check_frame));
        let child = self.child(|me| {
            // The child's copy of the client's end would keep the connection open.
            drop(client.take());
            body(me, &mut Connection::new(me, stream, peer).unwrap());
        });
        (child, client.expect("only the child has dropped it"))
    }
}

/// The child, killed when the test drops it while it runs.
pub(crate) struct Child {
    procs: &'static ProcArray,
    pidfd: PidFd,
    ended: bool,
}

impl Child {
    pub(crate) fn kill(&self, signal: Signal) {
        self.pidfd.kill(signal).unwrap();
    }

    pub(crate) fn set_latch(&self) {
        self.procs.set_latch(CHILD);
    }

    /// Waits until the child waits for this.
    pub(crate) fn wait_for(&self, event: WaitEvent) {
        let mut set = WaitEventSet::without_process(1).unwrap();
        let deadline = clock::now().saturating_add(DEADLINE);
        while self.procs.slot(CHILD).wait_event() != Some(event) {
            assert!(clock::now() < deadline, "the child never waits for {}", event.name());
            set.wait(Some(Duration::from_millis(1)), WaitEvent::PgSleep, &mut Vec::new()).unwrap();
        }
    }

    /// Waits for its end, which must be a good one.
    pub(crate) fn join_well(mut self) {
        self.ended = true;
        assert_eq!(self.join(), Some(ExitStatus::Exited(0)));
    }

    fn join(&self) -> Option<ExitStatus> {
        let mut set = WaitEventSet::without_process(1).unwrap();
        set.add_child_exit(&self.pidfd).unwrap();
        set.wait(Some(DEADLINE), WaitEvent::BackendTermination, &mut Vec::new()).unwrap();
        self.pidfd.wait().unwrap()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.ended {
            let _gone = self.pidfd.kill(Signal::Kill);
            self.join();
        }
    }
}

/// The test's end of a connection: blocking, with a deadline.
pub(crate) struct Peer {
    stream: TcpStream,
    input: InputBuffer,
}

impl Peer {
    pub(crate) fn new(stream: TcpStream, check: FrameCheck) -> Peer {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Peer { stream, input: InputBuffer::new(check) }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(crate) fn send_with(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = Vec::new();
        encode(&mut bytes);
        self.send(&bytes);
    }

    pub(crate) fn close_write(&self) {
        self.stream.shutdown(std::net::Shutdown::Write).unwrap();
    }

    /// Reads one message; `None` at the end of the stream.
    pub(crate) fn read_message(&mut self) -> Option<(u8, Vec<u8>)> {
        while !self.input.has_message().unwrap() {
            if !self.read_some() {
                assert!(self.input.is_empty(), "the stream ends inside a message");
                return None;
            }
        }
        let message = self.input.next_message().unwrap().unwrap();
        Some((message.tag, message.body.to_vec()))
    }

    /// Reads one packet of a client that begins a session.
    pub(crate) fn read_startup_packet(&mut self) -> Vec<u8> {
        while !self.input.has_startup_packet().unwrap() {
            assert!(self.read_some(), "the client left");
        }
        self.input.next_startup_packet().unwrap().unwrap().to_vec()
    }

    fn read_some(&mut self) -> bool {
        let count = self.stream.read(self.input.spare()).unwrap();
        self.input.filled(count);
        count > 0
    }
}

/// A listening socket whose connections the test serves from a script.
pub(crate) struct Upstream {
    listener: TcpListener,
}

impl Upstream {
    pub(crate) fn start() -> Upstream {
        Upstream { listener: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap() }
    }

    pub(crate) fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    pub(crate) fn conninfo(&self) -> String {
        format!("host=127.0.0.1 port={} user=u password=secret", self.port())
    }

    pub(crate) fn accept(&self) -> Peer {
        let (stream, _) = self.listener.accept().unwrap();
        Peer::new(stream, check_client)
    }
}

/// What may come from a client, the password included.
fn check_client(tag: u8, length: i32) -> Result<(), wire::error::ErrorResponse> {
    if tag == b'p' { Ok(()) } else { wire::frontend::check_frame(tag, length) }
}
