//! Bodies of the policy API.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_api::policies::{PolicyBody, PolicyList, PolicyTarget};

fuzz_target!(|data: &[u8]| {
    let Ok(list) = serde_json::from_slice::<PolicyList>(data) else { return };
    for policy in list.policies.iter().filter_map(|body| body.validate().ok()) {
        // What is accepted is listed and stored as it was.
        assert_eq!(PolicyBody::from(&policy).validate().as_ref(), Ok(&policy));
        assert_eq!(PolicyTarget::from(&policy).policy(&policy.source), policy);
    }
});
