//! What can go wrong, in one line for a person: what was tried, what happened, what to do.

use std::io;
use std::path::PathBuf;

/// Why a command was not done. Every one is exit code 1.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// No agent at its socket.
    #[error("{}: {}", .socket.display(), socket_advice(.source))]
    Socket {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The agent's answer broke off or is not what it should be.
    #[error("{path}: weftd's answer cannot be read: {complaint}; are weft and weftd of the same version?")]
    AgentAnswer {
        /// What was asked.
        path: String,
        /// What is wrong.
        complaint: String,
    },
    /// The agent refused.
    #[error("{path}: weftd answers {status}: {message}")]
    Agent {
        /// What was asked.
        path: String,
        /// The HTTP status.
        status: u16,
        /// The agent's words.
        message: String,
    },
    /// No policy server at its URL.
    #[error("{url}: {complaint}; is weft-policy-server running there? (--server or WEFT_SERVER names another)")]
    Server {
        /// What was asked.
        url: String,
        /// Why.
        complaint: String,
    },
    /// The policy server's URL is no URL we can use.
    #[error("--server {url:?}: must be a URL such as http://127.0.0.1:4002 (TLS is not supported yet)")]
    Url {
        /// What was given.
        url: String,
    },
    /// The policy server refused.
    #[error("{url}: the policy server answers {status}: {message}{}", server_advice(*.status))]
    Refused {
        /// What was asked.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The server's words.
        message: String,
    },
    /// The policy server's answer is not what it should be.
    #[error("{url}: the policy server's answer cannot be read: {complaint}")]
    ServerAnswer {
        /// What was asked.
        url: String,
        /// What is wrong.
        complaint: String,
    },
    /// The token file.
    #[error("--token-file {}: {complaint}", .file.display())]
    Token {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        complaint: String,
    },
    /// Nothing to take back.
    #[error("there is no such policy: {0} (weft policies list shows those there are)")]
    NoSuchPolicy(String),
    /// Some hosts were too slow.
    #[error("revision {revision} is stored, but not enforced everywhere: {laggards}")]
    NotEnforced {
        /// The revision waited for.
        revision: i64,
        /// Who is behind, and where they are.
        laggards: String,
    },
    /// Standard output is gone or full.
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
}

fn socket_advice(error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::NotFound => {
            "no such socket; is weftd running on this host? (--socket or WEFT_SOCKET names another)"
        }
        io::ErrorKind::ConnectionRefused => "nobody listens; weftd is not running, or is just starting",
        io::ErrorKind::PermissionDenied => "not permitted; the socket belongs to root (try sudo)",
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "weftd does not answer in time; its log may say why",
        _ => return format!("cannot talk to weftd: {error}"),
    };
    advice.to_owned()
}

fn server_advice(status: u16) -> &'static str {
    match status {
        401 => " (--token-file or WEFT_TOKEN gives the token to show)",
        500 => " (its store is away or refuses; the server's log says why)",
        _ => "",
    }
}
