//! What it costs to wake another thread's ring, and how long it takes: a write to an eventfd that
//! the ring polls, against `IORING_OP_MSG_RING`.
//!
//! The sleeper waits in its ring and notes each wake in a shared word; the waker wakes it as soon
//! as it has seen the last one noted, and measures both its own call and the whole way. Run it with
//! two processors, or the waker competes with the sleeper. Never measures a server.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use io_uring::types::Fd;
use io_uring::{IoUring, opcode};
use ringhold::internals::ring::Doorbell;
use ringhold::internals::sys::EventFd;

/// Prints medians of both ways, a few times in turn.
pub(crate) fn measure(count: u32) -> io::Result<()> {
    for _ in 0..5 {
        for way in ["eventfd", "msg-ring"] {
            let (mut calls, mut ways, sleeper) = wake(way == "msg-ring", count)?;
            println!(
                "{way}: call {:?}, until the other runs {:?} (medians of {count}); \
                 sleeper's processor time {:?} per wake",
                median(&mut calls),
                median(&mut ways),
                sleeper / count,
            );
        }
    }
    Ok(())
}

/// How long each call took, how long until the sleeper ran, and all of the sleeper's processor
/// time.
fn wake(by_message: bool, count: u32) -> io::Result<(Vec<Duration>, Vec<Duration>, Duration)> {
    let noted = Arc::new(AtomicU32::new(0));
    let bell = Arc::new(EventFd::new()?);
    let (send, receive) = mpsc::channel();
    let sleeper = {
        let (noted, bell) = (noted.clone(), bell.clone());
        std::thread::spawn(move || sleep(&noted, &bell, count, &send))
    };
    let target = receive.recv().map_err(io::Error::other)?;
    let mut ring = build()?;
    let (mut calls, mut ways) = (Vec::new(), Vec::new());
    for number in 1..=count {
        // Long enough for the other to fall asleep.
        let start = Instant::now();
        while start.elapsed() < Duration::from_micros(20) {
            std::hint::spin_loop();
        }
        let start = Instant::now();
        if by_message {
            let entry = opcode::MsgRingData::new(Fd(target), 0, WAKE, None).build();
            crate::push_plain(&mut ring, &entry);
            ring.submit()?;
        } else {
            bell.ring();
        }
        calls.push(start.elapsed());
        while noted.load(Ordering::Acquire) < number {
            std::hint::spin_loop();
        }
        ways.push(start.elapsed());
        let failed = ring.completion().find(|it| it.result() < 0);
        if let Some(entry) = failed {
            return Err(io::Error::from_raw_os_error(-entry.result()));
        }
    }
    let spent = sleeper.join().expect("the sleeper ends")?;
    Ok((calls, ways, spent))
}

/// Notes wakes until there were so many. Returns the processor time of that.
fn sleep(
    noted: &AtomicU32,
    bell: &EventFd,
    count: u32,
    ready: &mpsc::Sender<i32>,
) -> io::Result<Duration> {
    let mut ring = build()?;
    let poll = opcode::PollAdd::new(Fd(bell.as_raw_fd()), libc::POLLIN as u32).multi(true).build();
    let poll = poll.user_data(WAKE);
    crate::push_plain(&mut ring, &poll);
    ring.submit()?;
    ready.send(ring.as_raw_fd()).map_err(io::Error::other)?;
    let before = processor_time()?;
    let mut seen = 0;
    while seen < count {
        ring.submit_and_wait(1)?;
        seen += ring.completion().filter(|it| it.user_data() == WAKE && it.result() >= 0).count()
            as u32;
        noted.store(seen, Ordering::Release);
    }
    Ok(processor_time()? - before)
}

/// Of this thread, from the scheduler.
fn processor_time() -> io::Result<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let first = text.split(' ').next().and_then(|it| it.parse().ok());
    first.map(Duration::from_nanos).ok_or_else(|| io::Error::other("schedstat"))
}

fn build() -> io::Result<IoUring> {
    IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(64)
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

const WAKE: u64 = 1;
