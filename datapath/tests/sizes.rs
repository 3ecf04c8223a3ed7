//! Maps of other sizes than the default, and a size that changes.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::*;
use weft_datapath::Datapath;
use weft_model::datapath::{MapOp, MapSizes, SetId};

fn bytes(datapath: &Datapath, map: &str) -> u64 {
    datapath.map_memory().unwrap()[map]
}

#[test]
fn maps_are_as_large_as_configured_and_those_that_change_are_made_anew() {
    let folder = isolate();
    let small = MapSizes { connections: 1024, unanswered: 1024, policy_entries: 4096, record_bytes: 65_536 };
    let mut datapath = Datapath::open_sized(&folder, &host(), &small).unwrap();
    let (table, buffer) = (bytes(&datapath, "ct_est4"), bytes(&datapath, "denials"));
    datapath.apply(&[MapOp::PutSet(SetId(1), set(vec![])), MapOp::PutEndpoint(endpoint())]).unwrap();
    drop(datapath);
    // The same sizes: what was there is there.
    assert_eq!(Datapath::open_sized(&folder, &host(), &small).unwrap().endpoints().len(), 1);
    // A larger buffer costs nobody his endpoint; larger tables of connections do.
    let buffered = MapSizes { record_bytes: 1 << 20, ..small };
    let datapath = Datapath::open_sized(&folder, &host(), &buffered).unwrap();
    assert_eq!((datapath.endpoints().len(), bytes(&datapath, "denials") > buffer + 900_000), (1, true));
    drop(datapath);
    let datapath = Datapath::open_sized(&folder, &host(), &MapSizes { connections: 65_536, ..buffered }).unwrap();
    assert_eq!((datapath.endpoints().len(), bytes(&datapath, "ct_est4") > 10 * table), (0, true));
}
