//! The stage of containers: docker/compose.yaml, as a user has it, under a project name of its own.
//!
//! Everything is done by the commands that docker/README.md tells a user. Nodes are asked through their published ports, with
//! the password. Who starts the story makes the image and takes away what is left of the project (`docker/scenario` does).

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use super::{NAMES, Stage};
use crate::client::{Address, Client};
use crate::node::assert_success;
use crate::wait;

/// The stage.
#[derive(Debug)]
pub struct Containers {
    /// `docker compose` or `docker-compose`.
    compose: Vec<String>,
    project: String,
    directory: PathBuf,
    password: String,
}

impl Containers {
    /// The compose file in `directory`, used by the command `compose` (words) under the name `project`.
    pub fn new(compose: &str, project: &str, directory: PathBuf) -> Containers {
        let password = fs::read_to_string(directory.join("postgres_password")).unwrap().trim_end().to_owned();
        let compose = compose.split_whitespace().map(str::to_owned).collect();
        Containers { compose, project: project.to_owned(), directory, password }
    }

    fn try_compose(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(&self.compose[0]);
        command.args(&self.compose[1..]).args(["-p", &self.project, "-f"]);
        command.arg(self.directory.join("compose.yaml")).args(arguments).stdin(Stdio::null());
        // Free ports: somebody may have a cluster of his own on the usual ones.
        for port in ["NODE1_PORT", "NODE2_PORT", "NODE3_PORT"] {
            command.env(port, "");
        }
        command.output().expect("the compose command can be run")
    }

    fn compose(&self, arguments: &[&str]) -> String {
        let output = self.try_compose(arguments);
        assert_success(&output, &format!("compose {}", arguments.join(" ")));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The container of a service, run or not.
    fn container(&self, service: &str) -> Option<String> {
        let label = |name: &str, value: &str| format!("label=com.docker.compose.{name}={value}");
        let filters = [label("project", &self.project), label("service", service), label("oneoff", "False")];
        let mut arguments = vec!["ps", "--all", "--quiet", "--no-trunc"];
        filters.iter().for_each(|filter| arguments.extend(["--filter", filter]));
        let found = String::from_utf8_lossy(&docker(&arguments).stdout).trim().to_owned();
        (!found.is_empty()).then_some(found)
    }

    /// Runs a docker command about the container of a service, which must succeed.
    fn docker(&self, service: &str, before: &[&str], after: &[&str]) -> String {
        let container = self.container(service).unwrap_or_else(|| panic!("{service} has no container"));
        let output = docker(&[before, &[container.as_str()], after].concat());
        assert_success(&output, &format!("docker {} {service} {}", before.join(" "), after.join(" ")));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn health(&self, service: &str) -> Option<String> {
        let container = self.container(service)?;
        let output = docker(&["inspect", "--format", "{{.State.Health.Status}}", &container]);
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn network(&self) -> String {
        format!("{}_walship", self.project)
    }
}

fn docker(arguments: &[&str]) -> Output {
    Command::new("docker").args(arguments).stdin(Stdio::null()).output().expect("docker can be run")
}

impl Stage for Containers {
    fn up(&mut self) {
        self.compose(&["up", "-d", "--no-build"]);
    }

    fn down(&mut self) {
        self.compose(&["down"]);
    }

    fn kill(&mut self, node: usize) {
        self.docker(NAMES[node], &["kill"], &[]);
    }

    fn promote(&mut self, node: usize) {
        self.compose(&["exec", "-T", NAMES[node], "standby", "promote"]);
    }

    fn rejoin(&mut self, node: usize) {
        self.compose(&["run", "--rm", "--no-deps", "-T", NAMES[node], "standby", "demote"]);
        self.compose(&["start", NAMES[node]]);
    }

    fn disconnect(&mut self, node: usize) {
        self.docker(NAMES[node], &["network", "disconnect", &self.network()], &[]);
    }

    fn connect(&mut self, node: usize) {
        self.docker(NAMES[node], &["network", "connect", "--alias", NAMES[node], &self.network()], &[]);
    }

    fn synchronize(&mut self, node: usize, standby: usize) {
        let line = format!("synchronous_standby_names = '{}'", NAMES[standby]);
        let script = format!("echo \"{line}\" >> \"$PGDATA/walship.conf\" && standby reload");
        self.compose(&["exec", "-T", NAMES[node], "sh", "-c", &script]);
    }

    fn ask(&mut self, node: usize, sql: &str) -> Option<Vec<Vec<String>>> {
        let container = self.container(NAMES[node])?;
        let published = docker(&["port", &container, "5440/tcp"]);
        let published = String::from_utf8_lossy(&published.stdout).into_owned();
        let port = published.lines().next()?.rsplit(':').next()?.parse().ok()?;
        let mut client = Client::connect(&Address::Tcp(port), &[("password", &self.password)]).ok()?;
        client.query(sql).ok().map(|answer| answer.texts())
    }

    fn is_well(&mut self, node: usize) -> bool {
        self.health(NAMES[node]).is_some_and(|health| health == "healthy")
    }

    fn acknowledged(&mut self) -> u64 {
        let Some(container) = self.container("client") else { return 0 };
        let note = docker(&["exec", &container, "cat", "/var/lib/walship/client/note"]);
        super::last_of_note(&String::from_utf8_lossy(&note.stdout))
    }

    fn stop_client(&mut self) {
        wait::until("the client to be healthy", || (self.health("client")? == "healthy").then_some(()));
        self.compose(&["stop", "client"]);
    }

    fn check(&mut self, node: usize) -> String {
        let conninfo = format!("host={} user=postgres", NAMES[node]);
        let program = ["demo-client", "--conninfo", &conninfo, "check"];
        self.compose(&[&["run", "--rm", "--no-deps", "-T", "client"], &program[..]].concat())
    }
}
