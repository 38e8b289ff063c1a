//! Sockets: TCP and Unix, never blocking, close-on-exec.

use std::{
    fmt,
    fs::File,
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
        unix::fs::PermissionsExt,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::sys::sendfile::sendfile;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{SockaddrStorage, getsockopt};
use socket2::{Domain, SockAddr, SockRef, Socket, TcpKeepalive, Type};

/// Connections that the kernel completes ahead of `accept`.
const BACKLOG: i32 = 1024;

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerAddr {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A local process over a Unix socket.
    Unix,
}

impl PeerAddr {
    /// Whether the peer is a process of this machine, as far as its address tells.
    pub fn is_on_this_machine(self) -> bool {
        match self {
            PeerAddr::Tcp(addr) => addr.ip().to_canonical().is_loopback(),
            PeerAddr::Unix => true,
        }
    }
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerAddr::Tcp(addr) => addr.fmt(f),
            PeerAddr::Unix => f.write_str("[local]"),
        }
    }
}

/// Where to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A TCP address.
    Tcp(SocketAddr),
    /// The file of a Unix socket.
    Unix(PathBuf),
}

/// The addresses of `host` (a name or a literal address). Asks the system's resolver and blocks meanwhile.
pub fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok((host, port).to_socket_addrs()?.collect())
}

/// The addresses of this machine, each with the mask of its network.
pub fn interfaces() -> io::Result<Vec<(IpAddr, IpAddr)>> {
    let ip = |storage: Option<SockaddrStorage>| {
        let storage = storage?;
        let v4 = storage.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| storage.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    };
    let pair = |interface: InterfaceAddress| Some((ip(interface.address)?, ip(interface.netmask)?));
    Ok(getifaddrs()?.filter_map(pair).collect())
}

/// A listening socket.
#[derive(Debug)]
pub struct Listener(Socket);

impl Listener {
    /// Listens on a TCP address (port 0: one of the kernel's choice).
    pub fn tcp(addr: SocketAddr) -> io::Result<Listener> {
        let socket = new_socket(Domain::for_address(addr))?;
        socket.set_reuse_address(true)?;
        if addr.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        Ok(Listener(socket))
    }

    /// Listens on a Unix socket file with permissions `mode`. A left-over file is replaced: the caller holds
    /// the lock that proves it is left over. The file stays when the listener is dropped.
    pub fn unix(path: &Path, mode: u32) -> io::Result<Listener> {
        crate::file::remove_if_there(path)?;
        let socket = new_socket(Domain::UNIX)?;
        socket.bind(&SockAddr::unix(path)?)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        socket.listen(BACKLOG)?;
        Ok(Listener(socket))
    }

    /// Takes a connection; WouldBlock when there is none. Errors that concern that connection alone
    /// (ECONNABORTED) and lack of descriptors (EMFILE, ENFILE) leave the listener usable.
    pub fn accept(&self) -> io::Result<(Stream, PeerAddr)> {
        loop {
            // accept4 with close-on-exec; non-blocking is set below.
            let (socket, addr) = match self.0.accept() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            };
            let peer = addr.as_socket().map_or(PeerAddr::Unix, PeerAddr::Tcp);
            return Ok((Stream::prepare(socket, peer != PeerAddr::Unix)?, peer));
        }
    }

    /// The address that it listens on; None for a Unix socket.
    pub fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        Ok(self.0.local_addr()?.as_socket())
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A connected socket, or one that is being connected. Reads and writes say WouldBlock rather than wait, and
/// never raise SIGPIPE.
#[derive(Debug)]
pub struct Stream(Socket);

impl Stream {
    /// Begins to connect. Wait for writeability, then [`Stream::take_error`] tells the outcome.
    ///
    /// An error that is known at once (nobody listens on the Unix socket; its queue is full: WouldBlock) is
    /// returned.
    pub fn connect_start(endpoint: &Endpoint) -> io::Result<Stream> {
        let (domain, addr) = match endpoint {
            Endpoint::Tcp(addr) => (Domain::for_address(*addr), SockAddr::from(*addr)),
            Endpoint::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
        };
        let stream = Stream::prepare(new_socket(domain)?, domain != Domain::UNIX)?;
        match stream.0.connect(&addr) {
            Ok(()) => Ok(stream),
            // Interrupted: the attempt goes on like one in progress.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINPROGRESS | libc::EINTR)) => Ok(stream),
            Err(error) => Err(error),
        }
    }

    fn prepare(socket: Socket, tcp: bool) -> io::Result<Stream> {
        socket.set_nonblocking(true)?;
        if tcp {
            socket.set_tcp_nodelay(true)?;
        }
        Ok(Stream(socket))
    }

    /// Two streams connected to each other (a Unix socket pair).
    pub fn pair() -> io::Result<(Stream, Stream)> {
        let (one, other) = Socket::pair(Domain::UNIX, Type::STREAM, None)?;
        Ok((Stream::prepare(one, false)?, Stream::prepare(other, false)?))
    }

    /// Takes the pending error: after [`Stream::connect_start`], Ok(()) means connected once it is writeable.
    pub fn take_error(&self) -> io::Result<()> {
        self.0.take_error()?.map_or(Ok(()), Err)
    }

    /// Turns TCP keepalive on: first probe after `idle`, the next ones each `interval`, given up after
    /// `count`. None leaves the system's value. Does nothing on a Unix socket.
    pub fn set_keepalive(
        &self,
        idle: Option<Duration>,
        interval: Option<Duration>,
        count: Option<u32>,
    ) -> io::Result<()> {
        if self.0.local_addr()?.as_socket().is_none() {
            return Ok(());
        }
        let mut keepalive = TcpKeepalive::new();
        if let Some(idle) = idle {
            keepalive = keepalive.with_time(idle);
        }
        if let Some(interval) = interval {
            keepalive = keepalive.with_interval(interval);
        }
        if let Some(count) = count {
            keepalive = keepalive.with_retries(count);
        }
        self.0.set_tcp_keepalive(&keepalive)
    }

    /// Gives a TCP connection up when sent data stays unacknowledged for `timeout` (None: the system's
    /// value). Does nothing on a Unix socket.
    pub fn set_user_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        if self.0.local_addr()?.as_socket().is_none() {
            return Ok(());
        }
        self.0.set_tcp_user_timeout(timeout)
    }

    /// Ends the sending side; the peer reads the end of the stream after what was sent.
    pub fn shutdown_write(&self) -> io::Result<()> {
        self.0.shutdown(std::net::Shutdown::Write)
    }

    /// The address of this end; none on a Unix socket.
    pub fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        Ok(self.0.local_addr()?.as_socket())
    }

    /// The address of the other end.
    pub fn peer_addr(&self) -> io::Result<PeerAddr> {
        Ok(self.0.peer_addr()?.as_socket().map_or(PeerAddr::Unix, PeerAddr::Tcp))
    }

    /// The user who made the other end of a Unix socket.
    pub fn peer_uid(&self) -> io::Result<u32> {
        Ok(getsockopt(&self.0, PeerCredentials)?.uid())
    }

    /// As `write`, and more follows at once: the kernel may wait for it, to send both together.
    ///
    /// # Errors
    /// As those of `write`.
    pub fn write_more(&self, bytes: &[u8]) -> io::Result<usize> {
        retry(|| SockRef::from(&self.0).send_with_flags(bytes, libc::MSG_NOSIGNAL | libc::MSG_MORE))
    }

    /// Writes bytes of a file without copying them: what is sent is what the file holds when the peer gets it. How many
    /// bytes were taken; 0: the file ends at `offset`. This process must ignore SIGPIPE.
    ///
    /// # Errors
    /// WouldBlock, as `write`; those of the connection, and of reading the file.
    pub fn write_from_file(&self, file: &File, offset: u64, length: usize) -> io::Result<usize> {
        let mut offset = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        retry(|| Ok(sendfile(&self.0, file, Some(&mut offset), length)?))
    }

    /// The descriptor's number.
    pub fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        retry(|| Read::read(&mut &self.0, buffer))
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        retry(|| SockRef::from(&self.0).send_with_flags(bytes, libc::MSG_NOSIGNAL))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn retry(mut operation: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match operation() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Takes at most `length` bytes of a TCP stream and throws them away, without copying them; how many. 0: the stream has
/// ended. Waits if the socket does.
///
/// # Errors
/// Those of reading.
pub fn discard(socket: BorrowedFd<'_>, length: usize) -> io::Result<usize> {
    // Never written to: with MSG_TRUNC the length alone counts, and the kernel is given no more than this has.
    let mut nothing = Vec::with_capacity(length);
    retry(|| SockRef::from(&socket).recv_with_flags(nothing.spare_capacity_mut(), libc::MSG_TRUNC))
}

fn new_socket(domain: Domain) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unix_listener_replaces_a_left_over_file_and_accepts() {
        let path = std::env::temp_dir().join(format!("sys-net-{}", std::process::id()));
        drop(Listener::unix(&path, 0o700).unwrap());
        let listener = Listener::unix(&path, 0o700).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(listener.local_addr().unwrap(), None);
        let mut client = Stream::connect_start(&Endpoint::Unix(path.clone())).unwrap();
        let (mut server, peer) = listener.accept().unwrap();
        assert_eq!((peer, peer.to_string().as_str()), (PeerAddr::Unix, "[local]"));
        server.set_keepalive(Some(Duration::from_secs(9)), None, None).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        server.write_all(b"hello").unwrap();
        drop(server);
        let mut said = String::new();
        client.read_to_string(&mut said).unwrap();
        assert_eq!(said, "hello");
        assert_eq!(client.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn tcp_options_are_taken() {
        let listener = Listener::tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = listener.local_addr().unwrap().unwrap();
        assert_eq!(resolve("127.0.0.1", addr.port()).unwrap(), [addr]);
        let client = Stream::connect_start(&Endpoint::Tcp(addr)).unwrap();
        assert!(client.0.tcp_nodelay().unwrap());
        client.set_keepalive(Some(Duration::from_secs(9)), Some(Duration::from_secs(3)), Some(4)).unwrap();
        client.set_user_timeout(Some(Duration::from_millis(700))).unwrap();
        assert_eq!(client.0.tcp_keepalive_retries().unwrap(), 4);
        assert_eq!(client.0.tcp_user_timeout().unwrap(), Some(Duration::from_millis(700)));
    }
}
