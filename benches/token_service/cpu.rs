//! What processes take, by the operating system's own accounting.

use std::{fs, io, time::Duration};

use nix::{
    time::{ClockId, clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};

/// `USER_HZ`, the same on every architecture that this is built for.
const TICKS_PER_SECOND: u32 = 100;

/// The CPU time of a process, user and system, of all its threads, those that have ended too.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(ClockId);

impl Clock {
    pub(crate) fn of(process: u32) -> io::Result<Self> {
        let process = Pid::from_raw(process.cast_signed());
        Ok(Self(clock_getcpuclockid(process)?))
    }

    /// In nanoseconds, unlike `utime` and `stime` of `/proc/PID/stat`, which have the same sum.
    pub(crate) fn now(self) -> io::Result<Duration> {
        Ok(clock_gettime(self.0)?.into())
    }
}

/// The time that all cores together were busy since the start of the machine, in steps of 10 ms.
/// What a hypervisor took for others counts as busy.
pub(crate) fn machine_busy() -> io::Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let malformed = || io::Error::other("/proc/stat does not begin as proc(5) tells");
    let first = stat.lines().next().ok_or_else(malformed)?;
    let ticks: Vec<u64> = first
        .split_whitespace()
        .skip(1)
        .map_while(|number| number.parse().ok())
        .collect();
    // user, nice, system, idle, iowait, irq, softirq, steal; guests are counted in the first two.
    let [user, nice, system, _, _, irq, softirq, steal, ..] = ticks[..] else {
        return Err(malformed());
    };
    let busy = user + nice + system + irq + softirq + steal;
    Ok(Duration::from_secs(busy) / TICKS_PER_SECOND)
}

/// Memory of a process that is resident, in bytes.
pub(crate) fn resident(process: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let kilobytes = kilobytes.ok_or_else(|| io::Error::other("the process has no VmRSS"))?;
    Ok(kilobytes * 1024)
}
