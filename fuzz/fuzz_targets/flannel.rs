//! What flanneld, or anybody, may have put into etcd.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_api::flannel::{LeaseValue, parse_config, parse_subnet_key, subnet_key};

fuzz_target!(|data: &[u8]| {
    let _config = parse_config(data);
    if let Ok(lease) = LeaseValue::parse(data) {
        // What we would write is what we read.
        assert_eq!(LeaseValue::parse(lease.to_json().as_bytes()), Ok(lease));
    }
    if let Some(subnet) = std::str::from_utf8(data).ok().and_then(|key| parse_subnet_key(key).ok()) {
        assert_eq!(parse_subnet_key(&subnet_key(subnet)), Ok(subnet));
    }
});
