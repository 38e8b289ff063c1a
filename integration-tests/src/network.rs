//! The network between processes: each node has a relay of its own, through which it is reached and through which it
//! reaches the others. A node whose relay stands still is cut off; when the relay goes on, what was under way arrives.
//!
//! The problem: a proxy that the test itself has to move stands still whenever the test does something else, such as run
//! a command that waits for another node. So a relay is a process (the program `relay`). It looks up where a node listens when
//! somebody connects, because that is known only after the node has started: in its postmaster.pid, or in the file in which
//! the other relays say where they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sys::process::{self, Pid};
use sys::signal::Signal;

use crate::programs;
use crate::proxy::Proxy;
use crate::wait;

/// The line of postmaster.pid with the port.
const PORT_LINE: usize = 3;

/// A network of nodes that know each other by name.
#[derive(Debug)]
pub struct Network {
    dir: PathBuf,
    names: Vec<String>,
    relays: Vec<Child>,
}

impl Network {
    /// Starts a relay for each name; the data directories are those of that name in `nodes`, there or not yet there. What
    /// relays say is kept in `dir`.
    pub fn start(dir: PathBuf, nodes: &Path, names: &[&str]) -> Network {
        fs::create_dir(&dir).unwrap();
        let relays = names.iter().map(|name| {
            let others = names.iter().filter(|other| *other != name);
            let mut command = Command::new(programs::walship("relay"));
            command.arg(&dir).arg(name).arg(nodes.join(name)).args(others).stdin(Stdio::null());
            command.spawn().expect("the program can be run")
        });
        let relays = relays.collect();
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let network = Network { dir, names, relays };
        for name in &network.names {
            wait::until("a relay", || fs::metadata(ports_file(&network.dir, name)).ok());
        }
        network
    }

    /// The port by which clients reach a node.
    pub fn port(&self, node: usize) -> u16 {
        self.port_in_line(node, 0)
    }

    /// The port by which `from` reaches `to`.
    pub fn port_between(&self, from: usize, to: usize) -> u16 {
        assert_ne!(from, to);
        self.port_in_line(from, if to < from { to + 1 } else { to })
    }

    fn port_in_line(&self, node: usize, line: usize) -> u16 {
        let text = fs::read_to_string(ports_file(&self.dir, &self.names[node])).unwrap();
        text.lines().nth(line).expect("a line for each port").parse().expect("a port")
    }

    /// Nothing gets to the node, and nothing from it, from now on.
    pub fn cut(&self, node: usize) {
        process::kill(self.pid(node), Signal::Stop).unwrap();
    }

    /// The node is connected again.
    pub fn mend(&self, node: usize) {
        process::kill(self.pid(node), Signal::Cont).unwrap();
    }

    fn pid(&self, node: usize) -> Pid {
        Pid(i32::try_from(self.relays[node].id()).expect("process ids are small"))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for relay in &mut self.relays {
            let _gone = relay.kill();
            let _ended = relay.wait();
        }
    }
}

fn ports_file(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.ports"))
}

/// The relay of one node, until it is killed: by the network, or with the test that started it.
pub fn relay(dir: &Path, name: &str, node: &Path, others: &[String]) -> ! {
    process::set_parent_death_signal(Signal::Kill).unwrap();
    let mut proxies = vec![Proxy::to_port_in(node.join("postmaster.pid"), PORT_LINE)];
    proxies.extend(others.iter().map(|other| Proxy::to_port_in(ports_file(dir, other), 0)));
    let ports: Vec<_> = proxies.iter().map(|proxy| format!("{}\n", proxy.port())).collect();
    // By a rename: who sees the file sees all of it.
    let new = dir.join(format!("{name}.new"));
    fs::write(&new, ports.concat()).unwrap();
    fs::rename(&new, ports_file(dir, name)).unwrap();
    loop {
        proxies.iter_mut().for_each(Proxy::pump);
        wait::watch_for(Duration::from_millis(1));
    }
}
