//! Hardware addresses.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// `ee:ee:` and the four bytes of `ip`: Silk's rule for VTEPs and workloads, so that a peer's
    /// address is known from its subnet and two workloads never share one.
    #[must_use]
    pub const fn for_workload(ip: Ipv4Addr) -> Self {
        let [a, b, c, d] = ip.octets();
        Self([0xee, 0xee, a, b, c, d])
    }

    /// `aa:aa:` and the four bytes of `ip`: Silk's rule for the host's side.
    #[must_use]
    pub const fn for_host(ip: Ipv4Addr) -> Self {
        let [a, b, c, d] = ip.octets();
        Self([0xaa, 0xaa, a, b, c, d])
    }
}

impl fmt::Display for Mac {
    /// Lower case with colons, the only form flannel's peers are sure to read.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A text is no Ethernet address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid hardware address {0:?}: six bytes in hexadecimal with ':' or '-' between")]
pub struct InvalidMac(String);

impl FromStr for Mac {
    type Err = InvalidMac;
    fn from_str(text: &str) -> Result<Self, InvalidMac> {
        let invalid = || InvalidMac(text.to_owned());
        let parts: Vec<&str> = text.split([':', '-']).collect();
        let parts: [&str; 6] = parts.try_into().map_err(|_parts: Vec<&str>| invalid())?;
        let mut bytes = [0; 6];
        for (byte, part) in bytes.iter_mut().zip(parts) {
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(invalid());
            }
            *byte = u8::from_str_radix(part, 16).unwrap_or_default();
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Mac {
    type Error = InvalidMac;
    fn try_from(text: String) -> Result<Self, InvalidMac> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_what_go_writes() {
        let mac = Mac::for_workload(Ipv4Addr::new(10, 255, 30, 2));
        assert_eq!(mac.to_string(), "ee:ee:0a:ff:1e:02");
        assert_eq!("EE-EE-0A-FF-1E-02".parse::<Mac>().unwrap(), mac);
        for bad in ["", "ee:ee:0a:ff:1e", "ee:ee:0a:ff:1e:2", "ee:ee:0a:ff:1e:02:03", "+e:ee:0a:ff:1e:02"] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
