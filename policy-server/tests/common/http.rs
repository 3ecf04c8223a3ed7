//! HTTP/1.1 by hand: a client library would refuse to send half of what servers are sent.

use super::PATIENCE;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

#[derive(Clone)]
pub struct Request {
    address: SocketAddr,
    line: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    pub fn new(address: SocketAddr, method: &str, path: &str) -> Self {
        Self { address, line: format!("{method} {path} HTTP/1.1"), headers: Vec::new(), body: Vec::new() }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        let length = self.body.len().to_string();
        self.header("Content-Length", &length)
    }

    pub fn send(self) -> Answer {
        let mut stream = self.begin();
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        Answer::parse(&answer).unwrap_or_else(|| panic!("{}: no answer: {read:?}", self.line))
    }

    /// Sends it; what comes back can be read from the connection, or not.
    pub fn begin(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut text = format!("{}\r\nHost: test\r\nConnection: close\r\n", self.line);
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        stream.write_all(format!("{text}\r\n").as_bytes()).unwrap();
        // A server that has seen enough may answer and close before it has read everything.
        let _sent = stream.write_all(&self.body);
        stream
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = std::str::from_utf8(&bytes[..end]).unwrap();
        let mut lines = head.lines();
        let status = lines.next()?.split(' ').nth(1)?.parse().unwrap();
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(':').unwrap();
            (name.to_lowercase(), value.trim().to_owned())
        });
        let body = String::from_utf8(bytes[end + 4..].to_vec()).unwrap();
        Some(Self { status, headers: headers.collect(), body })
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The body, which must be JSON and say so.
    pub fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The text of a JSON error.
    pub fn error(&self) -> String {
        self.json()["error"].as_str().unwrap().to_owned()
    }

    pub fn revision(&self) -> i64 {
        self.header("x-weft-revision").unwrap_or_else(|| panic!("no revision: {self:?}")).parse().unwrap()
    }

    /// `source>destination:port` of each policy, in order.
    pub fn policies(&self) -> Vec<String> {
        assert_eq!(self.status, 200, "{self:?}");
        let json = self.json();
        let policies = json["policies"].as_array().unwrap();
        assert_eq!(json["total_policies"], policies.len());
        let mut shown: Vec<_> = policies.iter().map(line).collect();
        shown.sort();
        shown
    }
}

fn line(policy: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let destination = &policy["destination"];
    let port = match &destination["port"] {
        Value::Null => destination["ports"]["start"].clone(),
        port => port.clone(),
    };
    format!("{}>{}:{port}", text(&policy["source"]["id"]), text(&destination["id"]))
}
