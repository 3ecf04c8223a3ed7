//! Real traffic from one namespace to another, by ordinary sockets: an HTTP server that says whom it
//! sees, clients, a DNS look-up, a stream.

use crate::wait::PATIENCE;
use anyhow::{Context, Result};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use weft_hostnet::Netns;

/// Runs `work` in a network namespace. Sockets made there stay there.
///
/// # Errors
/// The namespace cannot be entered.
pub fn inside<T: Send>(netns: &Path, work: impl FnOnce() -> T + Send) -> Result<T> {
    Ok(Netns::open(netns)?.run(work)?)
}

/// Opens a TCP connection from a namespace.
///
/// # Errors
/// The connect's own error (`ConnectionRefused`, `TimedOut`, …).
pub fn connects(netns: &Path, to: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    inside(netns, || TcpStream::connect_timeout(&to, timeout)).map_err(io::Error::other)?
}

/// As [`connects`], from a port of the caller's choice, which other connections may have too.
///
/// # Errors
/// The port cannot be had; the connect's own error (`WouldBlock`: it took too long).
pub fn connects_from(netns: &Path, port: u16, to: SocketAddrV4, timeout: Duration) -> io::Result<TcpStream> {
    let open = || -> io::Result<TcpStream> {
        let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)))?;
        let stream = TcpStream::from(socket);
        // Bounds the connect as well (socket(7), SO_SNDTIMEO).
        stream.set_write_timeout(Some(timeout))?;
        connect(stream.as_raw_fd(), &SockaddrIn::from(to))?;
        Ok(stream)
    };
    inside(netns, open).map_err(io::Error::other)?
}

/// What a server saw of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The client's address as the server saw it.
    pub client: IpAddr,
}

/// `GET /` from a namespace.
///
/// # Errors
/// The connect's or the transfer's own error.
pub fn get(netns: &Path, to: SocketAddr, timeout: Duration) -> io::Result<Seen> {
    let stream = connects(netns, to, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    (&stream).write_all(b"GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")?;
    let mut body = String::new();
    (&stream).read_to_string(&mut body)?;
    let line = body.lines().last().unwrap_or_default();
    let client = line.strip_prefix("hello ").and_then(|text| text.parse().ok());
    client.map(|client| Seen { client }).ok_or_else(|| io::Error::other(format!("unexpected answer {body:?}")))
}

/// An HTTP server in a namespace: `/` answers with the client's address, `/stream` never ends.
#[derive(Debug)]
pub struct HttpServer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    address: SocketAddr,
}

impl HttpServer {
    /// Starts it on all addresses of the namespace.
    ///
    /// # Errors
    /// The port cannot be had.
    pub fn start(netns: &Path, port: u16) -> Result<Self> {
        let listener = inside(netns, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))??;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = stop.clone();
        let thread = std::thread::spawn(move || accept(&listener, &stopping));
        Ok(Self { stop, thread: Some(thread), address })
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn accept(listener: &TcpListener, stop: &Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, client)) => {
                let stop = stop.clone();
                std::thread::spawn(move || drop(answer(&stream, client, &stop)));
            }
            // Polled, so that the server ends with its owner.
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn answer(stream: &TcpStream, client: SocketAddr, stop: &AtomicBool) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut request = String::new();
    BufReader::new(stream).read_line(&mut request)?;
    let mut out = stream;
    if request.starts_with("GET /stream ") {
        out.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
        while !stop.load(Ordering::Relaxed) {
            out.write_all(&[b'.'; 1024])?;
            std::thread::sleep(Duration::from_millis(2));
        }
        return Ok(());
    }
    let body = format!("hello {}\n", client.ip());
    write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

/// A transfer that runs until it is stopped, or breaks.
#[derive(Debug)]
pub struct Stream {
    socket: TcpStream,
    bytes: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Stream {
    /// Begins `GET /stream`.
    ///
    /// # Errors
    /// The connection cannot be made.
    pub fn start(netns: &Path, to: SocketAddr) -> Result<Self> {
        Self::over(connects(netns, to, PATIENCE).with_context(|| format!("stream to {to}"))?)
    }

    /// The same over a connection that was made.
    ///
    /// # Errors
    /// The request cannot be sent.
    pub fn over(socket: TcpStream) -> Result<Self> {
        (&socket).write_all(b"GET /stream HTTP/1.1\r\nHost: lab\r\n\r\n")?;
        let (bytes, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, over, mut reader) = (bytes.clone(), ended.clone(), socket.try_clone()?);
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            let result = loop {
                match reader.read(&mut buffer) {
                    Ok(0) => break Ok(()),
                    Ok(read) => drop(counted.fetch_add(u64::try_from(read).unwrap_or(0), Ordering::Relaxed)),
                    Err(error) => break Err(error),
                }
            };
            over.store(true, Ordering::Relaxed);
            result
        });
        Ok(Self { socket, bytes, ended, thread: Some(thread) })
    }

    /// Bytes received so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether bytes still arrive: waits up to `deadline` for more.
    #[must_use]
    pub fn flows(&self, deadline: Duration) -> bool {
        let before = self.bytes();
        let start = Instant::now();
        while start.elapsed() < deadline {
            if self.bytes() > before {
                return true;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        false
    }

    /// Waits until no byte has arrived for `quiet`, or the connection broke.
    ///
    /// # Errors
    /// It still flows at the deadline.
    pub fn stops(&self, quiet: Duration, deadline: Duration) -> Result<Duration> {
        let start = Instant::now();
        loop {
            if self.ended.load(Ordering::Relaxed) || !self.flows(quiet) {
                return Ok(start.elapsed());
            }
            anyhow::ensure!(start.elapsed() < deadline, "the transfer still runs after {deadline:?}");
        }
    }

    /// Sends a byte, which has to pass as any other packet: who only listens may never learn of the end.
    pub fn send_byte(&self) {
        drop((&self.socket).write_all(b"."));
    }

    /// Whether the connection was reset or closed.
    #[must_use]
    pub fn broke(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        drop(self.socket.shutdown(std::net::Shutdown::Both));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Looks an A record up over UDP.
///
/// # Errors
/// The socket's own error (`ConnectionRefused`: denied with reject), a time-out, or no answer in it.
pub fn resolve(netns: &Path, server: SocketAddr, name: &str, timeout: Duration) -> io::Result<Ipv4Addr> {
    use simple_dns::rdata::RData;
    use simple_dns::{CLASS, Name, Packet, QCLASS, QTYPE, Question, TYPE};
    let mut query = Packet::new_query(0x7765);
    let name = Name::new(name).map_err(io::Error::other)?;
    query.questions.push(Question::new(name, QTYPE::TYPE(TYPE::A), QCLASS::CLASS(CLASS::IN), false));
    let query = query.build_bytes_vec().map_err(io::Error::other)?;
    let socket = inside(netns, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).map_err(io::Error::other)??;
    socket.connect(server)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.send(&query)?;
    let mut buffer = [0; 1500];
    let length = socket.recv(&mut buffer)?;
    let answer = Packet::parse(&buffer[..length]).map_err(io::Error::other)?;
    let address = answer.answers.iter().find_map(|record| match &record.rdata {
        RData::A(a) => Some(Ipv4Addr::from(a.address)),
        _ => None,
    });
    address.ok_or_else(|| io::Error::other("no address in the answer"))
}
