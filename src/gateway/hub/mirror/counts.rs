//! The counters of channels that a broker orders, by name and over cores.

use super::MirrorCounters;

impl MirrorCounters {
    /// Adds another core's.
    pub fn add(&mut self, other: &Self) {
        let pairs = self.values_mut().into_iter().zip(other.values());
        pairs.for_each(|(sum, part)| *sum += part);
    }

    /// Each with its name and what it counts.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        TEXTS.into_iter().zip(self.values()).map(|((name, help), value)| (name, help, value))
    }

    fn values(&self) -> [u64; TEXTS.len()] {
        let mut copy = *self;
        copy.values_mut().map(|value| *value)
    }

    /// In the order of [`TEXTS`].
    fn values_mut(&mut self) -> [&mut u64; TEXTS.len()] {
        let Self {
            messages,
            duplicates,
            malformed,
            lags,
            gaps,
            repaired,
            repaired_publications,
            unrepaired,
            forks,
            epochs,
            returned,
            forgotten,
            reads,
            checks,
            local_recoveries,
            local_answers,
            late,
            refused,
        } = self;
        [
            messages,
            duplicates,
            malformed,
            lags,
            gaps,
            repaired,
            repaired_publications,
            unrepaired,
            forks,
            epochs,
            returned,
            forgotten,
            reads,
            checks,
            local_recoveries,
            local_answers,
            late,
            refused,
        ]
    }
}

const TEXTS: [(&str, &str); 18] = [
    ("received", "Messages of the broker that reached their channels' workers"),
    ("duplicates", "Of these, dropped: they were there already"),
    ("undecodable", "Of these, dropped: they are no publications or members"),
    (
        "lagging",
        "Of these, newest of their channels and older than client.channel_position_max_time_lag",
    ),
    ("gaps", "Gaps found in what the broker passed on"),
    ("repaired", "Gaps filled by reading the broker's history"),
    ("repaired_publications", "Publications that filled them"),
    ("unrepaired", "Gaps that were not filled: who had a position was told so"),
    (
        "forks",
        "Channels in which the broker has lost publications, or given their offsets to others",
    ),
    ("epochs", "Channels found in another epoch"),
    ("epochs_returned", "Channels found in an epoch that they had left: they got a new one"),
    ("epochs_forgotten", "Epochs forgotten that channels had left: a worker remembers 65,536"),
    ("reads", "Histories read, for whatever reason"),
    ("checks", "Positions compared with the broker's"),
    ("local_recoveries", "Recoveries answered without asking the broker"),
    ("local_answers", "Other questions answered without asking the broker"),
    ("subscribers_late", "Subscriptions refused because the broker did not answer in time"),
    ("requests_refused", "Requests for which the queue to the broker had no room"),
];
