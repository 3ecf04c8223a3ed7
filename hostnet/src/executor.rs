//! Applying ops in one namespace.

use crate::error::{Error, OpError, Refusal};
use crate::netlink::{Connection, MAX_BATCH, Request};
use crate::netns::Netns;
use crate::{bucket, conntrack, nft, others, request, sysctl};
use nix::errno::Errno;
use std::collections::BTreeMap;
use weft_model::id::IfName;
use weft_model::op::{Op, ROUTE_PROTOCOL, Route, Veth};

/// The nftables table of ours.
const DEFAULT_TABLE: &str = "weft";

/// Changes and reads one network namespace, from any thread.
pub struct Executor {
    pub(crate) connection: Connection,
    pub(crate) namespace: Netns,
    pub(crate) nft_table: String,
}

impl Executor {
    /// For the namespace the calling thread is in.
    ///
    /// # Errors
    /// [`Error::Socket`] or [`Error::Netns`].
    pub fn here() -> Result<Self, Error> {
        Self::in_namespace(&Netns::current()?)
    }

    /// For a namespace.
    ///
    /// # Errors
    /// [`Error::Netns`] when it cannot be entered, [`Error::Socket`].
    pub fn in_namespace(namespace: &Netns) -> Result<Self, Error> {
        let connection = namespace.run(Connection::open)??;
        Ok(Self { connection, namespace: namespace.clone(), nft_table: DEFAULT_TABLE.to_owned() })
    }

    /// With another nftables table than `weft`: letters, digits and `_`.
    #[must_use]
    pub fn with_nft_table(mut self, name: impl Into<String>) -> Self {
        self.nft_table = name.into();
        self
    }

    /// The namespace it works in.
    #[must_use]
    pub fn namespace(&self) -> &Netns {
        &self.namespace
    }

    /// Applies the ops in order, up to the first that fails. Consecutive netlink ops go to the kernel in
    /// one datagram, at most 200 messages each. `workload` is where [`Op::CreateVeth`] puts the other
    /// end.
    ///
    /// Removing what is not there is a success; so is putting what is. A route of somebody else's to the
    /// same destination is never replaced: that is an error.
    ///
    /// # Errors
    /// [`OpError`] of the first op that failed. Ops before it are done; some after it may be.
    pub fn execute(&mut self, ops: &[Op], workload: Option<&Netns>) -> Result<(), OpError> {
        let mut run = Run::new(self, ops, workload);
        for index in 0..ops.len() {
            run.step(index);
            if !run.errors.is_empty() {
                // What is pending now comes after the op that failed.
                run.pending.clear();
                break;
            }
        }
        run.finish().into_iter().next().map_or(Ok(()), Err)
    }

    /// Like [`Executor::execute`], but goes on after ops that fail: one obstacle (a port taken by
    /// another's VXLAN device, somebody's route) must not keep the rest from being repaired.
    ///
    /// # Errors
    /// All that failed, in the order of the plan; never an empty list.
    pub fn execute_all(&mut self, ops: &[Op], workload: Option<&Netns>) -> Result<(), Vec<OpError>> {
        let mut run = Run::new(self, ops, workload);
        for index in 0..ops.len() {
            run.step(index);
        }
        let errors = run.finish();
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }
}

/// One call of `execute`.
struct Run<'a> {
    executor: &'a mut Executor,
    ops: &'a [Op],
    workload: Option<&'a Netns>,
    /// What the kernel said of names, as long as nothing here changed that.
    indexes: BTreeMap<IfName, u32>,
    /// Messages not sent yet, each with its op's position.
    pending: Vec<(usize, Request)>,
    /// At most one an op.
    errors: Vec<OpError>,
}

impl<'a> Run<'a> {
    fn new(executor: &'a mut Executor, ops: &'a [Op], workload: Option<&'a Netns>) -> Self {
        Self { executor, ops, workload, indexes: BTreeMap::new(), pending: Vec::new(), errors: Vec::new() }
    }

    /// Sends what is left; the errors in the order of the plan.
    fn finish(mut self) -> Vec<OpError> {
        self.flush();
        self.errors.sort_by_key(|error| error.index);
        self.errors
    }

    fn step(&mut self, index: usize) {
        let ops = self.ops;
        match &ops[index] {
            Op::CreateBridge { name, mac, mtu } => self.create(index, request::create_bridge(name, *mac, *mtu)),
            Op::CreateVxlan(vxlan) => self.create(index, request::create_vxlan(vxlan)),
            Op::CreateVeth(veth) => self.create_veth(index, veth),
            Op::CreateShaper(shaper) => self.create(index, request::create_shaper(shaper)),
            Op::Shape(link, tokens) => self.on(index, link, |link| bucket::replace(link, *tokens)),
            Op::DeleteLink(name) => {
                self.push(index, request::delete_link(name));
                self.flush();
                self.indexes.clear();
            }
            Op::DeleteLinks(names) => self.delete_links(index, names),
            Op::SetMac(name, mac) => self.push(index, request::set_mac(name, *mac)),
            Op::SetMtu(name, mtu) => self.push(index, request::set_mtu(name, *mtu)),
            Op::SetUp(name) => self.push(index, request::set_up(name)),
            Op::JoinBridge { link, bridge } => {
                if let Some(bridge) = self.index_of(index, bridge) {
                    request::join_bridge(link, bridge).into_iter().for_each(|part| self.push(index, part));
                }
            }
            Op::AddAddress(link, address) => self.on(index, link, |link| request::add_address(link, *address)),
            Op::DeleteAddress(link, address) => self.off(index, link, |link| request::delete_address(link, *address)),
            Op::ReplaceNeighbour(link, ip, mac) => {
                self.on(index, link, |link| request::replace_neighbour(link, *ip, *mac));
            }
            Op::DeleteNeighbour(link, ip) => self.off(index, link, |link| request::delete_neighbour(link, *ip)),
            Op::ReplaceTunnelEntry { link, mac, to } => {
                self.on(index, link, |link| request::replace_tunnel_entry(link, *mac, *to));
            }
            Op::DeleteTunnelEntry { link, mac, to } => {
                self.off(index, link, |link| request::delete_tunnel_entry(link, *mac, *to));
            }
            Op::ReplacePortEntry(link, mac) => self.on(index, link, |link| request::replace_port_entry(link, *mac)),
            Op::ReplaceRoute(route) => self.on(index, &route.link, |link| request::create_route(link, route)),
            Op::DeleteRoute(route) => self.push(index, request::delete_route(route)),
            Op::SetSysctl(key, value) => self.set_sysctl(index, key, value),
            Op::AcceptForward { table, bridge } => self.accept_forward(index, table, bridge),
            Op::PutNft(table) => self.nft(index, |name| nft::replace(name, table)),
            Op::ChangeNftElements { delete, add } => self.nft(index, |name| nft::change(name, delete, add)),
            Op::FlushConnections(all) => self.nft(index, |_table| conntrack::flush(all)),
        }
    }

    fn create_veth(&mut self, index: usize, veth: &Veth) {
        let Some(workload) = self.workload else {
            self.flush();
            return self.fail(index, "no namespace for the workload's end was given".to_owned(), None);
        };
        self.create(index, request::create_veth(veth, workload.raw_fd()));
        // Only then: an older link of that name keeps its alias.
        if self.errors.iter().all(|error| error.index != index) {
            self.create(index, request::set_alias(&veth.host_name, &veth.alias));
        }
    }

    fn delete_links(&mut self, index: usize, names: &[IfName]) {
        match names {
            [] => {}
            [name] => self.push(index, request::delete_link(name)),
            names => {
                names.iter().for_each(|name| self.push(index, request::doom(name)));
                // In a datagram of its own: it must not overtake a name.
                self.flush();
                self.push(index, request::delete_doomed());
            }
        }
        self.flush();
        self.indexes.clear();
    }

    fn set_sysctl(&mut self, index: usize, key: &str, value: &str) {
        self.flush();
        match self.executor.namespace.run(|| sysctl::write(key, value)) {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => self.fail(index, failure.text, failure.errno),
            Err(error) => self.fail(index, error.to_string(), None),
        }
    }

    /// For what is no netlink of routes: what netfilter is told.
    fn nft(&mut self, index: usize, work: impl FnOnce(&str) -> Result<(), String> + Send) {
        self.flush();
        let name = &self.executor.nft_table;
        match self.executor.namespace.run(|| work(name)) {
            Ok(Ok(())) => {}
            Ok(Err(text)) => self.fail(index, text, None),
            Err(error) => self.fail(index, error.to_string(), None),
        }
    }

    fn accept_forward(&mut self, index: usize, table: &str, bridge: &IfName) {
        self.flush();
        match self.executor.namespace.run(|| others::accept_forward(table, bridge)) {
            Ok(Ok(())) => {}
            Ok(Err(text)) => self.fail(index, text, None),
            Err(error) => self.fail(index, error.to_string(), None),
        }
    }

    /// A creation ends its datagram: what follows may be about the new link, and must not meet an older
    /// one of that name when the creation failed.
    fn create(&mut self, index: usize, request: Request) {
        self.push(index, request);
        self.flush();
    }

    fn push(&mut self, index: usize, request: Request) {
        // One op may be two messages; they need not be in one datagram.
        if self.pending.len() == MAX_BATCH {
            self.flush();
        }
        self.pending.push((index, request));
    }

    /// For what is put on a link.
    fn on(&mut self, index: usize, link: &IfName, request: impl FnOnce(u32) -> Request) {
        if let Some(link) = self.index_of(index, link) {
            self.push(index, request(link));
        }
    }

    /// For what is removed from a link: without the link there is nothing to remove.
    fn off(&mut self, index: usize, link: &IfName, request: impl FnOnce(u32) -> Request) {
        match self.look_up(link) {
            Ok(Some(link)) => self.push(index, request(link)),
            Ok(None) => {}
            Err(error) => self.fail(index, error.to_string(), None),
        }
    }

    fn index_of(&mut self, index: usize, link: &IfName) -> Option<u32> {
        match self.look_up(link) {
            Ok(Some(found)) => return Some(found),
            Ok(None) => {
                let text = format!("{link}: {}", Errno::ENODEV.desc());
                self.fail(index, text, Some(Errno::ENODEV as i32));
            }
            Err(error) => self.fail(index, error.to_string(), None),
        }
        None
    }

    fn look_up(&mut self, link: &IfName) -> Result<Option<u32>, Error> {
        if let Some(known) = self.indexes.get(link) {
            return Ok(Some(*known));
        }
        // What is pending may create or remove it.
        self.flush();
        let found = self.executor.link(link)?.map(|found| found.index);
        if let Some(index) = found {
            self.indexes.insert(link.clone(), index);
        }
        Ok(found)
    }

    /// Sends what is pending.
    fn flush(&mut self) {
        let occupied = self.send_pending();
        if occupied.is_empty() {
            return;
        }
        // A route to the same destination is there. Replacing changes the first one the kernel lists,
        // whoever made it, so that must be known to be ours.
        let owners = match self.executor.route_owners() {
            Ok(owners) => owners,
            Err(error) => return self.fail(occupied[0].0, error.to_string(), None),
        };
        for (index, route, link) in occupied {
            match owners.get(&route.destination) {
                Some(protocol) if *protocol != ROUTE_PROTOCOL => {
                    let text = format!("another's route is in the way (protocol {protocol})");
                    self.fail(index, text, Some(Errno::EEXIST as i32));
                }
                _ => self.pending.push((index, request::replace_route(link, route))),
            }
        }
        self.send_pending();
    }

    /// Sends what is pending; routes that were not created because there is one: position, route, link.
    fn send_pending(&mut self) -> Vec<(usize, &'a Route, u32)> {
        let (positions, requests): (Vec<usize>, Vec<Request>) = std::mem::take(&mut self.pending).into_iter().unzip();
        let mut occupied = Vec::new();
        let Some(first) = positions.first() else {
            return occupied;
        };
        tracing::trace!(messages = requests.len(), "netlink batch");
        let results = match self.executor.connection.batch(requests) {
            Ok(results) => results,
            Err(error) => {
                self.fail(*first, error.to_string(), None);
                return occupied;
            }
        };
        let ops = self.ops;
        for (index, result) in positions.into_iter().zip(results) {
            let Err(refusal) = result else {
                continue;
            };
            match &ops[index] {
                Op::ReplaceRoute(route) if refusal.errno == Errno::EEXIST => {
                    occupied.extend(self.indexes.get(&route.link).map(|link| (index, route, *link)));
                }
                op if means_done(op, &refusal) => {}
                _ => self.fail(index, refusal.words(), Some(refusal.errno as i32)),
            }
        }
        occupied
    }

    fn fail(&mut self, index: usize, text: String, errno: Option<i32>) {
        if self.errors.iter().all(|error| error.index != index) {
            self.errors.push(OpError { index, op: self.ops[index].to_string(), text, errno });
        }
    }
}

/// Whether a refusal says that there is nothing to do: what was to be removed is not there.
fn means_done(op: &Op, refusal: &Refusal) -> bool {
    match op {
        Op::DeleteLink(_) | Op::DeleteLinks(_) => refusal.errno == Errno::ENODEV,
        Op::DeleteAddress(..) => matches!(refusal.errno, Errno::EADDRNOTAVAIL | Errno::ENODEV),
        Op::DeleteNeighbour(..) | Op::DeleteTunnelEntry { .. } => {
            matches!(refusal.errno, Errno::ENOENT | Errno::ENODEV)
        }
        Op::DeleteRoute(_) => refusal.errno == Errno::ESRCH,
        Op::CreateBridge { .. }
        | Op::CreateVxlan(_)
        | Op::CreateVeth(_)
        | Op::CreateShaper(_)
        | Op::Shape(..)
        | Op::SetMac(..)
        | Op::SetMtu(..)
        | Op::SetUp(_)
        | Op::JoinBridge { .. }
        | Op::AddAddress(..)
        | Op::ReplaceNeighbour(..)
        | Op::ReplaceTunnelEntry { .. }
        | Op::ReplacePortEntry(..)
        | Op::ReplaceRoute(_)
        | Op::SetSysctl(..)
        | Op::PutNft(_)
        | Op::AcceptForward { .. }
        | Op::ChangeNftElements { .. }
        | Op::FlushConnections(_) => false,
    }
}
