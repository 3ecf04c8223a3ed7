//! Running a program on a made-up packet (BPF_PROG_TEST_RUN): no interface, no traffic.

use crate::error::DatapathError;
use crate::object::Program;
use crate::open::Datapath;
use aya::programs::{TestRun, TestRunOptions};
use std::time::Duration;

/// A packet and the circumstances it meets a program in.
#[derive(Debug, Clone, Copy)]
pub struct Probe<'a> {
    /// The frame, from its Ethernet header on.
    pub frame: &'a [u8],
    /// The skb's mark.
    pub mark: u32,
    /// The interface the packet is on; it must exist in this network namespace. 0: loopback.
    pub ifindex: u32,
    /// The interface by which it entered the host; 0: the host sent it.
    pub ingress_ifindex: u32,
    /// Bytes of each segment, where the packet stands for several.
    pub gso_size: u32,
    /// How often to run; 0: once.
    pub repeat: u32,
}

/// What the program did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What it returned (linux/pkt_cls.h): -1 passes, 2 drops, 7 redirects.
    pub verdict: i32,
    /// The mark afterwards.
    pub mark: u32,
    /// The frame afterwards.
    pub frame: Vec<u8>,
    /// How long one run took.
    pub duration: Duration,
}

/// `struct __sk_buff` (linux/bpf.h), of which test runs take some fields.
struct Context([u8; 192]);

impl Context {
    const MARK: usize = 8;
    const INGRESS_IFINDEX: usize = 36;
    const IFINDEX: usize = 40;
    const GSO_SIZE: usize = 176;

    fn set(&mut self, offset: usize, value: u32) {
        self.0[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
    }

    fn get(&self, offset: usize) -> u32 {
        let [a, b, c, d] = [0, 1, 2, 3].map(|index| self.0[offset + index]);
        u32::from_ne_bytes([a, b, c, d])
    }
}

impl Datapath {
    /// Runs a program on a packet, with the maps in force: connections are remembered, denials
    /// counted and recorded.
    ///
    /// # Errors
    /// The kernel refuses the packet (shorter than its Ethernet header) or its circumstances (no
    /// such interface).
    pub fn probe(&self, program: Program, probe: &Probe<'_>) -> Result<Outcome, DatapathError> {
        let mut context = Context([0; 192]);
        context.set(Context::MARK, probe.mark);
        context.set(Context::INGRESS_IFINDEX, probe.ingress_ifindex);
        context.set(Context::IFINDEX, probe.ifindex);
        context.set(Context::GSO_SIZE, probe.gso_size);
        let mut after = Context([0; 192]);
        // An answer can be longer than what it answers.
        let mut frame = vec![0; probe.frame.len() + 64];
        let failed = |source| DatapathError::Program { program: program.name(), source };
        let options = TestRunOptions {
            data_in: Some(probe.frame),
            data_out: Some(&mut frame),
            ctx_in: Some(&context.0),
            ctx_out: Some(&mut after.0),
            repeat: probe.repeat.max(1),
            ..TestRunOptions::new()
        };
        let result = self.program(program).and_then(|program| program.test_run(options)).map_err(failed)?;
        frame.truncate(usize::try_from(result.data_size_out).unwrap_or_default());
        Ok(Outcome {
            verdict: result.return_value.cast_signed(),
            mark: after.get(Context::MARK),
            frame,
            duration: result.duration,
        })
    }
}
