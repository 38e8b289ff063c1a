//! A server: one loop that waits for connections, clients, its latch, the death of its postmaster, and the time at which
//! a client has been silent for too long. It answers in capitals.
//!
//! The set is built once. A client's socket is added when it comes, modified when what is waited for changes (here:
//! never), and removed before it is closed. The time-out is computed from the deadlines, anew before each wait:
//! nothing ticks.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example tells what it does")]

mod node;

use std::{
    io::{self, Read, Write},
    time::Duration,
};

use ipc::{
    interrupt::Interrupts,
    pm_signal::PmSignal,
    process::Me,
    wait_event::WaitEvent,
    wait_event_set::{OnPostmasterDeath, Position, SocketEvents, WaitEventSet},
};
use sys::{
    clock::{self, MonoTime},
    net::{Listener, Stream},
    signal::Signal,
};

use crate::node::{Node, slot};

/// A client that says nothing for so long is sent away.
const PATIENCE: Duration = Duration::from_millis(100);

const CLIENTS_MAX: usize = 10;

struct Client {
    stream: Stream,
    position: Position,
    deadline: MonoTime,
}

fn serve(me: Me, listener: &Listener) -> io::Result<()> {
    let mut set = WaitEventSet::new(&me, CLIENTS_MAX + 3)?;
    set.add_latch()?;
    // Nothing to clean up: exit at once when the postmaster is gone.
    set.add_postmaster_death(OnPostmasterDeath::Exit)?;
    let listening = set.add_socket(listener, SocketEvents::ACCEPT)?;
    let mut clients: Vec<Client> = Vec::new();
    let mut occurred = Vec::new();
    loop {
        let next = clients.iter().map(|client| client.deadline).min();
        let timeout = next.map(|deadline| deadline.saturating_since(clock::now()));
        set.wait(timeout, WaitEvent::ClientRead, &mut occurred)?;

        // The latch: reset first, look at what it may be about then.
        me.latch().reset();
        if me.pending().contains(Interrupts::TERMINATE) {
            println!("terminated");
            return Ok(());
        }
        for event in &occurred {
            if event.position == listening && clients.len() < CLIENTS_MAX {
                let (stream, _) = listener.accept()?;
                let position = set.add_socket(&stream, SocketEvents::READABLE)?;
                clients.push(Client { stream, position, deadline: clock::now().saturating_add(PATIENCE) });
            }
        }
        for index in (0..clients.len()).rev() {
            let client = &mut clients[index];
            let ready = occurred.iter().any(|event| event.position == client.position);
            if ready && answer(client)? {
                client.deadline = clock::now().saturating_add(PATIENCE);
            } else if ready || client.deadline <= clock::now() {
                println!("{}", if ready { "a client left" } else { "a client was silent for too long" });
                let client = clients.swap_remove(index);
                // First out of the set, then closed (dropped).
                set.remove(client.position)?;
            }
        }
    }
}

/// Answers what has come; false when the client has left.
fn answer(client: &mut Client) -> io::Result<bool> {
    let mut bytes = [0; 100];
    let count = client.stream.read(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes[..count]).to_uppercase();
    if count > 0 {
        println!("{text}");
        // So little always fits; a real server waits for writeability when it doesn't.
        client.stream.write_all(text.as_bytes())?;
    }
    Ok(count > 0)
}

/// Says hello, says nothing more, and waits until the server has enough of that.
fn visit(me: Me, mut stream: Stream) -> io::Result<()> {
    stream.write_all(b"hello")?;
    let mut answer = Vec::new();
    loop {
        ipc::wait_latch_or_socket(&me, &stream, SocketEvents::READABLE, None, WaitEvent::ClientRead)?;
        me.latch().reset();
        match stream.read_to_end(&mut answer) {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    assert_eq!(answer, b"HELLO");
    me.pm_signal(PmSignal::NONE);
    Ok(())
}

fn main() -> io::Result<()> {
    let node = Node::new(2)?;
    let listener = Listener::tcp(([127, 0, 0, 1], 0).into())?;
    let address = listener.local_addr()?.expect("a TCP socket has one");
    let server = node.start(slot(0), |me| serve(me, &listener))?;
    let client = node.start(slot(1), |me| {
        let stream = Stream::connect_start(&sys::net::Endpoint::Tcp(address))?;
        let connected = SocketEvents::CONNECTED;
        while ipc::wait_latch_or_socket(&me, &stream, connected, None, WaitEvent::ClientWrite)?
            == ipc::wait_event_set::Events::LATCH_SET
        {
            me.latch().reset();
        }
        stream.take_error()?;
        visit(me, stream)
    })?;
    node.reap(slot(1), &client)?;
    server.kill(Signal::Term)?;
    node.reap(slot(0), &server)
}
