//! Logs on standard error or in a file, best effort and off the threads that serve.
//!
//! Owns the queue between whoever logs and the one thread that writes, and what of a line reaches a
//! terminal. The invariants: logging never waits for standard error, never fails and never
//! panics; the queue is bounded in bytes; a line of the log is one event, whatever a client put
//! into it.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;

pub use super::logfile::{LogFile, Reopen};

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people; in colours where a terminal shows them.
    Text,
    /// One JSON object per line, for collectors of logs.
    Json,
}

/// Starts logging for this process, as much as `filter` lets through, to standard error or to a
/// file. Panics are logged, too.
///
/// # Errors
/// The filter cannot be understood.
pub fn start(filter: &str, format: Format, file: Option<LogFile>) -> Result<(), ParseError> {
    let filter = EnvFilter::try_new(filter)?;
    let style = match format {
        Format::Json => Style::Json,
        Format::Text if file.is_none() && io::stderr().is_terminal() => Style::Colours,
        Format::Text => Style::Plain,
    };
    let log = match file {
        Some(file) => Log::start(QUEUE_BYTES, style, file),
        None => Log::start(QUEUE_BYTES, style, Stderr),
    };
    if LOG.set(log.clone()).is_ok() {
        std::panic::set_hook(Box::new(on_panic));
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(log)
            .with_ansi(style == Style::Colours)
            // They would go to standard error, which may be stuck.
            .log_internal_errors(false);
        match style {
            Style::Json => subscriber.json().flatten_event(true).init(),
            Style::Colours | Style::Plain => subscriber.init(),
        }
    }
    Ok(())
}

/// Says something to the operator, whatever the log's filter is. Before [`start`] it goes straight
/// to standard error.
pub fn tell(text: &str) {
    match LOG.get() {
        Some(log) => text.lines().for_each(|line| log.say(line)),
        // Nobody can be told where there is no standard error.
        None => drop(writeln!(io::stderr(), "{text}")),
    }
}

/// Waits until everything is written, but not longer than this.
pub fn flush(limit: Duration) {
    if let Some(log) = LOG.get() {
        log.flush(limit);
    }
}

/// Lines that could not be written since the start.
pub fn dropped() -> u64 {
    LOG.get().map_or(0, |log| log.0.dropped.load(Ordering::Relaxed))
}

/// The log of this process, once it is started.
static LOG: OnceLock<Log> = OnceLock::new();

fn on_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("a thread");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let payload = panic.payload();
    let said = payload.downcast_ref::<&str>().copied();
    let said = said.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let said = said.unwrap_or("no message");
    let trace = Backtrace::capture();
    if let Some(log) = LOG.get() {
        log.say(&format!("{name} panicked at {place}: {said}"));
        if trace.status() == BacktraceStatus::Captured {
            trace.to_string().lines().for_each(|line| log.say(line));
        }
        // After the main thread there is nobody to wait.
        if name == "main" {
            log.flush(LAST_WORDS);
        }
    }
}

/// Where lines go; clones share the queue.
#[derive(Clone, Debug)]
pub(crate) struct Log(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    room: usize,
    style: Style,
    queue: Mutex<Queue>,
    /// There is something to write, or all is written.
    moved: Condvar,
    dropped: AtomicU64,
}

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    Colours,
    Json,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Box<[u8]>>,
    bytes: usize,
    /// Lines that were dropped since the log said so.
    untold: u64,
    /// The writer has lines in hand.
    busy: bool,
}

impl Log {
    /// A queue of at most `room` bytes, and the thread that writes it to `to` until the process
    /// ends. Without a thread there is no log.
    pub(crate) fn start(room: usize, style: Style, to: impl Write + Send + 'static) -> Self {
        let (queue, moved) = (Mutex::default(), Condvar::new());
        let log = Self(Arc::new(Shared { room, style, queue, moved, dropped: AtomicU64::new(0) }));
        let shared = log.0.clone();
        let thread = std::thread::Builder::new().name("ringhold-log".to_owned());
        let _ = thread.spawn(move || shared.write(to));
        log
    }

    /// Queues words of our own, which no event brings.
    fn say(&self, text: &str) {
        self.push(&worded(text, self.0.style));
    }

    /// Queues a line, or drops it where there is no room. Never waits.
    pub(crate) fn push(&self, line: &str) {
        let line = printable(line, self.0.style).into_bytes().into_boxed_slice();
        let size = line.len() + LINE_OVERHEAD;
        let mut queue = self.0.queue();
        if queue.bytes + size > self.0.room {
            queue.untold += 1;
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queue.bytes += size;
        queue.lines.push_back(line);
        drop(queue);
        self.0.moved.notify_all();
    }

    /// Waits until all is written, or this time is over.
    pub(crate) fn flush(&self, limit: Duration) {
        let end = Instant::now() + limit;
        let mut queue = self.0.queue();
        while !queue.lines.is_empty() || queue.busy {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.0.moved.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // It is whole after each statement under its lock.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The writer's loop. Lines in the writer's hand count as queued until they are written.
    fn write(&self, mut to: impl Write) {
        let mut queue = self.queue();
        let mut failed = 0_u64;
        loop {
            queue.busy = false;
            while queue.lines.is_empty() {
                self.moved.notify_all();
                queue = self.moved.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            queue.busy = true;
            let mut batch = Vec::with_capacity(BATCH);
            tell_lost(&mut batch, failed, self.style);
            let (mut lines, mut size) = (0_u64, 0);
            while batch.len() < BATCH
                && let Some(line) = queue.lines.pop_front()
            {
                (lines, size) = (lines + 1, size + line.len() + LINE_OVERHEAD);
                batch.extend_from_slice(&line);
            }
            // They were to follow the last of those that are queued.
            let untold = match queue.lines.is_empty() {
                true => std::mem::take(&mut queue.untold),
                false => 0,
            };
            tell_lost(&mut batch, untold, self.style);
            drop(queue);
            let written = write_all(&mut to, &batch);
            queue = self.queue();
            queue.bytes -= size;
            failed = match written {
                Ok(()) => 0,
                // Nobody reads, or the disk is full. The next line is the next try.
                Err(_) => {
                    self.dropped.fetch_add(lines, Ordering::Relaxed);
                    failed + untold + lines
                }
            };
        }
    }
}

fn tell_lost(batch: &mut Vec<u8>, lines: u64, style: Style) {
    if lines > 0 {
        let text = format!("{lines} lines of the log were lost here");
        batch.extend_from_slice(worded(&text, style).as_bytes());
        batch.push(b'\n');
    }
}

/// Words of our own as a line of the log, without its line break.
fn worded(text: &str, style: Style) -> String {
    match style {
        Style::Plain | Style::Colours => text.to_owned(),
        Style::Json => {
            let level = if text.starts_with("warning:") { "WARN" } else { "ERROR" };
            let timestamp = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
            let text: String = text.chars().take(LINE_MAX / 8).collect();
            serde_json::json!({"timestamp": timestamp, "level": level, "message": text}).to_string()
        }
    }
}

fn write_all(to: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Whoever shares standard error has made it so. This thread may wait.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(RETRY),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Standard error without the lock that a stuck writer would hold against everybody else.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        use std::os::fd::AsFd;
        rustix::io::write(io::stderr().as_fd(), bytes).map_err(io::Error::from)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes one event, which `tracing-subscriber` writes in one call.
pub(crate) struct Event<'a>(&'a Log);

impl Write for Event<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.push(String::from_utf8_lossy(bytes).trim_end_matches('\n'));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Event<'a>;

    fn make_writer(&'a self) -> Event<'a> {
        Event(self)
    }
}

/// One line that ends with its line break and holds no other: control characters, and those that
/// turn the direction of what follows, are written as escapes. The formatter's own colours stay; it
/// escapes ESC in values itself. A line of JSON stays one: its escapes are those of JSON, and
/// one that is too long is quoted in part.
fn printable(line: &str, style: Style) -> String {
    let (colours, json) = (style == Style::Colours, style == Style::Json);
    // What is escaped below takes up to six bytes for one.
    if json && line.len() > LINE_MAX {
        return printable(&worded(&format!("cut: {line}"), style), style);
    }
    let mut out = String::with_capacity(line.len() + 1);
    let mut rest = line;
    while let Some(char) = rest.chars().next() {
        if out.len() >= LINE_MAX && !json {
            out.push('…');
            break;
        }
        let colour = colours.then(|| colour(rest)).flatten();
        let taken = colour.unwrap_or(char.len_utf8());
        match char {
            _ if colour.is_some() => out.push_str(&rest[..taken]),
            '\t' => out.push(' '),
            // All of them are below U+FFFF.
            _ if json && (char.is_control() || is_format(char)) => {
                let _ = write!(out, "\\u{:04x}", u32::from(char));
            }
            _ if char.is_control() || is_format(char) => {
                // Writing to a String cannot fail.
                let _ = write!(out, "{}", char.escape_default());
            }
            _ => out.push(char),
        }
        rest = &rest[taken..];
    }
    out.push('\n');
    out
}

/// The length of the escape sequence for a colour or a style that the text begins with.
fn colour(text: &str) -> Option<usize> {
    let body = text.strip_prefix("\x1b[")?;
    let digits = body.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b';').count();
    (body.as_bytes().get(digits) == Some(&b'm')).then_some(digits + 3)
}

/// Line and paragraph separators, and marks of direction.
fn is_format(char: char) -> bool {
    matches!(char, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Bytes of lines that wait for standard error: some 8,000 lines.
pub const QUEUE_BYTES: usize = 1 << 20;

/// Bytes of one line; the rest is cut off.
const LINE_MAX: usize = 8 << 10;

/// Memory of a queued line beside its text: its entry and the allocator's share.
const LINE_OVERHEAD: usize = 32;

/// About what one system call writes.
const BATCH: usize = 16 << 10;

/// For a standard error that somebody made non-blocking.
const RETRY: Duration = Duration::from_millis(20);

/// How long the end of the process waits for the log.
pub const LAST_WORDS: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Takes what is sent, one write each time it is allowed; what it gets goes to a channel.
    struct Gate {
        allowed: mpsc::Receiver<io::Result<()>>,
        got: mpsc::Sender<String>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.allowed.recv().unwrap_or(Ok(()))?;
            let _ = self.got.send(String::from_utf8(bytes.to_vec()).unwrap());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gate(room: usize) -> (Log, mpsc::Sender<io::Result<()>>, mpsc::Receiver<String>) {
        let ((allow, allowed), (got, written)) = (mpsc::channel(), mpsc::channel());
        (Log::start(room, Style::Plain, Gate { allowed, got }), allow, written)
    }

    fn lost(log: &Log) -> u64 {
        log.0.dropped.load(Ordering::Relaxed)
    }

    #[test]
    fn a_reader_that_does_not_read_costs_lines_and_no_time() {
        let (log, allow, written) = gate(1000);
        for number in 0..100 {
            log.push(&format!("line {number}"));
        }
        let held = log.0.queue().bytes;
        // The writer holds its lines in hand, and they count.
        assert!(held <= 1000, "{held}");
        let kept = 100 - lost(&log);
        assert!((20..=30).contains(&kept), "{kept}");
        log.flush(Duration::from_millis(1));
        drop(allow);
        log.flush(Duration::from_secs(60));
        assert_eq!(log.0.queue().bytes, 0);
        log.push("more");
        log.flush(Duration::from_secs(60));
        let all: String = written.try_iter().collect();
        assert!(all.starts_with("line 0\nline 1\n"), "{all}");
        assert!(
            all.contains(&format!("{} lines of the log were lost here\n", 100 - kept)),
            "{all}"
        );
        assert!(all.ends_with("here\nmore\n"), "{all}");
        assert_eq!(all.lines().count() as u64, kept + 2, "{all}");
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_told_later() {
        let (log, allow, written) = gate(10_000);
        for failure in [io::ErrorKind::StorageFull, io::ErrorKind::BrokenPipe] {
            log.push("gone");
            allow.send(Err(failure.into())).unwrap();
            log.flush(Duration::from_secs(60));
        }
        assert_eq!((lost(&log), log.0.queue().bytes), (2, 0));
        log.push("here");
        drop(allow);
        log.flush(Duration::from_secs(60));
        assert_eq!(written.recv().unwrap(), "2 lines of the log were lost here\nhere\n");
        assert_eq!(lost(&log), 2);
    }

    #[test]
    fn a_line_is_one_event_whatever_is_in_it() {
        for (text, line) in [
            ("plain äöü\t1", "plain äöü 1\n"),
            ("a\nb\r\nc", "a\\nb\\r\\nc\n"),
            ("\u{85}\u{2028}\u{202e}\0", "\\u{85}\\u{2028}\\u{202e}\\u{0}\n"),
            ("\x1b[31mred\x1b[0m", "\\u{1b}[31mred\\u{1b}[0m\n"),
        ] {
            assert_eq!(printable(text, Style::Plain), line);
        }
        assert_eq!(printable("\x1b[31mred\x1b[0m", Style::Colours), "\x1b[31mred\x1b[0m\n");
        assert_eq!(
            printable("\x1b]0;title\x07\x1b[2J", Style::Colours),
            "\\u{1b}]0;title\\u{7}\\u{1b}[2J\n"
        );
        let long = printable(&"x".repeat(LINE_MAX * 2), Style::Plain);
        assert_eq!(long.len(), LINE_MAX + "…\n".len());
    }

    #[test]
    fn a_line_of_json_stays_json() {
        let json = |line: &str| -> serde_json::Value {
            let line = printable(line, Style::Json);
            assert_eq!(line.lines().count(), 1, "{line:?}");
            assert!(line.len() <= LINE_MAX * 2, "{}", line.len());
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
        };
        let hostile = "a\u{85}\u{2028}\u{202e}\u{7f}b\n\"\\";
        for text in [hostile.to_owned(), hostile.repeat(4000)] {
            let event = serde_json::json!({"level": "INFO", "message": text}).to_string();
            let read = json(&event);
            match text.len() > LINE_MAX {
                true => assert!(read["message"].as_str().unwrap().starts_with("cut: {")),
                false => assert_eq!(read["message"], text),
            }
        }
        for (text, level) in [("warning: x", "WARN"), ("it failed", "ERROR")] {
            let read = json(&worded(text, Style::Json));
            assert_eq!((&read["level"], &read["message"]), (&level.into(), &text.into()));
        }
        let mut batch = Vec::new();
        tell_lost(&mut batch, 3, Style::Json);
        json(std::str::from_utf8(&batch).unwrap().trim_end());
    }
}
