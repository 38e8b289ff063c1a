//! The listen sockets: TCP addresses and one Unix socket.
//!
//! A Unix socket's file outlives a postmaster that died, and its directory may be shared with other nodes (`/tmp`), so a
//! lock file beside it (`.s.PGSQL.<port>.lock`) says whether a left-over may be replaced. As with postmaster.pid the lock
//! is the kernel's (flock), held by the node's children too, and the contents are for people.
//!
//! Children close what they inherit ([`Listeners::release_in_child`]); only the postmaster removes files
//! ([`Listeners::close`]).
//!
//! Follows PostgreSQL 15 StreamServerPort() in src/backend/libpq/pqcomm.c, CreateSocketLockFile() in miscinit.c; differs
//! in: port 0 takes a free port, and a socket path that is too long is no reason not to start when there is TCP.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sys::net::Listener;
use tracing::{info, warn};

use crate::pid_file::{LockFileError, PidFile, first_line_pid};

/// The longest path that fits a Unix socket's address.
const SOCKET_PATH_MAX: usize = 107;

/// How often a lock file that vanishes under our hands is made again before giving up.
const LOCK_ATTEMPTS_MAX: usize = 10;

/// Where to listen.
#[derive(Clone, Debug)]
pub struct ListenConfig {
    /// Host names or addresses; `*` for all; none: no TCP.
    pub addresses: Vec<String>,
    /// The port; 0 takes a free one, which postmaster.pid tells.
    pub port: u16,
    /// Where `.s.PGSQL.<port>` goes; `None`: no Unix socket.
    pub unix_socket_directory: Option<PathBuf>,
    /// Its permission bits.
    pub unix_socket_permissions: u32,
}

/// Why there is nothing to listen on.
#[derive(Debug)]
pub enum ListenError {
    /// None of the TCP addresses could be had.
    NoTcp,
    /// The Unix socket could not be made.
    Unix {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The socket's path doesn't fit, and there is no TCP instead.
    PathTooLong {
        /// The socket.
        path: PathBuf,
    },
    /// The socket belongs to somebody else.
    Lock(LockFileError),
    /// Neither an address nor a directory for a Unix socket.
    Nothing,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenError::NoTcp => f.write_str("could not create any TCP/IP sockets"),
            ListenError::Unix { path, source } => {
                write!(f, "could not create Unix socket \"{}\": {source}", path.display())
            }
            ListenError::PathTooLong { path } => path_too_long(path).fmt(f),
            ListenError::Lock(error) => error.fmt(f),
            ListenError::Nothing => f.write_str("no socket created for listening"),
        }
    }
}

impl std::error::Error for ListenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ListenError::Unix { source, .. } => Some(source),
            ListenError::Lock(error) => Some(error),
            _ => None,
        }
    }
}

/// The open listen sockets.
#[derive(Debug)]
pub struct Listeners {
    sockets: Vec<Listener>,
    port: u16,
    first_address: String,
    unix: Option<UnixFiles>,
}

/// The files of a Unix socket, removed by [`Listeners::close`].
#[derive(Debug)]
struct UnixFiles {
    directory: PathBuf,
    socket: PathBuf,
    lock: PathBuf,
    /// Held open for its lock.
    _lock_file: File,
}

impl Listeners {
    /// Opens what the configuration asks for. An address that is not to be had is a warning as long as another one is.
    pub fn open(config: &ListenConfig, pid_file: &PidFile) -> Result<Listeners, ListenError> {
        let mut listeners =
            Listeners { sockets: Vec::new(), port: config.port, first_address: String::new(), unix: None };
        for address in &config.addresses {
            listeners.open_tcp(address);
        }
        if listeners.sockets.is_empty() && !config.addresses.is_empty() {
            return Err(ListenError::NoTcp);
        }
        if let Some(directory) = &config.unix_socket_directory {
            listeners.open_unix(directory, config.unix_socket_permissions, pid_file)?;
        }
        if listeners.sockets.is_empty() { Err(ListenError::Nothing) } else { Ok(listeners) }
    }

    /// The sockets, to be waited for.
    pub fn sockets(&self) -> &[Listener] {
        &self.sockets
    }

    /// The port in use.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The first TCP address as configured; empty: none.
    pub fn first_address(&self) -> &str {
        &self.first_address
    }

    /// The directory of the Unix socket; empty: none.
    pub fn socket_directory(&self) -> String {
        self.unix.as_ref().map_or_else(String::new, |unix| unix.directory.display().to_string())
    }

    /// Stops listening and removes the socket's files.
    pub fn close(&mut self) {
        self.sockets.clear();
        if let Some(unix) = self.unix.take() {
            // The lock file last: until then nobody takes the path.
            for path in [&unix.socket, &unix.lock] {
                if let Err(error) = fs::remove_file(path) {
                    warn!("could not remove file \"{}\": {error}", path.display());
                }
            }
        }
    }

    /// Closes the descriptors in a forked child; the files, and the lock on them, stay as they are.
    pub fn release_in_child(&mut self) {
        self.sockets.clear();
    }

    fn open_tcp(&mut self, address: &str) {
        let resolved = match address {
            "*" => Ok(vec![IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED)]),
            _ => {
                sys::net::resolve(address, self.port).map(|found| found.iter().map(SocketAddr::ip).collect())
            }
        };
        let ips = match resolved {
            Ok(ips) => ips,
            Err(error) => {
                warn!("could not translate host name \"{address}\" to address: {error}");
                return;
            }
        };
        for ip in ips {
            let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            // From the first socket on, port 0 has become the port that it got.
            match self.open_one(SocketAddr::new(ip, self.port)) {
                Ok(()) => {
                    info!("listening on {family} address \"{ip}\", port {}", self.port);
                    if self.first_address.is_empty() {
                        self.first_address = address.to_owned();
                    }
                }
                Err(error) => {
                    warn!(
                        hint = %format!(
                            "Is another postmaster already running on port {}? If not, wait a few seconds and retry.",
                            self.port
                        ),
                        "could not bind {family} address \"{ip}\": {error}"
                    );
                }
            }
        }
    }

    fn open_one(&mut self, address: SocketAddr) -> io::Result<()> {
        let listener = Listener::tcp(address)?;
        if let Some(bound) = listener.local_addr()? {
            self.port = bound.port();
        }
        self.sockets.push(listener);
        Ok(())
    }

    fn open_unix(
        &mut self,
        directory: &Path,
        permissions: u32,
        pid_file: &PidFile,
    ) -> Result<(), ListenError> {
        let socket = directory.join(format!(".s.PGSQL.{}", self.port));
        if socket.as_os_str().len() > SOCKET_PATH_MAX {
            if self.sockets.is_empty() {
                return Err(ListenError::PathTooLong { path: socket });
            }
            warn!("{}", path_too_long(&socket));
            return Ok(());
        }
        let lock = directory.join(format!(".s.PGSQL.{}.lock", self.port));
        let text = format!(
            "{}\n{}\n{}\n{}\n{}\n",
            sys::process::current_pid(),
            pid_file.data_dir().display(),
            pid_file.start_time(),
            self.port,
            directory.display()
        );
        let lock_file = take_lock_file(&lock, &socket, &text).map_err(ListenError::Lock)?;
        let listener = Listener::unix(&socket, permissions)
            .map_err(|source| ListenError::Unix { path: socket.clone(), source })?;
        info!("listening on Unix socket \"{}\"", socket.display());
        self.sockets.push(listener);
        self.unix = Some(UnixFiles { directory: directory.to_owned(), socket, lock, _lock_file: lock_file });
        Ok(())
    }
}

fn path_too_long(path: &Path) -> String {
    format!("Unix-domain socket path \"{}\" is too long (maximum {SOCKET_PATH_MAX} bytes)", path.display())
}

/// Locks the socket's lock file and writes who we are.
///
/// The former owner removes its file while it still holds the lock. Who opened the file before and gets the lock after
/// that holds a file without a name, and a third one could make a new file: so the lock counts only if the name still
/// leads to the locked file.
fn take_lock_file(lock: &Path, socket: &Path, text: &str) -> Result<File, LockFileError> {
    for _ in 0..LOCK_ATTEMPTS_MAX {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(lock)
            .map_err(LockFileError::io("create lock file", lock))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let pid = fs::read_to_string(lock).ok().as_deref().and_then(first_line_pid);
                let (lock_path, socket_path) = (lock.to_owned(), socket.to_owned());
                return Err(LockFileError::SocketInUse { lock_path, socket_path, pid });
            }
            Err(TryLockError::Error(source)) => return Err(LockFileError::io("lock file", lock)(source)),
        }
        if same_file(&file, lock).map_err(LockFileError::io("check lock file", lock))? {
            let write = |mut file: &File| file.set_len(0).and_then(|()| file.write_all(text.as_bytes()));
            write(&file).map_err(LockFileError::io("write lock file", lock))?;
            return Ok(file);
        }
    }
    Err(LockFileError::io("create lock file", lock)(io::ErrorKind::AlreadyExists.into()))
}

/// Whether the path leads to the open file.
fn same_file(file: &File, path: &Path) -> io::Result<bool> {
    let open = file.metadata()?;
    match fs::metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (open.dev(), open.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
