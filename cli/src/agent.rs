//! HTTP/1.1 over the agent's unix socket: one request a connection, by hand, because that is all it takes.

use crate::error::CliError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use weft_api::agent::ApiError;

/// The agent answers from memory; anything slower is stuck.
const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_HEAD: usize = 64 * 1024;

/// Asks for one JSON document.
///
/// # Errors
/// [`CliError`].
pub fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, CliError> {
    ask(socket, "GET", path, "")
}

/// Sends a document, and asks for one.
///
/// # Errors
/// [`CliError`].
pub fn put<T: DeserializeOwned>(socket: &Path, path: &str, document: &impl Serialize) -> Result<T, CliError> {
    let body = serde_json::to_string(document).map_err(io::Error::from)?;
    ask(socket, "PUT", path, &body)
}

/// Takes something back, and asks for what is then.
///
/// # Errors
/// [`CliError`].
pub fn delete<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, CliError> {
    ask(socket, "DELETE", path, "")
}

fn ask<T: DeserializeOwned>(socket: &Path, method: &str, path: &str, body: &str) -> Result<T, CliError> {
    let answer = open(socket, method, path, body, Some(TIMEOUT))?;
    serde_json::from_reader(answer).map_err(|error| unreadable(path, &error))
}

/// Asks for JSON documents, one a line, for as long as they come.
///
/// # Errors
/// [`CliError`] if the agent cannot be asked; each document may be one too.
pub fn stream<T: DeserializeOwned>(
    socket: &Path,
    path: &str,
) -> Result<impl Iterator<Item = Result<T, CliError>>, CliError> {
    let body = open(socket, "GET", path, "", None)?;
    let path = path.to_owned();
    Ok(BufReader::new(body).lines().filter_map(move |line| match line {
        Ok(line) if line.trim().is_empty() => None,
        Ok(line) => Some(serde_json::from_str(&line).map_err(|error| unreadable(&path, &error))),
        Err(error) => Some(Err(unreadable(&path, &error))),
    }))
}

/// The body of a 200.
fn open(
    socket: &Path,
    method: &str,
    path: &str,
    body: &str,
    timeout: Option<Duration>,
) -> Result<Box<dyn Read>, CliError> {
    let failed = |source| CliError::Socket { socket: socket.to_owned(), source };
    let mut stream = UnixStream::connect(socket).map_err(failed)?;
    stream.set_read_timeout(timeout).map_err(failed)?;
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: weftd\r\nAccept: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let mut reader = BufReader::new(stream);
    let head = read_head(&mut reader).map_err(failed)?;
    let head = Head::parse(&head).map_err(|complaint| CliError::AgentAnswer { path: path.to_owned(), complaint })?;
    let body = head.body(reader);
    if head.status == 200 { Ok(body) } else { Err(refused(path, head.status, body)) }
}

fn refused(path: &str, status: u16, body: impl Read) -> CliError {
    let mut text = String::new();
    // What can be read of the reason is better than nothing.
    let length = body.take(64 * 1024).read_to_string(&mut text).unwrap_or(0);
    let message = match serde_json::from_str::<ApiError>(&text) {
        Ok(ApiError { message, details: Some(details), .. }) => format!("{message}: {details}"),
        Ok(ApiError { message, .. }) => message,
        Err(_) if length == 0 => "no reason given".to_owned(),
        Err(_) => text.trim().to_owned(),
    };
    let path = path.split('?').next().unwrap_or(path).to_owned();
    CliError::Agent { path, status, message }
}

fn unreadable(path: &str, error: &impl ToString) -> CliError {
    CliError::AgentAnswer { path: path.to_owned(), complaint: error.to_string() }
}

/// Everything up to and with the empty line.
fn read_head(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let read = reader.read_until(b'\n', &mut head)?;
        if read == 0 || head.len() > MAX_HEAD {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection closed before an answer"));
        }
    }
    Ok(head)
}

struct Head {
    status: u16,
    framing: Framing,
}

/// Where a body ends (RFC 9112 §6.3).
#[derive(Clone, Copy)]
enum Framing {
    Length(u64),
    Chunked,
    Close,
}

impl Head {
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        response.parse(bytes).map_err(|error| error.to_string())?;
        let header = |name: &str| {
            let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
            std::str::from_utf8(found.value).ok()
        };
        let chunked = header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"));
        let framing = match header("content-length") {
            _ if chunked => Framing::Chunked,
            Some(length) => {
                Framing::Length(length.parse().map_err(|error| format!("content-length {length:?}: {error}"))?)
            }
            None => Framing::Close,
        };
        Ok(Self { status: response.code.unwrap_or(0), framing })
    }

    fn body(&self, reader: impl BufRead + 'static) -> Box<dyn Read> {
        match self.framing {
            Framing::Length(length) => Box::new(Framed { reader, left: length, state: Chunk::Last }),
            Framing::Chunked => Box::new(Framed { reader, left: 0, state: Chunk::First }),
            Framing::Close => Box::new(reader),
        }
    }
}

/// A body that says where it ends: a chunked one (RFC 9112 §7.1), or one of a known length, which is like
/// one last chunk. One that breaks off is an error, not an end.
struct Framed<R> {
    reader: R,
    left: u64,
    state: Chunk,
}

enum Chunk {
    First,
    Later,
    Last,
}

impl<R: BufRead> Framed<R> {
    fn next_chunk(&mut self) -> io::Result<()> {
        if matches!(self.state, Chunk::Later) {
            // The line break behind the last chunk's data.
            self.line()?;
        }
        let line = self.line()?;
        let size = line.split(';').next().unwrap_or_default().trim();
        self.left = u64::from_str_radix(size, 16)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("chunk of size {size:?}: {error}")))?;
        self.state = if self.left == 0 { Chunk::Last } else { Chunk::Later };
        Ok(())
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        (&mut self.reader).take(1024).read_line(&mut line)?;
        if line.ends_with('\n') {
            Ok(line)
        } else {
            Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the answer broke off"))
        }
    }
}

impl<R: BufRead> Read for Framed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && !matches!(self.state, Chunk::Last) {
            self.next_chunk()?;
        }
        if self.left == 0 {
            return Ok(0);
        }
        let read = (&mut self.reader).take(self.left).read(buffer)?;
        self.left -= read as u64;
        if read == 0 && !buffer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the answer broke off"));
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunked(text: &'static str) -> io::Result<String> {
        let mut body = Framed { reader: text.as_bytes(), left: 0, state: Chunk::First };
        let mut read = String::new();
        body.read_to_string(&mut read).map(|_| read)
    }

    #[test]
    fn chunks_are_put_together() {
        assert_eq!(chunked("3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n").unwrap(), "abc0123456789");
        assert_eq!(chunked("0\r\n\r\n").unwrap(), "");
    }

    #[test]
    fn a_body_that_breaks_off_is_an_error() {
        let cut = Framed { reader: &b"ab"[..], left: 3, state: Chunk::Last }.read_to_string(&mut String::new());
        assert!(cut.is_err());
        for text in ["", "3\r\n", "3\r\nab", "3\r\nabc", "3\r\nabc\r\n", "z\r\n", "-1\r\n"] {
            assert!(chunked(text).is_err(), "{text:?}");
        }
    }
}
