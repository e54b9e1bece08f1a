//! `RuntimeDefault`: every system call we know, except those that reach beyond the container.
//!
//! The outcome agrees with what other CRI runtimes deny by default. Capabilities lift what they exist for:
//! a container with CAP_SYS_TIME may set the clock.

use seccompiler::{SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};
use syscalls::Sysno;

use super::{Filters, Rules};

const EPERM: u32 = 1;
/// Tells C libraries to use the older call.
const ENOSYS: u32 = 38;

/// Denied to everyone: keys and swap of the whole host, kernels to boot, memory of other processes' nodes,
/// io_uring (a way around filters), and calls that Linux no longer has.
const NEVER: &[Sysno] = &[
    Sysno::add_key,
    Sysno::afs_syscall,
    Sysno::create_module,
    Sysno::get_kernel_syms,
    Sysno::getpmsg,
    Sysno::io_uring_enter,
    Sysno::io_uring_register,
    Sysno::io_uring_setup,
    Sysno::kexec_file_load,
    Sysno::kexec_load,
    Sysno::keyctl,
    Sysno::migrate_pages,
    Sysno::move_pages,
    Sysno::nfsservctl,
    Sysno::pivot_root,
    Sysno::putpmsg,
    Sysno::query_module,
    Sysno::request_key,
    Sysno::security,
    Sysno::swapoff,
    Sysno::swapon,
    Sysno::_sysctl,
    Sysno::sysfs,
    Sysno::tuxcall,
    Sysno::uselib,
    Sysno::userfaultfd,
    Sysno::ustat,
    Sysno::vserver,
];

/// Denied unless one of the capabilities is there.
const WITHOUT: &[(&[&str], &[Sysno])] = &[
    (&["CAP_DAC_READ_SEARCH"], &[Sysno::open_by_handle_at]),
    (&["CAP_SYS_ADMIN", "CAP_BPF"], &[Sysno::bpf]),
    (&["CAP_SYS_ADMIN", "CAP_PERFMON"], &[Sysno::perf_event_open]),
    (&["CAP_SYS_ADMIN", "CAP_SYSLOG"], &[Sysno::syslog]),
    (&["CAP_SYS_BOOT"], &[Sysno::reboot]),
    (&["CAP_SYS_CHROOT"], &[Sysno::chroot]),
    (&["CAP_SYS_MODULE"], &[Sysno::init_module, Sysno::finit_module, Sysno::delete_module]),
    (
        &["CAP_SYS_NICE"],
        &[Sysno::get_mempolicy, Sysno::mbind, Sysno::set_mempolicy, Sysno::set_mempolicy_home_node],
    ),
    (&["CAP_SYS_PACCT"], &[Sysno::acct]),
    (&["CAP_SYS_PTRACE"], &[Sysno::kcmp, Sysno::pidfd_getfd, Sysno::process_madvise]),
    (&["CAP_SYS_RAWIO"], &[Sysno::ioperm, Sysno::iopl]),
    (&["CAP_SYS_TIME"], &[Sysno::clock_settime, Sysno::settimeofday]),
    (&["CAP_SYS_TTY_CONFIG"], &[Sysno::vhangup]),
    (
        &["CAP_SYS_ADMIN"],
        &[
            Sysno::fanotify_init,
            Sysno::fsconfig,
            Sysno::fsmount,
            Sysno::fsopen,
            Sysno::fspick,
            Sysno::lookup_dcookie,
            Sysno::lsm_get_self_attr,
            Sysno::lsm_list_modules,
            Sysno::lsm_set_self_attr,
            Sysno::mount,
            Sysno::mount_setattr,
            Sysno::move_mount,
            Sysno::open_tree,
            Sysno::quotactl,
            Sysno::quotactl_fd,
            Sysno::setdomainname,
            Sysno::sethostname,
            Sysno::setns,
            Sysno::umount2,
            Sysno::unshare,
        ],
    ),
];

/// Flags of clone that make a namespace: mount, cgroup, uts, ipc, user, pid, net.
const NEW_NAMESPACES: [u64; 7] = [1 << 17, 1 << 25, 1 << 26, 1 << 27, 1 << 28, 1 << 29, 1 << 30];
/// Address families that are obsolete or reach the host: DECnet, security, key, IrDA, the wild card,
/// and AF_ALG and AF_VSOCK.
const DENIED_FAMILIES: [u64; 9] = [12, 19, 20, 23, 25, 34, 37, 38, 40];
/// The first family that nobody has looked at yet.
const FIRST_UNKNOWN_FAMILY: u64 = 46;
/// Execution domains that programs use: Linux, 32-bit, without randomised addresses, and "tell me".
const PERSONALITIES: [u64; 5] = [0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The filters for a container that ends up with `capabilities`.
pub(crate) fn runtime_default(capabilities: &[String]) -> Result<Filters, String> {
    let has = |wanted: &[&str]| wanted.iter().any(|w| capabilities.iter().any(|c| c == w));
    let admin = has(&["CAP_SYS_ADMIN"]);
    let mut known = Rules::default();
    // clone3 hides its flags from filters; without it, C libraries use clone.
    for call in Sysno::iter().filter(|call| admin || *call != Sysno::clone3) {
        known.add(call, Vec::new());
    }
    let mut denied = Rules::default();
    let lifted = WITHOUT.iter().filter(|(lifting, _)| !has(lifting)).flat_map(|(_, calls)| calls.iter());
    for call in NEVER.iter().chain(lifted) {
        denied.add(*call, Vec::new());
    }
    if !admin {
        let flags = NEW_NAMESPACES.iter().map(|flag| rule(vec![(SeccompCmpOp::MaskedEq(*flag), *flag)]));
        denied.add(Sysno::clone, flags.collect::<Result<_, _>>()?);
    }
    let families = DENIED_FAMILIES.iter().map(|family| (SeccompCmpOp::Eq, *family));
    let families = families.chain([(SeccompCmpOp::Ge, FIRST_UNKNOWN_FAMILY)]).map(|one| rule(vec![one]));
    denied.add(Sysno::socket, families.collect::<Result<_, _>>()?);
    let others = PERSONALITIES.iter().map(|domain| (SeccompCmpOp::Ne, *domain)).collect();
    denied.add(Sysno::personality, vec![rule(others)?]);

    let mut filters = Filters::default();
    filters.add(known, SeccompAction::Errno(ENOSYS), SeccompAction::Allow)?;
    filters.add(denied, SeccompAction::Allow, SeccompAction::Errno(EPERM))?;
    Ok(filters)
}

/// All of the comparisons hold for the call's first argument, of which the kernel looks at 32 bits.
fn rule(comparisons: Vec<(SeccompCmpOp, u64)>) -> Result<SeccompRule, String> {
    let conditions = comparisons
        .into_iter()
        .map(|(operator, value)| SeccompCondition::new(0, SeccompCmpArgLen::Dword, operator, value))
        .collect::<Result<_, _>>();
    SeccompRule::new(conditions.map_err(|e| e.to_string())?).map_err(|e| e.to_string())
}

#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod tests {
    use super::super::testing::ask;
    use super::*;

    const ALLOW: u32 = 0x7fff_0000;
    const DENY: u32 = 0x0005_0000 + EPERM;
    const UNKNOWN: u32 = 0x0005_0000 + ENOSYS;

    #[test]
    fn calls_are_answered_by_what_they_reach() {
        let plain = runtime_default(&["CAP_CHOWN".into(), "CAP_SYS_CHROOT".into()]).unwrap();
        let admin = runtime_default(&["CAP_SYS_ADMIN".into()]).unwrap();
        let call = |call: Sysno| i64::from(call.id());
        for (name, number, first, want, want_admin) in [
            ("read", call(Sysno::read), 0, ALLOW, ALLOW),
            ("execve", call(Sysno::execve), 0, ALLOW, ALLOW),
            ("ptrace", call(Sysno::ptrace), 0, ALLOW, ALLOW),
            ("keyctl", call(Sysno::keyctl), 0, DENY, DENY),
            ("io_uring", call(Sysno::io_uring_setup), 0, DENY, DENY),
            ("mount", call(Sysno::mount), 0, DENY, ALLOW),
            ("chroot", call(Sysno::chroot), 0, ALLOW, DENY),
            ("thread", call(Sysno::clone), 0x003d_0f00, ALLOW, ALLOW),
            ("new user namespace", call(Sysno::clone), 0x1000_0011, DENY, ALLOW),
            ("new mount namespace", call(Sysno::clone), 0x0002_0000, DENY, ALLOW),
            ("clone3", call(Sysno::clone3), 0, UNKNOWN, ALLOW),
            ("unix socket", call(Sysno::socket), 1, ALLOW, ALLOW),
            ("netlink socket", call(Sysno::socket), 16, ALLOW, ALLOW),
            ("AF_ALG socket", call(Sysno::socket), 38, DENY, DENY),
            ("future socket", call(Sysno::socket), 99, DENY, DENY),
            ("personality", call(Sysno::personality), 0x2_0008, ALLOW, ALLOW),
            ("odd personality", call(Sysno::personality), 0x40_0000, DENY, DENY),
            ("future call", 5000, 0, UNKNOWN, UNKNOWN),
            ("x32 call", 0x4000_0000, 0, UNKNOWN, UNKNOWN),
        ] {
            let args = [first, 0, 0, 0, 0, 0];
            assert_eq!(ask(&plain, number, args), want, "{name}");
            assert_eq!(ask(&admin, number, args), want_admin, "{name} as admin");
        }
    }
}
