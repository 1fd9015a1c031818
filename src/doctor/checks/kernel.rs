//! Kernel version, and whether io_uring may be used.

use crate::doctor::finding::Finding;
use crate::doctor::host::Host;
use crate::doctor::probe::Probe;
use crate::doctor::words::count;

pub(super) fn version(host: &Host) -> Finding {
    const NAME: &str = "kernel";
    let (version, release) = match (host.kernel(), &host.release) {
        (Ok(version), Ok(release)) => (version, release),
        (Err(unknown), _) => return Finding::unknown(NAME, &unknown),
        (_, Err(unknown)) => return Finding::unknown(NAME, unknown),
    };
    let has = format!("Linux {release}");
    if version >= FLOOR {
        return Finding::ok(NAME, has);
    }
    Finding::short(NAME, has)
        .needs("Linux 6.1 or later")
        .because("io_uring lacks DEFER_TASKRUN; ringhold serves over epoll, at more cost")
}

/// The sysctl (Linux 6.6) says who may; the trial, which knows about seccomp too, has the last
/// word.
pub(super) fn io_uring(host: &Host) -> Finding {
    const NAME: &str = "io-uring";
    const KEY: &str = "kernel.io_uring_disabled";
    match (&host.ring, &host.uring_disabled) {
        (Probe::Works(table), _) => {
            let table = count(u64::from(*table));
            Finding::ok(NAME, format!("a ring with {table} direct descriptors was made"))
        }
        (Probe::Fails(why), disabled) => {
            if !why.contains("seccomp") {
                return Finding::short(NAME, why.clone()).because("ringhold does not start");
            }
            let finding = Finding::better(NAME, why.clone());
            match disabled {
                Ok(1 | 2) => finding.because(OVER_EPOLL).sysctl(KEY, 0),
                _ => finding.because(
                    "ringhold serves over epoll, at more processor time per message, until the \
                     seccomp profile of the container or unit allows io_uring_setup, \
                     io_uring_enter and io_uring_register",
                ),
            }
        }
        (Probe::None, Ok(0)) => Finding::ok(NAME, "allowed to everybody"),
        (Probe::None, Ok(1)) => Finding::better(NAME, "allowed to one group only")
            .needs("kernel.io_uring_disabled = 0, or the server in that group")
            .because("with CAP_SYS_ADMIN or in kernel.io_uring_group it is used, else epoll")
            .sysctl(KEY, 0),
        (Probe::None, Ok(value)) => Finding::better(NAME, format!("{KEY} = {value}"))
            .needs(format!("{KEY} = 0"))
            .because(OVER_EPOLL)
            .sysctl(KEY, 0),
        (Probe::None, Err(unknown)) if unknown.is_absent() && host.kernel().is_ok() => {
            Finding::ok(NAME, "this kernel cannot forbid it by sysctl")
        }
        (Probe::None, Err(unknown)) => Finding::unknown(NAME, unknown),
    }
}

const FLOOR: (u32, u32) = (6, 1);
const OVER_EPOLL: &str = "ringhold serves over epoll, at more processor time per message";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Verdict;
    use crate::doctor::tree::Tree;

    #[test]
    fn the_trial_has_the_last_word() {
        let mut host = Host::read(&Tree::new("/nowhere".as_ref()), "self");
        assert_eq!(io_uring(&host).verdict, Verdict::Unknown);
        host.uring_disabled = Ok(1);
        assert_eq!(io_uring(&host).verdict, Verdict::CouldBeBetter);
        host.ring = Probe::Works(4096);
        assert_eq!(io_uring(&host).verdict, Verdict::Ok);
        host.ring = Probe::Fails("a seccomp profile".to_owned());
        let finding = io_uring(&host);
        assert_eq!(finding.verdict, Verdict::CouldBeBetter);
        assert_eq!(finding.found, "a seccomp profile");
        assert_eq!(finding.mend[0].line, "sysctl -w kernel.io_uring_disabled=0");
        host.uring_disabled = Ok(0);
        let finding = io_uring(&host);
        assert!(finding.mend.is_empty() && finding.consequence.unwrap().contains("io_uring_enter"));
        host.ring = Probe::Fails("no memory".to_owned());
        let finding = io_uring(&host);
        assert_eq!(finding.verdict, Verdict::FallsShort);
        assert!(!finding.consequence.unwrap().contains("seccomp"));
    }
}
