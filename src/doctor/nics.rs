//! Network cards: their queues, who handles their interrupts, and where packets are steered.

use super::tree::{Tree, Value};

/// A network card that is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Nic {
    pub(crate) name: String,
    /// Its receive queues, in order.
    pub(crate) queues: Vec<String>,
    /// Whether packets are handed to other processors (RPS) in any of them.
    pub(crate) steers: bool,
    /// Its interrupts: number, and how often each processor took it.
    pub(crate) interrupts: Vec<(u32, Vec<u64>)>,
}

impl Nic {
    /// Interrupts that ever came.
    pub(crate) fn live(&self) -> impl Iterator<Item = &(u32, Vec<u64>)> {
        self.interrupts.iter().filter(|(_, counts)| counts.iter().any(|count| *count > 0))
    }

    /// Processors that take at least a twentieth of its interrupts.
    pub(crate) fn takers(&self) -> usize {
        let width = self.interrupts.iter().map(|(_, counts)| counts.len()).max().unwrap_or(0);
        let by_processor: Vec<u64> = (0..width)
            .map(|at| self.interrupts.iter().filter_map(|(_, counts)| counts.get(at)).sum())
            .collect();
        let total: u64 = by_processor.iter().sum();
        by_processor.iter().filter(|taken| **taken > 0 && **taken * 20 >= total).count()
    }
}

/// The cards that have a device behind them and are up. Bridges, tunnels and loopback have none.
pub(crate) fn read(tree: &Tree) -> Value<Vec<Nic>> {
    let table = tree.parse("proc/interrupts", parse_interrupts)?;
    let mut nics = Vec::new();
    for name in tree.names(CARDS)? {
        let folder = format!("{CARDS}/{name}");
        let up = tree.text(&format!("{folder}/operstate")).is_ok_and(|state| state != "down");
        if !up || !tree.has(&format!("{folder}/device")) {
            continue;
        }
        let mut queues = tree.names(&format!("{folder}/queues"))?;
        queues.retain(|queue| queue.starts_with("rx-"));
        let steers = queues.iter().any(|queue| {
            let mask = tree.text(&format!("{folder}/queues/{queue}/rps_cpus"));
            mask.is_ok_and(|mask| mask.chars().any(|c| !matches!(c, '0' | ',')))
        });
        let interrupts = interrupts_of(tree, &folder, &name, &table);
        nics.push(Nic { name, queues, steers, interrupts });
    }
    Ok(nics)
}

/// A row of /proc/interrupts: number, counts by processor, what it is for.
type Row = (u32, Vec<u64>, String);

/// A heading with the processors, then rows; those without a number are the processors' own.
fn parse_interrupts(text: &str) -> Option<Vec<Row>> {
    let mut lines = text.lines();
    let width = lines.next()?.split_whitespace().filter(|word| word.starts_with("CPU")).count();
    let row = |line: &str| {
        let (number, rest) = line.split_once(':')?;
        let number = number.trim().parse().ok()?;
        let counts = rest.split_whitespace().take(width).map(|word| word.parse().ok());
        let what = rest.split_whitespace().skip(width).collect::<Vec<_>>().join(" ");
        Some((number, counts.collect::<Option<Vec<u64>>>()?, what))
    };
    (width > 0).then(|| lines.filter_map(row).collect())
}

/// By the numbers that the device lists (a virtio card's belong to the device above it), else by
/// the card's name in the table.
fn interrupts_of(tree: &Tree, folder: &str, name: &str, table: &[Row]) -> Vec<(u32, Vec<u64>)> {
    let lists = ["device/msi_irqs", "device/../msi_irqs"];
    let listed = lists.iter().find_map(|list| tree.names(&format!("{folder}/{list}")).ok());
    let listed: Option<Vec<u32>> =
        listed.map(|names| names.iter().filter_map(|name| name.parse().ok()).collect());
    let is_ours = |(number, _, what): &&Row| match &listed {
        Some(listed) => listed.contains(number),
        None => what.split([' ', ',']).any(|word| {
            word.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        }),
    };
    table.iter().filter(is_ours).map(|(number, counts, _)| (*number, counts.clone())).collect()
}

const CARDS: &str = "sys/class/net";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_interrupts() {
        let text = "           CPU0       CPU1\n \
                    41:       8159          0 PCI-MSIX-0000:00:04.0   1-edge      virtio3-rx\n \
                    42:          0      19391 PCI-MSIX-0000:00:04.0   2-edge      eth0-tx-0\n\
                    LOC:    4659286    4954105   Local timer interrupts\nERR:          0";
        let table = parse_interrupts(text).unwrap();
        assert_eq!(table.len(), 2);
        assert_eq!((table[0].0, &table[0].1), (41, &vec![8159, 0]));
        assert!(table[1].2.ends_with("eth0-tx-0"));
        assert_eq!(parse_interrupts("nothing"), None);
        let tree = Tree::new("/nowhere".as_ref());
        let ours = interrupts_of(&tree, "sys/class/net/eth0", "eth0", &table);
        assert_eq!(ours, [(42, vec![0, 19391])]);
    }

    #[test]
    fn takers_take_a_share() {
        let nic =
            |interrupts| Nic { name: String::new(), queues: Vec::new(), steers: false, interrupts };
        assert_eq!(nic(vec![]).takers(), 0);
        assert_eq!(nic(vec![(1, vec![0, 0])]).takers(), 0);
        assert_eq!(nic(vec![(1, vec![100, 1])]).takers(), 1);
        assert_eq!(nic(vec![(1, vec![100, 1]), (2, vec![0, 50])]).takers(), 2);
    }
}
