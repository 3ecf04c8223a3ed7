//! A client that talks from one port to a service and straight to the service's backend. The host's NAT gives what
//! began later another port: on the wire and in the backend, the earlier one looks as the later one does in the client.

use crate::PATIENCE;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::time::{Duration, Instant};
use weft_lab::Workload;
use weft_lab::probe::{Stream, connects_from, inside};

/// Who talks to whom.
#[derive(Debug)]
pub struct OnePort<'a> {
    /// Who talks.
    pub client: &'a Workload,
    /// The address of a service that leads to the backend, port for port.
    pub service: Ipv4Addr,
    /// With the lab's HTTP server.
    pub backend: &'a Workload,
}

impl OnePort<'_> {
    /// Asks both in turn over UDP; who was asked has to be who answers.
    ///
    /// # Panics
    /// Somebody else answers, or nobody.
    pub fn datagrams(&self, port: u16) {
        let (client, server) = (bound(self.client, 40_000), bound(self.backend, port));
        for _ in 0..20 {
            for asked in [self.service, self.backend.ip] {
                ask(&client, (asked, port).into(), &server);
            }
        }
    }

    /// Asks the backend for so long, and then the service.
    ///
    /// # Panics
    /// As [`OnePort::datagrams`].
    pub fn datagrams_for(&self, time: Duration, port: u16) {
        let (client, server) = (bound(self.client, 40_002), bound(self.backend, port));
        let since = Instant::now();
        while since.elapsed() < time {
            ask(&client, (self.backend.ip, port).into(), &server);
            std::thread::sleep(Duration::from_millis(50));
        }
        ask(&client, (self.service, port).into(), &server);
    }

    /// Connects from port 40001, always.
    ///
    /// # Panics
    /// There is no connection.
    #[must_use]
    pub fn connect(&self, to: Ipv4Addr, port: u16) -> TcpStream {
        let to = SocketAddrV4::new(to, port);
        connects_from(&self.client.netns, 40_001, to, PATIENCE).unwrap_or_else(|error| panic!("{to}: {error}"))
    }

    /// A connection to the service that says nothing, one straight to the backend that transfers, then the first, too.
    ///
    /// # Panics
    /// One of them breaks, or nothing comes.
    pub fn connections(&self, port: u16) {
        let (by_service, straight) = (self.connect(self.service, port), self.connect(self.backend.ip, port));
        let straight = Stream::over(straight).expect("ask the backend");
        assert!(straight.flows(PATIENCE), "nothing comes from the backend");
        let by_service = Stream::over(by_service).expect("ask the service");
        assert!(by_service.flows(PATIENCE) && straight.flows(PATIENCE), "nothing comes by the service");
        assert!(!by_service.broke() && !straight.broke());
    }
}

/// A question and its answer, which has to come from who was asked.
fn ask(client: &UdpSocket, asked: SocketAddr, server: &UdpSocket) {
    client.send_to(b"?", asked).expect("ask");
    let (_, from) = server.recv_from(&mut [0; 1]).unwrap_or_else(|error| panic!("{asked}: {error}"));
    server.send_to(b"!", from).expect("answer");
    let (_, by) = client.recv_from(&mut [0; 1]).unwrap_or_else(|error| panic!("{asked}: {error}"));
    assert_eq!(by, asked, "who answers");
}

fn bound(workload: &Workload, port: u16) -> UdpSocket {
    let bound = inside(&workload.netns, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)));
    let socket = bound.expect("a namespace").expect("a port");
    socket.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    socket
}
