//! One HTTP/1.1 exchange over a connected stream.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Answers are small; a list of 4,096 endpoints is about 2 MiB.
const LIMIT: usize = 16 << 20;

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The other side went away, or was too slow.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// What came is no answer.
    #[error("the answer is no HTTP/1.1: {0}")]
    Malformed(String),
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Response {
    /// Its status.
    pub status: u16,
    /// Its body.
    pub body: Vec<u8>,
}

/// Sends a request and reads its answer, both before `deadline`.
///
/// # Errors
/// [`HttpError`].
pub fn exchange(
    stream: &mut UnixStream,
    method: &str,
    path: &str,
    body: &[u8],
    deadline: Instant,
) -> Result<Response, HttpError> {
    let mut request = format!(
        "{method} {path} HTTP/1.1\r\nhost: weft\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    stream.set_write_timeout(Some(remaining(deadline)?))?;
    stream.write_all(&request)?;
    receive(stream, deadline)
}

fn receive(stream: &mut UnixStream, deadline: Instant) -> Result<Response, HttpError> {
    let mut bytes = Vec::new();
    let mut head = None;
    loop {
        if head.is_none() {
            head = parse_head(&bytes)?;
        }
        if let Some(Head { status, start, length: Some(length) }) = head
            && bytes.len() >= start + length
        {
            return Ok(Response { status, body: bytes[start..start + length].to_vec() });
        }
        if bytes.len() > LIMIT {
            return Err(HttpError::Malformed(format!("more than {LIMIT} bytes")));
        }
        if !read_some(stream, &mut bytes, deadline)? {
            return ended(head, &bytes);
        }
    }
}

/// The connection was closed: the end of a body without length, otherwise too early.
fn ended(head: Option<Head>, bytes: &[u8]) -> Result<Response, HttpError> {
    match head {
        Some(Head { status, start, length: None }) => Ok(Response { status, body: bytes[start..].to_vec() }),
        _ => {
            let what = format!("closed after {} bytes of its answer", bytes.len());
            Err(io::Error::new(io::ErrorKind::UnexpectedEof, what).into())
        }
    }
}

fn read_some(stream: &mut UnixStream, bytes: &mut Vec<u8>, deadline: Instant) -> Result<bool, HttpError> {
    let mut chunk = [0; 16 << 10];
    loop {
        stream.set_read_timeout(Some(remaining(deadline)?))?;
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(false),
            Ok(count) => {
                bytes.extend_from_slice(&chunk[..count]);
                return Ok(true);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(timed_out(error).into()),
        }
    }
}

/// The head of an answer: its status, where the body starts and how long it is.
#[derive(Debug, Clone, Copy)]
struct Head {
    status: u16,
    start: usize,
    length: Option<usize>,
}

fn parse_head(bytes: &[u8]) -> Result<Option<Head>, HttpError> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(bytes).map_err(|error| HttpError::Malformed(error.to_string()))?;
    let httparse::Status::Complete(start) = parsed else {
        return Ok(None);
    };
    let mut length = None;
    for header in response.headers.iter() {
        if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(HttpError::Malformed("a chunked body".to_owned()));
        }
        if header.name.eq_ignore_ascii_case("content-length") {
            length = Some(content_length(header.value)?);
        }
    }
    Ok(Some(Head { status: response.code.unwrap_or_default(), start, length }))
}

fn content_length(value: &[u8]) -> Result<usize, HttpError> {
    std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .filter(|length| *length <= LIMIT)
        .ok_or_else(|| HttpError::Malformed(format!("content-length {:?}", String::from_utf8_lossy(value))))
}

/// Time left; never zero, which would mean "no limit" to the socket.
fn remaining(deadline: Instant) -> io::Result<Duration> {
    deadline
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
        .ok_or_else(|| io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))
}

/// A socket's time limit shows as EAGAIN.
pub(crate) fn timed_out(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "no answer in time"),
        _ => error,
    }
}
