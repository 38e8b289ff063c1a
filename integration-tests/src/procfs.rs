//! What /proc tells about processes: children, sleeps, handlers, whether they are there.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use sys::process::Pid;

/// The children of a process.
pub fn children(pid: Pid) -> Vec<Pid> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let Ok(text) = fs::read_to_string(path) else { return Vec::new() };
    text.split_ascii_whitespace().filter_map(|word| word.parse().ok().map(Pid)).collect()
}

/// The processes that were started with `argument`, and all that have forked from them since.
pub fn with_argument(argument: &str) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok().map(Pid));
    let given = |pid: &Pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == argument.as_bytes())
    };
    pids.filter(given).collect()
}

/// Whether the process runs: it is there and not a zombie.
pub fn runs(pid: Pid) -> bool {
    status_field(pid, "State").is_some_and(|state| !state.starts_with(['Z', 'X']))
}

/// Whether SIGSTOP has stopped the process.
pub fn stopped(pid: Pid) -> bool {
    status_field(pid, "State").is_some_and(|state| state.starts_with('T'))
}

/// The process that traces this one, such as strace.
pub fn tracer(pid: Pid) -> Option<Pid> {
    status_field(pid, "TracerPid")?.parse().ok().filter(|tracer| *tracer != 0).map(Pid)
}

/// The process's own idea of its id: another one than ours if it is in a namespace of its own.
pub fn own_pid(pid: Pid) -> Option<Pid> {
    status_field(pid, "NSpid")?.split_ascii_whitespace().last()?.parse().ok().map(Pid)
}

/// How often the process gave up the CPU to wait for something: a process that sleeps does so once per wake-up.
pub fn sleeps(pid: Pid) -> Option<u64> {
    status_field(pid, "voluntary_ctxt_switches")?.parse().ok()
}

/// The signals that the process has a handler for, signal n as bit n - 1; but for those that the Rust runtime installs
/// against stack overflow (SIGSEGV and SIGBUS).
pub fn handlers(pid: Pid) -> Option<u64> {
    const FAULTS: u64 = 1 << (11 - 1) | 1 << (7 - 1);
    u64::from_str_radix(&status_field(pid, "SigCgt")?, 16).ok().map(|mask| mask & !FAULTS)
}

/// The program that the process runs.
pub fn program(pid: Pid) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe")).ok()
}

/// Open file descriptors of the process.
pub fn descriptors(pid: Pid) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// The most memory that the process has had at any time, bytes.
pub fn peak_memory(pid: Pid) -> Option<u64> {
    let kilobytes = status_field(pid, "VmHWM")?;
    Some(kilobytes.split_whitespace().next()?.parse::<u64>().ok()? << 10)
}

/// Processor time of the children that this process has waited for, and of theirs. To 10 ms.
pub fn reaped_cpu(pid: Pid) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the name, which may hold anything, the fields begin with the third.
    let fields = text.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = fields.split_ascii_whitespace().skip(16 - 3).take(2);
    Duration::from_millis(ticks.filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>() * 10)
}

/// Bytes of memory that the process shares with nobody.
pub fn private_bytes(pid: Pid) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let private = text.lines().filter_map(|line| line.strip_prefix("Private_")?.split_once(':'));
    let kilobytes = private.filter_map(|(_, size)| size.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Some(kilobytes.sum::<u64>() * 1024)
}

fn status_field(pid: Pid, name: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}
