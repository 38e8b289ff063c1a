//! Signals: blocked always, read through a signalfd. The one handler there is is SIGQUIT's, which ends the
//! process. ([`self_pipe`] is the other way, for where there is no signalfd.)
//!
//! Blocking everything and reading signals where one waits means that no handler can interrupt a lock, an
//! allocation or errno. SIGQUIT is the exception because it must end a process that never comes back to its
//! wait.

use std::{
    fmt, io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering, compiler_fence},
};

use crate::check;

pub mod self_pipe;

/// The signals that our processes send and read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Signal {
    /// Reload the configuration.
    Hup = libc::SIGHUP,
    /// Cancel the statement; to the postmaster: fast shutdown.
    Int = libc::SIGINT,
    /// Leave at once, without cleaning up; to the postmaster: immediate shutdown.
    Quit = libc::SIGQUIT,
    /// Abort with a core file.
    Abrt = libc::SIGABRT,
    /// Cannot be refused.
    Kill = libc::SIGKILL,
    /// To the postmaster: look for a promote request.
    Usr1 = libc::SIGUSR1,
    /// The process's own last phase (walsender, checkpointer).
    Usr2 = libc::SIGUSR2,
    /// End; to the postmaster: smart shutdown.
    Term = libc::SIGTERM,
    /// A child exited (children are watched through pidfds instead).
    Chld = libc::SIGCHLD,
    /// Go on after a stop.
    Cont = libc::SIGCONT,
    /// Stop; cannot be refused.
    Stop = libc::SIGSTOP,
    /// Wakes the owner of a latch. Its default action is to be ignored, so a stray one is harmless.
    Urg = libc::SIGURG,
}

impl Signal {
    const ALL: [Signal; 12] = [
        Signal::Hup,
        Signal::Int,
        Signal::Quit,
        Signal::Abrt,
        Signal::Kill,
        Signal::Usr1,
        Signal::Usr2,
        Signal::Term,
        Signal::Chld,
        Signal::Cont,
        Signal::Stop,
        Signal::Urg,
    ];

    /// The kernel's number.
    pub const fn number(self) -> i32 {
        self as i32
    }

    /// The signal with the kernel's `number`, if it is one of ours.
    pub fn from_number(number: i32) -> Option<Signal> {
        Signal::ALL.into_iter().find(|signal| signal.number() == number)
    }
}

/// A set of [`Signal`]s.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct SignalSet(u64);

impl SignalSet {
    /// No signal.
    pub const EMPTY: SignalSet = SignalSet(0);

    /// The set of `signals`.
    pub const fn of(signals: &[Signal]) -> SignalSet {
        let mut bits = 0;
        let mut index = 0;
        while index < signals.len() {
            bits |= 1 << signals[index].number();
            index += 1;
        }
        SignalSet(bits)
    }

    /// Adds `signal`.
    pub fn insert(&mut self, signal: Signal) {
        self.0 |= 1 << signal.number();
    }

    /// Whether `signal` is in the set.
    pub fn contains(self, signal: Signal) -> bool {
        self.0 & (1 << signal.number()) != 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those in either.
    #[must_use]
    pub fn union(self, other: SignalSet) -> SignalSet {
        SignalSet(self.0 | other.0)
    }

    /// The set but for `signal`.
    #[must_use]
    pub fn without(self, signal: Signal) -> SignalSet {
        SignalSet(self.0 & !(1 << signal.number()))
    }

    /// The members.
    pub fn iter(self) -> impl Iterator<Item = Signal> {
        Signal::ALL.into_iter().filter(move |signal| self.contains(*signal))
    }

    fn to_kernel(self) -> libc::sigset_t {
        let mut set = empty_set();
        for signal in self.iter() {
            add(&mut set, signal.number());
        }
        set
    }
}

impl fmt::Debug for SignalSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// Blocks every signal that can be blocked, but for those that a fault of the program itself raises (SIGSEGV
/// and the like), which would otherwise be lost. Inherited by fork.
pub fn block_all() {
    let mut set = MaybeUninit::uninit();
    // SAFETY: the call initialises the set.
    unsafe { libc::sigfillset(set.as_mut_ptr()) };
    // SAFETY: initialised above.
    let mut set = unsafe { set.assume_init() };
    for fault in
        [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGABRT, libc::SIGSYS]
    {
        // SAFETY: `set` is a valid set and the number a valid signal.
        unsafe { libc::sigdelset(&raw mut set, fault) };
    }
    change_mask(libc::SIG_SETMASK, &set);
}

/// Lets `signals` be delivered again (to their handler or default action).
pub fn unblock(signals: SignalSet) {
    change_mask(libc::SIG_UNBLOCK, &signals.to_kernel());
}

/// Gives every signal its default action and unblocks all: what a program that is about to be executed expects. (The
/// Rust runtime ignores SIGPIPE, which exec would keep.)
pub(crate) fn reset_for_exec() {
    let action =
        libc::sigaction { sa_sigaction: libc::SIG_DFL, sa_mask: empty_set(), sa_flags: 0, sa_restorer: None };
    for number in 1..=libc::SIGRTMAX() {
        // SAFETY: `action` is valid. Refused for SIGKILL and SIGSTOP, which have their default anyway, and for the
        // numbers that the C library keeps for itself.
        unsafe { libc::sigaction(number, &raw const action, std::ptr::null_mut()) };
    }
    change_mask(libc::SIG_SETMASK, &empty_set());
}

fn change_mask(how: libc::c_int, set: &libc::sigset_t) {
    // SAFETY: `set` is a valid set; a null pointer means that the old mask isn't wanted.
    let result = unsafe { libc::sigprocmask(how, set, std::ptr::null_mut()) };
    assert_eq!(result, 0, "changing the signal mask with valid arguments");
}

fn empty_set() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: the call initialises the set.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: initialised above.
    unsafe { set.assume_init() }
}

fn add(set: &mut libc::sigset_t, number: libc::c_int) {
    // SAFETY: `set` is a valid set and the number a valid signal.
    let result = unsafe { libc::sigaddset(set, number) };
    assert_eq!(result, 0, "a valid signal number");
}

/// A descriptor that is readable while one of its signals is pending. They must be blocked. After a fork it
/// reads the child's signals, but an epoll set of the parent that holds it watches the parent's: a child
/// makes its own.
#[derive(Debug)]
pub struct SignalFd(OwnedFd);

impl SignalFd {
    /// Makes one for `signals`.
    pub fn new(signals: SignalSet) -> io::Result<SignalFd> {
        let set = signals.to_kernel();
        // SAFETY: `set` is valid for the call.
        let fd =
            check(unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) })?;
        // SAFETY: the call just made this descriptor and nobody else knows it.
        Ok(SignalFd(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Takes all pending signals of this process out and returns them; empty when there are none.
    pub fn drain(&self) -> io::Result<SignalSet> {
        const BATCH: usize = 8;
        const SIZE: usize = size_of::<libc::signalfd_siginfo>();
        let mut found = SignalSet::EMPTY;
        loop {
            let mut buffer = [const { MaybeUninit::<libc::signalfd_siginfo>::uninit() }; BATCH];
            // SAFETY: the buffer is valid for BATCH records of SIZE bytes.
            let got = unsafe { libc::read(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), BATCH * SIZE) };
            let Ok(got) = usize::try_from(got) else {
                let error = io::Error::last_os_error();
                match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(found),
                    io::ErrorKind::Interrupted => continue,
                    _ => return Err(error),
                }
            };
            let count = got / SIZE;
            for record in &buffer[..count] {
                // SAFETY: the kernel filled in the first `count` records.
                let number = unsafe { record.assume_init_ref() }.ssi_signo;
                found = found.union(i32::try_from(number).ok().and_then(Signal::from_number).into());
            }
            // Fewer than asked for: none is left, and the read that would say so is saved.
            if count < BATCH {
                return Ok(found);
            }
        }
    }

    /// The descriptor, to be waited for.
    pub fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl From<Option<Signal>> for SignalSet {
    fn from(signal: Option<Signal>) -> SignalSet {
        signal.map_or(SignalSet::EMPTY, |signal| SignalSet::of(&[signal]))
    }
}

/// What SIGQUIT's handler may tell the client, each a complete message; see [`set_quit_messages`].
#[derive(Debug)]
pub struct QuitMessages {
    /// Says which of `by_reason`; what is out of range is 0.
    pub reason: &'static AtomicU32,
    /// By the word at `reason`.
    pub by_reason: [Vec<u8>; 3],
    /// When the parent is gone, whatever the word says.
    pub parent_gone: Vec<u8>,
}

impl QuitMessages {
    /// Async-signal-safe.
    fn choose(&self, parent: libc::pid_t) -> &[u8] {
        // SAFETY: it always succeeds, and is async-signal-safe.
        if unsafe { libc::getppid() } != parent {
            return &self.parent_gone;
        }
        let reason = self.reason.load(Ordering::Acquire) as usize;
        self.by_reason.get(reason).unwrap_or(&self.by_reason[0])
    }
}

/// What the handler needs, never freed.
struct QuitCourtesy {
    fd: RawFd,
    parent: libc::pid_t,
    messages: QuitMessages,
}

static QUIT_COURTESY: AtomicPtr<QuitCourtesy> = AtomicPtr::new(std::ptr::null_mut());
/// The peer has got a part of a message: whatever the handler sent would be taken for the rest of it.
static MID_MESSAGE: AtomicBool = AtomicBool::new(false);

/// Makes SIGQUIT end the process with status 2, and unblocks it. The handler sends one of the messages of
/// [`set_quit_messages`], if there are any, once and without blocking; it does nothing else.
pub fn install_quit_handler() -> io::Result<()> {
    let handler: extern "C" fn(libc::c_int) = quit_handler;
    let action = libc::sigaction {
        sa_sigaction: handler as libc::sighandler_t,
        sa_mask: empty_set(),
        sa_flags: 0,
        sa_restorer: None,
    };
    // SAFETY: `action` is valid and its handler calls only async-signal-safe functions.
    check(unsafe { libc::sigaction(libc::SIGQUIT, &raw const action, std::ptr::null_mut()) })?;
    unblock(SignalSet::of(&[Signal::Quit]));
    Ok(())
}

/// What SIGQUIT's handler sends to the client on `socket` before it ends the process. To be called once, by a process that
/// serves a client; it must not close the socket and open others before it ends. Who writes to the socket says so
/// ([`begin_message`]).
pub fn set_quit_messages(socket: BorrowedFd<'_>, messages: QuitMessages) {
    // SAFETY: it always succeeds.
    let parent = unsafe { libc::getppid() };
    let courtesy = Box::leak(Box::new(QuitCourtesy { fd: socket.as_raw_fd(), parent, messages }));
    // Release: the handler, which runs in this thread, sees what is pointed to.
    QUIT_COURTESY.store(courtesy, Ordering::Release);
}

/// From now on the peer may have got a part of a message, so SIGQUIT's handler sends nothing.
pub fn begin_message() {
    MID_MESSAGE.store(true, Ordering::Relaxed);
    // The handler runs in this thread: program order is all that is needed, before the write.
    compiler_fence(Ordering::SeqCst);
}

/// The kernel has taken the last message as a whole. A signal between that and this call finds the peer undeserving of a
/// word, which is the harmless side to err on.
pub fn end_message() {
    compiler_fence(Ordering::SeqCst);
    MID_MESSAGE.store(false, Ordering::Relaxed);
}

extern "C" fn quit_handler(_signal: libc::c_int) {
    // SAFETY: null, or what `set_quit_messages` has leaked and nobody changes.
    let courtesy = unsafe { QUIT_COURTESY.load(Ordering::Acquire).as_ref() };
    if let Some(QuitCourtesy { fd, parent, messages }) = courtesy
        && !MID_MESSAGE.load(Ordering::Relaxed)
    {
        let message = messages.choose(*parent);
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: pointer and length are those of one slice; send is async-signal-safe.
        unsafe { libc::send(*fd, message.as_ptr().cast(), message.len(), flags) };
    }
    ::failpoint::pass(::failpoint::Site::Exit);
    // SAFETY: _exit is async-signal-safe and doesn't return.
    unsafe { libc::_exit(2) }
}
