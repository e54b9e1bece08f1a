//! Device rules for version 2, which has no files for them: a small eBPF program attached to the group.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::libc;

use crate::error::{Context, Error, Result};

/// Make a device node.
pub const MKNOD: u8 = 1;
/// Open for reading.
pub const READ: u8 = 2;
/// Open for writing.
pub const WRITE: u8 = 4;

/// Most rules one program takes; a host with more devices than that gives them by one wide rule.
const MAX_RULES: usize = 4096;

/// Block or character device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// Block device.
    Block = 1,
    /// Character device.
    Character = 2,
}

/// One rule; `None` matches everything. Of the rules that match, the last one counts; without any, no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceRule {
    /// What the rule says.
    pub allow: bool,
    /// Block or character devices only.
    pub kind: Option<DeviceKind>,
    /// Major number.
    pub major: Option<u32>,
    /// Minor number.
    pub minor: Option<u32>,
    /// [`MKNOD`], [`READ`] and [`WRITE`]: matches requests for nothing beyond these.
    pub access: u8,
}

/// Attaches `rules` to the group at `dir`; what a parent denies stays denied.
pub(super) fn restrict(dir: &Path, rules: &[DeviceRule]) -> Result<()> {
    if rules.len() > MAX_RULES {
        let source = std::io::ErrorKind::InvalidInput.into();
        return Err(Error { what: format!("{} device rules", rules.len()), source });
    }
    let group = File::open(dir).doing(|| format!("open {}", dir.display()))?;
    let program = load(&compile(rules))?;
    let attach = Attach {
        target: group.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: the kernel reads `size` bytes of `attach`, which outlives the call.
    let done = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &attach, size_of::<Attach>()) };
    if done < 0 { Err(Error::last(format!("restrict devices of {}", dir.display()))) } else { Ok(()) }
}

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// The head of `union bpf_attr` for loading; what follows it counts as zero.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
}

/// The head of `union bpf_attr` for attaching.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

fn load(code: &[u64]) -> Result<OwnedFd> {
    let load = Load {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        count: code.len() as u32,
        instructions: code.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
    };
    // SAFETY: the kernel reads `size` bytes of `load` and what its two pointers name; all outlive the call.
    match unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &load, size_of::<Load>()) } {
        // SAFETY: the kernel has just made this descriptor for us.
        fd if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) }),
        _ => Err(Error::last("load device program")),
    }
}

/// One eBPF instruction.
fn op(code: u8, dst: u8, src: u8, offset: i16, value: i32) -> u64 {
    let [low, high] = offset.to_le_bytes();
    let [a, b, c, d] = value.to_le_bytes();
    u64::from_le_bytes([code, src << 4 | dst, low, high, a, b, c, d])
}

const LOAD_WORD: u8 = 0x61;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const MOVE: u8 = 0xbc;
const SET: u8 = 0xb4;
const JUMP_UNLESS_VALUE: u8 = 0x56;
const JUMP_UNLESS_SAME: u8 = 0x5e;
const EXIT: u8 = 0x95;
/// The register of the answer.
const ANSWER: u8 = 0;
/// The register that holds the request at first.
const SCRATCH: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// The request is `{ access << 16 | kind, major, minor }`; rules are asked from the last to the first.
fn compile(rules: &[DeviceRule]) -> Vec<u64> {
    let mut code = vec![
        op(LOAD_WORD, KIND, SCRATCH, 0, 0),
        op(LOAD_WORD, ACCESS, SCRATCH, 0, 0),
        op(LOAD_WORD, MAJOR, SCRATCH, 4, 0),
        op(LOAD_WORD, MINOR, SCRATCH, 8, 0),
        op(AND, KIND, 0, 0, 0xffff),
        op(SHIFT_RIGHT, ACCESS, 0, 0, 16),
    ];
    for rule in rules.iter().rev() {
        let body = compile_rule(rule);
        code.extend(body);
    }
    code.extend([op(SET, ANSWER, 0, 0, 0), op(EXIT, 0, 0, 0, 0)]);
    code
}

fn compile_rule(rule: &DeviceRule) -> Vec<u64> {
    // Jumps are given as distance to the rule's end and turned into distances from themselves below.
    let mut body: Vec<(u8, u8, u8, bool, i32)> = Vec::new();
    if let Some(kind) = rule.kind {
        body.push((JUMP_UNLESS_VALUE, KIND, 0, true, kind as i32));
    }
    if rule.access & (MKNOD | READ | WRITE) != MKNOD | READ | WRITE {
        body.push((MOVE, SCRATCH, ACCESS, false, 0));
        body.push((AND, SCRATCH, 0, false, i32::from(rule.access)));
        body.push((JUMP_UNLESS_SAME, SCRATCH, ACCESS, true, 0));
    }
    for (register, wanted) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
        if let Some(number) = wanted {
            body.push((JUMP_UNLESS_VALUE, register, 0, true, number as i32));
        }
    }
    body.push((SET, ANSWER, 0, false, i32::from(rule.allow)));
    body.push((EXIT, 0, 0, false, 0));
    let length = body.len();
    let distance = |at: usize, jumps: bool| if jumps { (length - at - 1) as i16 } else { 0 };
    body.iter()
        .enumerate()
        .map(|(at, (code, dst, src, jumps, value))| op(*code, *dst, *src, distance(at, *jumps), *value))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel would.
    fn allowed(rules: &[DeviceRule], kind: DeviceKind, major: u32, minor: u32, access: u8) -> bool {
        let request = [u32::from(access) << 16 | kind as u32, major, minor];
        let code = compile(rules);
        let (mut at, mut r) = (0, [0u32; 6]);
        loop {
            let [code, registers, low, high, value @ ..] = code[at].to_le_bytes();
            let (dst, src) = ((registers & 15) as usize, (registers >> 4) as usize);
            let (offset, value) = (i16::from_le_bytes([low, high]) as usize, u32::from_le_bytes(value));
            at += 1;
            match code {
                LOAD_WORD => r[dst] = request[offset / 4],
                AND => r[dst] &= value,
                SHIFT_RIGHT => r[dst] >>= value,
                MOVE => r[dst] = r[src],
                SET => r[dst] = value,
                JUMP_UNLESS_VALUE if r[dst] != value => at += offset,
                JUMP_UNLESS_SAME if r[dst] != r[src] => at += offset,
                JUMP_UNLESS_VALUE | JUMP_UNLESS_SAME => {}
                EXIT => return r[0] == 1,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn the_last_matching_rule_counts() {
        let rule = |allow, kind, major, minor, access| DeviceRule { allow, kind, major, minor, access };
        let (block, char) = (DeviceKind::Block, DeviceKind::Character);
        let rules = [
            rule(false, None, None, None, MKNOD | READ | WRITE),
            rule(true, Some(char), None, None, MKNOD),
            rule(true, Some(char), Some(1), Some(3), MKNOD | READ | WRITE),
            rule(true, Some(block), Some(8), None, READ),
            rule(false, Some(block), Some(8), Some(1), MKNOD | READ | WRITE),
        ];
        for (kind, major, minor, access, want) in [
            (char, 1, 3, READ | WRITE, true),
            (char, 1, 11, WRITE, false),
            (char, 1, 11, MKNOD, true),
            (block, 7, 0, MKNOD, false),
            (block, 8, 0, READ, true),
            (block, 8, 0, READ | WRITE, false),
            (block, 8, 1, READ, false),
        ] {
            assert_eq!(
                allowed(&rules, kind, major, minor, access),
                want,
                "{kind:?} {major}:{minor} {access}"
            );
        }
        assert!(!allowed(&[], char, 1, 3, READ));
    }

    #[test]
    fn the_kernel_accepts_the_program() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("passed over: needs root");
        }
        let rule = DeviceRule { allow: true, kind: None, major: Some(1), minor: None, access: READ };
        let code = compile(&[rule; 100]);
        if let Err(error) = load(&code) {
            assert_eq!(error.source.raw_os_error(), Some(libc::ENOSYS), "{error}");
        }
    }
}
