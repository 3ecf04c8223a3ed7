//! A blocking rtnetlink connection: many requests in one datagram, answers matched by sequence number.

use crate::error::{Error, Refusal};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NlasIterator, Parseable,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::route::RouteMessage;
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use nix::errno::Errno;

/// Most requests in a datagram. The kernel queues every acknowledgement before we read the first; 512
/// of them overflow a default receive buffer (212,992 bytes, seen on 6.18), 256 do not.
pub(crate) const MAX_BATCH: usize = 200;

/// A dump's datagrams are at most 32 KiB (`netlink_dump`, since 4.10 also with larger buffers).
const RECEIVE_BUFFER: usize = 65_536;

/// How often something that changes while we read it is read anew.
const DUMP_TRIES: u32 = 32;

/// Kinds of objects (`include/uapi/linux/rtnetlink.h`).
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWNEIGH: u16 = 28;

/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;

/// The kernel's extended acknowledgement: the attribute that holds its words
/// (`include/uapi/linux/netlink.h`, NLMSGERR_ATTR_MSG).
const EXTENDED_ACK_TEXT: u16 = 1;
/// The acknowledgement holds only the header of the request (NLM_F_CAPPED).
const CAPPED: u16 = 0x100;
/// Attributes follow (NLM_F_ACK_TLVS).
const ACK_TLVS: u16 = 0x200;

/// One request: a message and its `NLM_F_*` flags besides REQUEST and ACK.
pub(crate) struct Request {
    pub(crate) message: RouteNetlinkMessage,
    pub(crate) flags: u16,
}

pub(crate) struct Connection {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// A message of the kernel, as far as its header says.
struct Answer<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

impl Connection {
    /// Opens a socket in the calling thread's namespace; it stays there, whoever uses it.
    pub(crate) fn open() -> Result<Self, Error> {
        let socket = Socket::new(NETLINK_ROUTE).map_err(Error::socket("open"))?;
        // Without these two there are no texts with errors, and without the third the kernel ignores
        // what we ask a dump to be restricted to (all since 4.20 at the latest).
        socket.set_cap_ack(true).map_err(Error::socket("set NETLINK_CAP_ACK"))?;
        socket.set_ext_ack(true).map_err(Error::socket("set NETLINK_EXT_ACK"))?;
        socket.set_netlink_get_strict_chk(true).map_err(Error::socket("set NETLINK_GET_STRICT_CHK"))?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(RECEIVE_BUFFER) })
    }

    /// Sends all requests in one datagram and waits for every acknowledgement; the results are in the
    /// order of the requests. At most [`MAX_BATCH`] requests.
    pub(crate) fn batch(&mut self, requests: Vec<Request>) -> Result<Vec<Result<(), Refusal>>, Error> {
        let first = self.sequence.wrapping_add(1);
        let mut results: Vec<Option<Result<(), Refusal>>> = vec![None; requests.len()];
        let mut datagram = Vec::with_capacity(requests.len() * 128);
        for request in requests {
            self.append(&mut datagram, &mut packet(request, NLM_F_ACK));
        }
        self.send(&datagram)?;
        while results.iter().any(Option::is_none) {
            self.receive("an acknowledgement", |answer| {
                let position = answer.sequence.wrapping_sub(first) as usize;
                if let (NLMSG_ERROR, Some(result)) = (answer.kind, results.get_mut(position)) {
                    *result = Some(acknowledgement(&answer)?);
                }
                Ok(())
            })?;
        }
        Ok(results.into_iter().flatten().collect())
    }

    /// Asks for one object; `None` if the kernel knows none (ENODEV).
    pub(crate) fn get(
        &mut self,
        what: &'static str,
        message: RouteNetlinkMessage,
    ) -> Result<Option<RouteNetlinkMessage>, Error> {
        let (mut found, mut end) = (None, None);
        self.ask(&mut packet(Request { message, flags: 0 }, NLM_F_ACK))?;
        while end.is_none() {
            let sequence = self.sequence;
            self.receive(what, |answer| {
                if answer.sequence != sequence {
                    return Ok(());
                }
                match answer.kind {
                    NLMSG_ERROR => end = Some(acknowledgement(&answer)?),
                    kind => found = Some(decode(what, kind, answer.payload)?),
                }
                Ok(())
            })?;
        }
        match end {
            Some(Err(refusal)) if refusal.errno == Errno::ENODEV => Ok(None),
            Some(Err(refusal)) => Err(Error::Refused { what, text: refusal.to_string() }),
            Some(Ok(())) | None => Ok(found),
        }
    }

    /// Asks for all objects that match. What the kernel marks as interrupted by a change is read again.
    /// An object we cannot decode is left out with a warning: another's exotic device must not blind us.
    pub(crate) fn dump(
        &mut self,
        what: &'static str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, Error> {
        let mut packet = packet(Request { message, flags: 0 }, NLM_F_DUMP);
        for _attempt in 0..DUMP_TRIES {
            if let Some(objects) = self.dump_once(what, &mut packet)? {
                return Ok(objects);
            }
        }
        Err(Error::Unstable { what, tries: DUMP_TRIES })
    }

    /// One attempt; `None`: it was interrupted by a change.
    fn dump_once(
        &mut self,
        what: &'static str,
        packet: &mut Packet,
    ) -> Result<Option<Vec<RouteNetlinkMessage>>, Error> {
        let (mut objects, mut interrupted, mut end) = (Vec::new(), false, None);
        self.ask(packet)?;
        while end.is_none() {
            let sequence = self.sequence;
            self.receive(what, |answer| {
                if answer.sequence != sequence {
                    return Ok(());
                }
                interrupted |= answer.flags & NLM_F_DUMP_INTR != 0;
                match answer.kind {
                    // Both begin with an error number, 0 for none.
                    NLMSG_ERROR | NLMSG_DONE => end = Some(acknowledgement(&answer)?),
                    kind => match decode(what, kind, answer.payload) {
                        Ok(object) => objects.push(object),
                        Err(error) => tracing::warn!(%error, "left out"),
                    },
                }
                Ok(())
            })?;
        }
        match end {
            // A route table that was never used (`fib_get_table`, "ipv4: FIB table does not exist").
            Some(Err(refusal)) if refusal.errno == Errno::ENOENT => Ok(Some(Vec::new())),
            Some(Err(refusal)) if refusal.errno == Errno::EINTR => Ok(None),
            Some(Err(refusal)) => Err(Error::Refused { what, text: refusal.to_string() }),
            Some(Ok(())) | None => Ok((!interrupted).then_some(objects)),
        }
    }

    fn ask(&mut self, packet: &mut Packet) -> Result<(), Error> {
        let mut datagram = Vec::with_capacity(128);
        self.append(&mut datagram, packet);
        self.send(&datagram)
    }

    fn append(&mut self, datagram: &mut Vec<u8>, packet: &mut Packet) {
        self.sequence = self.sequence.wrapping_add(1);
        packet.header.sequence_number = self.sequence;
        let begin = datagram.len();
        datagram.resize(begin + packet.buffer_len().next_multiple_of(4), 0);
        packet.serialize(&mut datagram[begin..]);
    }

    fn send(&self, datagram: &[u8]) -> Result<(), Error> {
        let sent = retry(|| self.socket.send(datagram, 0)).map_err(Error::socket("send"))?;
        if sent == datagram.len() {
            return Ok(());
        }
        Err(Error::Socket { doing: "send", source: std::io::ErrorKind::WriteZero.into() })
    }

    /// Receives one datagram and hands out the messages in it.
    fn receive(
        &mut self,
        what: &'static str,
        mut each: impl FnMut(Answer<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.buffer.clear();
        retry(|| self.socket.recv(&mut self.buffer, 0)).map_err(Error::socket("receive"))?;
        let mut rest = self.buffer.as_slice();
        while !rest.is_empty() {
            let message = NetlinkBuffer::new_checked(rest)
                .map_err(|error| Error::Malformed { what, detail: error.to_string() })?;
            let length = message.length() as usize;
            each(Answer {
                kind: message.message_type(),
                flags: message.flags(),
                sequence: message.sequence_number(),
                payload: &rest[HEADER..length],
            })?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(())
    }
}

/// A request before it has its number. What is asked again is numbered again, not copied: the library's code that
/// copies messages of all kinds would be a fiftieth of the plugin's size.
type Packet = NetlinkMessage<RouteNetlinkMessage>;

fn packet(request: Request, flags: u16) -> Packet {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | request.flags | flags;
    let mut packet = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request.message));
    packet.finalize();
    packet
}

/// System calls that a signal interrupted are made again.
pub(crate) fn retry<T>(mut call: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Reads what we ask for. The library's own switch over all kinds of messages would bring their parsers
/// (traffic control, rules, next hops) into the plugin, a tenth of its size.
fn decode(what: &'static str, kind: u16, payload: &[u8]) -> Result<RouteNetlinkMessage, Error> {
    let malformed = |detail: String| Error::Malformed { what, detail };
    let parsed = match kind {
        RTM_NEWLINK => LinkMessage::parse(payload).map(RouteNetlinkMessage::NewLink),
        RTM_NEWADDR => AddressMessage::parse(payload).map(RouteNetlinkMessage::NewAddress),
        RTM_NEWROUTE => RouteMessage::parse(payload).map(RouteNetlinkMessage::NewRoute),
        RTM_NEWNEIGH => NeighbourMessage::parse(payload).map(RouteNetlinkMessage::NewNeighbour),
        // The agent's alone.
        #[cfg(feature = "notify")]
        nix::libc::RTM_NEWRULE => {
            netlink_packet_route::rule::RuleMessage::parse(payload).map(RouteNetlinkMessage::NewRule)
        }
        crate::bucket::RTM_NEWQDISC => crate::bucket::decode(payload),
        other => return Err(malformed(format!("a message of kind {other}, which nobody asked for"))),
    };
    parsed.map_err(|error| malformed(error.to_string()))
}

/// Reads `struct nlmsgerr` and what follows; the end of a dump has an error number too.
fn acknowledgement(answer: &Answer<'_>) -> Result<Result<(), Refusal>, Error> {
    let malformed = || Error::Malformed { what: "an acknowledgement", detail: "too short".to_owned() };
    let (code, rest) = answer.payload.split_first_chunk::<4>().ok_or_else(malformed)?;
    let code = i32::from_ne_bytes(*code);
    if code >= 0 {
        return Ok(Ok(()));
    }
    let attributes = match answer.kind {
        NLMSG_ERROR if answer.flags & CAPPED != 0 => rest.get(HEADER..),
        NLMSG_ERROR => NetlinkBuffer::new_checked(rest)
            .ok()
            .and_then(|request| rest.get((request.length() as usize).next_multiple_of(4)..)),
        _ => Some(rest),
    };
    let attributes = attributes.filter(|_rest| answer.flags & ACK_TLVS != 0).unwrap_or_default();
    let text = NlasIterator::new(attributes)
        .flatten()
        .find(|attribute| attribute.kind() == EXTENDED_ACK_TEXT)
        .map(|attribute| String::from_utf8_lossy(attribute.value()).trim_end_matches('\0').to_owned());
    Ok(Err(Refusal { errno: Errno::from_raw(-code), text }))
}
