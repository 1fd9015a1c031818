//! What a run finds besides its tallies, and how all of it becomes the report.
//!
//! Owns the moments at which processes and the kernel are looked at. Never waits. The invariant:
//! what is compared was looked at in the same way at both moments.

use super::mix::Sizes;
use super::proc::{Look, Looks, Slabs};
use super::report::{
    ClosingReport, KernelReport, MessageReport, OpeningReport, ProcessReport, Report, StormReport,
};
use super::tally::Tally;
use super::{FanoutPlan, Job, Plan};

/// Looks at the processes and the kernel at the right moments.
pub(super) struct Watch {
    server_pid: Option<u32>,
    server: Looks,
    client: Looks,
    slabs: [Slabs; 2],
}

impl Watch {
    pub(super) fn new(plan: &Plan) -> Self {
        let server_pid = plan.server_pid;
        let before = server_pid.and_then(|pid| Look::at(pid, true));
        let slabs = match server_pid {
            Some(_) => [Slabs::now(), Slabs::default()],
            None => Default::default(),
        };
        let server = Looks { before, ..Looks::default() };
        Self { server_pid, server, client: Looks::default(), slabs }
    }

    /// The threads are there, and no connection yet.
    pub(super) fn on_start(&mut self) {
        self.client.before = Look::at(std::process::id(), true);
    }

    /// All that will open are open.
    pub(super) fn on_opened(&mut self) {
        self.server.opened = self.server_pid.and_then(|pid| Look::at(pid, false));
    }

    /// Memory is looked at here.
    pub(super) fn on_open(&mut self) {
        self.client.open = Look::at(std::process::id(), true);
        if let Some(pid) = self.server_pid {
            self.server.open = Look::at(pid, true);
            self.slabs[1] = Slabs::now();
        }
    }

    pub(super) fn on_begin(&mut self) {
        self.server.begin = self.server_pid.and_then(|pid| Look::at(pid, false));
        self.client.begin = Look::at(std::process::id(), false);
    }

    pub(super) fn on_end(&mut self) {
        self.server.end = self.server_pid.and_then(|pid| Look::at(pid, false));
        self.client.end = Look::at(std::process::id(), false);
    }
}

/// What the conductor itself knows of a run.
pub(super) struct Frame {
    pub(super) threads: usize,
    pub(super) sources: usize,
    pub(super) seconds: f64,
    pub(super) opening: OpeningReport,
    pub(super) closing: ClosingReport,
}

impl Frame {
    pub(super) fn report(
        self,
        plan: &Plan,
        tally: &Tally,
        watch: &Watch,
        interrupted: bool,
    ) -> Report {
        let Self { threads, sources, seconds, mut opening, closing } = self;
        opening.server_cpu_us_each = watch.server.opening_us(opening.opened);
        let traffic = &tally.traffic;
        let messages = |sizes, how| {
            let receivers = receivers(plan.job, opening.opened);
            let max_p99_us = plan.max_p99.map(|limit| limit.as_secs_f64() * 1e6);
            let all = MessageReport::new(traffic, sizes, how, receivers, seconds);
            Some(MessageReport { max_p99_us, ..all })
        };
        let messages = match plan.job {
            Job::Idle => None,
            Job::Echo { sizes, rate, pipeline } => messages(sizes, (rate, pipeline, 0)),
            Job::Fanout(FanoutPlan { size, rate, pipeline, publishers, burst }) => {
                let all = messages(Sizes::same(size), (rate, pipeline, publishers));
                all.map(|all| MessageReport { burst, ..all })
            }
        };
        let storm = plan.storm.map(|storm| StormReport::new(storm, plan.target.tls, tally));
        let lost = tally.opening.lost.total();
        let left_out = if interrupted { 0 } else { opening.untried };
        let ok = opening.failed + left_out + lost == 0
            && messages.as_ref().is_none_or(|all| all.is_whole() && !all.is_slow())
            && storm.as_ref().is_none_or(|storm| interrupted || storm.all_came_back());
        let process =
            |looks: &Looks| ProcessReport::new(looks, opening.opened, traffic.measured, seconds);
        Report {
            workload: plan.job.name(),
            url: plan.target.url.clone(),
            protocol: plan.gateway.as_ref().map(|gateway| gateway.encoding.into()),
            ok,
            interrupted,
            connections: plan.connections,
            threads,
            sources,
            seconds,
            lost,
            lost_reasons: tally.opening.lost.0.clone(),
            heartbeats: plan.gateway.as_ref().map(|_| traffic.heartbeats),
            messages,
            storm,
            server: watch.server_pid.map(|_| process(&watch.server)),
            client: Some(process(&watch.client)),
            kernel: KernelReport::new(&watch.slabs[0], &watch.slabs[1], opening.opened),
            opening,
            closing,
        }
    }
}

/// How many times each message has to come.
pub(super) fn receivers(job: Job, opened: u64) -> u64 {
    match job {
        Job::Fanout(_) => opened,
        Job::Echo { .. } => 1,
        Job::Idle => 0,
    }
}
