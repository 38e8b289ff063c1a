//! What the nodes' own views tell while the load runs, and the lines that show it.
//!
//! On a terminal a few lines are drawn again and again in the same place; elsewhere a block of lines comes once a second,
//! so that a log of the run reads well.

use std::fmt::Write as _;
use std::io::Write;
use std::time::Duration;

use sys::clock::MonoTime;

use super::Failure;
use super::connection::Connection;
use super::node::{Cluster, NodeProcess};
use super::run::millis;

/// How often to print where lines cannot be drawn over.
const PLAIN_EVERY: Duration = Duration::from_secs(1);
const BAR_WIDTH: u64 = 20;

const LAG: &str = "SELECT pg_wal_lsn_diff(pg_current_wal_flush_lsn(), replay_lsn), replay_lag \
                   FROM pg_stat_replication ORDER BY application_name; ";
const WAITS: &str = "SELECT backend_type, coalesce(wait_event, 'running'), count(*) FROM pg_stat_activity \
                     WHERE pid <> pg_backend_pid() GROUP BY 1, 2 ORDER BY 1, 2";

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

/// A node, asked over a connection of its own.
#[derive(Debug)]
struct Watched {
    name: String,
    connection: Connection,
    /// What it told this time; None while the question is under way.
    told: Option<Vec<Row>>,
}

type Row = Vec<Option<String>>;

/// What was asked, and what was drawn last.
///
/// The questions go out and come back in the loop that serves the load: to wait for an answer here would stop the very
/// clients whose waits are to be shown.
#[derive(Debug)]
pub(super) struct View {
    nodes: Vec<Watched>,
    terminal: bool,
    lines_drawn: usize,
    /// When it was asked last, and the commits then.
    asked: Option<(MonoTime, u64)>,
    /// The first line of the view that is under way, up to the lag.
    under_way: Option<String>,
}

impl View {
    /// Connects to every node.
    pub(super) fn new(cluster: &Cluster, terminal: bool) -> Result<View, Failure> {
        let watch = |node: &NodeProcess| {
            let connection = Connection::open(node)?;
            Ok(Watched { name: node.name.clone(), connection, told: None })
        };
        let nodes = cluster.nodes().map(watch).collect::<Result<_, Failure>>()?;
        Ok(View { nodes, terminal, lines_drawn: 0, asked: None, under_way: None })
    }

    /// The connections to wait for, one per node.
    pub(super) fn connections(&self) -> impl Iterator<Item = &Connection> {
        self.nodes.iter().map(|node| &node.connection)
    }

    /// Whether it is time for another view.
    pub(super) fn is_due(&self, now: MonoTime) -> bool {
        let every = if self.terminal { Duration::ZERO } else { PLAIN_EVERY };
        self.under_way.is_none() && self.asked.is_none_or(|(last, _)| now.saturating_since(last) >= every)
    }

    /// Whether answers are awaited.
    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Asks every node.
    pub(super) fn ask(&mut self, now: MonoTime, progress: &Progress) {
        let since = self.asked.map_or(progress.elapsed, |(last, _)| now.saturating_since(last));
        let commits = progress.commits - self.asked.map_or(0, |(_, then)| then);
        self.asked = Some((now, progress.commits));
        self.under_way = Some(progress_line(progress, commits as f64 / since.as_secs_f64().max(1e-9)));
        for (number, node) in self.nodes.iter_mut().enumerate() {
            node.told = None;
            let lag = if number == 0 { LAG } else { "" };
            node.connection.send(&format!("{lag}{WAITS}"));
        }
    }

    /// Moves the bytes of a node's connection, and draws when the last answer is in.
    pub(super) fn serve(&mut self, number: usize, out: &mut impl Write) -> Result<(), Failure> {
        let node = &mut self.nodes[number];
        let Some(answer) = node.connection.advance()? else { return Ok(()) };
        if let Some(error) = answer.error {
            return Err(Failure::new(format!("{}: {}", node.name, error.message)));
        }
        node.told = Some(answer.rows);
        if self.nodes.iter().all(|node| node.told.is_some())
            && let Some(first) = self.under_way.take()
        {
            let mut lines = vec![first];
            for node in &mut self.nodes {
                let rows = node.told.take().unwrap_or_default();
                // Both questions are in one query: the rows of the lag have two columns.
                let (lags, waits): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(|row| row.len() == 2);
                lags.iter().for_each(|row| lines[0].push_str(&lag_text(row)));
                lines.push(format!("  {:<9} {}", node.name, waits_text(waits)));
            }
            self.draw(&lines, out)?;
        }
        Ok(())
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

fn progress_line(progress: &Progress, rate: f64) -> String {
    let full = progress.percent.min(100) * BAR_WIDTH / 100;
    let bar: String = (0..BAR_WIDTH).map(|place| if place < full { '#' } else { '.' }).collect();
    format!(
        "[{bar}] {:>3} % {:>5.1} s | {rate:>6.0} commits/s | p50 {:.2} ms p99 {:.2} ms | replay lag",
        progress.percent,
        progress.elapsed.as_secs_f64(),
        millis(progress.p50),
        millis(progress.p99)
    )
}

fn lag_text(row: &Row) -> String {
    let bytes = row[0].as_deref().unwrap_or("?");
    // NULL: all is replayed and nothing has been sent since.
    let time = row[1].as_deref().and_then(interval_millis).unwrap_or(0.0);
    format!(" {bytes} B {time:.1} ms")
}

/// What every process of a node waits for, alike ones counted.
fn waits_text(rows: Vec<Row>) -> String {
    let mut text = String::new();
    let mut last_type = String::new();
    for row in rows {
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
    text
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
