//! Naming, comparing and entering namespaces.

use crate::support::{Space, ifname, run};
use weft_hostnet::{Executor, Netns, NetnsError};

#[test]
fn what_is_no_network_namespace_is_told_apart() {
    let missing = Netns::open("/run/netns/weft-there-is-none").unwrap_err();
    assert!(matches!(missing, NetnsError::Missing(_)), "{missing}");
    assert!(missing.is_gone());
    assert_eq!(missing.to_string(), "network namespace /run/netns/weft-there-is-none: no such file");

    // What a runtime's bind mount leaves behind after a reboot.
    let file = std::env::temp_dir().join(format!("weft-netns-{}", std::process::id()));
    std::fs::write(&file, "").unwrap();
    let ordinary = Netns::open(&file).unwrap_err();
    std::fs::remove_file(&file).unwrap();
    assert!(matches!(ordinary, NetnsError::NotANamespace { .. }), "{ordinary}");
    assert!(ordinary.is_gone());

    let other = Netns::open("/proc/self/ns/mnt").unwrap_err();
    assert!(other.to_string().ends_with("not a network namespace but a namespace of another kind"), "{other}");
}

#[test]
fn the_same_namespace_is_recognised_by_another_name() {
    let (one, two) = (Space::new(), Space::new());
    assert!(!one.netns().is_same_as(&two.netns()));
    assert!(!one.netns().is_same_as(&Netns::current().unwrap()));
    let again = one.netns().run(|| Netns::open("/proc/thread-self/ns/net").unwrap()).unwrap();
    assert!(again.is_same_as(&one.netns()));
    assert!(Netns::open("/proc/self/ns/net").unwrap().is_same_as(&Netns::current().unwrap()));
}

#[test]
fn work_runs_inside_and_the_caller_stays_outside() {
    let space = Space::new();
    let before = Netns::current().unwrap();
    let inside = space.netns().run(|| run("ip", &["-o", "link"])).unwrap();
    assert_eq!(inside.lines().count(), 1, "only lo: {inside}");
    assert!(before.is_same_as(&Netns::current().unwrap()));
    // Within each other, and out of a panic.
    let other = Space::new();
    let nested = space.netns().run(|| {
        let innermost = other.netns().run(|| Netns::current().unwrap()).unwrap();
        (innermost, Netns::current().unwrap())
    });
    let (innermost, inside) = nested.unwrap();
    assert!(innermost.is_same_as(&other.netns()) && inside.is_same_as(&space.netns()));
    let panic = std::panic::catch_unwind(|| space.netns().run(|| panic!("on purpose")));
    assert!(panic.is_err());
    assert!(before.is_same_as(&Netns::current().unwrap()));
}

#[test]
fn a_namespace_lives_as_long_as_it_is_held() {
    let space = Space::new();
    let netns = space.netns();
    space.sh("ip link add kept type bridge");
    drop(space);
    let mut executor = Executor::in_namespace(&netns).unwrap();
    assert!(executor.link(&ifname("kept")).unwrap().is_some());
}

#[test]
fn look_ups_find_what_ip_shows() {
    let space = Space::new();
    space.sh("ip link add br7 address 02:00:00:00:00:07 mtu 1234 type bridge");
    space.sh("ip link set br7 alias a:note");
    space.sh("ip link set br7 up");
    space.sh("ip addr add 192.0.2.7/24 dev br7");
    space.sh("ip addr add 192.0.2.8/32 dev br7");
    space.sh("ip link add br8 type bridge");
    space.sh("ip link set br8 up");
    space.sh("ip addr add 198.51.100.1/24 dev br8");
    let mut executor = space.executor();
    assert_eq!(executor.default_route_link().unwrap(), None);
    space.sh("ip route add default via 198.51.100.2 metric 200");
    space.sh("ip route add default via 192.0.2.1 metric 100");
    let link = executor.link(&ifname("br7")).unwrap().unwrap();
    assert_eq!((link.mtu, link.up, link.alias.as_deref()), (1234, true, Some("a:note")));
    assert_eq!(link.mac.to_string(), "02:00:00:00:00:07");
    assert_eq!(executor.default_route_link().unwrap().unwrap(), link);
    assert_eq!(executor.link_with_address("192.0.2.8".parse().unwrap()).unwrap().unwrap(), link);
    assert_eq!(executor.link_with_address("192.0.2.9".parse().unwrap()).unwrap(), None);
    let addresses: Vec<String> = executor.addresses_of(&link).unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["192.0.2.7/24", "192.0.2.8/32"]);
    assert_eq!(executor.addresses().unwrap().len(), 3);
    assert_eq!(executor.link(&ifname("none")).unwrap(), None);
    let names: Vec<String> = executor.links().unwrap().iter().map(|link| link.name.to_string()).collect();
    assert_eq!(names, ["lo", "br7", "br8"]);
}
