//! What the nodes' own views tell while the load runs, and the lines that show it.
//!
//! On a terminal a few lines are drawn again and again in the same place; elsewhere a block of lines comes once a second,
//! so that a log of the run reads well.

use std::fmt::Write as _;
use std::io::Write;
use std::time::Duration;

use sys::clock::{self, MonoTime};

use super::Failure;
use super::connection::Connection;
use super::node::Cluster;
use super::run::millis;

/// How often to print where lines cannot be drawn over.
const PLAIN_EVERY: Duration = Duration::from_secs(1);
const BAR_WIDTH: u64 = 20;

/// What the run knows of itself.
#[derive(Debug)]
pub(super) struct Progress {
    /// How much is done.
    pub(super) percent: u64,
    /// Since the start.
    pub(super) elapsed: Duration,
    /// Acknowledged statements since the start.
    pub(super) commits: u64,
    /// Of the statements since the last view.
    pub(super) p50: Duration,
    /// Of the statements since the last view.
    pub(super) p99: Duration,
}

/// A connection of its own to each node, and what was drawn last.
#[derive(Debug)]
pub(super) struct View {
    nodes: Vec<(String, Connection)>,
    terminal: bool,
    lines_drawn: usize,
    shown: Option<(MonoTime, u64)>,
}

impl View {
    /// Connects to every node.
    pub(super) fn new(cluster: &Cluster, terminal: bool) -> Result<View, Failure> {
        let connect = |node| Ok((Connection::open(node)?, node));
        let nodes: Result<Vec<_>, Failure> = cluster.nodes().map(connect).collect();
        let nodes = nodes?.into_iter().map(|(connection, node)| (node.name.clone(), connection)).collect();
        Ok(View { nodes, terminal, lines_drawn: 0, shown: None })
    }

    /// Shows the present state, if it is time to; whether it was.
    pub(super) fn show(&mut self, progress: &Progress, out: &mut impl Write) -> Result<bool, Failure> {
        let now = clock::now();
        let (last, commits_then) = self.shown.unwrap_or((now, 0));
        let since = now.saturating_since(last);
        if !self.terminal && self.shown.is_some() && since < PLAIN_EVERY && progress.percent < 100 {
            return Ok(false);
        }
        let rate = match self.shown {
            Some(_) if !since.is_zero() => (progress.commits - commits_then) as f64 / since.as_secs_f64(),
            _ => progress.commits as f64 / progress.elapsed.as_secs_f64().max(1e-9),
        };
        self.shown = Some((now, progress.commits));
        let mut lines = vec![self.progress_line(progress, rate)?];
        for (name, connection) in &mut self.nodes {
            lines.push(format!("  {name:<9} {}", waits(connection)?));
        }
        self.draw(&lines, out)?;
        Ok(true)
    }

    fn progress_line(&mut self, progress: &Progress, rate: f64) -> Result<String, Failure> {
        let full = progress.percent.min(100) * BAR_WIDTH / 100;
        let bar: String = (0..BAR_WIDTH).map(|place| if place < full { '#' } else { '.' }).collect();
        let mut line = format!(
            "[{bar}] {:>3} % {:>5.1} s | {rate:>6.0} commits/s | p50 {:.2} ms p99 {:.2} ms | replay lag",
            progress.percent,
            progress.elapsed.as_secs_f64(),
            millis(progress.p50),
            millis(progress.p99)
        );
        let sql = "SELECT pg_wal_lsn_diff(pg_current_wal_flush_lsn(), replay_lsn), replay_lag \
                   FROM pg_stat_replication ORDER BY application_name";
        let (_, primary) = &mut self.nodes[0];
        for row in primary.ask(sql)? {
            let bytes = row.first().cloned().flatten().unwrap_or_else(|| "?".to_owned());
            // NULL: all is replayed and nothing has been sent since.
            let time = row.get(1).cloned().flatten().and_then(|interval| interval_millis(&interval));
            let _infallible = write!(line, " {bytes} B {:.1} ms", time.unwrap_or(0.0));
        }
        Ok(line)
    }

    fn draw(&mut self, lines: &[String], out: &mut impl Write) -> Result<(), Failure> {
        let mut text = String::new();
        if self.terminal {
            if self.lines_drawn > 0 {
                // Up to the first line of the last view, and clear from there on.
                let _infallible = write!(text, "\x1b[{}A\x1b[J", self.lines_drawn);
            }
            self.lines_drawn = lines.len();
            // A line that wraps would be counted as one: turn wrapping off while they are drawn.
            let _infallible = write!(text, "\x1b[?7l{}\n\x1b[?7h", lines.join("\n"));
        } else {
            let _infallible = writeln!(text, "{}", lines.join("\n"));
        }
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .map_err(Failure::io("write to standard output"))
    }
}

/// What every process of a node waits for, alike ones counted.
fn waits(node: &mut Connection) -> Result<String, Failure> {
    let sql = "SELECT backend_type, coalesce(wait_event, 'running'), count(*) FROM pg_stat_activity \
               WHERE pid <> pg_backend_pid() GROUP BY 1, 2 ORDER BY 1, 2";
    let mut text = String::new();
    let mut last_type = String::new();
    for row in node.ask(sql)? {
        let mut values = row.into_iter().map(Option::unwrap_or_default);
        let (Some(backend_type), Some(wait), Some(count)) = (values.next(), values.next(), values.next())
        else {
            continue;
        };
        let separator = match (text.is_empty(), backend_type == last_type) {
            (true, _) => "",
            (false, true) => ", ",
            (false, false) => " | ",
        };
        text.push_str(separator);
        if backend_type != last_type {
            text.push_str(&backend_type);
            text.push_str(": ");
        }
        if count != "1" {
            let _infallible = write!(text, "{count} x ");
        }
        text.push_str(&wait);
        last_type = backend_type;
    }
    Ok(text)
}

/// `00:00:01.5` in milliseconds.
fn interval_millis(interval: &str) -> Option<f64> {
    let mut seconds = 0.0;
    for part in interval.split(':') {
        seconds = seconds * 60.0 + part.parse::<f64>().ok()?;
    }
    Some(seconds * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_read_as_milliseconds() {
        assert_eq!(interval_millis("00:00:00.0015"), Some(1.5));
        assert_eq!(interval_millis("00:01:02"), Some(62_000.0));
        assert_eq!(interval_millis("1 day"), None);
    }
}
