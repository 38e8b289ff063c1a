//! Processes: ids, signals to them, pidfds, and what a child does about its parent's death.

use std::{
    ffi::OsString,
    fmt, io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::Command,
    sync::atomic::{AtomicI32, Ordering},
};

use nix::{
    errno::Errno,
    sched::{CpuSet, sched_setaffinity},
    sys::resource::{Resource, getrlimit, setrlimit},
    unistd,
};

use crate::{check, signal::Signal};

/// A process id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pid(pub i32);

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The id kept by this process; 0 until first asked for. `fork::fork_process` clears it in the child.
static CURRENT: AtomicI32 = AtomicI32::new(0);

/// The id of this process, without a system call after the first time.
pub fn current_pid() -> Pid {
    match CURRENT.load(Ordering::Relaxed) {
        0 => {
            let pid = unistd::getpid().as_raw();
            CURRENT.store(pid, Ordering::Relaxed);
            Pid(pid)
        }
        pid => Pid(pid),
    }
}

/// To be called in a fresh child: the kept id is the parent's.
pub(crate) fn forget_current_pid() {
    CURRENT.store(0, Ordering::Relaxed);
}

/// The id of the parent now; another process adopts orphans.
pub fn parent_pid() -> Pid {
    Pid(unistd::getppid().as_raw())
}

/// The user that this process acts as.
pub fn effective_uid() -> u32 {
    unistd::geteuid().as_raw()
}

/// The group that this process acts as.
pub fn effective_gid() -> u32 {
    unistd::getegid().as_raw()
}

/// Sends `signal` to the process. Errors: ESRCH (no such process), EPERM (another user's).
pub fn kill(pid: Pid, signal: Signal) -> io::Result<()> {
    assert!(pid.0 > 0, "0 and negative numbers address process groups");
    // SAFETY: no memory is passed.
    check(unsafe { libc::kill(pid.0, signal.number()) })?;
    Ok(())
}

/// Sends `signal` to every process of the group that `leader` leads.
pub fn kill_group(leader: Pid, signal: Signal) -> io::Result<()> {
    assert!(leader.0 > 1, "1 would address every process there is");
    // SAFETY: no memory is passed.
    check(unsafe { libc::kill(-leader.0, signal.number()) })?;
    Ok(())
}

/// Makes a process, this one or a child of it that was not exec'd, the leader of a process group of its own.
pub fn lead_group(process: Pid) -> io::Result<()> {
    let pid = unistd::Pid::from_raw(process.0);
    Ok(unistd::setpgid(pid, pid)?)
}

/// Whether a process with this id exists (also a zombie, also of another user).
pub fn exists(pid: Pid) -> bool {
    // SAFETY: no memory is passed; signal 0 only checks.
    pid.0 > 0 && (unsafe { libc::kill(pid.0, 0) } == 0 || Errno::last() == Errno::EPERM)
}

/// Makes this process the leader of a new session and process group, so that a terminal's Ctrl-C doesn't
/// reach it and its own children can be signalled as a group. Nothing happens when it leads one already.
pub fn setsid() {
    // The only error says that it is a leader already.
    let _already_leader = unistd::setsid();
}

/// Asks the kernel to send `signal` to this process when its parent ends. The parent may be gone before the
/// call: check that afterwards.
pub fn set_parent_death_signal(signal: Signal) -> io::Result<()> {
    let signal = nix::sys::signal::Signal::try_from(signal.number())?;
    Ok(nix::sys::prctl::set_pdeathsig(signal)?)
}

/// Makes room for at least `wanted` open descriptors, as far as the hard limit allows, and returns for how
/// many there is room now. Inherited by children and by the programs they start.
pub fn make_room_for_descriptors(wanted: u64) -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let room = soft.max(wanted.min(hard));
    if room > soft {
        setrlimit(Resource::RLIMIT_NOFILE, room, hard)?;
    }
    Ok(room)
}

/// Confines this process to one CPU. For measurements.
pub fn run_on_cpu(cpu: usize) -> io::Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    Ok(sched_setaffinity(unistd::Pid::from_raw(0), &cpus)?)
}

/// Becomes another program, in the same process; returns only what went wrong.
pub fn replace_by(program: &Path, arguments: &[OsString]) -> io::Error {
    Command::new(program).args(arguments).exec()
}

/// Ends this process at once: no exit handlers, no destructors, no flushing.
pub fn exit_immediately(status: i32) -> ! {
    ::failpoint::pass(::failpoint::Site::Exit);
    // SAFETY: _exit doesn't return and touches no memory of ours.
    unsafe { libc::_exit(status) }
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with this status.
    Exited(i32),
    /// This signal ended it.
    Signaled(i32),
}

impl fmt::Display for ExitStatus {
    /// As PostgreSQL words it after "server process (PID n)".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            ExitStatus::Exited(status) => write!(f, "exited with exit code {status}"),
            ExitStatus::Signaled(number) => {
                write!(f, "was terminated by signal {number}: {}", signal_description(number))
            }
        }
    }
}

/// The C library's text for a signal number ("Killed", "Aborted").
fn signal_description(number: i32) -> String {
    // SAFETY: strsignal takes any number and returns null or a string.
    let text = unsafe { libc::strsignal(number) };
    if text.is_null() {
        return format!("unrecognized signal {number}");
    }
    // SAFETY: a string of the C library, valid until the next call, which can't come in between: there is one
    // thread.
    unsafe { std::ffi::CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// A descriptor of a child, readable once it has ended. Unlike its id it is never another process's.
#[derive(Debug)]
pub struct PidFd {
    fd: OwnedFd,
    pid: Pid,
}

impl PidFd {
    /// Opens the descriptor of `pid`; certain to be the right process only while that child isn't waited for.
    pub fn open(pid: Pid) -> io::Result<PidFd> {
        // SAFETY: no memory is passed. The flag close-on-exec is always set by this call.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.0, 0) };
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
        // SAFETY: the call just made this descriptor and nobody else knows it.
        Ok(PidFd { fd: unsafe { OwnedFd::from_raw_fd(fd) }, pid })
    }

    /// The process's id.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Reaps the child if it has ended; None while it runs. Errors: ECHILD when it isn't ours or is reaped
    /// already.
    pub fn wait(&self) -> io::Result<Option<ExitStatus>> {
        let id = libc::id_t::try_from(self.fd.as_raw_fd()).expect("descriptors are not negative");
        Ok(wait_id(libc::P_PIDFD, id, libc::WEXITED | libc::WNOHANG)?.map(|(_, status)| status))
    }

    /// Sends `signal`; ESRCH when it has ended and been reaped.
    pub fn kill(&self, signal: Signal) -> io::Result<()> {
        // SAFETY: no memory is passed: a null siginfo means the one that kill would make.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.fd.as_raw_fd(),
                signal.number(),
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A child that has ended and is not reaped, and stays so; None when there is none.
pub fn ended_child() -> io::Result<Option<Pid>> {
    match wait_id(libc::P_ALL, 0, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT) {
        Ok(ended) => Ok(ended.map(|(pid, _)| pid)),
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reaps a child that [`ended_child`] named.
pub fn reap(child: Pid) -> io::Result<()> {
    let id = libc::id_t::try_from(child.0).expect("process ids are positive");
    wait_id(libc::P_PID, id, libc::WEXITED | libc::WNOHANG).map(drop)
}

/// waitid; None when no child of those meant has ended.
fn wait_id(kind: libc::idtype_t, id: libc::id_t, flags: i32) -> io::Result<Option<(Pid, ExitStatus)>> {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: `info` is a valid place for the call to write to. (nix's waitid refuses signals that it has
    // no name for.)
    while let Err(error) = check(unsafe { libc::waitid(kind, id, info.as_mut_ptr(), flags) }) {
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    // SAFETY: all zero is a valid siginfo, and the call has left it so or filled it in.
    let info = unsafe { info.assume_init() };
    // SAFETY: waitid fills in the fields of a child's signal, or leaves zeroes.
    let pid = unsafe { info.si_pid() };
    if pid == 0 {
        return Ok(None);
    }
    // SAFETY: as above.
    let status = unsafe { info.si_status() };
    let status = match info.si_code {
        libc::CLD_EXITED => ExitStatus::Exited(status),
        _ => ExitStatus::Signaled(status),
    };
    Ok(Some((Pid(pid), status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_status_reads_as_in_the_log() {
        assert_eq!(ExitStatus::Exited(2).to_string(), "exited with exit code 2");
        assert_eq!(ExitStatus::Signaled(9).to_string(), "was terminated by signal 9: Killed");
    }

    #[test]
    fn own_process_exists() {
        assert!(exists(current_pid()) && exists(parent_pid()));
        assert_eq!(current_pid().0.unsigned_abs(), std::process::id());
    }
}
