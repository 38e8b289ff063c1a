//! A shell command that can't outlive the process which started it, however that one ends.
//!
//! The parent-death signal alone doesn't do: the kernel sends it to the shell, not to what the shell has started, and a
//! process that was killed can't clean up. So between the owner and the shell stands a *keeper*, a fork of the owner that
//! does nothing but wait:
//!
//! ```text
//! owner ----fork----> keeper (leads the command's process group) ----fork----> /bin/sh -c COMMAND ----> ...
//!   |                   |  parent-death signal: SIGUSR1                          parent-death signal: SIGKILL
//!   | pidfd, report     |  the owner is gone: SIGKILL to the whole group
//!   +<------------------+  the shell has ended: reports how, exits
//! ```
//!
//! What is guaranteed:
//! - The owner ends, in any way, SIGKILL and the loss of its postmaster among them: every process of the command's group
//!   gets SIGKILL.
//! - The command ends: what it has left in its group (`... &`) gets SIGKILL when the owner collects the status.
//! - The keeper itself is killed: the shell gets SIGKILL from the kernel, the rest of the group from the owner.
//! - Not covered: a process that has left the group by itself (setsid), and, when keeper *and* owner are killed
//!   together, what the shell had started.
//!
//! No race at the start: keeper and shell ask for the signal first and look at their parent's id then, so a parent that
//! died before is seen, and one that dies after is told. None at the end: a group's processes are signalled under one
//! lock of the kernel, and a fork under way is begun anew by the killed parent, that is: never. The group's number can't
//! be another's while the keeper has not been reaped.
//!
//! The command starts with: the directory asked for; stdin from /dev/null; stdout and stderr in the owner's stderr (the
//! log of a node); no other descriptor; every signal at its default and none blocked; the owner's environment.
//!
//! Follows PostgreSQL 18 src/backend/archive/shell_archive.c and fork_process.c in what a command meets; differs in: there
//! a command is in its owner's group and goes only with a signal that the postmaster sends there.

use std::{
    ffi::{CStr, CString},
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use crate::{
    check,
    fork::fork_process,
    pipe,
    poll::{IN, PollFd, poll},
    process::{self, ExitStatus, Pid, PidFd},
    signal::{self, Signal, SignalFd, SignalSet},
};

/// What tells the keeper that its owner is gone. Blocked and read through a signalfd; one that comes from elsewhere is
/// told by the parent's id.
const OWNER_GONE: Signal = Signal::Usr1;
/// Exit status of the shell's place when there is no shell, as a shell says it of a command.
const NOT_FOUND: i32 = 127;
/// Exit status when the shell can't be executed or its directory can't be entered.
const NOT_EXECUTABLE: i32 = 126;
/// The descriptor that the keeper keeps its report in.
const REPORT_FD: RawFd = 3;
/// A report: what happened, and a status, signal number or errno.
const REPORT_BYTES: usize = 5;

const EXITED: u8 = 0;
const SIGNALED: u8 = 1;
const NOT_FORKED: u8 = 2;

/// A command that runs, or has ended and was not collected.
#[derive(Debug)]
pub struct Command {
    keeper: PidFd,
    report: OwnedFd,
    collected: bool,
}

impl Command {
    /// Starts `/bin/sh -c text` in `directory`. To be waited for: [`Command::pidfd`], then [`Command::collect`].
    ///
    /// # Errors
    /// InvalidInput for a text or directory with a zero byte; EAGAIN, ENOMEM, EMFILE. That the directory can't be
    /// entered, the command says itself: in its stderr, and with status 126.
    pub fn start(text: &str, directory: &Path) -> io::Result<Command> {
        let text = CString::new(text)?;
        let directory = CString::new(directory.as_os_str().as_bytes())?;
        let (report, write_end) = pipe::pipe()?;
        let owner = process::current_pid();
        let pid = fork_process(|| keep(owner, write_end, &text, &directory))?;
        // Both sides do it, so that whoever comes first finds the group. The keeper may have ended.
        let _gone = process::lead_group(pid);
        let keeper = PidFd::open(pid).inspect_err(|_| {
            // What can't be watched must not run.
            let _gone = process::kill_group(pid, Signal::Kill);
        })?;
        Ok(Command { keeper, report, collected: false })
    }

    /// Readable once the command has ended.
    pub fn pidfd(&self) -> &PidFd {
        &self.keeper
    }

    /// Sends `signal` to every process of the command. The keeper heeds none but SIGKILL.
    pub fn kill(&self, signal: Signal) -> io::Result<()> {
        process::kill_group(self.keeper.pid(), signal)
    }

    /// How the shell has ended, and kills what it has left behind; None while it runs. To be called until it says
    /// something, and not after that.
    ///
    /// # Errors
    /// EAGAIN, ENOMEM: the shell could not be forked.
    pub fn collect(&mut self) -> io::Result<Option<ExitStatus>> {
        assert!(!self.collected, "a command ends once");
        if !is_readable(&self.keeper)? {
            return Ok(None);
        }
        // While the keeper is not reaped the number is its group's. It fails when nobody is left.
        let _nobody = self.kill(Signal::Kill);
        let Some(keeper) = self.keeper.wait()? else { return Ok(None) };
        self.collected = true;
        let mut report = [0; REPORT_BYTES];
        match pipe::read(&self.report, &mut report) {
            Ok(REPORT_BYTES) => {}
            // Killed before it could say anything, and the shell with it.
            _ => return Ok(Some(keeper)),
        }
        let [what, number @ ..] = report;
        let number = i32::from_le_bytes(number);
        match what {
            EXITED => Ok(Some(ExitStatus::Exited(number))),
            SIGNALED => Ok(Some(ExitStatus::Signaled(number))),
            _ => Err(io::Error::from_raw_os_error(number)),
        }
    }
}

impl Drop for Command {
    /// A command that nobody waits for any more is killed.
    fn drop(&mut self) {
        if !self.collected {
            let _gone = self.kill(Signal::Kill);
        }
    }
}

fn is_readable(fd: &PidFd) -> io::Result<bool> {
    let mut fds = [PollFd::new(fd.as_fd().as_raw_fd(), IN)];
    match poll(&mut fds, Some(std::time::Duration::ZERO)) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
        result => Ok(result? > 0),
    }
}

/// The keeper's life; its exit status says nothing.
fn keep(owner: Pid, report: OwnedFd, text: &CStr, directory: &CStr) -> i32 {
    signal::block_all();
    match keep_command(owner, report, text, directory) {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

fn keep_command(owner: Pid, report: OwnedFd, text: &CStr, directory: &CStr) -> io::Result<()> {
    let me = process::current_pid();
    process::lead_group(me)?;
    process::set_parent_death_signal(OWNER_GONE)?;
    // SAFETY: this process goes on with the report alone and leaves by _exit: nobody uses what is closed here.
    let report = unsafe { close_all_but(report) }?;
    let owner_gone = SignalFd::new(SignalSet::of(&[OWNER_GONE]))?;
    // From here on an owner's end is told; one that ended before is seen by the loop's first look.
    let pid = match fork_process(|| become_shell(me, text, directory)) {
        Ok(pid) => pid,
        Err(error) => return say(&report, NOT_FORKED, error.raw_os_error().unwrap_or(libc::EAGAIN)),
    };
    let shell = PidFd::open(pid)?;
    let mut fds = [PollFd::new(owner_gone.raw(), IN), PollFd::new(shell.as_fd().as_raw_fd(), IN)];
    loop {
        owner_gone.drain()?;
        if process::parent_pid() != owner {
            process::kill_group(me, Signal::Kill)?;
        }
        match shell.wait()? {
            Some(ExitStatus::Exited(status)) => return say(&report, EXITED, status),
            Some(ExitStatus::Signaled(number)) => return say(&report, SIGNALED, number),
            None => {}
        }
        match poll(&mut fds, None) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
    }
}

/// Writes the report: less than a pipe takes in one piece.
fn say(report: &OwnedFd, what: u8, number: i32) -> io::Result<()> {
    let [a, b, c, d] = number.to_le_bytes();
    nix::unistd::write(report, &[what, a, b, c, d])?;
    Ok(())
}

/// Closes every descriptor from 3 on but `report`, and returns that one under its new number.
///
/// # Safety
///
/// - Nothing in this process may use, or drop, any other owned descriptor afterwards.
unsafe fn close_all_but(report: OwnedFd) -> io::Result<OwnedFd> {
    let old = report.into_raw_fd();
    if old != REPORT_FD {
        // SAFETY: no memory is passed. What was under that number is closed, as the caller allows.
        check(unsafe { libc::dup3(old, REPORT_FD, libc::O_CLOEXEC) })?;
    }
    close_from(REPORT_FD + 1)?;
    // SAFETY: the descriptor was just put there, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(REPORT_FD) })
}

fn close_from(first: RawFd) -> io::Result<()> {
    // SAFETY: no memory is passed; whoever calls this is about to end or to become another program.
    match unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Turns this process into the shell; returns only when that failed, the exit status then.
fn become_shell(keeper: Pid, text: &CStr, directory: &CStr) -> i32 {
    let failed = |what: &str, error: io::Error| {
        // The log; there is nobody else to tell.
        let _unwritable = nix::unistd::write(io::stderr(), format!("{what}: {error}\n").as_bytes());
        if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE }
    };
    if let Err(error) = process::set_parent_death_signal(Signal::Kill) {
        return failed("could not ask for the parent-death signal", error);
    }
    if process::parent_pid() != keeper {
        return NOT_EXECUTABLE;
    }
    if let Err(error) = nix::unistd::chdir(directory) {
        failed(&format!("could not change directory to \"{}\"", directory.to_string_lossy()), error.into());
        return NOT_EXECUTABLE;
    }
    if let Err(error) = set_up_stdio().and_then(|()| close_from(3)) {
        return failed("could not set up descriptors for a command", error);
    }
    signal::reset_for_exec();
    let Err(error) = nix::unistd::execv(c"/bin/sh", &[c"sh", c"-c", text]);
    failed("could not execute \"/bin/sh\"", error.into())
}

/// stdin from /dev/null, stdout where stderr goes.
fn set_up_stdio() -> io::Result<()> {
    let null = File::open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(io::stderr())?;
    Ok(())
}
