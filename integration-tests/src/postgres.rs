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

use sys::process::{self, Pid};
use sys::signal::Signal;

use crate::client::{Address, Client};
use crate::node::assert_success;
use crate::programs;
use crate::scenario::Scenario;
use crate::wait;

/// A server on a data directory of its own. Dropping it stops it.
#[derive(Debug)]
pub struct Server {
    child: Child,
    port: u16,
}

/// The pair. Dropping it stops it.
#[derive(Debug)]
pub struct PostgresPair {
    primary: Server,
    standby: Server,
}

/// Numeric user and group to run the servers as; None: as ourselves.
type Owner = Option<(u32, u32)>;

impl PostgresPair {
    /// Sets the pair up; None when PostgreSQL's server is not installed.
    pub fn start(scenario: &Scenario) -> Option<PostgresPair> {
        let owner = owner();
        let primary = Server::make(scenario, owner, &[])?;
        let dir = directory(scenario);
        let copy = dir.join("standby");
        let mut basebackup = command("pg_basebackup", owner);
        let conninfo = format!("host=127.0.0.1 port={} user=postgres application_name=standby", primary.port);
        basebackup.args(["-c", "fast", "-R", "-d", &conninfo, "-D"]).arg(&copy);
        assert_success(&basebackup.output().unwrap(), "pg_basebackup");
        let standby = Server::start(&copy, &dir.join("standby.log"), owner, &[]);
        Some(PostgresPair { primary, standby })
    }

    /// Port of the primary.
    pub fn port(&self) -> u16 {
        self.primary.port
    }

    /// Port of the standby.
    pub fn standby_port(&self) -> u16 {
        self.standby.port
    }
}

impl Server {
    /// Sets a server up, with `name=value` settings; None when PostgreSQL's server is not installed.
    pub fn new(scenario: &Scenario, settings: &[&str]) -> Option<Server> {
        Server::make(scenario, owner(), settings)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    fn make(scenario: &Scenario, owner: Owner, settings: &[&str]) -> Option<Server> {
        programs::find_postgres("postgres")?;
        // The servers must get through to their directories.
        fs::set_permissions(scenario.root(), fs::Permissions::from_mode(0o755)).unwrap();
        let dir = directory(scenario);
        fs::create_dir(&dir).unwrap();
        if let Some((uid, gid)) = owner {
            chown(&dir, Some(uid), Some(gid)).unwrap();
        }
        let data = dir.join("primary");
        let mut initdb = command("initdb", owner);
        initdb.args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "-D"]).arg(&data);
        assert_success(&initdb.output().unwrap(), "initdb");
        Some(Server::start(&data, &dir.join("primary.log"), owner, settings))
    }

    fn start(data: &Path, log: &Path, owner: Owner, settings: &[&str]) -> Server {
        // PostgreSQL takes no port 0; the port of a socket that was just closed is free.
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let log: File = OpenOptions::new().create(true).append(true).open(log).unwrap();
        let mut postgres = command("postgres", owner);
        postgres.arg("-D").arg(data).args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
        postgres.args(["-c", "unix_socket_directories="]);
        settings.iter().for_each(|setting| _ = postgres.args(["-c", setting]));
        postgres.stdout(log.try_clone().unwrap()).stderr(log);
        let child = postgres.spawn().unwrap();
        wait::until("PostgreSQL to come up", || Client::connect(&Address::Tcp(port), &[]).ok());
        Server { child, port }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = Pid(i32::try_from(self.child.id()).expect("a process id is positive"));
        // Fast shutdown; the directory goes afterwards.
        let _gone = process::kill(pid, Signal::Int);
        let _ended = self.child.wait();
    }
}

/// Where the servers of a scenario are.
fn directory(scenario: &Scenario) -> PathBuf {
    scenario.path("postgres")
}

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
