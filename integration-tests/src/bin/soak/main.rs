//! A server under load for as long as you like, which must not lose a byte.
//!
//! ```text
//! cargo run --release -p arrow-memory-integration-tests --bin soak -- --seconds 60 --backend mimalloc --seed 7
//! ```
//!
//! Clients arrive, each with an allocator and a limit, on threads and as tasks of tokio. They allocate, grow, split and
//! release buffers, share them and hand them on, adopt arrays of arrow-rs, reserve, charge external bytes, wait for
//! memory, and give it back when others need it. Some are cancelled: their allocator is retired, their task is aborted,
//! or they panic. One in 64 leaks, and the report of its closing has to name what it leaked, exactly. Meanwhile limits
//! and caps move, and the manager fails and panics at random.
//!
//! A line every few seconds has the totals. In the end everything is released: the tree must have the known leaks and
//! nothing else, to the byte, and nothing once they are mended, and the manager must have got all blocks back. Then the
//! program exits with 0, and else with 1 and a report. It also prints how fast its resident memory grew over the last
//! two thirds of the run. A run of ten minutes or more fails if that is above 1 % of the live size in an hour by more
//! than two standard errors.
//!
//! The random numbers of a run come from its seed. What the threads make of them differs from run to run.

mod arguments;
mod arrays;
mod attic;
mod client;
mod ending;
mod operator;
mod progress;
mod server;
mod visit;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use arrow_memory_arena as _;
use arrow_memory_integration_tests::load::Trend;
use arrow_memory_jemalloc as _;
use arrow_memory_mimalloc as _;
use arrow_memory_system as _;
use tokio::runtime::Builder;

use arguments::{Arguments, USAGE};
use server::Server;

/// How many threads run operators that spill.
const SPILLERS: u64 = 2;
/// How long the threads may take to end.
const END: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(problem) => {
            eprintln!("{problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let server = match Server::new(&arguments.backend) {
        Ok(server) => Arc::new(server),
        Err(error) => {
            eprintln!("{error:#}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    println!("soak: {arguments:?}");
    be_quiet_about_panics_on_purpose();
    let live_before = ending::live_bytes(&server);

    let (ended, end) = channel();
    let (shared, run_of) = (Arc::clone(&server), arguments.clone());
    let runs = thread::spawn(move || {
        let trend = run(&shared, &run_of);
        // The receiver was dropped if this took too long.
        let _ = ended.send(());
        trend
    });
    let allowed = Duration::from_secs(arguments.seconds) + END;
    if end.recv_timeout(allowed) == Err(RecvTimeoutError::Timeout) {
        println!("failed: threads hang\n{:#?}", server.root.snapshot());
        return ExitCode::FAILURE;
    }
    let Ok(trend) = runs.join() else {
        return ExitCode::FAILURE;
    };
    ending::settle(&server, live_before);
    if let Some(problem) = progress::judge(&trend, arguments.seconds) {
        server.totals().fail(problem);
    }
    println!("totals: {}", server.totals());
    let failures = server.totals().failures();
    for failure in failures.iter().take(20) {
        println!("failed: {failure}");
    }
    if failures.is_empty() {
        println!("balanced to the byte");
    }
    ExitCode::from(u8::from(!failures.is_empty()))
}

/// Runs all threads and tasks for the time that the arguments say.
fn run(server: &Arc<Server>, arguments: &Arguments) -> Trend {
    let seed = |index: u64| arguments.seed.wrapping_mul(10_000).wrapping_add(index);
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .expect("threads can be spawned");
    let trend = thread::scope(|scope| {
        for index in 0..arguments.threads {
            scope.spawn(move || operator::serve(server, seed(index)));
        }
        for index in 0..SPILLERS {
            scope.spawn(move || operator::spill(server, seed(9_000 + index)));
        }
        scope.spawn(|| operator::serve_tasks(server, &runtime, seed(9_100)));
        scope.spawn(|| operator::operate(server, seed(9_200)));
        let trend = progress::watch(server, arguments.seconds);
        server.relax();
        trend
    });
    drop(runtime); // its threads end
    server.relax(); // for what the last steps left
    trend
}

/// Prints no message for panics that are part of the run.
fn be_quiet_about_panics_on_purpose() {
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let payload = info.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let message = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        if !message.is_some_and(server::is_on_purpose) {
            loud(info);
        }
    }));
}
