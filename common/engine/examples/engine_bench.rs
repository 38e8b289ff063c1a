//! Prints how many upserts a second the engine executes, captures and puts: `cargo run --release -p engine --example
//! engine_bench`. The statement is the one of the put benchmark: a random key of 100,000, a value of 100 bytes.

#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use std::rc::Rc;
use std::time::Duration;

use engine::catalog::{Function, SystemInfo, SystemValue, View};
use engine::change::ChangeRecord;
use engine::control::Unstoppable;
use engine::reader::ReaderOptions;
use engine::roles::{Asker, Rights};
use engine::rows::CollectRows;
use engine::writer::{WriteRequest, WriterOptions};
use engine::{Reader, SqlError, Writer};
use wal::lsn::Lsn;

const STATEMENTS: u64 = 100_000;

struct Nothing;

impl SystemInfo for Nothing {
    fn call(&self, _: Function, _: &[SystemValue]) -> Result<SystemValue, SqlError> {
        Ok(SystemValue::Null)
    }

    fn rows(&self, _: View) -> Result<Vec<Vec<SystemValue>>, SqlError> {
        Ok(Vec::new())
    }
}

fn writer(directory: &std::path::Path) -> Writer {
    let options = WriterOptions {
        busy_timeout: Duration::from_secs(5),
        value_size_max: 16 << 20,
        memory_max: 512 << 20,
        record_size_max: 64 << 20,
        system: Rc::new(Nothing),
    };
    let mut writer = Writer::open(&directory.join("state.db"), &options).expect("opens");
    writer.begin().expect("begins");
    let request = WriteRequest {
        statements: vec!["CREATE TABLE kv (key text PRIMARY KEY, value text)".into()],
        asker: Asker::superuser(),
    };
    writer.execute(&request, &Unstoppable, &mut CollectRows::new(0)).expect("creates");
    writer.commit(Lsn(1)).expect("commits");
    writer
}

fn upsert(random: &mut u64) -> String {
    *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let (key, value) = ((*random >> 33) % 100_000, "x".repeat(100));
    format!(
        "INSERT INTO kv VALUES ('{key}', '{value}') ON CONFLICT (key) DO UPDATE SET value = excluded.value"
    )
}

/// Executes in transactions of `batch`; returns the records.
fn execute(name: &str, batch: u64) -> Vec<Vec<u8>> {
    let directory = tempfile::tempdir().expect("a directory");
    let mut writer = writer(directory.path());
    let (mut random, mut records) = (1, Vec::new());
    let requests: Vec<_> = (0..STATEMENTS)
        .map(|_| WriteRequest { statements: vec![upsert(&mut random)], asker: Asker::superuser() })
        .collect();
    measure(name, || {
        for (at, request) in requests.iter().enumerate() {
            writer.begin().expect("begins");
            let executed = writer.execute(request, &Unstoppable, &mut CollectRows::new(0)).expect("executes");
            records.push(executed.record);
            if at as u64 % batch == batch - 1 {
                writer.commit(Lsn(2 + at as u64)).expect("commits");
            }
            if writer.wal_size() > 64 << 20 && !writer.transaction_open() {
                writer.checkpoint_restart().expect("checkpoints");
            }
        }
    });
    records
}

fn put(name: &str, batch: u64, records: &[Vec<u8>]) {
    let directory = tempfile::tempdir().expect("a directory");
    let mut writer = writer(directory.path());
    measure(name, || {
        for (at, record) in records.iter().enumerate() {
            writer.begin().expect("begins");
            let lsn = Lsn(2 + at as u64);
            writer.put(lsn, &ChangeRecord::decode(record).expect("decodes")).expect("puts");
            if at as u64 % batch == batch - 1 {
                writer.commit(lsn).expect("commits");
            }
        }
    });
}

fn get() {
    let directory = tempfile::tempdir().expect("a directory");
    drop(writer(directory.path()));
    let options = ReaderOptions {
        busy_timeout: Duration::from_secs(5),
        value_size_max: 16 << 20,
        memory_max: 512 << 20,
        system: Rc::new(Nothing),
    };
    let mut reader = Reader::open(&directory.path().join("state.db"), &options).expect("opens");
    reader.set_rights(Rights::ALL);
    measure("get, parse included", || {
        for key in 0..STATEMENTS {
            let query = format!("SELECT value FROM kv WHERE key = '{key}'");
            let statements = engine::sql::parse(&query).expect("parses");
            reader.query(&statements[0].sql, &Unstoppable, &mut CollectRows::new(1000)).expect("reads");
        }
    });
    measure("parse of an upsert alone", || {
        let mut random = 1;
        for _ in 0..STATEMENTS {
            assert_eq!(engine::sql::parse(&upsert(&mut random)).expect("parses").len(), 1);
        }
    });
}

#[allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn measure(name: &str, work: impl FnOnce()) {
    let start = std::time::Instant::now();
    work();
    let seconds = start.elapsed().as_secs_f64();
    println!("{name:32} {:10.0}/s", STATEMENTS as f64 / seconds);
}

fn main() {
    execute("execute, one by one", 1);
    let records = execute("execute, batches of 32", 32);
    put("put, one by one", 1, &records);
    put("put, batches of 32", 32, &records);
    put("put, batches of 1000", 1000, &records);
    get();
}
