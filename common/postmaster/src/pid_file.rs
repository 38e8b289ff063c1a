//! postmaster.pid: one node per data directory, and what `stop` and `status` read.
//!
//! The problem: two postmasters on one data directory destroy it, and so does one postmaster beside the orphans of a dead
//! one that still write. A pid in a file proves nothing: pids are recycled, files are left behind or removed by hand.
//! Hence two kernel locks (flock), both inherited by every child through fork, so that each is free only when the
//! whole node is gone:
//!
//! - on the *data directory* itself: the interlock. Nobody can remove it while the node lives, as could be done with a file.
//! - on the *file*: only there to be asked by [`inspect`], which may hold it for a moment without standing in the way of
//!   a start.
//!
//! The file's lines are PostgreSQL's, so that its tools and everybody's scripts can read them:
//!
//! ```text
//! 1 pid of the postmaster        5 directory of the Unix socket
//! 2 data directory               6 first listen address, or empty
//! 3 start time, Unix seconds     7 shared memory key: empty, ours has none
//! 4 port                         8 status, padded to 8 characters
//! ```
//!
//! Behind them comes one of ours, which others don't read:
//!
//! ```text
//! 9 what came of the last reload (reload_line.rs)
//! ```
//!
//! Invariants: the descriptors stay open in all children and nobody ever unlocks them explicitly (flock belongs to the
//! open file, so that would free it for all). They are close-on-exec: a command started by a child doesn't hold the node.
//! The file appears under its name complete and locked, and is then rewritten in place by a single write.
//!
//! Follows PostgreSQL 15 CreateLockFile() in src/backend/utils/init/miscinit.c; differs in: locks instead of the count
//! of processes attached to System V shared memory.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use failpoint::Site;
use sys::file::remove_if_there;
use sys::process::{self, Pid};

use crate::reload_line::ReloadLine;

/// The file's name in the data directory.
pub const FILE_NAME: &str = "postmaster.pid";
const TEMPORARY_NAME: &str = "postmaster.pid.new";

/// What line 8 says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeStatus {
    /// Recovery is under way; clients are not let in.
    Starting,
    /// A primary that lets clients in.
    Ready,
    /// A standby that lets clients in.
    Standby,
    /// On its way down.
    Stopping,
}

/// The words of line 8, all of one length so that a rewrite never changes the size of the file.
const STATUS_WORDS: [(NodeStatus, &str); 4] = [
    (NodeStatus::Starting, "starting"),
    (NodeStatus::Ready, "ready   "),
    (NodeStatus::Standby, "standby "),
    (NodeStatus::Stopping, "stopping"),
];

impl NodeStatus {
    /// The word in the file, padded to 8 characters.
    pub fn padded(self) -> &'static str {
        STATUS_WORDS[self as usize].1
    }
}

impl fmt::Display for NodeStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.padded().trim_end())
    }
}

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PidFileLines {
    /// The postmaster.
    pub pid: Pid,
    /// The data directory as the postmaster was given it, made absolute.
    pub data_dir: PathBuf,
    /// Unix seconds.
    pub start_time: i64,
    /// The port in use; 0 until the postmaster listens.
    pub port: u16,
    /// Where the Unix socket is; empty: there is none.
    pub socket_dir: String,
    /// The first TCP address listened on; empty: none.
    pub listen_addr: String,
    /// The status.
    pub status: NodeStatus,
    /// What came of the last reload; none when the line is just being written.
    pub reload: Option<ReloadLine>,
}

impl PidFileLines {
    fn to_text(&self) -> String {
        format!(
            "{}\n{}\n{}\n{}\n{}\n{}\n\n{}\n{}\n",
            self.pid,
            self.data_dir.display(),
            self.start_time,
            self.port,
            self.socket_dir,
            self.listen_addr,
            self.status.padded(),
            self.reload.as_ref().unwrap_or(&ReloadLine::none_yet())
        )
    }

    /// Reads the file's text; `None`: it is not such a file.
    pub fn parse(text: &str) -> Option<PidFileLines> {
        let mut lines = text.lines();
        let mut line = || lines.next();
        let pid = Pid(line()?.trim().parse().ok().filter(|pid| *pid > 0)?);
        let data_dir = PathBuf::from(line()?);
        let start_time = line()?.parse().ok()?;
        let port = line()?.parse().ok()?;
        let socket_dir = line()?.to_owned();
        let listen_addr = line()?.to_owned();
        let _shared_memory_key = line()?;
        let word = line()?;
        let (status, _) =
            STATUS_WORDS.into_iter().find(|(_, padded)| padded.trim_end() == word.trim_end())?;
        let reload = line().and_then(ReloadLine::parse);
        Some(PidFileLines { pid, data_dir, start_time, port, socket_dir, listen_addr, status, reload })
    }
}

/// Why a data directory (or a socket) is not to be had.
#[derive(Debug)]
pub enum LockFileError {
    /// A postmaster lives in the data directory.
    Running {
        /// As its file says.
        pid: Pid,
        /// The data directory.
        data_dir: PathBuf,
    },
    /// The postmaster is gone, children of it are not.
    Orphans {
        /// The data directory.
        data_dir: PathBuf,
    },
    /// Another postmaster holds the Unix socket.
    SocketInUse {
        /// The socket's lock file.
        lock_path: PathBuf,
        /// The socket.
        socket_path: PathBuf,
        /// As the lock file says, if it is readable.
        pid: Option<Pid>,
    },
    /// The file has other lines than it should.
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// The system refused.
    Io {
        /// What was tried, as in `could not {operation} "path"`.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl LockFileError {
    /// Makes a closure for `map_err`.
    pub(crate) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LockFileError {
        let path = path.to_owned();
        move |source| LockFileError::Io { operation, path, source }
    }

    /// What the user may look for, as PostgreSQL's HINT.
    pub fn hint(&self) -> Option<String> {
        match self {
            LockFileError::Running { pid, data_dir } => Some(format!(
                "Is another postmaster (PID {pid}) running in data directory \"{}\"?",
                data_dir.display()
            )),
            LockFileError::Orphans { data_dir } => Some(format!(
                "Terminate any old server processes associated with data directory \"{}\".",
                data_dir.display()
            )),
            LockFileError::SocketInUse { socket_path, pid, .. } => {
                let who = pid.map_or_else(String::new, |pid| format!(" (PID {pid})"));
                Some(format!("Is another postmaster{who} using socket file \"{}\"?", socket_path.display()))
            }
            LockFileError::Malformed { path } => {
                Some(format!("If no postmaster is running, remove file \"{}\".", path.display()))
            }
            LockFileError::Io { .. } => None,
        }
    }
}

impl fmt::Display for LockFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LockFileError::Running { .. } => write!(f, "lock file \"{FILE_NAME}\" already exists"),
            LockFileError::Orphans { .. } => f.write_str("pre-existing shared memory block is still in use"),
            LockFileError::SocketInUse { lock_path, .. } => {
                write!(f, "lock file \"{}\" already exists", lock_path.display())
            }
            LockFileError::Malformed { path } => write!(f, "bogus data in lock file \"{}\"", path.display()),
            LockFileError::Io { operation, path, source } => {
                write!(f, "could not {operation} \"{}\": {source}", path.display())
            }
        }
    }
}

impl std::error::Error for LockFileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            LockFileError::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// The data directory, held by this process and all that it forks.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    lines: PidFileLines,
    file: File,
    /// Somebody else has removed it or written into it: it is not touched any more.
    given_up: bool,
    /// Held open for its lock.
    _data_dir: File,
}

impl PidFile {
    /// Takes the data directory, or says who has it. A file left behind by a node that is gone is replaced, whoever may
    /// have got its pid since.
    ///
    /// Dropping the value leaves the file behind ([`PidFile::remove`] removes it); the next start replaces it.
    pub fn create(data_dir: &Path) -> Result<PidFile, LockFileError> {
        let data_dir =
            data_dir.canonicalize().map_err(LockFileError::io("access data directory", data_dir))?;
        let path = data_dir.join(FILE_NAME);
        let dir = File::open(&data_dir).map_err(LockFileError::io("open data directory", &data_dir))?;
        match dir.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(who_holds(&data_dir, &path)),
            Err(TryLockError::Error(source)) => {
                return Err(LockFileError::io("lock data directory", &data_dir)(source));
            }
        }
        remove_if_there(&path).map_err(LockFileError::io("remove old lock file", &path))?;
        let lines = PidFileLines {
            pid: process::current_pid(),
            data_dir: data_dir.clone(),
            start_time: sys::clock::unix_micros() / 1_000_000,
            port: 0,
            socket_dir: String::new(),
            listen_addr: String::new(),
            status: NodeStatus::Starting,
            reload: Some(ReloadLine::none_yet()),
        };
        let file =
            put_in_place(&data_dir, &path, &lines).map_err(LockFileError::io("create lock file", &path))?;
        dir.sync_all().map_err(LockFileError::io("fsync data directory", &data_dir))?;
        Ok(PidFile { path, lines, file, given_up: false, _data_dir: dir })
    }

    /// The data directory, absolute.
    pub fn data_dir(&self) -> &Path {
        &self.lines.data_dir
    }

    /// Unix seconds.
    pub fn start_time(&self) -> i64 {
        self.lines.start_time
    }

    /// Writes lines 4 to 6.
    pub fn set_address(
        &mut self,
        port: u16,
        socket_dir: &str,
        listen_addr: &str,
    ) -> Result<(), LockFileError> {
        self.lines.port = port;
        self.lines.socket_dir = socket_dir.to_owned();
        self.lines.listen_addr = listen_addr.to_owned();
        self.write()
    }

    /// Writes line 8.
    pub fn set_status(&mut self, status: NodeStatus) -> Result<(), LockFileError> {
        self.lines.status = status;
        self.write()
    }

    /// Writes line 9. It isn't made durable: it means nothing to a later node.
    pub fn set_reload(&mut self, reload: ReloadLine) -> Result<(), LockFileError> {
        self.lines.reload = Some(reload);
        self.put().map_err(LockFileError::io("write lock file", &self.path))
    }

    /// Whether the file under its name is still the one of this process: somebody may have removed or replaced it. Only
    /// a certain loss counts, not a failure to look.
    pub fn is_ours(&self) -> bool {
        match fs::read_to_string(&self.path) {
            Ok(text) => first_line_pid(&text) == Some(self.lines.pid),
            Err(error) => !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
        }
    }

    /// Leaves the file alone from now on, since it is not ours any more: what somebody has written into it is not to be
    /// written over, and above all not to be taken for ours again afterwards.
    pub fn give_up(&mut self) {
        self.given_up = true;
    }

    /// Removes the file if it is still ours; the locks go when the last process of the node does.
    pub fn remove(self) -> Result<(), LockFileError> {
        if self.given_up || !self.is_ours() {
            return Ok(());
        }
        let remove = || fs::remove_file(&self.path);
        failpoint::io(Site::PidFileRemove, remove).map_err(LockFileError::io("remove lock file", &self.path))
    }

    fn write(&self) -> Result<(), LockFileError> {
        failpoint::io(Site::PidFileWrite, || self.put().and_then(|()| self.file.sync_data()))
            .map_err(LockFileError::io("write lock file", &self.path))
    }

    /// Until the file is cut to its new length, a reader finds the end of the old text behind line 9.
    fn put(&self) -> io::Result<()> {
        if self.given_up {
            return Ok(());
        }
        let text = self.lines.to_text();
        self.file.write_all_at(text.as_bytes(), 0)?;
        self.file.set_len(text.len() as u64)
    }
}

/// Makes the file under a temporary name, locks and fills it, and only then gives it its name: who reads it under its
/// name finds it complete and locked.
fn put_in_place(data_dir: &Path, path: &Path, lines: &PidFileLines) -> io::Result<File> {
    // The directory's lock makes the name ours; a start that was killed may have left it.
    remove_if_there(&data_dir.join(TEMPORARY_NAME))?;
    let mut file = tempfile::Builder::new().prefix(TEMPORARY_NAME).rand_bytes(0).tempfile_in(data_dir)?;
    file.as_file().lock()?;
    file.write_all(lines.to_text().as_bytes())?;
    file.as_file().sync_all()?;
    Ok(file.persist_noclobber(path)?)
}

/// The directory's lock is taken: by a living postmaster, or by what it left behind?
fn who_holds(data_dir: &Path, path: &Path) -> LockFileError {
    let data_dir = data_dir.to_owned();
    let pid = fs::read_to_string(path).ok().as_deref().and_then(first_line_pid);
    match pid {
        Some(pid) if process::exists(pid) => LockFileError::Running { pid, data_dir },
        _ => LockFileError::Orphans { data_dir },
    }
}

/// The pid on the first line of a lock file.
pub(crate) fn first_line_pid(text: &str) -> Option<Pid> {
    text.lines().next()?.trim().parse().ok().filter(|pid| *pid > 0).map(Pid)
}

/// What [`inspect`] found in a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inspection {
    /// No file: nothing runs (or somebody has removed the file).
    NoFile,
    /// A file, and nobody who holds it: the node died without cleaning up.
    Stale(PidFileLines),
    /// The postmaster is gone, children of it are not.
    Orphans(PidFileLines),
    /// The postmaster lives.
    Running(PidFileLines),
}

/// Who runs in a data directory, for `stop`, `reload` and `status`; never disturbs a node or its start.
pub fn inspect(data_dir: &Path) -> Result<Inspection, LockFileError> {
    let path = data_dir.join(FILE_NAME);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Inspection::NoFile),
        Err(error) => return Err(LockFileError::io("open lock file", &path)(error)),
    };
    let text = io::read_to_string(&file).map_err(LockFileError::io("read lock file", &path))?;
    let lines = PidFileLines::parse(&text).ok_or_else(|| LockFileError::Malformed { path: path.clone() })?;
    match file.try_lock_shared() {
        // The lock goes again with the descriptor.
        Ok(()) => Ok(Inspection::Stale(lines)),
        Err(TryLockError::WouldBlock) if process::exists(lines.pid) => Ok(Inspection::Running(lines)),
        Err(TryLockError::WouldBlock) => Ok(Inspection::Orphans(lines)),
        Err(TryLockError::Error(source)) => Err(LockFileError::io("lock file", &path)(source)),
    }
}
