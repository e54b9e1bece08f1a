//! The generic netlink socket to IPVS. It belongs to the network namespace of the thread that opened it.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::Ipvs;
use super::message::{self, Answer, Command, Destination, ServiceKey, VirtualService};
use crate::error::{Context, Error, Result};

/// The kernel answers at once; more than this means that it never will.
const ANSWER_TIMEOUT_S: i64 = 10;
/// The kernel's largest datagram of a dump.
const RECEIVE_BYTES: usize = 64 << 10;
/// Commands in one datagram: their acknowledgements fit the receive buffer by far.
const BATCH: usize = 64;
/// A dump of more objects than this is not one that we could have made.
const DUMP_LIMIT: usize = 1 << 20;

/// IPVS of the kernel.
#[derive(Debug)]
pub struct Kernel {
    fd: OwnedFd,
    family: u16,
    sequence: u32,
}

impl Kernel {
    /// Opens IPVS of the calling thread's network namespace; `is_missing` when this kernel has none.
    pub fn open() -> Result<Self> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkGeneric,
        )
        .doing(|| "open generic netlink socket".into())?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).doing(|| "bind generic netlink socket".into())?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER_TIMEOUT_S))
            .doing(|| "set the receive timeout".into())?;
        let mut kernel = Self { fd, family: 0, sequence: 0 };
        kernel.family = kernel.find_family()?;
        Ok(kernel)
    }

    fn find_family(&mut self) -> Result<u16> {
        let sequence = self.next();
        self.send(&message::get_family(sequence))?;
        let mut found = None;
        self.receive("look up IPVS", |answer| match answer {
            Answer::Object(payload) => {
                found = message::family_number(payload).or(found);
                Ok(false)
            }
            Answer::Result { errno: 0, .. } | Answer::Done => Ok(true),
            Answer::Result { errno, .. } => Err(Errno::from_raw(errno)),
        })?;
        found.ok_or_else(|| failed("look up IPVS", Errno::ENOENT))
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn send(&self, bytes: &[u8]) -> Result<()> {
        sendto(self.fd.as_raw_fd(), bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())
            .doing(|| "send to IPVS".into())
            .map(drop)
    }

    /// Feeds answers to `take` until it says that it has all.
    fn receive(
        &self,
        what: &str,
        mut take: impl FnMut(Answer<'_>) -> std::result::Result<bool, Errno>,
    ) -> Result<()> {
        let mut buffer = vec![0; RECEIVE_BYTES];
        loop {
            let length = match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => continue,
                other => other.doing(|| format!("{what}: hear from the kernel"))?,
            };
            let mut enough = false;
            for answer in message::answers(&buffer[..length]) {
                enough |= take(answer).map_err(|errno| failed(what, errno))?;
            }
            if enough {
                return Ok(());
            }
        }
    }

    fn dump<T>(&mut self, what: &str, request: &[u8], read: impl Fn(&[u8]) -> Option<T>) -> Result<Vec<T>> {
        self.send(request)?;
        let mut all = Vec::new();
        self.receive(what, |answer| match answer {
            Answer::Object(payload) if all.len() < DUMP_LIMIT => {
                all.extend(read(payload));
                Ok(false)
            }
            Answer::Object(_) => Err(Errno::EOVERFLOW),
            Answer::Done | Answer::Result { errno: 0, .. } => Ok(true),
            Answer::Result { errno, .. } => Err(Errno::from_raw(errno)),
        })?;
        Ok(all)
    }

    /// Sends up to [`BATCH`] commands at once and waits for all acknowledgements.
    fn run_batch(&mut self, commands: &[Command]) -> Result<()> {
        let first = self.sequence.wrapping_add(1);
        let mut datagram = Vec::new();
        for command in commands {
            let sequence = self.next();
            datagram.extend(message::command(self.family, sequence, command));
        }
        self.send(&datagram)?;
        let (mut open, mut problem) = (commands.len(), Ok(()));
        self.receive("change IPVS", |answer| {
            if let Answer::Result { sequence, errno } = answer
                && let Some(command) = commands.get(sequence.wrapping_sub(first) as usize)
            {
                open -= 1;
                if let Some(errno) = is_problem(command, errno) {
                    problem = std::mem::replace(&mut problem, Ok(()))
                        .and_then(|()| Err(failed(&format!("IPVS {command:?}"), errno)));
                }
            }
            Ok(open == 0)
        })?;
        problem
    }
}

/// Adding what is there and deleting what is not there is done already.
fn is_problem(command: &Command, errno: i32) -> Option<Errno> {
    let errno = (errno != 0).then(|| Errno::from_raw(errno))?;
    match (command, errno) {
        (Command::AddService(_) | Command::AddDestination(..), Errno::EEXIST) => None,
        (Command::DeleteService(_) | Command::DeleteDestination(..), Errno::ESRCH | Errno::ENOENT) => None,
        _ => Some(errno),
    }
}

fn failed(what: &str, errno: Errno) -> Error {
    Error { what: what.into(), source: errno.into() }
}

impl Ipvs for Kernel {
    fn services(&mut self) -> Result<Vec<VirtualService>> {
        let request = message::dump_services(self.family, self.next());
        self.dump("list virtual services", &request, message::read_service)
    }

    fn destinations(&mut self, service: ServiceKey) -> Result<Vec<(Destination, u32)>> {
        let sequence = self.next();
        let request = message::dump_destinations(self.family, sequence, &service);
        let read = |object: &[u8]| message::read_destination(&service, object);
        self.dump(&format!("list what is behind {service}"), &request, read)
    }

    fn run(&mut self, commands: &[Command]) -> Result<()> {
        let mut result = Ok(());
        for batch in commands.chunks(BATCH) {
            let done = self.run_batch(batch);
            result = result.and(done);
        }
        result
    }
}
