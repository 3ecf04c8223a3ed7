//! Applying ops in one namespace.

use crate::error::{Error, OpError, Refusal};
use crate::netlink::{Connection, MAX_BATCH, Request};
use crate::netns::Netns;
use crate::{nft, request, sysctl};
use nix::errno::Errno;
use std::collections::BTreeMap;
use weft_model::id::IfName;
use weft_model::op::Op;

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

    /// Applies the ops in order. Consecutive netlink ops go to the kernel in one datagram, at most 200
    /// messages each. `workload` is where [`Op::CreateVeth`] puts the other end.
    ///
    /// Removing what is not there is a success; so is putting what is.
    ///
    /// # Errors
    /// [`OpError`] of the first op that failed. Ops before it are done; some after it may be.
    pub fn execute(&mut self, ops: &[Op], workload: Option<&Netns>) -> Result<(), OpError> {
        let mut run = Run { executor: self, ops, workload, indexes: BTreeMap::new(), pending: Vec::new() };
        for index in 0..ops.len() {
            run.step(index)?;
        }
        run.flush()
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
}

impl Run<'_> {
    fn step(&mut self, index: usize) -> Result<(), OpError> {
        let ops = self.ops;
        match &ops[index] {
            Op::CreateBridge { name, mac, mtu } => self.create(index, request::create_bridge(name, *mac, *mtu)),
            Op::CreateVxlan(vxlan) => self.create(index, request::create_vxlan(vxlan)),
            Op::CreateVeth(veth) => match self.workload {
                Some(workload) => self.create(index, request::create_veth(veth, workload.raw_fd())),
                None => Err(self.failure(index, "no namespace for the workload's end was given".to_owned(), None)),
            },
            Op::DeleteLink(name) => {
                self.push(index, request::delete_link(name))?;
                self.flush()?;
                self.indexes.clear();
                Ok(())
            }
            Op::SetMac(name, mac) => self.push(index, request::set_mac(name, *mac)),
            Op::SetMtu(name, mtu) => self.push(index, request::set_mtu(name, *mtu)),
            Op::SetUp(name) => self.push(index, request::set_up(name)),
            Op::JoinBridge { link, bridge } => {
                let bridge = self.index_of(index, bridge)?;
                request::join_bridge(link, bridge).into_iter().try_for_each(|part| self.push(index, part))
            }
            Op::AddAddress(link, address) => {
                let link = self.index_of(index, link)?;
                self.push(index, request::add_address(link, *address))
            }
            Op::DeleteAddress(link, address) => {
                self.push_if_there(index, link, |link| request::delete_address(link, *address))
            }
            Op::ReplaceNeighbour(link, ip, mac) => {
                let link = self.index_of(index, link)?;
                self.push(index, request::replace_neighbour(link, *ip, *mac))
            }
            Op::DeleteNeighbour(link, ip) => {
                self.push_if_there(index, link, |link| request::delete_neighbour(link, *ip))
            }
            Op::ReplaceTunnelEntry { link, mac, to } => {
                let link = self.index_of(index, link)?;
                self.push(index, request::replace_tunnel_entry(link, *mac, *to))
            }
            Op::DeleteTunnelEntry { link, mac, to } => {
                self.push_if_there(index, link, |link| request::delete_tunnel_entry(link, *mac, *to))
            }
            Op::ReplacePortEntry(link, mac) => {
                let link = self.index_of(index, link)?;
                self.push(index, request::replace_port_entry(link, *mac))
            }
            Op::ReplaceRoute(route) => {
                let link = self.index_of(index, &route.link)?;
                self.push(index, request::replace_route(link, route))
            }
            Op::DeleteRoute(route) => self.push(index, request::delete_route(route)),
            Op::SetSysctl(key, value) => {
                self.flush()?;
                self.set_sysctl(index, key, value)
            }
            Op::PutNft(table) => {
                self.flush()?;
                let name = &self.executor.nft_table;
                match self.executor.namespace.run(|| nft::replace(name, table)) {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(text)) => Err(self.failure(index, text, None)),
                    Err(error) => Err(self.failure(index, error.to_string(), None)),
                }
            }
        }
    }

    fn set_sysctl(&self, index: usize, key: &str, value: &str) -> Result<(), OpError> {
        match self.executor.namespace.run(|| sysctl::write(key, value)) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(failure)) => Err(self.failure(index, failure.text, failure.errno)),
            Err(error) => Err(self.failure(index, error.to_string(), None)),
        }
    }

    /// A creation ends its datagram: what follows may be about the new link, and must not meet an older
    /// one of that name when the creation failed.
    fn create(&mut self, index: usize, request: Request) -> Result<(), OpError> {
        self.push(index, request)?;
        self.flush()
    }

    fn push(&mut self, index: usize, request: Request) -> Result<(), OpError> {
        self.pending.push((index, request));
        if self.pending.len() < MAX_BATCH { Ok(()) } else { self.flush() }
    }

    /// For removals: without the link there is nothing to remove.
    fn push_if_there(
        &mut self,
        index: usize,
        link: &IfName,
        request: impl FnOnce(u32) -> Request,
    ) -> Result<(), OpError> {
        match self.look_up(index, link)? {
            Some(link) => self.push(index, request(link)),
            None => Ok(()),
        }
    }

    fn index_of(&mut self, index: usize, link: &IfName) -> Result<u32, OpError> {
        self.look_up(index, link)?.ok_or_else(|| {
            let text = format!("{link}: {}", Errno::ENODEV.desc());
            self.failure(index, text, Some(Errno::ENODEV as i32))
        })
    }

    fn look_up(&mut self, index: usize, link: &IfName) -> Result<Option<u32>, OpError> {
        if let Some(known) = self.indexes.get(link) {
            return Ok(Some(*known));
        }
        // What is pending may create or remove it.
        self.flush()?;
        let found = self.executor.link(link).map_err(|error| self.failure(index, error.to_string(), None))?;
        if let Some(found) = &found {
            self.indexes.insert(link.clone(), found.index);
        }
        Ok(found.map(|found| found.index))
    }

    /// Sends what is pending.
    fn flush(&mut self) -> Result<(), OpError> {
        let (positions, requests): (Vec<usize>, Vec<Request>) = std::mem::take(&mut self.pending).into_iter().unzip();
        let Some(first) = positions.first() else {
            return Ok(());
        };
        tracing::trace!(messages = requests.len(), "netlink batch");
        let results =
            self.executor.connection.batch(requests).map_err(|error| self.failure(*first, error.to_string(), None))?;
        for (index, result) in positions.into_iter().zip(results) {
            match result {
                Err(refusal) if !means_done(&self.ops[index], &refusal) => {
                    return Err(self.failure(index, refusal.words(), Some(refusal.errno as i32)));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn failure(&self, index: usize, text: String, errno: Option<i32>) -> OpError {
        OpError { index, op: self.ops[index].to_string(), text, errno }
    }
}

/// Whether a refusal says that there is nothing to do: what was to be removed is not there.
fn means_done(op: &Op, refusal: &Refusal) -> bool {
    match op {
        Op::DeleteLink(_) => refusal.errno == Errno::ENODEV,
        Op::DeleteAddress(..) => matches!(refusal.errno, Errno::EADDRNOTAVAIL | Errno::ENODEV),
        Op::DeleteNeighbour(..) | Op::DeleteTunnelEntry { .. } => {
            matches!(refusal.errno, Errno::ENOENT | Errno::ENODEV)
        }
        Op::DeleteRoute(_) => refusal.errno == Errno::ESRCH,
        Op::CreateBridge { .. }
        | Op::CreateVxlan(_)
        | Op::CreateVeth(_)
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
        | Op::PutNft(_) => false,
    }
}
