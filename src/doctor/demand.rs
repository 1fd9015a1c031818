//! What is asked of a host, and what follows from it before any check.

use ringhold::Config;
use ringhold::Layout;
use ringhold::internals::uring;

use super::costs;
use super::host::Host;
use super::profile::{Load, Profile};

/// What the operator asks.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) connections: u32,
    pub(crate) profile: Profile,
    /// 0: as many as ringhold would choose.
    pub(crate) workers: usize,
    /// Connections in a hundred that hold bytes in the kernel; `None`: as the profile assumes.
    pub(crate) busy: Option<u32>,
    /// Ports that are listened on.
    pub(crate) ports: Vec<u16>,
    /// User memory of a connection, in bytes.
    pub(crate) user_bytes: u64,
}

/// What N connections need, on this host's processors.
#[derive(Clone, Debug)]
pub(crate) struct Demand {
    pub(crate) wish: Wish,
    /// Processors the program counts; 1 if that is not known.
    pub(crate) processors: usize,
    /// How the connections spread over workers under the host's limit of open files; where it does
    /// not allow them, or is not known, as if there were none.
    pub(crate) layout: Layout,
    /// Why the limit of open files does not allow them.
    pub(crate) refused: Option<String>,
    /// The same without the limit: the fewest workers, with the largest tables.
    pub(crate) unlimited: Layout,
    /// Whether even without a limit the workers asked for are too few.
    pub(crate) too_few_workers: bool,
    pub(crate) load: Load,
}

impl Demand {
    pub(crate) fn new(wish: Wish, host: &Host) -> Self {
        let processors = host.processors().unwrap_or(1);
        let config =
            |workers| Config { max_connections: wish.connections, workers, ..Config::default() };
        let asked = config(wish.workers).layout(u64::MAX, processors);
        let too_few_workers = asked.is_err();
        let unlimited = asked.or_else(|_| config(0).layout(u64::MAX, processors));
        // Only beyond what 4,096 workers hold is there no layout at all; the argument is smaller.
        let unlimited = unlimited.unwrap_or(Layout {
            workers: ringhold::WORKERS_MAX,
            table: 1 << 20,
            connections: wish.connections,
        });
        let (layout, refused) = match &host.process.open_files {
            Err(_) => (unlimited, None),
            Ok((_, hard)) => match config(wish.workers).layout(*hard, processors) {
                Ok(layout) => (layout, None),
                Err(error) => (unlimited, Some(error.to_string())),
            },
        };
        let mut load = wish.profile.load();
        load.percent = wish.busy.unwrap_or(load.percent);
        Self { wish, processors, layout, refused, unlimited, too_few_workers, load }
    }

    pub(crate) fn connections(&self) -> u64 {
        u64::from(self.wish.connections)
    }

    pub(crate) fn workers(&self) -> u64 {
        self.layout.workers as u64
    }

    /// Pages of socket buffers that are held at one moment.
    pub(crate) fn buffer_pages(&self) -> u64 {
        self.connections() * u64::from(self.load.percent) / 100 * self.load.pages
    }

    /// Bytes of locked memory.
    pub(crate) fn locked_bytes(&self) -> u64 {
        self.workers() * uring::locked_bytes(self.layout.table) + costs::CONTROL_RING
    }

    /// Bytes that do not depend on how many connections there are.
    pub(crate) fn base_bytes(&self) -> u64 {
        // A table has a pointer for each slot.
        let tables = self.workers() * u64::from(self.layout.table) * 8;
        let workers = self.workers() * costs::USER_PER_WORKER;
        costs::USER_BASE + workers + self.locked_bytes() + tables
    }

    /// Bytes of an idle connection, kernel included.
    pub(crate) fn bytes_per_connection(&self) -> u64 {
        costs::KERNEL_PER_CONNECTION + self.wish.user_bytes
    }

    /// Bytes of memory in all, kernel included.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let each = self.bytes_per_connection();
        self.base_bytes() + self.connections() * each + self.buffer_pages() * costs::PAGE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tree::Tree;

    fn demand(connections: u32, workers: usize, files: u64) -> Demand {
        let mut host = Host::read(&Tree::new("/nowhere".as_ref()), "self");
        host.process.open_files = Ok((files, files));
        host.online = Ok(vec![0, 1]);
        let wish = Wish {
            connections,
            profile: Profile::Density,
            workers,
            busy: None,
            ports: vec![],
            user_bytes: 126,
        };
        Demand::new(wish, &host)
    }

    #[test]
    fn the_limit_of_open_files_decides_how_many_workers() {
        let wide = demand(1_000_000, 0, 1 << 20);
        assert_eq!((wide.layout.workers, wide.layout), (2, wide.unlimited));
        let narrow = demand(1_000_000, 0, 20_000);
        assert!(narrow.layout.workers > 50 && narrow.layout.table <= 20_000);
        assert_eq!((narrow.unlimited, narrow.refused), (wide.unlimited, None));
        let refused = demand(1_000_000, 2, 20_000);
        assert!(refused.refused.unwrap().contains("ulimit -n"));
        assert_eq!(refused.layout, wide.unlimited);
        assert!(demand(8_000_000, 2, 1 << 20).too_few_workers);
    }

    #[test]
    fn memory_is_what_was_measured() {
        let demand = demand(1_000_000, 0, 1 << 20);
        assert_eq!(demand.buffer_pages(), 200_000);
        let idle = demand.memory_bytes() - demand.buffer_pages() * costs::PAGE;
        let each = (idle - demand.base_bytes()) / 1_000_000;
        assert_eq!(each, 4058);
        assert!(demand.base_bytes() < 64 << 20);
    }

    #[test]
    fn eight_mebibytes_hold_seven_of_the_largest_rings() {
        let ring = uring::locked_bytes(1 << 20);
        assert!(7 * ring <= 8 << 20 && 8 * ring > 8 << 20);
        assert!(uring::locked_bytes(1000) < ring / 4);
    }
}
