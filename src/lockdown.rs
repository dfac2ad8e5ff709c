//! The guards of the process: what keeps its memory, where keys and secrets are, from being read by
//! others. They are put up before anything secret is read.
//!
//! | guard | keeps it out of |
//! |---|---|
//! | `RLIMIT_CORE` 0 | core files |
//! | not dumpable | core files that a program takes in, debuggers and `/proc/PID/mem` of the same user |
//! | no new privileges | programs with more rights, should something ever start one from here |
//! | umask 077 | files that other users can read |
//! | not swapped | swap devices |
//!
//! A guard that fails refuses the start, with what to do about it; a broker for development may start
//! all the same ([`Guards::Wanted`]). Root, and whoever may trace any process, is kept out by none.
//!
//! # Not swapped
//! All of the process is meant, not some pages for keys: a secret also goes through buffers of TLS
//! and HTTP/2, and keys are spread over the tables of the cryptographic library, where no lock of ours
//! reaches. So memory counts as not swapped if all of it is locked, if there is no swap device, or if
//! the control group is given no swap. It is locked where that has no limit (`RLIMIT_MEMLOCK`
//! unlimited, or `CAP_IPC_LOCK`) and never under one: a lock for future memory makes allocations fail
//! once the limit is reached, and a failed allocation ends the process.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::Mode,
    mm::{MlockAllFlags, mlockall},
    process::{
        DumpableBehavior, Resource, Rlimit, dumpable_behavior, geteuid, getrlimit,
        set_dumpable_behavior, setrlimit, umask,
    },
    thread::{no_new_privs, set_no_new_privs},
};

/// Of `capability.h`.
const CAP_IPC_LOCK: u32 = 14;

/// What a guard that fails means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guards {
    /// The start is refused.
    Required,
    /// It is told in the log: for development.
    Wanted,
}

/// What was reached.
#[derive(Debug)]
pub struct Lockdown {
    memory: Option<Memory>,
    failed: Vec<Error>,
}

/// Why memory is not swapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Memory {
    Locked,
    NoSwapDevice,
    NoSwapForGroup,
}

/// A guard that cannot be put up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Core files.
    #[error(
        "core files cannot be turned off ({0}), and one would hold keys; start with `ulimit -c 0` or LimitCORE=0, or allow prlimit64"
    )]
    Core(io::Error),
    /// Debuggers.
    #[error(
        "the process cannot be closed to debuggers of the same user ({0}); allow prctl(PR_SET_DUMPABLE) in the seccomp profile"
    )]
    Dumpable(io::Error),
    /// Privileges of programs that are started.
    #[error(
        "new privileges cannot be given up ({0}); allow prctl(PR_SET_NO_NEW_PRIVS) in the seccomp profile, or set NoNewPrivileges=yes"
    )]
    NewPrivileges(io::Error),
    /// Swap.
    #[error(
        "keys could be written to a swap device; turn swap off, or set MemorySwapMax=0 (memory.swap.max of the control group), or LimitMEMLOCK=infinity or CAP_IPC_LOCK so that memory can be locked"
    )]
    Swap,
}

impl Lockdown {
    /// Puts up all guards. For the first thread, before it starts others: they inherit from it.
    ///
    /// # Errors
    /// [`Error`] of the first guard that fails, if they are required.
    pub fn put_up(guards: Guards) -> Result<Self, Error> {
        umask(Mode::RWXG | Mode::RWXO);
        let mut failed = Vec::new();
        for guard in [no_core_files, not_dumpable, no_new_privileges] {
            match (guard(), guards) {
                (Ok(()), _) => {}
                (Err(error), Guards::Required) => return Err(error),
                (Err(error), Guards::Wanted) => failed.push(error),
            }
        }
        let memory = not_swapped();
        match (memory, guards) {
            (Some(_), _) => {}
            (None, Guards::Required) => return Err(Error::Swap),
            (None, Guards::Wanted) => failed.push(Error::Swap),
        }
        Ok(Self { memory, failed })
    }

    /// Tells the log, which is opened later.
    pub fn tell(&self) {
        for error in &self.failed {
            tracing::warn!(%error, "A GUARD IS MISSING, as --insecure-dev allows");
        }
        if geteuid().is_root() {
            tracing::warn!("runs as root, which it has no need of; give it a user of its own");
        }
        tracing::debug!(memory = ?self.memory, "guards are up");
    }
}

/// Lets the process open as many files as its hard limit says, and returns how many that are. A soft
/// limit of 1024 is usual, and kept low for programs that cannot do with more.
pub fn raise_open_files() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    // A sandbox may forbid it. Then what there is has to do.
    let now = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        Err(_) => current,
    };
    now.unwrap_or(u64::MAX)
}

fn no_core_files() -> Result<(), Error> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    // Not asked for what is so already: the caller of a sandbox may have forbidden to ask.
    if getrlimit(Resource::Core) != none {
        setrlimit(Resource::Core, none).map_err(|errno| Error::Core(errno.into()))?;
    }
    Ok(())
}

fn not_dumpable() -> Result<(), Error> {
    let dumpable = |errno: rustix::io::Errno| Error::Dumpable(errno.into());
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(dumpable)?;
    match dumpable_behavior().map_err(dumpable)? {
        DumpableBehavior::NotDumpable => Ok(()),
        _ => Err(Error::Dumpable(io::Error::other("it had no effect"))),
    }
}

fn no_new_privileges() -> Result<(), Error> {
    let privileges = |errno: rustix::io::Errno| Error::NewPrivileges(errno.into());
    set_no_new_privs(true).map_err(privileges)?;
    match no_new_privs().map_err(privileges)? {
        true => Ok(()),
        false => Err(Error::NewPrivileges(io::Error::other("it had no effect"))),
    }
}

/// `None` if it may be.
fn not_swapped() -> Option<Memory> {
    // Locked where that is allowed even without a swap device: one can be added at any time.
    if locked() {
        return Some(Memory::Locked);
    }
    // A file that cannot be read says nothing, and nothing is no reason to trust.
    let swaps = fs::read_to_string("/proc/swaps").ok();
    if swaps.as_deref().is_some_and(has_no_device) {
        return Some(Memory::NoSwapDevice);
    }
    let group = fs::read_to_string("/proc/self/cgroup").ok()?;
    group_has_no_swap(Path::new("/sys/fs/cgroup"), &group).then_some(Memory::NoSwapForGroup)
}

/// Locks what there is and what comes, each page when it is first used.
fn locked() -> bool {
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    if getrlimit(Resource::Memlock) != unlimited {
        // Whoever has the right gives it to itself. All others are told by what the limit then is.
        let _ = setrlimit(Resource::Memlock, unlimited);
    }
    (getrlimit(Resource::Memlock) == unlimited || is_exempt())
        && mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT).is_ok()
}

/// Whether the limit is not for this process.
fn is_exempt() -> bool {
    let read = |name: &str| fs::read_to_string(Path::new("/proc/self").join(name));
    let (Ok(status), Ok(users)) = (read("status"), read("uid_map")) else {
        return false;
    };
    has_capability(&status, CAP_IPC_LOCK) && are_all_users(&users)
}

/// Of `/proc/self/status`: whether a capability is in effect.
fn has_capability(status: &str, capability: u32) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.map(|digits| u64::from_str_radix(digits.trim(), 16));
    effective.is_some_and(|set| set.is_ok_and(|set| set >> capability & 1 == 1))
}

/// Of `/proc/self/uid_map`: whether this is the first of all user namespaces. In any other a capability
/// says nothing of limits.
fn are_all_users(map: &str) -> bool {
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Of `/proc/swaps`: a line of headings, and one for each device.
fn has_no_device(swaps: &str) -> bool {
    let mut lines = swaps.lines();
    lines
        .next()
        .is_some_and(|heading| heading.starts_with("Filename"))
        && lines.all(|line| line.trim().is_empty())
}

/// Whether a control group (version 2) or one that it is in is given no swap.
fn group_has_no_swap(mounted: &Path, groups: &str) -> bool {
    let Some(group) = groups.lines().find_map(|line| line.strip_prefix("0::/")) else {
        return false;
    };
    let group = PathBuf::from(group);
    // Above what a container can see there is nothing to find.
    if !group
        .components()
        .all(|part| matches!(part, Component::Normal(_)))
    {
        return false;
    }
    group.ancestors().any(|group| {
        let limit = fs::read_to_string(mounted.join(group).join("memory.swap.max"));
        limit.is_ok_and(|limit| limit.trim() == "0")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADING: &str = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";

    #[test]
    fn a_swap_device_is_noticed_and_so_is_a_list_that_is_none() {
        assert!(has_no_device(HEADING));
        let device = "/dev/sda2                               partition\t2097148\t0\t-2\n";
        assert!(!has_no_device(&[HEADING, device].concat()));
        assert!(!has_no_device(""));
        assert!(!has_no_device(device));
    }

    #[test]
    fn as_many_files_may_be_open_as_the_hard_limit_says() {
        let most = raise_open_files();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        assert_eq!(most, limit.maximum.unwrap_or(u64::MAX));
    }

    #[test]
    fn a_capability_counts_in_the_first_user_namespace_only() {
        let status =
            |set: &str| format!("Name:\tx\nCapPrm:\tffff\nCapEff:\t{set}\nCapBnd:\tffff\n");
        assert!(has_capability(&status("0000000000004000"), CAP_IPC_LOCK));
        assert!(!has_capability(&status("000001ffffffbfff"), CAP_IPC_LOCK));
        assert!(!has_capability("", CAP_IPC_LOCK));
        assert!(are_all_users("         0          0 4294967295\n"));
        assert!(!are_all_users("         0       1000          1\n"));
        assert!(!are_all_users("0 0 1\n1 1 4294967294\n"));
    }

    #[test]
    fn swap_of_the_group_or_of_one_above_it_counts() {
        let mounted = tempfile::tempdir().expect("a folder");
        let group = mounted.path().join("system.slice/broker.service");
        fs::create_dir_all(&group).expect("writes");
        let has_none = |groups: &str| group_has_no_swap(mounted.path(), groups);
        let of_group = "1:cpu:/\n0::/system.slice/broker.service\n";
        assert!(!has_none(of_group), "no file says so");
        fs::write(group.join("memory.swap.max"), "max\n").expect("writes");
        assert!(!has_none(of_group));
        fs::write(group.join("memory.swap.max"), "0\n").expect("writes");
        assert!(has_none(of_group));
        assert!(!has_none("0::/system.slice/other.service\n"));
        fs::write(group.join("memory.swap.max"), "1024\n").expect("writes");
        assert!(!has_none(of_group));
        fs::write(mounted.path().join("system.slice/memory.swap.max"), "0\n").expect("writes");
        assert!(has_none(of_group));
        assert!(!has_none("0::/\n"), "the root of all has no limit");
        assert!(!has_none("1:memory:/system.slice/broker.service\n"));
        assert!(!has_none("0::/../system.slice/broker.service\n"));
    }
}
