//! The report for people: an aligned table of what matters, one line per subject.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use super::report::{KernelReport, MessageReport, ProcessReport, Quantiles, Report, StormReport};

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut rows = Rows(f);
        rows.row("load", &self.heading())?;
        let opening = &self.opening;
        rows.row(
            "opened",
            &format!(
                "{} in {:.2} s, {}/s; each {}",
                grouped(opening.opened),
                opening.seconds,
                grouped(opening.per_second as u64),
                opening.time_us
            ),
        )?;
        if let Some(us) = opening.server_cpu_us_each {
            rows.row("", &format!("{us:.1} µs of the server's processor each"))?;
        }
        if opening.failed + opening.untried > 0 {
            let untried = opening.untried;
            let text = format!("{}, {} not tried", grouped(opening.failed), grouped(untried));
            rows.row("failed", &text)?;
            rows.reasons(&opening.failed_reasons)?;
        }
        rows.row("lost", &grouped(self.lost))?;
        rows.reasons(&self.lost_reasons)?;
        if let Some(count) = self.heartbeats {
            rows.row("pings", &format!("{} answered", grouped(count)))?;
        }
        if let Some(messages) = &self.messages {
            rows.messages(messages)?;
        }
        if let Some(storm) = &self.storm {
            rows.storm(storm)?;
        }
        if let Some(server) = &self.server {
            rows.process("server", server)?;
        }
        if let Some(client) = &self.client {
            rows.process("client", client)?;
        }
        if let Some(kernel) = &self.kernel {
            rows.kernel(kernel)?;
        }
        let closing = &self.closing;
        let text = format!(
            "{} clean, {} cut, in {:.2} s",
            grouped(closing.clean),
            grouped(closing.cut),
            closing.seconds
        );
        rows.row("closed", &text)?;
        let slow = self.messages.as_ref().filter(|messages| messages.is_slow());
        let verdict = match slow.and_then(|messages| messages.max_p99_us) {
            Some(limit) => format!("slower than a p99 of {}", time(limit)),
            None if self.ok => "nothing lost".to_owned(),
            None => "something was lost".to_owned(),
        };
        rows.row("verdict", &verdict)
    }
}

impl Report {
    fn heading(&self) -> String {
        let mut text = format!(
            "{} {}: {} connections on {} threads",
            self.workload,
            self.url,
            grouped(u64::from(self.connections)),
            self.threads
        );
        if let Some(protocol) = self.protocol {
            text.push_str(&format!(", clients of the gateway in {}", protocol.name()));
        }
        if self.sources > 0 {
            text.push_str(&format!(" from {} addresses", self.sources));
        }
        text.push_str(&format!(", {:.2} s", self.seconds));
        if self.interrupted {
            text.push_str(", interrupted");
        }
        text
    }
}

struct Rows<'a, 'b>(&'a mut Formatter<'b>);

impl Rows<'_, '_> {
    fn row(&mut self, name: &str, text: &str) -> fmt::Result {
        writeln!(self.0, "{name:<10}{text}")
    }

    fn reasons(&mut self, reasons: &BTreeMap<String, u64>) -> fmt::Result {
        for (reason, count) in reasons {
            self.row("", &format!("{} x {reason}", grouped(*count)))?;
        }
        Ok(())
    }

    fn messages(&mut self, it: &MessageReport) -> fmt::Result {
        let mode = match (it.rate, it.pipeline) {
            (0, depth) => format!("closed loop, {depth} on their way each"),
            (rate, _) => format!("fixed rate, {}/s", grouped(rate)),
        };
        let at_once = match it.burst {
            1 => String::new(),
            burst => format!(", {burst} at once"),
        };
        let size = grouped(it.payload_bytes as u64);
        self.row("messages", &format!("{size} bytes, {mode}{at_once}"))?;
        let received = format!(
            "{} of {} expected; sent {}",
            grouped(it.received),
            grouped(it.expected),
            grouped(it.sent)
        );
        self.row("received", &received)?;
        let rate = grouped(it.per_second as u64);
        self.row("rate", &format!("{rate}/s, {:.2} MB/s", it.megabytes_per_second))?;
        self.row("latency", &it.latency_us.to_string())?;
        if let Some(large) = &it.large {
            let (size, percent) = (grouped(large.payload_bytes as u64), large.share * 100.0);
            self.row("large", &format!("{percent:.1} %, {size} bytes: {}", large.latency_us))?;
        }
        if it.rate > 0 {
            let text = format!("{} at worst, by this program", time(it.send_lag_max_us));
            self.row("sent late", &text)?;
        }
        let faults = [
            (it.lost, "lost"),
            (it.duplicates, "came again"),
            (it.late, "came after a later one"),
            (it.unsent, "due but not sent: the server does not take them"),
        ];
        for (count, text) in faults.iter().filter(|(count, _)| *count > 0) {
            self.row("", &format!("{} {text}", grouped(*count)))?;
        }
        self.reasons(&it.refused)?;
        for (how, count) in &it.wrong {
            self.row("", &format!("{} wrong: {how}", grouped(*count)))?;
        }
        Ok(())
    }

    fn storm(&mut self, it: &StormReport) -> fmt::Result {
        let (left, back) = (grouped(it.left), grouped(it.back));
        self.row("storm", &format!("{left} left at once, {back} came back"))?;
        self.row("", &format!("back after {}", it.back_us))?;
        if let Some(resumed) = it.resumed {
            self.row("", &format!("{} with their TLS session", grouped(resumed)))?;
        }
        if it.failed > 0 {
            self.row("", &format!("{} failed", grouped(it.failed)))?;
            self.reasons(&it.failed_reasons)?;
        }
        if let Some(others) = &it.latency_us {
            self.row("", &format!("latency meanwhile {others}"))?;
        }
        Ok(())
    }

    fn process(&mut self, name: &str, it: &ProcessReport) -> fmt::Result {
        let mut parts = Vec::new();
        if let (Some(all), Some(user), Some(system)) =
            (it.cpu_us_per_message, it.user_us_per_message, it.system_us_per_message)
        {
            parts.push(format!("{all:.2} µs/message (user {user:.2}, sys {system:.2})"));
        }
        parts.extend(
            it.messages_per_cpu_second
                .map(|count| format!("{} messages per processor second", grouped(count as u64))),
        );
        parts.extend(it.cpu_percent.map(|percent| format!("{percent:.1} % of a processor")));
        if !parts.is_empty() {
            self.row(name, &parts.join(", "))?;
        }
        let Some(rss) = it.rss_bytes else { return Ok(()) };
        let each = |bytes: Option<f64>| bytes.map_or("?".to_owned(), |it| format!("{it:.0}"));
        let text = format!(
            "{:.1} MiB resident; per connection {} resident, {} proportional, {} anonymous bytes",
            rss as f64 / f64::from(1 << 20),
            each(it.rss_per_connection),
            each(it.pss_per_connection),
            each(it.anonymous_per_connection)
        );
        self.row(if parts.is_empty() { name } else { "" }, &text)
    }

    fn kernel(&mut self, it: &KernelReport) -> fmt::Result {
        let total = it.slab_per_connection_both_ends;
        self.row("kernel", &format!("{total:.0} bytes of slabs per connection, both ends"))?;
        let mut caches: Vec<_> = it.caches.iter().collect();
        caches.sort_by(|a, b| b.1.total_cmp(a.1));
        let names: Vec<_> =
            caches.iter().take(4).map(|(name, each)| format!("{name} {each:.0}")).collect();
        self.row("", &names.join(", "))
    }
}

impl Display for Quantiles {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { p50, p90, p99, p999, max } = self;
        let [p50, p90, p99, p999, max] = [p50, p90, p99, p999, max].map(|us| time(*us));
        write!(f, "p50 {p50}  p90 {p90}  p99 {p99}  p99.9 {p999}  max {max}")
    }
}

/// Microseconds with three digits and a fitting unit.
fn time(us: f64) -> String {
    let (value, unit) = match us {
        us if us < 999.5 => (us, "µs"),
        us if us < 999_500.0 => (us / 1e3, "ms"),
        us => (us / 1e6, "s"),
    };
    let digits = match value {
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}

/// 1234567 as 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        let times = [0.5, 12.34, 123.4, 1234.0, 2_500_000.0].map(time);
        assert_eq!(times, ["0.50 µs", "12.3 µs", "123 µs", "1.23 ms", "2.50 s"]);
    }
}
