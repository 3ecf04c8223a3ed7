//! Somebody else's program on a link, as another network product would attach it.

use nix::libc;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `bpf(2)` commands and numbers of include/uapi/linux/bpf.h.
const PROG_LOAD: libc::c_int = 5;
const LINK_CREATE: libc::c_int = 28;
const SCHED_CLS: u32 = 3;
const TCX_INGRESS: u32 = 46;
/// `mov r0, -1` and `exit`: `TCX_NEXT`.
const PASS_ON: [u64; 2] = [0xffff_ffff_0000_00b7, 0x0000_0000_0000_0095];

#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct Link {
    program: u32,
    target: u32,
    kind: u32,
    flags: u32,
    relative: u32,
    reserved: u32,
    revision: u64,
}

/// Attaches a program named `theirs`, which passes everything on, at the ingress of a link of the calling thread's
/// namespace, until what is returned is dropped.
///
/// # Errors
/// The kernel refuses: it has no TCX, or no such link.
pub fn attach(interface: &str) -> io::Result<OwnedFd> {
    let mut load = Load {
        kind: SCHED_CLS,
        instructions: 2,
        code: PASS_ON.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        ..Load::default()
    };
    load.name[..6].copy_from_slice(b"theirs");
    let program = bpf(PROG_LOAD, &load)?;
    let target = nix::net::if_::if_nametoindex(interface)?;
    #[expect(clippy::cast_sign_loss, reason = "a descriptor")]
    let link = Link { program: program.as_raw_fd() as u32, target, kind: TCX_INGRESS, ..Link::default() };
    bpf(LINK_CREATE, &link)
}

fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads `size` bytes, which the attributes have, and what they point to lives as long.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    match i32::try_from(fd) {
        // SAFETY: a new descriptor of ours.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
