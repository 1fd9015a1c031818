//! Limits of a control group (version 2), its ancestors' included.

use super::tree::{Tree, Unknown, Value, Why, strange};

/// The tightest limits on the way from the root to a process's group; `Ok(None)`: there is none.
#[derive(Debug)]
pub(crate) struct Cgroup {
    /// Bytes.
    pub(crate) memory: Value<Option<u64>>,
    /// Threads.
    pub(crate) pids: Value<Option<u64>>,
    /// Processors.
    pub(crate) cpu: Value<Option<f64>>,
}

impl Cgroup {
    pub(crate) fn read(tree: &Tree, process: &str) -> Self {
        match groups(tree, process) {
            Err(unknown) => {
                Self { memory: Err(unknown.clone()), pids: Err(unknown.clone()), cpu: Err(unknown) }
            }
            Ok(groups) => Self {
                memory: tightest(tree, &groups, "memory.max", bound),
                pids: tightest(tree, &groups, "pids.max", bound),
                cpu: tightest(tree, &groups, "cpu.max", quota),
            },
        }
    }
}

/// The directories of a process's group and all above it.
fn groups(tree: &Tree, process: &str) -> Value<Vec<String>> {
    if !tree.has(&format!("{MOUNT}/cgroup.controllers")) {
        // Version 1, or both at once with the controllers in version 1.
        return Err(Unknown { path: format!("/{MOUNT}/cgroup.controllers"), why: Why::Absent });
    }
    let file = format!("proc/{process}/cgroup");
    let text = tree.text(&file)?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"));
    let path = path.ok_or_else(|| strange(&file, &text))?;
    let mut groups = vec![MOUNT.to_owned()];
    // A path outside the namespace begins with `..`; it is not followed.
    for name in path.split('/').filter(|name| !name.is_empty()).take_while(|name| *name != "..") {
        groups.push(format!("{}/{name}", groups[groups.len() - 1]));
    }
    Ok(groups)
}

/// The smallest limit that the groups' files have. The root group has no such file, and no limit.
fn tightest<T: PartialOrd>(
    tree: &Tree,
    groups: &[String],
    file: &str,
    take: fn(&str) -> Option<Option<T>>,
) -> Value<Option<T>> {
    let mut least: Option<T> = None;
    for group in groups {
        match tree.parse(&format!("{group}/{file}"), take) {
            Ok(Some(limit)) if least.as_ref().is_none_or(|least| limit < *least) => {
                least = Some(limit);
            }
            Ok(_) => {}
            Err(unknown) if unknown.is_absent() => {}
            Err(unknown) => return Err(unknown),
        }
    }
    Ok(least)
}

/// A number, or `max`.
fn bound(text: &str) -> Option<Option<u64>> {
    if text == "max" { Some(None) } else { Some(Some(text.parse().ok()?)) }
}

/// Microseconds of processor time, and in how many they may be spent; or `max` and that.
fn quota(text: &str) -> Option<Option<f64>> {
    let (time, period) = text.split_once(' ')?;
    let period: f64 = period.parse().ok().filter(|period| *period > 0.0)?;
    if time == "max" { Some(None) } else { Some(Some(time.parse::<f64>().ok()? / period)) }
}

const MOUNT: &str = "sys/fs/cgroup";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_as_the_kernel_writes_them() {
        assert_eq!((bound("max"), bound("4096"), bound("")), (Some(None), Some(Some(4096)), None));
        assert_eq!(quota("max 100000"), Some(None));
        assert_eq!(quota("150000 100000"), Some(Some(1.5)));
        assert_eq!((quota("150000"), quota("1 0"), quota("x 5")), (None, None, None));
    }
}
