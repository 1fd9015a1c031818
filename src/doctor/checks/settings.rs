//! The profile's sysctl file against the host: what has no check of its own.

use crate::doctor::demand::Demand;
use crate::doctor::finding::Finding;
use crate::doctor::host::Host;
use crate::doctor::profile::Setting;
use crate::doctor::tree;

pub(super) fn of_profile(host: &Host, demand: &Demand) -> Vec<Finding> {
    let settings = demand.wish.profile.settings();
    let others = settings.into_iter().filter(|setting| !OWN_CHECK.contains(&setting.key));
    others.filter_map(|setting| Some(check(host.settings.get(setting.key)?, setting))).collect()
}

fn check(found: &tree::Value<String>, setting: Setting) -> Finding {
    let Setting { key, value, reason } = setting;
    match found {
        Ok(found) if suffices(found, value) => Finding::ok(key, found.clone()),
        Ok(found) => {
            Finding::better(key, found.clone()).needs(value).because(reason).sysctl(key, value)
        }
        Err(unknown) => Finding::unknown(key, unknown),
    }
}

/// A switch has to be as wanted; of sizes, none may be larger.
fn suffices(found: &str, wanted: &str) -> bool {
    let (Some(has), Some(want)) = (tree::numbers(found), tree::numbers(wanted)) else {
        return false;
    };
    if want.iter().all(|number| *number <= 1) {
        return has == want;
    }
    has.len() == want.len() && has.iter().zip(&want).all(|(has, want)| has <= want)
}

/// For these more is better, and how much is computed: `accept-queue`, `file-max`.
const OWN_CHECK: [&str; 2] = ["net.core.somaxconn", "fs.file-max"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_are_equal_and_sizes_at_most() {
        assert!(suffices("1", "1") && !suffices("0", "1") && !suffices("1", "0"));
        assert!(suffices("16384", "16384") && suffices("4096", "16384"));
        assert!(!suffices("4294967295", "16384"));
        assert!(suffices("4096 8192 100000", "4096 16384 1048576"));
        assert!(!suffices("4096 131072 100000", "4096 16384 1048576"));
        assert!(!suffices("4096", "4096 16384 1048576") && !suffices("off", "1"));
    }
}
