//! A thread beside a query that runs: it shows the progress, and cancels the query if a signal comes.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use arrow_memory_datafusion::QueryMemory;
use indicatif::{ProgressBar, ProgressStyle};

use crate::interrupt::Interrupt;
use crate::size::Size;

/// How often it looks.
const PAUSE: Duration = Duration::from_millis(100);
/// Queries that take less time show no progress.
const SHORT: Duration = Duration::from_millis(400);

/// Watches a query until it is dropped.
pub(crate) struct Watch {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Watches a query. There is progress if it is wanted, and standard error is a terminal.
    pub(crate) fn over(query: &Arc<QueryMemory>, interrupt: &Interrupt, progress: bool) -> Self {
        let (stop, stopped) = mpsc::channel();
        let (query, interrupt) = (Arc::clone(query), interrupt.clone());
        let progress = progress && io::stderr().is_terminal();
        let begun = Instant::now();
        let thread = thread::spawn(move || {
            let mut bar = None;
            while stopped.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
                if interrupt.came() {
                    query.cancel("a signal came");
                }
                if progress && begun.elapsed() >= SHORT {
                    show(bar.get_or_insert_with(|| start(&query)), &query, begun);
                }
            }
            if let Some(bar) = bar {
                bar.finish_and_clear();
            }
        });
        Self {
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It panics if indicatif does; then there is no more progress.
            let _ = thread.join();
        }
    }
}

fn start(query: &QueryMemory) -> ProgressBar {
    let (bar, template) = match query.report().limit {
        Some(limit) => (ProgressBar::new(limit as u64), "{msg} {bar:24.cyan/dim}"),
        None => (ProgressBar::new_spinner(), "{spinner} {msg}"),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

fn show(bar: &ProgressBar, query: &QueryMemory, begun: Instant) {
    let report = query.report();
    let of = report
        .limit
        .map_or_else(String::new, |limit| format!(" of {}", Size(limit)));
    bar.set_message(format!(
        "{:6.1} s  {:>10}{of}  spilled {:>10}",
        begun.elapsed().as_secs_f64(),
        Size(report.charged),
        Size(report.spilled_bytes),
    ));
    bar.set_position(report.charged as u64);
    bar.tick();
}
