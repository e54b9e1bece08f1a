//! System call filters: compiled by the agent when a container is made, installed by the container's
//! process just before it executes the program.
//!
//! A profile becomes one or more BPF programs. Each has one answer for the calls it names and one for all
//! others; the kernel asks all of them and takes the strictest answer.

mod default;
mod profile;

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, SeccompRule};
use serde::{Deserialize, Serialize};
use syscalls::Sysno;

pub(crate) use default::runtime_default;
pub(crate) use profile::from_file;

/// Compiled filters, in the order in which they must be installed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Filters {
    programs: Vec<Vec<corten_sys::seccomp::Instruction>>,
}

impl Filters {
    /// Installs the filters for the calling thread. Cannot be undone.
    pub(crate) fn install(&self) -> Result<(), corten_sys::Error> {
        self.programs.iter().try_for_each(|program| corten_sys::seccomp::install(program))
    }

    fn add(&mut self, rules: Rules, otherwise: SeccompAction, matched: SeccompAction) -> Result<(), String> {
        if rules.by_call.is_empty() && otherwise == SeccompAction::Allow {
            return Ok(());
        }
        let arch = std::env::consts::ARCH.try_into().map_err(|e| format!("{e}"))?;
        let filter =
            SeccompFilter::new(rules.by_call, otherwise, matched, arch).map_err(|e| e.to_string())?;
        let program: BpfProgram = filter.try_into().map_err(|e| format!("{e}"))?;
        self.programs.push(program.iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect());
        Ok(())
    }
}

/// Calls by number; no conditions means always.
#[derive(Debug, Default)]
struct Rules {
    by_call: BTreeMap<i64, Vec<SeccompRule>>,
}

impl Rules {
    /// Adds a call, under any one of `conditions`, or always when there are none.
    fn add(&mut self, call: Sysno, conditions: Vec<SeccompRule>) {
        let number = i64::from(call.id());
        match self.by_call.get_mut(&number) {
            // Already without conditions: nothing can be added to "always".
            Some(old) if old.is_empty() => {}
            Some(old) if conditions.is_empty() => old.clear(),
            Some(old) => old.extend(conditions),
            None => drop(self.by_call.insert(number, conditions)),
        }
    }
}

#[cfg(test)]
mod testing {
    //! A small interpreter of classic BPF, so that profiles can be asked without being installed.

    use super::Filters;

    const ARCH_X86_64: u32 = 0xc000_003e;

    /// The strictest answer (the kernel compares as signed numbers) for a call with these arguments.
    pub(super) fn ask(filters: &Filters, call: i64, args: [u64; 6]) -> u32 {
        let answers = filters.programs.iter().map(|program| run(program, call as u32, args));
        answers.min_by_key(|answer| (answer & 0xffff_0000) as i32).unwrap()
    }

    fn load(offset: u32, call: u32, args: [u64; 6]) -> u32 {
        match offset {
            0 => call,
            4 => ARCH_X86_64,
            16.. => {
                let arg = args[(offset as usize - 16) / 8];
                if offset.is_multiple_of(8) { arg as u32 } else { (arg >> 32) as u32 }
            }
            _ => 0,
        }
    }

    fn run(program: &[(u16, u8, u8, u32)], call: u32, args: [u64; 6]) -> u32 {
        let (mut at, mut acc) = (0, 0u32);
        loop {
            let (code, jt, jf, k) = program[at];
            at += 1;
            let jump = |yes: bool| usize::from(if yes { jt } else { jf });
            match code {
                0x20 => acc = load(k, call, args),
                0x54 => acc &= k,
                0x06 => return k,
                0x05 => at += k as usize,
                0x15 => at += jump(acc == k),
                0x25 => at += jump(acc > k),
                0x35 => at += jump(acc >= k),
                other => panic!("instruction {other:#x}"),
            }
        }
    }
}
