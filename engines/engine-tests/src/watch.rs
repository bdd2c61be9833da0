//! A deadline for queries, which tells one that hangs from one that is slow.

use std::fmt;
use std::future::Future;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;

/// How long all threads must sleep before a query is said to hang.
const ASLEEP: Duration = Duration::from_secs(5);
/// The pause between two looks at the threads.
const LOOK: Duration = Duration::from_millis(250);

/// Why a future was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivenUp {
    /// It did not end, and no thread of the process had anything to do for seconds: nobody will ever wake it.
    Hung,
    /// It did not end within the deadline, though something ran.
    Late(Duration),
}

impl fmt::Display for GivenUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hung => f.write_str("hung"),
            Self::Late(deadline) => write!(f, "not done after {deadline:?}"),
        }
    }
}

/// Waits for a future, at most until the deadline, and drops it then.
///
/// A machine under load may run a query slowly, but a thread that waits for a processor does not sleep. So a process
/// whose threads all sleep is one whose query hangs. Nothing else may run in the process meanwhile, or a query that
/// hangs is only found at the deadline.
///
/// # Errors
///
/// Why the future was given up.
pub async fn watch<F: Future>(future: F, deadline: Duration) -> Result<F::Output, GivenUp> {
    // The future is polled when it is woken, and not when the timer is: else the timer could help one that hangs.
    let mut waiting = FuturesUnordered::new();
    waiting.push(future);
    let begun = Instant::now();
    let mut awake = begun;
    loop {
        if let Ok(Some(output)) = tokio::time::timeout(LOOK, waiting.next()).await {
            return Ok(output);
        }
        if !others_sleep() {
            awake = Instant::now();
        }
        if awake.elapsed() > ASLEEP {
            return Err(GivenUp::Hung);
        }
        if begun.elapsed() > deadline {
            return Err(GivenUp::Late(deadline));
        }
    }
}

/// Returns whether all threads of the process sleep but the one that asks. Where the system does not tell (it does on
/// Linux), they are taken not to.
fn others_sleep() -> bool {
    let Ok(own) = std::fs::read_link("/proc/thread-self") else {
        return false;
    };
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else {
        return false;
    };
    threads
        .flatten()
        .filter(|thread| Some(thread.file_name().as_os_str()) != own.file_name())
        .all(
            |thread| match std::fs::read_to_string(thread.path().join("stat")) {
                // The name is in parentheses, and may have some itself. The state follows.
                Ok(stat) => stat
                    .rsplit(") ")
                    .next()
                    .is_some_and(|rest| rest.starts_with('S')),
                // It has ended.
                Err(_) => true,
            },
        )
}
