//! The benchmark `latch`: two processes that wake each other, by Walship's latch, by the kernel's bare primitives, and by
//! PostgreSQL 15's own latch inside a real server.
//!
//! Method: a machine is never quiet, so all play one after another in each round; a figure is the median over the rounds,
//! a ratio the median of the rounds' own ratios. Walship's side and the primitives are `cargo bench -p ipc --bench latch`,
//! whose program runs once per round. PostgreSQL's side is a module (integration-tests/postgres-latch), built here with
//! the server's own build system and played by two sessions; without the server's headers it is skipped.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;

use crate::client::{Address, Client};
use crate::node::assert_success;
use crate::postgres::Server;
use crate::programs;
use crate::scenario::Scenario;

/// The contender that may be waited for together with sockets and costs least.
const BEST_PRIMITIVE: &str = "eventfd, edge-triggered, unread";
/// Walship's latch on the back-end that is the default.
const OWN: &str = "latch on eventfd";
const POSTGRES: &str = "PostgreSQL's latch";
/// Where two processes run, as the titles of the games say it.
const PLACEMENTS: [(&str, [u32; 2]); 2] = [("one CPU", [0, 0]), ("two CPUs", [0, 1])];
/// What makes no system call, on the default back-end.
const FAST_PATHS: &str = "one process, eventfd";
const FAST_PATH_TIMES: u32 = 200_000;

/// Everything measured of one contender: title of the game, name, a sample per round.
struct Row {
    title: String,
    name: String,
    samples: Vec<f64>,
}

#[derive(Default)]
struct Rows(Vec<Row>);

impl Rows {
    fn add(&mut self, title: &str, name: &str, sample: f64) {
        let found = self.0.iter().position(|row| row.title == title && row.name == name);
        let index = found.unwrap_or_else(|| {
            self.0.push(Row { title: title.to_owned(), name: name.to_owned(), samples: Vec::new() });
            self.0.len() - 1
        });
        self.0[index].samples.push(sample);
    }

    fn samples(&self, title: &str, name: &str) -> Option<&[f64]> {
        self.0.iter().find(|row| row.title == title && row.name == name).map(|row| &row.samples[..])
    }

    /// The median of the rounds' ratios of one contender to another.
    fn ratio(&self, title: &str, name: &str, reference: &str) -> Option<f64> {
        let (own, reference) = (self.samples(title, name)?, self.samples(title, reference)?);
        Some(median(own.iter().zip(reference).map(|(own, reference)| own / reference).collect()))
    }
}

/// What to run.
#[derive(Args, Clone, Debug)]
pub struct Plan {
    /// Rounds, in each of which all of them play; figures are medians.
    #[arg(long, default_value_t = 15, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Trips there and back in each game.
    #[arg(long, default_value_t = 2000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..1_000_000))]
    pub trips: u32,
}

/// Runs the benchmark and prints its tables to `out`.
///
/// # Errors
/// Those of writing to `out`.
pub fn latch(plan: &Plan, out: &mut impl Write) -> io::Result<()> {
    let Plan { rounds, trips } = *plan;
    let scenario = Scenario::new("bench-latch");
    let own = build_own();
    let mut postgres = Postgres::start(&scenario);
    if let Err(why) = &postgres {
        writeln!(out, "{POSTGRES}: skipped: {why}")?;
    }
    let mut rows = Rows::default();
    for round in 1..=rounds {
        // Who goes first changes.
        let own_first = round % 2 == 1;
        if own_first {
            play_own(&own, trips, &mut rows);
        }
        if let Ok(postgres) = &mut postgres {
            postgres.play(round, trips, &mut rows);
        }
        if !own_first {
            play_own(&own, trips, &mut rows);
        }
    }
    writeln!(out, "medians of {rounds} rounds of {trips} trips\n")?;
    for (placement, _) in PLACEMENTS {
        print_games(&rows, &trip(placement), out)?;
        print_games(&rows, &processor_time(placement), out)?;
    }
    print_fast_paths(&rows, out)?;
    for row in rows.0.iter().filter(|row| row.title.starts_with("barrier")) {
        writeln!(out, "{}: {:.0} us", row.title, median(row.samples.clone()))?;
    }
    Ok(())
}

fn trip(placement: &str) -> String {
    format!("round trip, {placement}")
}

/// Of both sides. On one CPU: how long a trip takes when nobody else wants that CPU, so the figure to look at on a
/// machine that is not quiet.
fn processor_time(placement: &str) -> String {
    format!("processor time of a round trip, {placement}")
}

fn print_games(rows: &Rows, title: &str, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{title:<41} {:>8} {:>12} {:>13}", "us", "of primitive", "of PostgreSQL")?;
    for row in rows.0.iter().filter(|row| row.title == title) {
        let ratio = |reference| rows.ratio(title, &row.name, reference).map_or("-".into(), two_digits);
        let took = median(row.samples.clone());
        writeln!(
            out,
            "  {:<39} {took:>8.2} {:>12} {:>13}",
            row.name,
            ratio(BEST_PRIMITIVE),
            ratio(POSTGRES)
        )?;
    }
    let reached = |reference, aim: f64| match rows.ratio(title, OWN, reference) {
        Some(ratio) if ratio <= aim => "reached",
        Some(_) => "missed",
        None => "not measured",
    };
    writeln!(
        out,
        "  aims of {OWN}: 1.15 of {BEST_PRIMITIVE}: {}; 1.00 of {POSTGRES}: {}\n",
        reached(BEST_PRIMITIVE, 1.15),
        reached(POSTGRES, 1.0)
    )
}

fn print_fast_paths(rows: &Rows, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{:<40} {:>9} {:>13} {:>6}", "one process, ns", "Walship", "PostgreSQL", "ratio")?;
    for row in rows.0.iter().filter(|row| row.title == FAST_PATHS) {
        let theirs = rows.samples(POSTGRES, &row.name).map(|samples| median(samples.to_vec()));
        let own = median(row.samples.clone());
        let cell = |value: Option<f64>| value.map_or("-".into(), two_digits);
        let ratio = cell(theirs.map(|theirs| own / theirs));
        writeln!(out, "  {:<38} {own:>9.2} {:>13} {ratio:>6}", row.name, cell(theirs))?;
    }
    writeln!(out)
}

fn two_digits(value: f64) -> String {
    format!("{value:.2}")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Has cargo build the benchmark of ipc, and gives its path.
fn build_own() -> PathBuf {
    let cargo = env::var_os("CARGO").expect("to be run by cargo, which builds the other half");
    let own = env::current_exe().expect("an executable has a path");
    let target = own.ancestors().nth(2).expect("a program is in a profile's directory");
    let output = Command::new(cargo)
        .args(["bench", "--quiet", "-p", "ipc", "--bench", "latch", "--no-run", "--message-format=json"])
        .arg("--target-dir")
        .arg(target)
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo can be run");
    assert!(output.status.success(), "the benchmark of ipc could not be built");
    let said = String::from_utf8_lossy(&output.stdout);
    let executable = said.lines().find_map(|line| {
        let (_, rest) = line.split_once("\"executable\":\"")?;
        rest.split_once('"').map(|(path, _)| PathBuf::from(path))
    });
    executable.expect("cargo tells where it puts what it builds")
}

/// One round of everything that the benchmark of ipc measures.
fn play_own(program: &Path, trips: u32, rows: &mut Rows) {
    let trips = trips.to_string();
    let output = Command::new(program).args(["--bench", "--samples", "1", &trips]).output().unwrap();
    assert_success(&output, "the benchmark of ipc");
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [title, name, sample] = fields[..] else { panic!("no sample: {line:?}") };
        rows.add(title, name, sample.parse().expect("a number"));
    }
}

/// A real server with our module in it, and two sessions that play.
struct Postgres {
    sides: [Client; 2],
    pids: [String; 2],
    _server: Server,
}

impl Postgres {
    /// Builds the module and starts a server with it; the error says what is missing.
    fn start(scenario: &Scenario) -> Result<Postgres, String> {
        let module = build_module(scenario)?;
        let module = module.to_str().expect("a path in UTF-8");
        let server = Server::new(scenario, &[&format!("shared_preload_libraries={module}")])
            .ok_or("PostgreSQL's server is not installed (integration-tests/install installs it)")?;
        let connect = || Client::connect(&Address::Tcp(server.port()), &[]).unwrap();
        let mut sides = [connect(), connect()];
        for (name, arguments, returns) in
            [("latch_play", "int, int, int, int, int", "text"), ("latch_fast_paths", "int", "text")]
        {
            let sql = format!(
                "CREATE FUNCTION {name}({arguments}) RETURNS {returns} AS '{module}' LANGUAGE C STRICT"
            );
            sides[0].query(&sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
        let pids = sides.each_mut().map(|side| side.value("SELECT pg_backend_pid()"));
        Ok(Postgres { sides, pids, _server: server })
    }

    /// One round: each placement, then the paths without a system call.
    fn play(&mut self, round: u32, trips: u32, rows: &mut Rows) {
        for (number, (placement, cpus)) in (1..).zip(PLACEMENTS) {
            for (side, cpu) in cpus.into_iter().enumerate() {
                let (peer, game) = (&self.pids[1 - side], round * 2 + number);
                let sql = format!("SELECT latch_play({side}, {peer}, {cpu}, {trips}, {game})");
                self.sides[side].send_query(&sql).unwrap();
            }
            let answers = self.sides.each_mut().map(|side| side.read_answer().unwrap());
            let [(took, of_first), (_, of_second)] = answers.map(|answer| match answer.error {
                Some(error) => panic!("{error}"),
                None => two_numbers(answer.rows[0][0].as_deref().expect("a text")),
            });
            rows.add(&trip(placement), POSTGRES, took);
            rows.add(&processor_time(placement), POSTGRES, of_first + of_second);
        }
        let report = self.sides[0].value(&format!("SELECT latch_fast_paths({FAST_PATH_TIMES})"));
        for line in report.lines() {
            let (name, nanos) = line.split_once('\t').expect("a name and a number");
            rows.add(POSTGRES, name, nanos.parse().expect("a number"));
        }
    }
}

fn two_numbers(text: &str) -> (f64, f64) {
    let (first, second) = text.split_once('\t').expect("two numbers");
    (first.parse().expect("a number"), second.parse().expect("a number"))
}

/// Builds the module beside a copy of its source.
fn build_module(scenario: &Scenario) -> Result<PathBuf, String> {
    let pg_config = programs::find_postgres("pg_config").ok_or("there is no pg_config")?;
    let asked =
        Command::new(&pg_config).args(["--version", "--pgxs", "--includedir-server"]).output().unwrap();
    let said = String::from_utf8_lossy(&asked.stdout);
    let [version, pgxs, headers] = said.lines().collect::<Vec<_>>()[..] else {
        return Err(format!("{} tells nothing", pg_config.display()));
    };
    if !version.starts_with("PostgreSQL 15") {
        return Err(format!("{} is of {version}", pg_config.display()));
    }
    for needed in [Path::new(pgxs), &Path::new(headers).join("postgres.h")] {
        if !needed.exists() {
            return Err(format!("{} is missing (package postgresql-server-dev-15)", needed.display()));
        }
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("postgres-latch");
    let dir = scenario.path("module");
    fs::create_dir(&dir).unwrap();
    for file in ["Makefile", "latch_bench.c"] {
        fs::copy(source.join(file), dir.join(file)).unwrap();
    }
    let make =
        Command::new("make").arg("-C").arg(&dir).arg("--quiet").arg(pg_config_argument(&pg_config)).output();
    let built = make.map_err(|error| format!("make: {error}"))?;
    assert_success(&built, "make of the module");
    // The server runs as another user.
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(scenario.root(), fs::Permissions::from_mode(0o755)).unwrap();
    Ok(dir.join("latch_bench.so"))
}

fn pg_config_argument(pg_config: &Path) -> String {
    format!("PG_CONFIG={}", pg_config.display())
}
