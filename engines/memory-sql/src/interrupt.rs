//! Ctrl-C, and the signal to terminate: the first one cancels the query, the second one ends the program.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::failure::{CANCELLED, Failure};

/// Whether a signal has come. Clones look at the same signals.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Handles both signals from now on.
    pub(crate) fn install() -> io::Result<Self> {
        let came = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: the signal that sets the flag must not end the program.
            flag::register_conditional_shutdown(signal, CANCELLED.into(), Arc::clone(&came))?;
            flag::register(signal, Arc::clone(&came))?;
        }
        Ok(Self(came))
    }

    pub(crate) fn came(&self) -> bool {
        // Relaxed: the flag guards no other memory.
        self.0.load(Ordering::Relaxed)
    }

    /// Runs what comes before a query, unless a signal comes first.
    pub(crate) async fn or<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let signal = async {
            while !self.came() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::select! {
            done = work => done,
            () = signal => Err(Failure::of(CANCELLED, "cancelled before the query began")),
        }
    }
}
