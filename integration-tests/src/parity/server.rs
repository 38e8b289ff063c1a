//! A server of either kind, driven in the same way.

use wal::lsn::Lsn;

use super::Kind;
use crate::client::{Address, Client};
use crate::node::Node;
use crate::postgres;
use crate::scenario::Scenario;
use crate::wait;

/// A server on a data directory of its own, started. Dropping it stops it.
#[derive(Debug)]
pub enum Server {
    /// A node of this workspace.
    Walship(Node),
    /// PostgreSQL.
    PostgreSql(postgres::Server),
}

impl Server {
    /// Makes and starts a primary with segments of 1 MB, with `name=value` settings.
    pub fn primary(kind: Kind, scenario: &Scenario, settings: &[&str]) -> Server {
        match kind {
            Kind::Walship => {
                let mut node = Node::init(scenario, "primary", &["--wal-segsize", "1MB"]);
                // As PostgreSQL's.
                node.configure("wal_keep_size = 0");
                settings.iter().for_each(|setting| node.set(setting));
                node.start();
                Server::Walship(node)
            }
            Kind::PostgreSql => {
                let server = postgres::Server::with_segments_of_1_mb(scenario, "primary", settings);
                Server::PostgreSql(server)
            }
        }
    }

    /// Makes a standby of this server, started, that streams as `name`.
    pub fn standby(&self, scenario: &Scenario, name: &str, settings: &[&str]) -> Server {
        let standby = match self {
            Server::Walship(upstream) => {
                let mut node = Node::clone_of(scenario, name, upstream);
                settings.iter().for_each(|setting| node.set(setting));
                node.start();
                Server::Walship(node)
            }
            Server::PostgreSql(upstream) => {
                Server::PostgreSql(postgres::Server::standby_of(scenario, name, upstream, settings))
            }
        };
        let sql = format!("SELECT state FROM pg_stat_replication WHERE application_name = '{name}'");
        wait::until(name, || (self.rows(&sql) == [["streaming"]]).then_some(()));
        standby
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        match self {
            Server::Walship(node) => node.port(),
            Server::PostgreSql(server) => server.port(),
        }
    }

    /// A new session.
    pub fn client(&self) -> Client {
        self.client_with(&[])
    }

    /// A new session with more startup parameters.
    pub fn client_with(&self, parameters: &[(&str, &str)]) -> Client {
        Client::connect(&Address::Tcp(self.port()), parameters).expect("the server lets a client in")
    }

    /// A new replication connection.
    pub fn walsender(&self) -> Client {
        self.client_with(&[("replication", "true")])
    }

    /// The rows of a query that must succeed, on a session of its own.
    pub fn rows(&self, sql: &str) -> Vec<Vec<String>> {
        self.client().rows(sql)
    }

    /// The value of a query that must succeed, on a session of its own.
    pub fn value(&self, sql: &str) -> String {
        self.client().value(sql)
    }

    /// End of the log.
    pub fn end(&self) -> Lsn {
        self.value("SELECT pg_current_wal_flush_lsn()").parse().expect("an LSN")
    }

    /// Waits until this standby shows everything that `upstream`, a primary, has now.
    pub fn wait_level_with(&self, upstream: &Server) {
        let end = upstream.end();
        wait::until("the standby to be level", || {
            let replayed = self.value("SELECT pg_last_wal_replay_lsn()").parse::<Lsn>();
            replayed.is_ok_and(|replayed| replayed >= end).then_some(())
        });
    }

    /// Makes `lines` (`name = 'value'`) its settings beside those that it was started with, in force everywhere.
    pub fn reload(&self, lines: &str) {
        match self {
            Server::Walship(node) => drop(node.reload(lines)),
            Server::PostgreSql(server) => server.reload(lines),
        }
    }

    /// Fast shutdown.
    pub fn stop(&mut self) {
        match self {
            Server::Walship(node) => node.stop(),
            Server::PostgreSql(server) => server.stop(),
        }
    }

    /// SIGKILL to all of its processes.
    pub fn kill_all(&mut self) {
        match self {
            Server::Walship(node) => node.kill_all(),
            Server::PostgreSql(server) => server.kill_all(),
        }
    }

    /// Starts it again after that.
    pub fn start_again(&mut self) {
        match self {
            Server::Walship(node) => node.start(),
            Server::PostgreSql(server) => server.start_again(),
        }
    }
}
