//! A real PostgreSQL 15, set up for a comparison: a server, or a pair of a primary and a standby made by pg_basebackup,
//! with the defaults of PostgreSQL but for where they listen.
//!
//! postgres refuses to run as root: when this process is root, the servers run as the system user `postgres` (made by
//! Debian's package) or, without one, `nobody`.

use std::fs::{self, File, OpenOptions};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sys::process::{self, Pid};
use sys::signal::Signal;

use crate::client::{Address, Client};
use crate::node::assert_success;
use crate::scenario::Scenario;
use crate::wait;
use crate::{procfs, programs};

/// A server on a data directory of its own. Dropping it stops it.
#[derive(Debug)]
pub struct Server {
    child: Child,
    port: u16,
    launch: Launch,
}

/// How it is started.
#[derive(Debug)]
struct Launch {
    data: PathBuf,
    log: PathBuf,
    owner: Owner,
    settings: Vec<String>,
    /// From the first start on always the same.
    port: u16,
}

/// The pair. Dropping it stops it.
#[derive(Debug)]
pub struct PostgresPair {
    primary: Server,
    standby: Server,
    standby_dir: PathBuf,
}

/// Numeric user and group to run the servers as; None: as ourselves.
type Owner = Option<(u32, u32)>;

impl PostgresPair {
    /// Sets the pair up; None when PostgreSQL's server is not installed.
    pub fn start(scenario: &Scenario) -> Option<PostgresPair> {
        let owner = owner();
        let dir = scenario.path("postgres");
        let primary = Server::make(scenario, &dir, owner, &[])?;
        let copy = dir.join("standby");
        let mut basebackup = command("pg_basebackup", owner);
        let conninfo = format!("host=127.0.0.1 port={} user=postgres application_name=standby", primary.port);
        basebackup.args(["-c", "fast", "-R", "-d", &conninfo, "-D"]).arg(&copy);
        assert_success(&basebackup.output().unwrap(), "pg_basebackup");
        let standby = Server::start(copy.clone(), dir.join("standby.log"), owner, &[]);
        Some(PostgresPair { primary, standby, standby_dir: copy })
    }

    /// Port of the primary.
    pub fn port(&self) -> u16 {
        self.primary.port
    }

    /// The primary's postmaster.
    pub fn pid(&self) -> Pid {
        self.primary.pid()
    }

    /// Waits until the primary has ended.
    pub fn wait_stopped(&mut self) {
        let _status = self.primary.child.wait().expect("a child can be waited for");
    }

    /// `pg_ctl promote` of the standby, under way.
    pub fn spawn_promote(&self) -> Child {
        let mut promote = command("pg_ctl", owner());
        promote.args(["promote", "-D"]).arg(&self.standby_dir);
        promote.spawn().expect("pg_ctl can be run")
    }

    /// Port of the standby.
    pub fn standby_port(&self) -> u16 {
        self.standby.port
    }
}

impl Server {
    /// Sets a server up, with `name=value` settings; None when PostgreSQL's server is not installed.
    pub fn new(scenario: &Scenario, settings: &[&str]) -> Option<Server> {
        Server::named(scenario, "postgres", settings)
    }

    /// Likewise, in a directory of this name in the scenario.
    pub fn named(scenario: &Scenario, name: &str, settings: &[&str]) -> Option<Server> {
        Server::make(scenario, &scenario.path(name), owner(), settings)
    }

    /// Sets a server up with segments of 1 MB, in a directory of this name in the scenario; panics when PostgreSQL's server is
    /// not installed.
    pub fn with_segments_of_1_mb(scenario: &Scenario, name: &str, settings: &[&str]) -> Server {
        let (dir, owner) = (scenario.path(name), owner());
        let data = Server::make_data(scenario, &dir, owner, &["--wal-segsize=1"]);
        let data = data.expect("PostgreSQL 15's server is installed");
        Server::start(data, dir.join("server.log"), owner, settings)
    }

    /// Copies a running server by pg_basebackup and starts the copy as a standby that streams as `name`.
    pub fn standby_of(scenario: &Scenario, name: &str, upstream: &Server, settings: &[&str]) -> Server {
        let owner = owner();
        let dir = scenario.path(name);
        make_dir(&dir, owner);
        let copy = dir.join("data");
        let conninfo = format!("host=127.0.0.1 port={} user=postgres application_name={name}", upstream.port);
        let mut backup = command("pg_basebackup", owner);
        backup.args(["-c", "fast", "-R", "-d", &conninfo, "-D"]).arg(&copy);
        assert_success(&backup.output().unwrap(), "pg_basebackup");
        Server::start(copy, dir.join("server.log"), owner, settings)
    }

    /// Makes `lines` its settings beside those of its command line and has all of its processes take note: also the
    /// checkpointer, which says to everybody whether there are synchronous standbys.
    pub fn reload(&self, lines: &str) {
        // What comes last in the file counts.
        let path = self.launch.data.join("postgresql.conf");
        let conf = fs::read_to_string(&path).unwrap();
        let before = conf.split(RELOADED).next().unwrap_or_default();
        fs::write(&path, format!("{before}{RELOADED}{lines}\n")).unwrap();
        let mut client = Client::connect(&Address::Tcp(self.port), &[]).unwrap();
        let loaded = "SELECT pg_conf_load_time()";
        let time = client.value(loaded);
        client.query("SELECT pg_reload_conf()").unwrap();
        wait::until("the new settings", || {
            let mut client = Client::connect(&Address::Tcp(self.port), &[]).unwrap();
            (client.value(loaded) != time).then_some(())
        });
        client.query("CHECKPOINT").unwrap();
    }

    /// Fast shutdown.
    pub fn stop(&mut self) {
        process::kill(self.pid(), Signal::Int).unwrap();
        assert!(self.child.wait().unwrap().success(), "{}", self.log());
    }

    /// Its data directory.
    pub fn data(&self) -> &Path {
        &self.launch.data
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.launch.log).unwrap()
    }

    /// SIGKILL to all of its processes at once.
    pub fn kill_all(&mut self) {
        let pid = self.pid();
        let children = procfs::children(pid);
        for pid in std::iter::once(&pid).chain(&children) {
            // It may be gone already with its parent.
            let _gone = process::kill(*pid, Signal::Kill);
        }
        self.child.wait().unwrap();
        wait::until("killed children to be gone", || {
            children.iter().all(|child| !procfs::runs(*child)).then_some(())
        });
    }

    /// Starts it again after that, and waits until it lets clients in.
    pub fn start_again(&mut self) {
        self.child = self.launch.start();
    }

    /// Its postmaster.
    pub fn pid(&self) -> Pid {
        Pid(i32::try_from(self.child.id()).expect("a process id is positive"))
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    fn make(scenario: &Scenario, dir: &Path, owner: Owner, settings: &[&str]) -> Option<Server> {
        let data = Server::make_data(scenario, dir, owner, &[])?;
        Some(Server::start(data, dir.join("primary.log"), owner, settings))
    }

    /// A data directory by initdb, with more arguments if wanted.
    fn make_data(scenario: &Scenario, dir: &Path, owner: Owner, arguments: &[&str]) -> Option<PathBuf> {
        programs::find_postgres("postgres")?;
        // The servers must get through to their directories.
        fs::set_permissions(scenario.root(), fs::Permissions::from_mode(0o755)).unwrap();
        make_dir(dir, owner);
        let data = dir.join("primary");
        let mut initdb = command("initdb", owner);
        initdb.args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C"]).args(arguments);
        assert_success(&initdb.arg("-D").arg(&data).output().unwrap(), "initdb");
        Some(data)
    }

    fn start(data: PathBuf, log: PathBuf, owner: Owner, settings: &[&str]) -> Server {
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        // PostgreSQL takes no port 0; the port of a socket that was just closed is free.
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let launch = Launch { data, log, owner, settings, port };
        Server { child: launch.start(), port, launch }
    }
}

impl Launch {
    /// The process, when it lets clients in.
    fn start(&self) -> Child {
        let log: File = OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let mut postgres = command("postgres", self.owner);
        postgres.arg("-D").arg(&self.data).args([
            "-p",
            &self.port.to_string(),
            "-c",
            "listen_addresses=127.0.0.1",
        ]);
        postgres.args(["-c", "unix_socket_directories="]);
        self.settings.iter().for_each(|setting| _ = postgres.args(["-c", setting]));
        postgres.stdout(log.try_clone().unwrap()).stderr(log);
        let child = postgres.spawn().unwrap();
        wait::within(PATIENCE, || Client::connect(&Address::Tcp(self.port), &[]).ok())
            .expect("PostgreSQL comes up");
        child
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = self.pid();
        // Fast shutdown; the directory goes afterwards.
        let _gone = process::kill(pid, Signal::Int);
        let _ended = self.child.wait();
    }
}

/// Divides postgresql.conf: what follows was set by [`Server::reload`].
const RELOADED: &str = "\n# reloaded\n";

/// A directory for a server of that owner.
fn make_dir(dir: &Path, owner: Owner) {
    fs::create_dir(dir).unwrap();
    if let Some((uid, gid)) = owner {
        chown(dir, Some(uid), Some(gid)).unwrap();
    }
}

/// How long a server may recover.
const PATIENCE: Duration = Duration::from_secs(600);

fn command(program: &str, owner: Owner) -> Command {
    let mut command = Command::new(programs::postgres(program));
    if let Some((uid, gid)) = owner {
        command.uid(uid).gid(gid);
    }
    command
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Whom to run the servers as: an ordinary user, if we are root.
fn owner() -> Owner {
    if fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own)).ok() != Some(0) {
        return None;
    }
    let passwd = fs::read_to_string(PathBuf::from("/etc/passwd")).unwrap_or_default();
    let find = |name: &str| {
        let fields: Vec<&str> = passwd
            .lines()
            .map(|line| line.split(':'))
            .find_map(|mut fields| (fields.next() == Some(name)).then(|| fields.collect()))?;
        Some((fields.get(1)?.parse().ok()?, fields.get(2)?.parse().ok()?))
    };
    Some(find("postgres").or_else(|| find("nobody")).expect("a system has the user nobody"))
}
