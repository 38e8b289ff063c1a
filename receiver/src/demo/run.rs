//! The loop that serves the connections of all clients from one wait event set, until the time is over, the file is
//! written, a statement fails or somebody presses Ctrl-C.
//!
//! Each client has one statement on its way at a time. When the end has come no new statement goes out, and the loop goes
//! on until every answer is in: after it, what was acknowledged is known exactly.

use std::io::Write;
use std::time::Duration;

use ipc::wait_event::WaitEvent;
use ipc::wait_event_set::{Position, WaitEventSet};
use sys::clock::{self, MonoTime};
use sys::signal::{self, Signal, SignalFd, SignalSet};

use super::Failure;
use super::connection::Connection;
use super::latency::Latencies;
use super::node::Cluster;
use super::view::{Progress, View};
use super::workload::{Sent, Workload};

/// How often the live view is drawn, and Ctrl-C looked for.
const TICK: Duration = Duration::from_millis(250);
/// No answer for this long: a node hangs.
const DEADLINE: Duration = Duration::from_secs(60);

/// How the run went.
#[derive(Debug)]
pub(super) struct Ran {
    elapsed: Duration,
    latencies: Latencies,
    /// Ctrl-C ended it.
    pub(super) interrupted: bool,
    /// The error of a statement ended it.
    pub(super) error: Option<String>,
}

impl Ran {
    /// The figures, line by line.
    pub(super) fn summary(&self, workload: &Workload) -> Vec<String> {
        let seconds = self.elapsed.as_secs_f64().max(1e-9);
        let commits = self.latencies.total();
        vec![
            format!(
                "{commits} commits by {} clients in {seconds:.1} s: {:.0} commits/s",
                workload.clients(),
                commits as f64 / seconds
            ),
            format!(
                "latency p50 {:.2} ms, p95 {:.2} ms, p99 {:.2} ms, longest {:.1} ms",
                millis(self.latencies.percentile(50)),
                millis(self.latencies.percentile(95)),
                millis(self.latencies.percentile(99)),
                millis(self.latencies.max())
            ),
        ]
    }
}

pub(super) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

struct Client {
    connection: Connection,
    position: Position,
    under_way: Option<(Sent, MonoTime)>,
}

struct Run<'a> {
    set: WaitEventSet,
    clients: Vec<Client>,
    workload: &'a mut Workload,
    view: &'a mut View,
    /// Where the view's connections are in the set, in its order.
    view_positions: Vec<Position>,
    limit: Option<Duration>,
    start: MonoTime,
    /// No new statement goes out any more.
    over: bool,
    ran: Ran,
    since_view: Latencies,
    last_answer: MonoTime,
}

/// Runs the workload.
pub(super) fn run(
    cluster: &Cluster,
    workload: &mut Workload,
    limit: Option<Duration>,
    view: &mut View,
    out: &mut impl Write,
) -> Result<Ran, Failure> {
    signal::block_all();
    let signals = SignalFd::new(SignalSet::of(&[Signal::Int, Signal::Term]));
    let signals = signals.map_err(Failure::io("open a signalfd"))?;
    let mut run = Run::new(cluster, workload, view, limit)?;
    let mut tick = run.start.saturating_add(TICK);
    let mut occurred = Vec::new();
    for number in 0..run.clients.len() {
        run.send_next(number)?;
    }
    while run.is_busy() {
        let timeout = tick.saturating_since(clock::now());
        run.set.wait(Some(timeout), WaitEvent::ClientRead, &mut occurred).map_err(Failure::io("wait"))?;
        for event in &occurred {
            run.serve_event(event.position, out)?;
        }
        let now = clock::now();
        if run.clients.iter().any(|client| client.under_way.is_some()) {
            run.ran.elapsed = now.saturating_since(run.start);
        }
        run.over |= limit.is_some_and(|limit| run.ran.elapsed >= limit);
        if now >= tick {
            tick = now.saturating_add(TICK);
            if !signals.drain().map_err(Failure::io("read signals"))?.is_empty() {
                run.ran.interrupted = true;
                run.over = true;
            }
            run.look(now, out)?;
        }
        if now.saturating_since(run.last_answer) > DEADLINE {
            return Err(Failure::new(format!("no answer to any client for {} s", DEADLINE.as_secs())));
        }
    }
    Ok(run.ran)
}

impl<'a> Run<'a> {
    fn new(
        cluster: &Cluster,
        workload: &'a mut Workload,
        view: &'a mut View,
        limit: Option<Duration>,
    ) -> Result<Run<'a>, Failure> {
        let count = workload.clients();
        let failed = || Failure::io("watch a connection");
        let mut set = WaitEventSet::without_process(count + cluster.nodes().count()).map_err(failed())?;
        let mut clients = Vec::new();
        for _ in 0..count {
            let connection = Connection::open(cluster.primary())?;
            let position = set.add_socket(&connection, connection.interest()).map_err(failed())?;
            clients.push(Client { connection, position, under_way: None });
        }
        let mut view_positions = Vec::new();
        for connection in view.connections() {
            view_positions.push(set.add_socket(connection, connection.interest()).map_err(failed())?);
        }
        let ran =
            Ran { elapsed: Duration::ZERO, latencies: Latencies::new(), interrupted: false, error: None };
        let start = clock::now();
        let since_view = Latencies::new();
        Ok(Run {
            set,
            clients,
            workload,
            view,
            view_positions,
            limit,
            start,
            over: false,
            ran,
            since_view,
            last_answer: start,
        })
    }

    /// Whether an answer is awaited.
    fn is_busy(&self) -> bool {
        self.view.is_under_way() || self.clients.iter().any(|client| client.under_way.is_some())
    }

    fn serve_event(&mut self, position: Position, out: &mut impl Write) -> Result<(), Failure> {
        if let Some(number) = self.clients.iter().position(|client| client.position == position) {
            return self.serve(number);
        }
        let number = self.view_positions.iter().position(|of_view| *of_view == position);
        let number = number.expect("what is no client's is the view's");
        self.view.serve(number, out)?;
        self.watch_view()
    }

    /// Sends the client's next statement, if there is one.
    fn send_next(&mut self, number: usize) -> Result<(), Failure> {
        let next = if self.over { None } else { self.workload.next(number)? };
        if let Some((sql, sent)) = next {
            let client = &mut self.clients[number];
            client.connection.send(&sql);
            client.under_way = Some((sent, clock::now()));
            self.serve(number)?;
        }
        Ok(())
    }

    /// Moves a client's bytes, and takes its answer when it is in.
    fn serve(&mut self, number: usize) -> Result<(), Failure> {
        let client = &mut self.clients[number];
        let answer = client.connection.advance()?;
        let failed = Failure::io("watch a connection");
        self.set.modify(client.position, client.connection.interest()).map_err(failed)?;
        let Some(answer) = answer else { return Ok(()) };
        let (sent, at) = client.under_way.take().expect("an answer follows a statement");
        self.last_answer = clock::now();
        if let Some(error) = answer.error {
            let text = format!("{} {}", error.sqlstate.as_str(), error.message);
            self.ran.error.get_or_insert(format!("{sent:?} was refused: {text}"));
            self.over = true;
            return Ok(());
        }
        let latency = self.last_answer.saturating_since(at);
        self.ran.latencies.add(latency);
        self.since_view.add(latency);
        self.workload.acknowledge(number, sent);
        self.send_next(number)
    }

    /// Asks for the next view, if it is time.
    fn look(&mut self, now: MonoTime, out: &mut impl Write) -> Result<(), Failure> {
        if !self.view.is_due(now) {
            return Ok(());
        }
        let by_time = self.limit.map(|limit| {
            let percent = (self.ran.elapsed.as_millis() * 100).checked_div(limit.as_millis()).unwrap_or(100);
            u64::try_from(percent.min(100)).expect("at most 100")
        });
        let progress = Progress {
            percent: self.workload.percent().or(by_time).unwrap_or(0),
            elapsed: self.ran.elapsed,
            commits: self.ran.latencies.total(),
            p50: self.since_view.percentile(50),
            p99: self.since_view.percentile(99),
        };
        self.since_view.clear();
        self.view.ask(now, &progress);
        for number in 0..self.view_positions.len() {
            self.view.serve(number, out)?;
        }
        self.watch_view()
    }

    fn watch_view(&mut self) -> Result<(), Failure> {
        for (position, connection) in self.view_positions.iter().zip(self.view.connections()) {
            let failed = Failure::io("watch a connection");
            self.set.modify(*position, connection.interest()).map_err(failed)?;
        }
        Ok(())
    }
}
