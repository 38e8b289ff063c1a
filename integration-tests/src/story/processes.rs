//! The stage of processes: nodes of a test's directory, with cables between them.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::{NAMES, Stage};
use crate::cable::Cable;
use crate::node::{Node, Role, assert_success};
use crate::programs;
use crate::scenario::Scenario;

/// The stage. Nodes and client end with it.
#[derive(Debug)]
pub struct Processes<'a> {
    scenario: &'a Scenario,
    /// By which clients and other nodes reach a node.
    to: [Cable; NAMES.len()],
    /// By which a node reaches another one's cable: it is cut off at cables of its own, whoever else is. Nobody uses a
    /// node's cable to itself.
    from: [[Cable; NAMES.len()]; NAMES.len()],
    nodes: Vec<Node>,
    client: Option<Child>,
}

/// Quick to notice who is silent.
const SETTINGS: &str = "wal_keep_size = -1\nwal_sender_timeout = '10s'\nwal_receiver_timeout = '10s'\ncheckpoint_timeout = '1min'";

impl<'a> Processes<'a> {
    /// An empty stage.
    pub fn new(scenario: &'a Scenario) -> Processes<'a> {
        let to = NAMES.map(|name| Cable::to_node_in(scenario.path(name)));
        let from = NAMES.map(|_| to.each_ref().map(|cable| Cable::to(cable.port())));
        Processes { scenario, to, from, nodes: Vec::new(), client: None }
    }

    /// Where a node looks for a primary, as the settings of its file say it.
    fn upstreams(&self, node: usize) -> String {
        let others = (0..NAMES.len()).filter(|other| *other != node);
        let ports: Vec<_> = others.map(|other| self.from[node][other].port().to_string()).collect();
        let (ports, name) = (ports.join(","), NAMES[node]);
        format!(
            "host=127.0.0.1,127.0.0.1 port={ports} user=postgres application_name={name} target_session_attrs=primary"
        )
    }

    /// All that connects a node.
    fn cables(&self, node: usize) -> impl Iterator<Item = &Cable> {
        self.from[node].iter().chain([&self.to[node]])
    }

    fn settings(&self, node: usize, standby: Option<usize>) -> String {
        let names = standby.map_or("", |standby| NAMES[standby]);
        let upstreams = self.upstreams(node);
        format!("{SETTINGS}\nsynchronous_standby_names = '{names}'\nprimary_conninfo = '{upstreams}'")
    }

    fn make_nodes(&mut self) {
        let primary = Node::init(self.scenario, NAMES[0], &["--wal-segsize", "1MB"]);
        primary.configure(&self.settings(0, Some(1)));
        self.nodes.push(primary);
        self.nodes[0].start();
        for node in [1, 2] {
            let standby = Node::clone_of(self.scenario, NAMES[node], &self.nodes[0]);
            standby.configure(&self.settings(node, None));
            self.nodes.push(standby);
            self.nodes[node].start();
        }
    }

    fn note(&self) -> PathBuf {
        self.scenario.path("note")
    }

    fn client_command(&self, ports: &[u16], action: &str) -> Command {
        let hosts = vec!["127.0.0.1"; ports.len()].join(",");
        let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
        let attrs = if action == "run" { "read-write" } else { "any" };
        let ports = ports.join(",");
        let conninfo = format!("host={hosts} port={ports} user=postgres target_session_attrs={attrs}");
        let mut command = Command::new(programs::walship("demo-client"));
        command.args(["--conninfo", &conninfo, action, "--note"]).arg(self.note()).stdin(Stdio::null());
        command
    }
}

impl Stage for Processes<'_> {
    fn up(&mut self) {
        if self.nodes.is_empty() {
            self.make_nodes();
        } else {
            self.nodes.iter_mut().for_each(Node::start);
        }
        let ports: Vec<_> = self.to.iter().map(Cable::port).collect();
        let mut command = self.client_command(&ports, "run");
        let log = File::options().create(true).append(true).open(self.scenario.path("client.log")).unwrap();
        command.args(["--interval", "10"]).stdout(log.try_clone().unwrap()).stderr(log);
        self.client = Some(command.spawn().expect("the program can be run"));
    }

    fn down(&mut self) {
        self.stop_client();
        for node in &mut self.nodes {
            node.stop();
        }
    }

    fn kill(&mut self, node: usize) {
        self.nodes[node].kill_all();
    }

    fn promote(&mut self, node: usize) {
        self.nodes[node].promote();
    }

    fn rejoin(&mut self, node: usize) {
        let upstreams = self.upstreams(node);
        let old = &mut self.nodes[node];
        old.run_as(Role::Standby);
        let output = old.command(&["demote", "-D", old.dir().to_str().unwrap(), "--from", &upstreams]);
        assert_success(&output, "standby demote");
        old.start();
    }

    fn disconnect(&mut self, node: usize) {
        self.cables(node).for_each(Cable::cut);
    }

    fn connect(&mut self, node: usize) {
        self.cables(node).for_each(Cable::mend);
    }

    fn synchronize(&mut self, node: usize, standby: usize) {
        self.nodes[node].reload(&self.settings(node, Some(standby)));
    }

    fn ask(&mut self, node: usize, sql: &str) -> Option<Vec<Vec<String>>> {
        self.nodes[node].try_client().ok()?.query(sql).ok().map(|answer| answer.texts())
    }

    fn is_well(&mut self, node: usize) -> bool {
        let node = &self.nodes[node];
        node.command(&["status", "-D", node.dir().to_str().unwrap()]).status.success()
    }

    fn acknowledged(&mut self) -> u64 {
        super::last_of_note(&fs::read_to_string(self.note()).unwrap_or_default())
    }

    fn stop_client(&mut self) {
        let mut client = self.client.take().expect("the client was started");
        if let Some(status) = client.try_wait().unwrap() {
            let log = fs::read_to_string(self.scenario.path("client.log")).unwrap_or_default();
            panic!("the client has ended with {status}:\n{log}");
        }
        client.kill().unwrap();
        client.wait().unwrap();
    }

    fn check(&mut self, node: usize) -> String {
        let output = self.client_command(&[self.to[node].port()], "check").output().unwrap();
        assert_success(&output, "the client's check");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Processes<'_> {
    fn drop(&mut self) {
        if let Some(mut client) = self.client.take() {
            let _gone = client.kill();
            let _ended = client.wait();
        }
    }
}
