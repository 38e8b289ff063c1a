//! One node: the program `primary` or `standby` on a data directory of its own.
//!
//! It is started as a user starts it and known by what a user sees. The port is taken from line 4 of postmaster.pid
//! after the first start and kept over restarts, so that a standby finds its primary again. Dropping a node kills it.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use sys::process::{self, Pid};
use sys::signal::Signal;
use wal::lsn::Lsn;

use crate::client::{Address, Answer, Client, ClientError, ServerError};
use crate::procfs;
use crate::programs;
use crate::scenario::Scenario;
use crate::wait;

/// What a node is when it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Run by the program `primary`.
    Primary,
    /// Run by the program `standby`.
    Standby,
}

impl Role {
    fn program(self) -> &'static str {
        match self {
            Role::Primary => "primary",
            Role::Standby => "standby",
        }
    }
}

/// A data directory and the postmaster that runs on it, if one does.
#[derive(Debug)]
pub struct Node {
    role: Role,
    dir: PathBuf,
    log: PathBuf,
    /// `name=value`, given with `-c` at every start.
    pub settings: Vec<String>,
    /// Program and arguments that its program is put behind, such as strace's; none as a rule.
    pub wrapper: Vec<OsString>,
    /// The file of its failpoints' board: from now on it runs with failpoints, under this board.
    pub failpoints: Option<PathBuf>,
    /// How long a start may take.
    pub patience: Duration,
    postmaster: Option<Child>,
    port: u16,
}

/// Keeps tests quick: a standby that lost its primary looks for it again soon.
const SETTINGS: [&str; 1] = ["wal_retrieve_retry_interval=100ms"];

/// Unless a test says otherwise, a standby without a slot may be away for as long as it likes.
const KEEP_LOG: &str = "wal_keep_size = -1";

impl Node {
    /// `primary init`, with more arguments if wanted.
    pub fn init(scenario: &Scenario, name: &str, arguments: &[&str]) -> Node {
        let node = Node::at(scenario, name, Role::Primary);
        let mut all = vec!["init", "-D", node.dir.to_str().unwrap()];
        all.extend(arguments);
        assert_success(&node.command(&all), "primary init");
        node.append_setting(KEEP_LOG);
        node
    }

    /// `standby clone` from a primary that runs.
    pub fn clone_of(scenario: &Scenario, name: &str, upstream: &Node) -> Node {
        let node = Node::at(scenario, name, Role::Standby);
        let conninfo = upstream.conninfo(name);
        let output = node.command(&["clone", "-D", node.dir.to_str().unwrap(), "--from", &conninfo]);
        assert_success(&output, "standby clone");
        node
    }

    /// A node on a directory that is made otherwise; `name` is that of the directory in the scenario.
    pub fn at(scenario: &Scenario, name: &str, role: Role) -> Node {
        Node {
            role,
            dir: scenario.path(name),
            // Beside the data directories, not on the disk that one of them may fill.
            log: scenario.path(&format!("{}.log", name.replace('/', "-"))),
            settings: SETTINGS.iter().map(|setting| (*setting).to_owned()).collect(),
            wrapper: Vec::new(),
            failpoints: None,
            patience: wait::DEADLINE,
            postmaster: None,
            port: 0,
        }
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The port, 0 before the first start.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How a client or a standby named `application_name` connects.
    pub fn conninfo(&self, application_name: &str) -> String {
        format!("host=127.0.0.1 port={} user=postgres application_name={application_name}", self.port)
    }

    /// What the node has logged, over all of its starts.
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// From now on it is run by the program of that role.
    pub fn run_as(&mut self, role: Role) {
        self.role = role;
    }

    /// Waits until this standby's walreceiver has ended: nothing more is received.
    pub fn wait_no_walreceiver(&self) {
        let sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walreceiver'";
        wait::until("the walreceiver to end", || self.rows(sql).is_empty().then_some(()));
    }

    /// Adds a setting for the starts to come.
    pub fn set(&mut self, setting: &str) {
        self.settings.push(setting.to_owned());
    }

    /// Runs the node's program with `arguments` to its end.
    pub fn command(&self, arguments: &[&str]) -> Output {
        Command::new(programs::walship(self.role.program()))
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("the program can be run")
    }

    /// Adds an entry to walship.conf, where clones have it from.
    fn append_setting(&self, line: &str) {
        let mut conf = OpenOptions::new().append(true).open(self.dir.join("walship.conf")).unwrap();
        writeln!(conf, "{line}").unwrap();
    }

    /// Makes `lines` the entries of walship.conf. An upstream that was set before stays, unless they set it.
    pub fn configure(&self, lines: &str) {
        let path = self.dir.join("walship.conf");
        let before = fs::read_to_string(&path).unwrap();
        let upstream = before.lines().find(|line| line.starts_with("primary_conninfo"));
        let upstream = upstream.filter(|_| !lines.contains("primary_conninfo")).unwrap_or_default();
        // By a rename, as an editor does it: nobody reads half of it.
        let new = self.dir.join("walship.conf.new");
        fs::write(&new, format!("{upstream}\n{lines}\n")).unwrap();
        fs::rename(&new, &path).unwrap();
    }

    /// The `reload` of the node's own program, under way.
    pub fn spawn_reload(&self, timeout: &str) -> Child {
        let mut command = Command::new(programs::walship(self.role.program()));
        command.arg("reload").arg("-D").arg(&self.dir).args(["-t", timeout]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("the program can be run")
    }

    /// Configures the node and has every process of it take note, which must succeed; what the command said.
    pub fn reload(&self, lines: &str) -> String {
        self.configure(lines);
        let output = self.spawn_reload("60").wait_with_output().unwrap();
        assert_success(&output, &format!("reload of {}", self.name()));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Starts the node and waits until it lets clients in. Panics with the end of its log when it doesn't.
    pub fn start(&mut self) {
        if let Err(why) = self.try_start() {
            panic!(
                "{} did not start: {why}\n--- end of {}:\n{}",
                self.name(),
                self.log.display(),
                self.log_tail()
            );
        }
    }

    /// Starts the node and waits until it lets clients in, or has given up.
    pub fn try_start(&mut self) -> Result<(), String> {
        self.spawn();
        let end = wait::within(self.patience, || {
            let child = self.postmaster.as_mut().expect("just spawned");
            if let Some(status) = child.try_wait().unwrap() {
                return Some(Err(format!("it ended with {status}")));
            }
            let port = self.port_in_pid_file()?;
            Client::connect(&Address::Tcp(port), &[]).ok().map(|_| Ok(port))
        });
        match end {
            Some(Ok(port)) => {
                self.port = port;
                Ok(())
            }
            Some(Err(why)) => {
                self.postmaster = None;
                Err(why)
            }
            None => Err(format!("it took no client within {} s", self.patience.as_secs())),
        }
    }

    /// Starts the postmaster and waits for nothing.
    pub fn spawn(&mut self) {
        assert!(self.postmaster.is_none(), "{} runs already", self.name());
        let log = OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let program = match self.failpoints {
            None => programs::walship(self.role.program()),
            Some(_) => programs::walship(&format!("{}-failpoints", self.role.program())),
        };
        let program = program.into_os_string();
        let mut words = self.wrapper.iter().chain([&program]);
        let mut command = Command::new(words.next().expect("a program at least"));
        command.envs(self.failpoints.iter().map(|path| (failpoint::VARIABLE, path)));
        command.args(words).arg("run").arg("-D").arg(&self.dir).arg("-c").arg(format!("port={}", self.port));
        for setting in &self.settings {
            command.arg("-c").arg(setting);
        }
        command.stdin(Stdio::null()).stdout(clone_file(&log)).stderr(log);
        self.postmaster = Some(command.spawn().expect("the program can be run"));
    }

    /// The port that a running postmaster wrote into its pid file.
    fn port_in_pid_file(&self) -> Option<u16> {
        let text = fs::read_to_string(self.dir.join("postmaster.pid")).ok()?;
        let mut lines = text.lines();
        let pid: u32 = lines.next()?.trim().parse().ok()?;
        let port: u16 = lines.nth(2)?.trim().parse().ok()?;
        // A dead predecessor's file is of no use.
        (pid == self.postmaster.as_ref()?.id() && port != 0).then_some(port)
    }

    /// The postmaster.
    pub fn pid(&self) -> Pid {
        let child = self.postmaster.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name()));
        Pid(i32::try_from(child.id()).unwrap())
    }

    /// Whether the postmaster was started and has not been seen to end.
    pub fn started(&self) -> bool {
        self.postmaster.is_some()
    }

    /// Whether it does not run (any more), however it came to that.
    pub fn has_ended(&mut self) -> bool {
        if self.postmaster.as_mut().is_some_and(|child| child.try_wait().unwrap().is_some()) {
            self.postmaster = None;
        }
        self.postmaster.is_none()
    }

    /// Sends a signal to the postmaster.
    pub fn signal(&self, signal: Signal) {
        process::kill(self.pid(), signal).unwrap();
    }

    /// Fast shutdown by the node's own command; it must succeed.
    pub fn stop(&mut self) {
        let output = self.command(&["stop", "-D", self.dir.to_str().unwrap(), "-m", "fast"]);
        assert_success(&output, &format!("stop of {}", self.name()));
        assert_eq!(self.wait_end(), Some(0), "{}", self.log_tail());
    }

    /// Makes a primary of the standby by its own command, which must succeed.
    pub fn promote(&self) {
        let output = self.command(&["promote", "-D", self.dir.to_str().unwrap()]);
        assert_success(&output, &format!("promotion of {}", self.name()));
        assert_eq!(String::from_utf8_lossy(&output.stdout), "server promoted\n");
    }

    /// Waits until so many receivers stream from this node.
    pub fn wait_streams(&self, count: usize) {
        wait::until(&format!("{count} streams from {}", self.name()), || {
            let rows = self.rows("SELECT state FROM pg_stat_replication");
            (rows.iter().filter(|row| row[0] == "streaming").count() == count).then_some(())
        });
    }

    /// Waits until this standby has put everything before `lsn`.
    pub fn wait_replayed(&self, lsn: Lsn) {
        let reached =
            wait::within(wait::DEADLINE, || (self.lsn("pg_last_wal_replay_lsn") >= lsn).then_some(()));
        reached.unwrap_or_else(|| panic!("{} never replayed {lsn}:\n{}", self.name(), self.log_tail()));
    }

    /// Waits until this standby has put everything that is durable on `upstream` now, a primary.
    pub fn wait_level_with(&self, upstream: &Node) {
        self.wait_replayed(upstream.lsn("pg_current_wal_flush_lsn"));
    }

    /// SIGKILL to the postmaster; waits until all of its children are gone too.
    pub fn kill(&mut self) {
        let children = procfs::children(self.pid());
        self.signal(Signal::Kill);
        self.wait_end();
        wait::until("the children of a killed postmaster to be gone", || {
            children.iter().all(|child| !procfs::runs(*child)).then_some(())
        });
    }

    /// SIGKILL to a child; waits until the node has restarted because of it and lets clients in.
    pub fn crash(&self, child: Pid) {
        let before = self.crash_restarts();
        process::kill(child, Signal::Kill).unwrap();
        wait::until("the node to reinitialize", || (self.crash_restarts() == before + 1).then_some(()));
        wait::until("the node to serve again", || self.try_client().ok());
    }

    /// How often it has restarted after a crash, over all of its starts.
    pub fn crash_restarts(&self) -> usize {
        self.log().matches("all server processes terminated; reinitializing").count()
    }

    /// SIGKILL to the postmaster and, at once, to every child: what a crash of the machine is to the processes.
    pub fn kill_all(&mut self) {
        let children = procfs::children(self.pid());
        self.signal(Signal::Kill);
        for child in &children {
            // It may be gone already with its parent.
            let _gone = process::kill(*child, Signal::Kill);
        }
        self.wait_end();
        wait::until("killed children to be gone", || {
            children.iter().all(|child| !procfs::runs(*child)).then_some(())
        });
    }

    /// Waits until the postmaster has ended; its exit status, None when a signal ended it.
    pub fn wait_end(&mut self) -> Option<i32> {
        let name = self.name().to_owned();
        let child = self.postmaster.as_mut().unwrap_or_else(|| panic!("{name} does not run"));
        let status = wait::until(&format!("the end of {name}"), || child.try_wait().unwrap());
        self.postmaster = None;
        status.code()
    }

    /// Stops what runs in the way given by `how` and starts it again.
    pub fn restart(&mut self) {
        self.stop();
        self.start();
    }

    /// A new connection over TCP.
    pub fn client(&self) -> Client {
        self.try_client()
            .unwrap_or_else(|error| panic!("connect to {}: {error}\n{}", self.name(), self.log_tail()))
    }

    /// A new connection over TCP, which may be refused.
    pub fn try_client(&self) -> Result<Client, ClientError> {
        Client::connect(&self.address(), &[])
    }

    /// Where it listens on TCP.
    pub fn address(&self) -> Address {
        Address::Tcp(self.port)
    }

    /// Where it listens on a Unix socket.
    pub fn unix_address(&self) -> Address {
        Address::Unix(self.dir.join(format!(".s.PGSQL.{}", self.port)))
    }

    /// One query that must succeed, on a connection of its own.
    pub fn query(&self, sql: &str) -> Answer {
        self.client().query(sql).unwrap_or_else(|error| panic!("{}: {sql}: {error}", self.name()))
    }

    /// The value of one query that must succeed, on a connection of its own.
    pub fn value(&self, sql: &str) -> String {
        self.client().value(sql)
    }

    /// The rows of one query that must succeed, on a connection of its own.
    pub fn rows(&self, sql: &str) -> Vec<Vec<String>> {
        self.client().rows(sql)
    }

    /// The error of one query that must fail, on a connection of its own.
    pub fn error(&self, sql: &str) -> ServerError {
        self.client().error(sql)
    }

    /// The LSN that a function such as pg_current_wal_flush_lsn() gives.
    pub fn lsn(&self, function: &str) -> Lsn {
        let text = self.value(&format!("SELECT {function}()"));
        if text == "NULL" { Lsn::INVALID } else { text.parse().expect("an LSN") }
    }

    /// The process of a backend type ("startup", "walsender" …); waits until there is one.
    pub fn process(&self, backend_type: &str) -> Pid {
        let sql = format!("SELECT pid FROM pg_stat_activity WHERE backend_type = '{backend_type}'");
        wait::until(backend_type, || {
            let rows = self.rows(&sql);
            rows.first().map(|row| Pid(row[0].parse().expect("a process id")))
        })
    }

    /// Waits until the log has a line with `text`, and gives the first such line.
    pub fn wait_log(&self, text: &str) -> String {
        wait::within(wait::DEADLINE, || {
            self.log().lines().find(|line| line.contains(text)).map(str::to_owned)
        })
        .unwrap_or_else(|| panic!("{} never logged {text:?}:\n{}", self.name(), self.log_tail()))
    }

    /// The last lines of the log.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    fn name(&self) -> &str {
        self.dir.file_name().and_then(|name| name.to_str()).unwrap_or("node")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let Some(mut child) = self.postmaster.take() else { return };
        let pid = Pid(i32::try_from(child.id()).unwrap());
        let children = procfs::children(pid);
        let _gone = child.kill();
        for pid in &children {
            let _gone = process::kill(*pid, Signal::Kill);
        }
        let _ended = child.wait();
    }
}

/// Panics with what the command said unless it succeeded.
pub fn assert_success(output: &Output, what: &str) {
    assert!(
        output.status.success(),
        "{what} failed with {}:\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn clone_file(file: &File) -> File {
    file.try_clone().expect("a descriptor can be duplicated")
}
