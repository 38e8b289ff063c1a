//! The demo's nodes: started as this program under the names `primary` and `standby`, each on a data directory in one
//! temporary directory and on a port of the kernel's choice.
//!
//! A node that the demo leaves behind would be a surprise, so a node asks the kernel for a SIGINT (fast shutdown) when the
//! demo dies; with `--keep` it doesn't. It is in a process group of its own: Ctrl-C is for the demo, which then ends the
//! nodes in order.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use ipc::wait_event::WaitEvent;
use ipc::wait_event_set::WaitEventSet;
use postmaster::pid_file::{self, Inspection, NodeStatus};
use sys::clock;
use sys::process::{self, Pid, PidFd};
use sys::signal::Signal;
use tempfile::TempDir;

use super::Failure;

/// Set for nodes that must not outlive the demo; its value is the demo's process id.
const BOUND_TO: &str = "WALSHIP_DEMO_PID";
/// A node that has not come up, or gone down, within this time hangs.
const DEADLINE: Duration = Duration::from_secs(60);
/// How long to leave postmaster.pid alone between two looks at it.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Runs a node's program in this process, bound to the demo if the demo said so.
pub fn as_node(main: impl FnOnce() -> i32) -> ExitCode {
    if let Some(demo) = env::var(BOUND_TO).ok().and_then(|pid| pid.parse().ok()).map(Pid) {
        let bound = process::set_parent_death_signal(Signal::Int);
        if bound.is_err() || process::parent_pid() != demo {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::from(u8::try_from(main()).unwrap_or(1))
}

/// A node that runs.
#[derive(Debug)]
pub(super) struct NodeProcess {
    /// `primary`, `standby1` …
    pub(super) name: String,
    /// Where it listens on 127.0.0.1.
    pub(super) port: u16,
    log: PathBuf,
    child: Child,
    exit: PidFd,
}

impl NodeProcess {
    /// The postmaster.
    pub(super) fn pid(&self) -> Pid {
        self.exit.pid()
    }

    /// Waits until the node lets clients in.
    fn wait_ready(&mut self, dir: &Path) -> Result<(), Failure> {
        let deadline = clock::now().saturating_add(DEADLINE);
        while clock::now() < deadline {
            if self.wait_exit(LOOK_AGAIN)? {
                let log = last_lines(&self.log);
                return Err(Failure::new(format!("{} ended at its start:\n{log}", self.name)));
            }
            if let Ok(Inspection::Running(lines)) = pid_file::inspect(dir)
                && matches!(lines.status, NodeStatus::Ready | NodeStatus::Standby)
            {
                self.port = lines.port;
                return Ok(());
            }
        }
        Err(Failure::new(format!("{} did not come up within {} s", self.name, DEADLINE.as_secs())))
    }

    /// Whether the postmaster ends within `timeout`.
    fn wait_exit(&self, timeout: Duration) -> Result<bool, Failure> {
        let wait = || {
            let mut set = WaitEventSet::without_process(1)?;
            set.add_child_exit(&self.exit)?;
            let mut occurred = Vec::new();
            set.wait(Some(timeout), WaitEvent::PgSleep, &mut occurred)?;
            Ok(!occurred.is_empty())
        };
        wait().map_err(Failure::io(format!("wait for {}", self.name)))
    }

    /// Fast shutdown; whether it ended as it should.
    fn stop(&mut self) -> Result<(), Failure> {
        self.exit.kill(Signal::Int).map_err(Failure::io(format!("stop {}", self.name)))?;
        if !self.wait_exit(DEADLINE)? {
            let _gone = self.exit.kill(Signal::Quit);
            return Err(Failure::new(format!("{} did not stop within {} s", self.name, DEADLINE.as_secs())));
        }
        let status = self.child.wait().map_err(Failure::io(format!("reap {}", self.name)))?;
        if !status.success() {
            return Err(Failure::new(format!(
                "{} ended with {status}:\n{}",
                self.name,
                last_lines(&self.log)
            )));
        }
        Ok(())
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        // Ended already, unless something failed on the way.
        let _gone = self.child.try_wait();
    }
}

/// The primary and its standbys.
#[derive(Debug)]
pub(super) struct Cluster {
    dir: Option<TempDir>,
    path: PathBuf,
    keep: bool,
    nodes: Vec<NodeProcess>,
}

impl Cluster {
    /// Makes the directory. With `keep`, directory and nodes stay when the demo ends.
    pub(super) fn create(keep: bool) -> Result<Cluster, Failure> {
        let dir = tempfile::Builder::new().prefix("walship-demo-").tempdir();
        let dir = dir.map_err(Failure::io("make a temporary directory"))?;
        let path = dir.path().to_owned();
        Ok(Cluster { dir: Some(dir), path, keep, nodes: Vec::new() })
    }

    /// Where everything is.
    pub(super) fn dir(&self) -> &Path {
        &self.path
    }

    /// The node that takes writes.
    pub(super) fn primary(&self) -> &NodeProcess {
        &self.nodes[0]
    }

    /// The nodes that stream from it.
    pub(super) fn standbys(&self) -> &[NodeProcess] {
        &self.nodes[1..]
    }

    /// All nodes, the primary first.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &NodeProcess> {
        self.nodes.iter()
    }

    /// Initializes and starts the primary, then clones and starts each standby.
    pub(super) fn start(&mut self, standbys: u32) -> Result<(), Failure> {
        self.program("primary", &["init", "-D", &self.data_dir("primary")])?;
        self.run_node("primary", "primary")?;
        for number in 1..=standbys {
            let name = format!("standby{number}");
            let conninfo =
                format!("host=127.0.0.1 port={} user=postgres application_name={name}", self.primary().port);
            self.program("standby", &["clone", "-D", &self.data_dir(&name), "--from", &conninfo])?;
            self.run_node("standby", &name)?;
        }
        Ok(())
    }

    fn data_dir(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }

    /// This executable under another name.
    fn command(&self, program: &str, arguments: &[&str]) -> Result<Command, Failure> {
        let own = env::current_exe().map_err(Failure::io("find the demo's own program"))?;
        let mut command = Command::new(own);
        command.arg0(program).args(arguments).stdin(Stdio::null()).process_group(0);
        if !self.keep {
            command.env(BOUND_TO, process::current_pid().to_string());
        }
        Ok(command)
    }

    /// Runs a command of a node's program to its end.
    fn program(&self, program: &str, arguments: &[&str]) -> Result<(), Failure> {
        let what = format!("run {program} {}", arguments[0]);
        let output = self.command(program, arguments)?.output().map_err(Failure::io(&what))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(Failure::new(format!("could not {what}: {}\n{said}", output.status)))
    }

    fn run_node(&mut self, program: &str, name: &str) -> Result<(), Failure> {
        let log = self.path.join(format!("{name}.log"));
        let open = || -> std::io::Result<(File, File)> {
            let file = OpenOptions::new().create(true).append(true).open(&log)?;
            Ok((file.try_clone()?, file))
        };
        let (out, err) = open().map_err(Failure::io(format!("open {}", log.display())))?;
        let dir = self.data_dir(name);
        let mut command = self.command(program, &["run", "-D", &dir, "-c", "port=0"])?;
        let child = command.stdout(out).stderr(err).spawn().map_err(Failure::io(format!("start {name}")))?;
        let pid = Pid(i32::try_from(child.id()).expect("a process id is positive"));
        let exit = PidFd::open(pid).map_err(Failure::io(format!("watch {name}")))?;
        let mut node = NodeProcess { name: name.to_owned(), port: 0, log, child, exit };
        let ready = node.wait_ready(Path::new(&dir));
        self.nodes.push(node);
        ready
    }

    /// Stops the nodes, the primary first: it ends when its standbys have its last record. With `keep` nothing is
    /// stopped.
    pub(super) fn end(&mut self) -> Result<(), Failure> {
        if self.keep {
            self.leave();
            return Ok(());
        }
        let mut result = Ok(());
        for node in &mut self.nodes {
            result = result.and(node.stop());
        }
        result
    }

    /// Lets the directory stay when the demo ends.
    pub(super) fn leave(&mut self) {
        if let Some(dir) = self.dir.take() {
            let _path = dir.keep();
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !self.keep {
            for node in &mut self.nodes {
                // For those that a failure left running; the others are gone.
                if matches!(node.child.try_wait(), Ok(None)) {
                    let _stopped = node.stop();
                }
            }
        }
    }
}

/// The end of a log, for a message.
fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}
