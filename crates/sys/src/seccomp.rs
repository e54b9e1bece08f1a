//! Installing system call filters (classic BPF programs) on the calling thread.

use nix::libc;

use crate::error::{Error, Result};

/// One BPF instruction: code, jump if true, jump if false, operand; as `struct sock_filter`.
pub type Instruction = (u16, u8, u8, u32);

/// Installs one filter, in addition to those already there; the strictest answer counts.
/// Needs either "no new privileges" or CAP_SYS_ADMIN; sets neither.
pub fn install(program: &[Instruction]) -> Result<()> {
    let mut code: Vec<libc::sock_filter> =
        program.iter().map(|&(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k }).collect();
    let length = u16::try_from(code.len()).map_err(|_| Error {
        what: format!("seccomp filter of {} instructions", code.len()),
        source: std::io::ErrorKind::InvalidInput.into(),
    })?;
    let program = libc::sock_fprog { len: length, filter: code.as_mut_ptr() };
    // SAFETY: the kernel copies `len` instructions from `filter`, both of which outlive the call.
    let done = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &program) };
    if done == 0 { Ok(()) } else { Err(Error::last("install seccomp filter")) }
}
