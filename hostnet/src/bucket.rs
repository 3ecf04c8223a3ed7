//! Token buckets: `tbf`, as root of a device's queues.
//!
//! netlink-packet-route knows no `tbf`; its attributes are encoded here (`include/uapi/linux/pkt_sched.h`).

use crate::error::Error;
use crate::executor::Executor;
use crate::netlink::Request;
use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLM_F_CREATE, NLM_F_REPLACE, Nla, NlaBuffer, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcHeader, TcMessage, TcOption};
use weft_model::bandwidth::{Buckets, TokenBucket};

const KIND: &str = "tbf";

/// `include/uapi/linux/rtnetlink.h`
pub(crate) const RTM_NEWQDISC: u16 = 36;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;

/// Attribute `TCA_TBF_PARMS`: `struct tc_tbf_qopt`.
const PARAMETERS: u16 = 1;
/// Attribute `TCA_TBF_RATE64`, where the rate does not fit into 32 bits.
const RATE64: u16 = 4;

/// `TC_LINKLAYER_ETHERNET`: without it the kernel wants a table of transmission times.
const ETHERNET: u8 = 1;

/// `struct tc_ratespec`: `cell_log`, `linklayer`, `overhead`, `cell_align`, `mpu`, then `rate` at byte 8. It stands
/// twice in `struct tc_tbf_qopt`, followed by `limit`, `buffer`, `mtu`.
const RATE_AT: usize = 8;
const LIMIT_AT: usize = 24;
const BUFFER_AT: usize = 28;
const LENGTH: usize = 36;

/// Puts the bucket, in place of whatever was there.
pub(crate) fn replace(index: u32, bucket: TokenBucket) -> Request {
    let mut message = TcMessage::with_index(index.cast_signed());
    message.header.parent = TcHandle::ROOT;
    let mut parameters = vec![0; LENGTH];
    parameters[1] = ETHERNET;
    let mut put = |at: usize, word: u32| parameters[at..at + 4].copy_from_slice(&word.to_ne_bytes());
    put(RATE_AT, u32::try_from(bucket.rate).unwrap_or(u32::MAX));
    put(LIMIT_AT, bucket.queue);
    put(BUFFER_AT, bucket.fill);
    let mut options = vec![TcOption::Other(DefaultNla::new(PARAMETERS, parameters))];
    if u32::try_from(bucket.rate).is_err() {
        options.push(TcOption::Other(DefaultNla::new(RATE64, bucket.rate.to_ne_bytes().to_vec())));
    }
    message.attributes.extend([TcAttribute::Kind(KIND.to_owned()), TcAttribute::Options(options)]);
    Request { message: RouteNetlinkMessage::NewQueueDiscipline(message), flags: NLM_F_CREATE | NLM_F_REPLACE }
}

impl Executor {
    /// The token buckets that are the root of a device's queues, by the device's index.
    ///
    /// # Errors
    /// [`Error`] of the netlink socket or the kernel.
    pub fn buckets(&mut self) -> Result<Buckets, Error> {
        let request = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
        Ok(self.connection.dump("queueing disciplines", request)?.iter().filter_map(bucket).collect())
    }
}

/// Reads what is ours to know: of a token bucket its options, of other kinds the header. The library would take
/// a `tbf`'s options for one attribute.
pub(crate) fn decode(payload: &[u8]) -> Result<RouteNetlinkMessage, DecodeError> {
    let header = TcHeader::parse(payload)?;
    let attributes = payload.get(header.buffer_len()..).unwrap_or_default();
    let value = |kind: u16| {
        NlasIterator::new(attributes).flatten().find(|found| found.kind() == kind).map(|found| found.value().to_vec())
    };
    let mut message = TcMessage::from_parts(header, Vec::new());
    if value(TCA_KIND).is_some_and(|kind| kind.strip_suffix(&[0]) == Some(KIND.as_bytes())) {
        let options = value(TCA_OPTIONS).unwrap_or_default();
        let options = NlasIterator::new(options.as_slice()).flatten();
        let other = |option: NlaBuffer<&[u8]>| TcOption::Other(DefaultNla::new(option.kind(), option.value().to_vec()));
        message.attributes.push(TcAttribute::Options(options.map(other).collect()));
    }
    Ok(RouteNetlinkMessage::NewQueueDiscipline(message))
}

fn bucket(message: &RouteNetlinkMessage) -> Option<(u32, TokenBucket)> {
    let RouteNetlinkMessage::NewQueueDiscipline(message) = message else { return None };
    let options = message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) if message.header.parent == TcHandle::ROOT => Some(options),
        _ => None,
    })?;
    let value = |kind: u16| options.iter().find(|option| option.kind() == kind).map(bytes);
    let parameters = value(PARAMETERS).filter(|parameters| parameters.len() == LENGTH)?;
    let word = |at: usize| parameters[at..].first_chunk().map_or(0, |word| u32::from_ne_bytes(*word));
    let rate = match value(RATE64) {
        Some(rate) => u64::from_ne_bytes(*rate.first_chunk()?),
        None => u64::from(word(RATE_AT)),
    };
    Some((message.header.index.cast_unsigned(), TokenBucket { rate, fill: word(BUFFER_AT), queue: word(LIMIT_AT) }))
}

fn bytes(option: &TcOption) -> Vec<u8> {
    let mut bytes = vec![0; option.value_len()];
    option.emit_value(&mut bytes);
    bytes
}
