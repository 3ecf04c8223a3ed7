//! The agent, seen from the plugin.

use crate::error::{CniError, Code};
use crate::http::{HttpError, Response, exchange, timed_out};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use weft_api::agent::ApiError;

/// How often a missing agent is looked for.
const RETRY: Duration = Duration::from_millis(20);

/// The agent behind its socket.
#[derive(Debug, Clone)]
pub struct Agent {
    /// Where.
    pub socket: PathBuf,
    /// How long one call may take, with waiting for an agent that restarts. The calls can all be
    /// repeated, so a connection lost half-way is tried again.
    pub patience: Patience,
}

/// How long, and whether to wait for somebody who is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Up to that time, restarts of the agent included.
    Wait(Duration),
    /// Up to that time for an answer, but an agent that is away is not waited for.
    Once(Duration),
}

impl Patience {
    fn limit(self) -> Duration {
        match self {
            Self::Wait(limit) | Self::Once(limit) => limit,
        }
    }
}

/// Why there is no good answer.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Nobody answered.
    #[error("the weft agent does not answer at {}: {source}", socket.display())]
    Away {
        /// Where.
        socket: PathBuf,
        /// How long it was tried.
        limit: Duration,
        /// The last failure.
        source: HttpError,
    },
    /// It answered that it cannot.
    #[error("{}", .0.message)]
    Refused(ApiError),
    /// It answered what we do not understand.
    #[error("the weft agent at {} answered HTTP {status} to {call}: {body}", socket.display())]
    Strange {
        /// Where.
        socket: PathBuf,
        /// To what.
        call: String,
        /// The status.
        status: u16,
        /// The beginning of the body, or why it cannot be read.
        body: String,
    },
}

impl From<AgentError> for CniError {
    fn from(error: AgentError) -> Self {
        let msg = error.to_string();
        match error {
            AgentError::Away { limit, .. } => Self::new(Code::TryAgainLater, msg)
                .details(format!("tried for {} s; is weftd running on this host?", limit.as_secs_f32())),
            AgentError::Refused(api) => {
                Self { code: api.code.cni_code(), msg, details: api.details.unwrap_or_default() }
            }
            AgentError::Strange { status: 503, .. } => Self::new(Code::TryAgainLater, msg),
            AgentError::Strange { status: 400, .. } => Self::new(Code::InvalidConfig, msg),
            AgentError::Strange { .. } => Self::new(Code::Internal, msg),
        }
    }
}

impl Agent {
    /// Sends `body` to a path.
    ///
    /// # Errors
    /// [`AgentError`].
    pub fn post<Q: Serialize, A: DeserializeOwned>(&self, path: &str, body: &Q) -> Result<A, AgentError> {
        let body = serde_json::to_vec(body).unwrap_or_default();
        self.call("POST", path, &body)
    }

    /// Asks for a path.
    ///
    /// # Errors
    /// [`AgentError`].
    pub fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A, AgentError> {
        self.call("GET", path, &[])
    }

    fn call<A: DeserializeOwned>(&self, method: &str, path: &str, body: &[u8]) -> Result<A, AgentError> {
        let Response { status, body } = self.exchange(method, path, body)?;
        let strange = |body: String| AgentError::Strange {
            socket: self.socket.clone(),
            call: format!("{method} {path}"),
            status,
            body,
        };
        if status == 200 {
            return serde_json::from_slice(&body).map_err(|error| strange(error.to_string()));
        }
        match serde_json::from_slice(&body) {
            Ok(error) => Err(AgentError::Refused(error)),
            Err(_) => Err(strange(String::from_utf8_lossy(&body).chars().take(200).collect())),
        }
    }

    fn exchange(&self, method: &str, path: &str, body: &[u8]) -> Result<Response, AgentError> {
        let deadline = Instant::now() + self.patience.limit();
        loop {
            let tried = self
                .connect(deadline)
                .map_err(HttpError::Io)
                .and_then(|mut stream| exchange(&mut stream, method, path, body, deadline));
            let source = match tried {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            if !self.may_come_back(&source) || Instant::now() + RETRY >= deadline {
                let (socket, limit) = (self.socket.clone(), self.patience.limit());
                return Err(AgentError::Away { socket, limit, source });
            }
            std::thread::sleep(RETRY);
        }
    }

    /// Whether the failure is what an agent that restarts looks like.
    fn may_come_back(&self, error: &HttpError) -> bool {
        use io::ErrorKind as Kind;
        let HttpError::Io(error) = error else {
            return false;
        };
        let gone = matches!(
            error.kind(),
            Kind::NotFound | Kind::ConnectionRefused | Kind::ConnectionReset | Kind::BrokenPipe | Kind::UnexpectedEof
        );
        gone && matches!(self.patience, Patience::Wait(_))
    }

    /// Connects before the deadline. The kernel waits in `connect` for room in the backlog of a
    /// listener that hangs, for ever unless the send time limit is set first, which std cannot.
    fn connect(&self, deadline: Instant) -> io::Result<UnixStream> {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let fd = socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        let micros = i64::try_from(left.as_micros()).unwrap_or(i64::MAX);
        setsockopt(&fd, sockopt::SendTimeout, &TimeVal::microseconds(micros))?;
        socket::connect(fd.as_raw_fd(), &UnixAddr::new(&self.socket)?).map_err(|errno| timed_out(errno.into()))?;
        Ok(UnixStream::from(fd))
    }
}
