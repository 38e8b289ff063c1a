//! PostgreSQL's own programs, run against a node: psql, pgbench, pg_receivewal, pg_waldump.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use wal::lsn::Lsn;
use wal::segment::{self, SegmentSize};
use wal::timeline::TimelineId;

use crate::node::Node;
use crate::programs;

/// What a program said and how it ended.
#[derive(Debug)]
pub struct Said {
    /// Exit status; None when a signal ended it.
    pub status: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// Of a program that has ended.
    pub fn of(output: Output) -> Said {
        Said {
            status: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Panics unless the program succeeded.
    pub fn assert_success(self, what: &str) -> Said {
        assert_eq!(self.status, Some(0), "{what}: {}{}", self.out, self.err);
        self
    }
}

/// A PostgreSQL program that will connect to `node`, undisturbed by what the environment or psqlrc say.
pub fn postgres_command(program: &str, node: &Node) -> Command {
    let mut command = Command::new(programs::postgres(program));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PG")) {
        command.env_remove(name);
    }
    command
        .env("LC_ALL", "C")
        .env("PGCONNECT_TIMEOUT", "30")
        .args(["-h", "127.0.0.1", "-U", "postgres", "-p"])
        .arg(node.port().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn run(mut command: Command) -> Said {
    Said::of(command.output().expect("the program can be run"))
}

/// `psql -c sql` on database postgres: aligned output, SQLSTATEs shown.
pub fn psql(node: &Node, sql: &str) -> Said {
    let mut command = postgres_command("psql", node);
    command.args(["-X", "-d", "postgres", "-v", "VERBOSITY=verbose", "-c", sql]);
    run(command)
}

/// `psql -At -c sql`: bare values.
pub fn psql_values(node: &Node, sql: &str) -> Said {
    let mut command = postgres_command("psql", node);
    command.args(["-X", "-A", "-t", "-d", "postgres", "-c", sql]);
    run(command)
}

/// psql on a replication connection.
pub fn psql_replication(node: &Node, sql: &str) -> Said {
    let mut command = Command::new(programs::postgres("psql"));
    command.args(["-X", "-A", "-t", "-c", sql]);
    command.arg(format!("host=127.0.0.1 port={} user=postgres replication=true", node.port()));
    run(command)
}

/// psql in the background.
pub fn psql_spawn(node: &Node, sql: &str) -> Child {
    let mut command = postgres_command("psql", node);
    command.args(["-X", "-d", "postgres", "-v", "VERBOSITY=verbose", "-c", sql]);
    command.spawn().expect("psql can be run")
}

/// Waits for a background program and gives what it said.
pub fn finish(child: Child) -> Said {
    Said::of(child.wait_with_output().expect("a child can be waited for"))
}

/// pgbench with a script of its own in the background.
pub fn pgbench_spawn(node: &Node, script: &Path, clients: u32, seconds: u32) -> Child {
    let mut command = postgres_command("pgbench", node);
    command
        .args(["-n", "-c", &clients.to_string(), "-T", &seconds.to_string(), "-f"])
        .arg(script)
        .arg("postgres");
    command.spawn().expect("pgbench can be run")
}

/// The number that follows `label` in pgbench's summary.
pub fn pgbench_number(said: &Said, label: &str) -> f64 {
    let line = said.out.lines().find(|line| line.contains(label));
    let line = line.unwrap_or_else(|| panic!("pgbench said nothing of {label:?}: {}{}", said.out, said.err));
    let rest = &line[line.find(label).expect("just found") + label.len()..];
    let number: String = rest
        .trim_start_matches([':', '=', ' '])
        .chars()
        .take_while(|c| c.is_ascii_digit() || *c == '.')
        .collect();
    number.parse().unwrap_or_else(|_| panic!("no number after {label:?}: {line}"))
}

/// pg_receivewal into `dir` until `endpos`.
pub fn pg_receivewal(node: &Node, dir: &Path, endpos: &str) -> Said {
    let mut command = postgres_command("pg_receivewal", node);
    command.arg("-D").arg(dir).args(["--endpos", endpos, "--no-loop", "-v"]);
    run(command)
}

/// pg_waldump over the log in `dir` from `start` on.
pub fn pg_waldump(dir: &Path, start: &str) -> Said {
    let mut command = Command::new(programs::postgres("pg_waldump"));
    command.env("LC_ALL", "C").arg("-p").arg(dir).args(["-s", start]);
    run(command)
}

/// pg_waldump over the log of timeline 1 in `dir`, in segments of 1 MB, from the first record at or after `start` to
/// `end`; it prints errors alone.
pub fn pg_waldump_between(dir: &Path, start: Lsn, end: Lsn) -> Said {
    let size = SegmentSize::new(1 << 20).expect("1 MiB is a segment size");
    // By name: segments made ahead would tell it no segment size.
    let name = |number| segment::file_name(TimelineId(1), number, size);
    let mut command = Command::new(programs::postgres("pg_waldump"));
    command.env("LC_ALL", "C").arg("--quiet");
    command.args(["-s", &start.to_string(), "-e", &end.to_string()]);
    command.arg(dir.join(name(size.number_of(start)))).arg(name(size.number_before(end)));
    run(command)
}

/// pg_waldump over the log in `dir` between two segments.
pub fn pg_waldump_segments(dir: &Path, first: &str, last: &str) -> Said {
    let mut command = Command::new(programs::postgres("pg_waldump"));
    command.env("LC_ALL", "C").arg(dir.join(first)).arg(last);
    run(command)
}

/// The upsert of a random key that the benchmark calls `put`: 100 bytes into one of 100,000 keys.
pub fn put_script() -> String {
    let value = "x".repeat(100);
    format!(
        "\\set k random(1, 100000)\nINSERT INTO kv VALUES (:k, '{value}') \
         ON CONFLICT (key) DO UPDATE SET value = excluded.value;\n"
    )
}

/// The table that [`put_script`] writes to.
pub const CREATE_KV: &str = "CREATE TABLE kv(key text PRIMARY KEY, value text)";
