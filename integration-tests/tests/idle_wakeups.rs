//! Nothing polls: an idle pair sleeps until a computed deadline falls due, and each process as often as that.
//!
//! Method: from the settings, and from when replies and messages were last seen, a small simulation tells which
//! deadlines fall due in the next 30 s and whom each wakes. `pg_stat_latch` must then have counted exactly as many
//! kernel waits; a deadline at the very end of the window may fall on either side. The kernel's own count
//! (voluntary_ctxt_switches) must not be higher, so nobody sleeps in some other way.
//!
//! (A primary of PostgreSQL 15 with one walsender wakes 0.7 to 6.7 times a second in all, its standby 11 to 16 times.)

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use integration_tests::client::Client;
use integration_tests::cluster::Cluster;
use integration_tests::node::Node;
use integration_tests::procfs;
use integration_tests::scenario::Scenario;
use integration_tests::wait;
use sys::clock;
use sys::process::Pid;

const WINDOW: Duration = Duration::from_secs(30);
/// Time after the last write for what it set off (commits, replies, keepalives) to be over.
const SETTLE: Duration = Duration::from_secs(2);
/// How late a process may be, in seconds: a deadline so close to the window's end may count or not.
const LATE: f64 = 0.3;
/// All processes of a node together, per second.
const WAKE_UPS_MAX: f64 = 0.5;
/// How often a postmaster looks at its pid file, in seconds.
const PID_FILE_CHECK: f64 = 60.0;
/// Names the session that sleeps all the time.
const IDLE_SESSION: &str = "idle session";

/// The settings that deadlines are computed from, in seconds; infinite for never.
#[derive(Clone, Copy)]
struct Settings {
    wal_sender_timeout: f64,
    wal_receiver_timeout: f64,
    wal_receiver_status_interval: f64,
    checkpoint_timeout: f64,
}

impl Settings {
    fn arguments(&self) -> Vec<String> {
        let seconds = |value: f64| if value.is_finite() { format!("{value}s") } else { "0".to_owned() };
        [
            ("wal_sender_timeout", self.wal_sender_timeout),
            ("wal_receiver_timeout", self.wal_receiver_timeout),
            ("wal_receiver_status_interval", self.wal_receiver_status_interval),
            ("checkpoint_timeout", self.checkpoint_timeout),
        ]
        .map(|(name, value)| format!("{name}={}", seconds(value)))
        .into()
    }
}

/// What walsender and walreceiver last heard of each other, in seconds before the window.
#[derive(Clone, Copy)]
struct Heard {
    /// The walreceiver's last reply.
    reply: f64,
    /// The walsender's last message.
    message: f64,
}

/// Wake-ups of walsender and walreceiver in the `window` seconds to come, and how soon the first is due.
fn simulate(settings: Settings, heard: Heard, window: f64) -> ([u64; 2], f64) {
    let (mut reply, mut message) = (-heard.reply, -heard.message);
    let (mut walsender, mut walreceiver) = (0, 0);
    let mut first = f64::INFINITY;
    loop {
        let status = reply + settings.wal_receiver_status_interval;
        let receiver_asks = message + settings.wal_receiver_timeout / 2.0;
        let sender_asks = reply + settings.wal_sender_timeout / 2.0;
        let due = status.min(receiver_asks).min(sender_asks);
        first = first.min(due);
        if due > window {
            return ([walsender, walreceiver], first);
        }
        reply = due;
        if due == sender_asks {
            // Wakes to ask, then for the reply, which the question has woken the other for.
            (walsender, walreceiver) = (walsender + 2, walreceiver + 1);
            message = due;
        } else if due == receiver_asks {
            (walsender, walreceiver) = (walsender + 1, walreceiver + 2);
            message = due;
        } else {
            (walsender, walreceiver) = (walsender + 1, walreceiver + 1);
        }
    }
}

/// How often a deadline that comes every `period` falls due before `window` is over, `age` after its first start.
fn periodic(period: f64, age: f64, window: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and positive")]
    let times = (((age + window) / period).floor() - (age / period).floor()) as u64;
    times
}

/// A node under observation: who looks, and since when its postmaster runs.
struct Watched {
    /// Reads the views; opened before the window, so the postmaster sees nothing of it.
    reader: Client,
    _idle: Client,
    started: clock::MonoTime,
}

/// A process at a moment.
#[derive(Debug, Clone)]
struct Process {
    pid: Pid,
    kernel_waits: u64,
    /// Milliseconds.
    asleep: f64,
    switches: u64,
    /// Seconds since it started.
    age: f64,
}

impl Watched {
    fn new(node: &Node, started: clock::MonoTime) -> Watched {
        let connect = |name| Client::connect(&node.address(), &[("application_name", name)]).unwrap();
        let mut watched = Watched { reader: connect("reader"), _idle: connect(IDLE_SESSION), started };
        watched.processes();
        watched
    }

    /// Every process by its backend type; the two sessions by their names.
    fn processes(&mut self) -> BTreeMap<String, Process> {
        let age = seconds_since("a.backend_start");
        let sql = format!(
            "SELECT l.pid, l.backend_type, l.kernel_waits, l.time_asleep, a.application_name, {age} \
             FROM pg_stat_latch l LEFT JOIN pg_stat_activity a ON a.pid = l.pid"
        );
        let rows = self.reader.rows(&sql);
        rows.iter()
            .map(|row| {
                let pid = Pid(row[0].parse().unwrap());
                let (name, age) = match row[1].as_str() {
                    "postmaster" => ("postmaster", clock::now().saturating_since(self.started).as_secs_f64()),
                    "client backend" => (row[4].as_str(), row[5].parse().unwrap()),
                    other => (other, row[5].parse().unwrap()),
                };
                let process = Process {
                    pid,
                    kernel_waits: row[2].parse().unwrap(),
                    asleep: row[3].parse().unwrap(),
                    switches: procfs::sleeps(pid).unwrap(),
                    age,
                };
                (name.to_owned(), process)
            })
            .collect()
    }
}

/// SQL for the seconds between a time in a view and now.
fn seconds_since(column: &str) -> String {
    let days = |time: &str| format!("julianday(replace({time}, '+00', ''))");
    format!("({} - {}) * 86400.0", days("now()"), days(column))
}

fn heard(primary: &mut Watched, standby: &mut Watched) -> Heard {
    let age = |reader: &mut Client, column: &str, view: &str| {
        reader.value(&format!("SELECT {} FROM {view}", seconds_since(column))).parse().unwrap()
    };
    Heard {
        reply: age(&mut primary.reader, "reply_time", "pg_stat_replication"),
        message: age(&mut standby.reader, "last_msg_receipt_time", "pg_stat_wal_receiver"),
    }
}

/// Waits for a moment at which no deadline has just fallen due or is about to.
fn wait_for_quiet(settings: Settings, primary: &mut Watched, standby: &mut Watched) -> Heard {
    wait::watch_for(SETTLE);
    wait::until("a quiet moment", || {
        let heard = heard(primary, standby);
        let (_, first) = simulate(settings, heard, 0.0);
        (heard.reply.min(heard.message) > LATE && first > LATE).then_some(heard)
    })
}

/// The kernel waits that a process may have begun in the window.
fn expected(settings: Settings, heard: Heard, name: &str, age: f64, window: f64) -> RangeInclusive<u64> {
    let within = |window: f64| match name {
        "walsender" => simulate(settings, heard, window).0[0],
        "walreceiver" => simulate(settings, heard, window).0[1],
        "checkpointer" => periodic(settings.checkpoint_timeout, age, window),
        "postmaster" => periodic(PID_FILE_CHECK, age, window),
        // Between the two looks.
        "reader" => 1,
        _ => 0,
    };
    within(window - LATE)..=within(window + LATE)
}

struct Counted {
    name: String,
    before: Process,
    after: Process,
    expected: RangeInclusive<u64>,
}

impl Counted {
    fn waits(&self) -> u64 {
        self.after.kernel_waits - self.before.kernel_waits
    }

    fn check(&self, node: &str, window: f64) {
        let Counted { name, before, after, expected } = self;
        let (waits, switches) = (self.waits(), after.switches - before.switches);
        let what =
            format!("{node}'s {name}: {waits} kernel waits, {switches} switches, {before:?}, {after:?}");
        assert_eq!(before.pid, after.pid, "{what}");
        assert!(expected.contains(&waits), "{expected:?} expected of {what}");
        if name == "reader" {
            return;
        }
        // Fewer is no sleep elsewhere: an answer may come before the kernel has put the asker to sleep, above all when
        // others want the processor. One may begin between a look at the view and one at the kernel. The checkpointer
        // also waits for the disk.
        let agreed = switches <= waits + 1 || (name == "checkpointer" && waits > 0);
        assert!(agreed, "the kernel disagrees: {what}");
        let share = (after.asleep - before.asleep) / 1e3 / window;
        assert!(share > 0.9 && share < 1.1, "asleep for {share} of the time: {what}");
    }
}

/// Compares every process of a node, none missing; the wake-ups per second of all.
fn check_node(node: &str, counted: &[Counted], window: f64) -> f64 {
    let mut kinds = vec!["postmaster", "startup", "checkpointer", "reader", IDLE_SESSION];
    kinds.extend(if node == "primary" { &["walsender", "walwriter"][..] } else { &["walreceiver"] });
    kinds.sort_unstable();
    let found: Vec<&str> = counted.iter().map(|process| process.name.as_str()).collect();
    assert_eq!(found, kinds, "the processes of the {node}");
    counted.iter().for_each(|process| process.check(node, window));
    let sum: u64 = counted.iter().map(Counted::waits).sum();
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let rate = sum as f64 / window;
    rate
}

/// Starts a pair, with or without something written, and compares; the wake-ups per second of each node.
fn check(name: &str, settings: Settings, writes: bool) -> [f64; 2] {
    let scenario = Scenario::new(name);
    let arguments = settings.arguments();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut primary = Node::init(&scenario, "primary", &[]);
    let start = |node: &mut Node| {
        arguments.iter().for_each(|setting| node.set(setting));
        let now = clock::now();
        node.start();
        now
    };
    let primary_started = start(&mut primary);
    let mut standby = Node::clone_of(&scenario, "standby", &primary);
    let standby_started = start(&mut standby);
    let mut cluster = Cluster { primary, standby };
    cluster.wait_streaming();
    if writes {
        cluster.primary.query("CREATE TABLE t(x)");
        cluster.primary.query("INSERT INTO t VALUES (1)");
    }
    // The clone has logged the end of its backup: that is no reason for another checkpoint after this one.
    cluster.primary.query("CHECKPOINT");
    cluster.wait_caught_up();

    let mut watched =
        [Watched::new(&cluster.primary, primary_started), Watched::new(&cluster.standby, standby_started)];
    let [primary, standby] = &mut watched;
    let heard = wait_for_quiet(settings, primary, standby);
    let begin = clock::now();
    let before = watched.each_mut().map(Watched::processes);
    wait::watch_for(WINDOW);
    let window = clock::now().saturating_since(begin).as_secs_f64();
    let after = watched.each_mut().map(Watched::processes);

    let rates = [("primary", 0), ("standby", 1)].map(|(node, index)| {
        let counted: Vec<Counted> = before[index]
            .iter()
            .map(|(name, before)| Counted {
                name: name.clone(),
                before: before.clone(),
                after: after[index].get(name).unwrap_or_else(|| panic!("{node}'s {name} is gone")).clone(),
                expected: expected(settings, heard, name, before.age, window),
            })
            .collect();
        check_node(node, &counted, window)
    });
    cluster.stop();
    rates
}

#[test]
fn an_idle_pair_wakes_for_status_reports_alone() {
    let settings = Settings {
        wal_sender_timeout: 60.0,
        // Not the default of 60 s: half of it is also the third report, and either may come first.
        wal_receiver_timeout: 50.0,
        wal_receiver_status_interval: 10.0,
        checkpoint_timeout: 300.0,
    };
    let ([walsender, walreceiver], _) = simulate(settings, Heard { reply: 1.0, message: 2.0 }, 30.0);
    // By hand: reports after 9 s and 19 s, the question after 23 s (its answer wakes too), nothing more until 33 s.
    assert_eq!((walsender, walreceiver), (3, 4));
    let rates = check("idle-status", settings, true);
    assert!(rates.iter().all(|rate| *rate < WAKE_UPS_MAX), "{rates:?} per second");
}

#[test]
fn an_idle_pair_without_status_reports_wakes_for_questions_and_checkpoints() {
    let settings = Settings {
        wal_sender_timeout: 4.0,
        wal_receiver_timeout: 60.0,
        wal_receiver_status_interval: f64::INFINITY,
        // Nothing is logged: its deadline passes without work.
        checkpoint_timeout: 30.0,
    };
    let ([walsender, walreceiver], _) = simulate(settings, Heard { reply: 0.5, message: 0.6 }, 7.0);
    // By hand: questions after 1.5 s, 3.5 s and 5.5 s.
    assert_eq!((walsender, walreceiver), (6, 3));
    check("idle-questions", settings, false);
}
