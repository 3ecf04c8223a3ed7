//! Who of a namespace's own processes listens where, from the kernel's lists of sockets (`/proc/net/tcp` and its kin;
//! `Documentation/networking/proc_net_tcp.rst`).

use crate::error::Error;
use crate::executor::Executor;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, Ipv6Addr};
use weft_model::others::Listener;
use weft_model::policy::Protocol;

/// `TCP_LISTEN` and `TCP_CLOSE` of the kernel's `net/tcp_states.h`; the latter is what an unconnected UDP socket is in.
const LISTENS: &str = "0A";
const UNCONNECTED: &str = "07";

impl Executor {
    /// Where processes of this namespace wait for IPv4.
    ///
    /// # Errors
    /// [`Error::Sockets`], or the namespace cannot be entered.
    pub fn listeners(&self) -> Result<BTreeSet<Listener>, Error> {
        self.namespace.run(|| {
            let mut found = BTreeSet::new();
            for (list, protocol) in
                [("tcp", Protocol::Tcp), ("tcp6", Protocol::Tcp), ("udp", Protocol::Udp), ("udp6", Protocol::Udp)]
            {
                read(list, protocol, &mut found)?;
            }
            Ok(found)
        })?
    }
}

fn read(list: &'static str, protocol: Protocol, found: &mut BTreeSet<Listener>) -> Result<(), Error> {
    let failed = |source| Error::Sockets { list, source };
    let file = match std::fs::File::open(format!("/proc/thread-self/net/{list}")) {
        Ok(file) => file,
        // A kernel without IPv6.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    for line in BufReader::new(file).lines().skip(1) {
        let line = line.map_err(failed)?;
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (local, state) = (fields.next(), fields.nth(1));
        match (protocol, state) {
            (Protocol::Tcp, Some(LISTENS)) | (Protocol::Udp, Some(UNCONNECTED)) => {
                found.extend(local.and_then(|local| listener(protocol, local)));
            }
            // Those that listen come first; of the others there may be very many.
            (Protocol::Tcp, _) => break,
            _ => {}
        }
    }
    Ok(())
}

/// `0100007F:1F90`: the address as the words of memory it is, then the port.
fn listener(protocol: Protocol, local: &str) -> Option<Listener> {
    let (address, port) = local.rsplit_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |text: &str| u32::from_str_radix(text, 16).ok().map(u32::to_ne_bytes);
    let address = match address.len() {
        8 => Ipv4Addr::from(word(address)?),
        32 => {
            let words = [word(&address[..8])?, word(&address[8..16])?, word(&address[16..24])?, word(&address[24..])?];
            let address = Ipv6Addr::from(<[u8; 16]>::try_from(words.concat()).ok()?);
            // At all addresses of either kind, unless it was told otherwise, which this list does not say.
            if address.is_unspecified() { Ipv4Addr::UNSPECIFIED } else { address.to_ipv4_mapped()? }
        }
        _ => return None,
    };
    let address = (!address.is_unspecified()).then_some(address);
    Some(Listener { protocol, address, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn addresses_are_read_as_the_kernel_writes_them() {
        let read = |text| listener(Protocol::Tcp, text).map(|it| (it.address.map(|ip| ip.to_string()), it.port));
        assert_eq!(read("0100007F:1F90"), Some((Some("127.0.0.1".to_owned()), 8080)));
        assert_eq!(read("00000000:0016"), Some((None, 22)));
        assert_eq!(read("00000000000000000000000000000000:0016"), Some((None, 22)));
        assert_eq!(read("0000000000000000FFFF00000100007F:0050"), Some((Some("127.0.0.1".to_owned()), 80)));
        // IPv6 alone: `::1`.
        assert_eq!(read("00000000000000000000000001000000:0050"), None);
        for torn in ["", ":", "0100007F", "0100007F:", "0100007G:1F90", "01:1F90"] {
            assert_eq!(read(torn), None, "{torn}");
        }
    }
}
