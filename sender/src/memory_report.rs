//! What a process says of itself in the log when asked to, by pg_log_backend_memory_contexts(): its memory, its state, and
//! how far the node's log and tables are as it sees them.
//!
//! Who is asked finds LOG_MEMORY_CONTEXT among its interrupts, and calls [`report_if_asked`] where it looks at them, also in
//! the middle of a long statement. Nobody waits for the report.
//!
//! Follows PostgreSQL 15 ProcessLogMemoryContextInterrupt() in src/backend/utils/mmgr/mcxt.c; differs in: there are no
//! memory contexts; the kernel and SQLite know the sizes.

use ipc::interrupt::Interrupts;
use ipc::proc::BackendType;
use ipc::process::Me;
use sys::memory::memory_of_this_process;

use crate::node::Node;

/// Writes the report if this process was asked for it.
pub fn report_if_asked(node: &Node, me: &Me) {
    if !me.take(Interrupts::LOG_MEMORY_CONTEXT).is_empty() {
        tracing::info!("logging memory contexts of PID {}", sys::process::current_pid());
        tracing::info!("{}", memory(me));
        tracing::info!("{}", state(node, me));
    }
}

fn memory(me: &Me) -> String {
    let own = match memory_of_this_process() {
        Ok(memory) => format!(
            "{} kB resident (at most {} kB), {} kB of them its own",
            memory.resident_kb, memory.resident_peak_kb, memory.anonymous_kb
        ),
        Err(error) => format!("resident memory unknown ({error})"),
    };
    let sqlite = engine::memory_used();
    format!("{}: {own}; SQLite {} bytes (at most {} bytes)", name(me), sqlite.now, sqlite.peak)
}

fn state(node: &Node, me: &Me) -> String {
    let status = &node.statuses[me.number().index()];
    let state = status.state().name().unwrap_or("at work");
    let (wal, recovery) = (node.wal, node.recovery);
    format!(
        "{}: {state}; log inserted to {}, flushed to {}, horizon {}; tables applied to {}",
        name(me),
        wal.insert_lsn(),
        wal.flush_lsn(),
        wal.horizon(),
        recovery.applied(),
    )
}

fn name(me: &Me) -> &'static str {
    me.proc().backend_type().map_or("process", BackendType::name)
}
