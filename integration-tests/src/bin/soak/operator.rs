//! What happens to the clients: limits move, the manager fails, clients are cancelled, caches come and go.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use arrow_memory_integration_tests::load::{Count, Operator};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::server::{LIMIT, SHARE, Server};
use crate::visit;

/// How many tasks there are at once.
const TASKS: usize = 16;

/// Has clients visit on this thread, one after another; now and then on a thread of their own, which ends with them.
pub(crate) fn serve(server: &Arc<Server>, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    while !server.stopped() {
        let seed = random.u64(..);
        let visit = || server.survive(|| visit::on_thread(server, seed));
        if random.u32(..8) == 0 {
            thread::scope(|scope| {
                scope.spawn(visit);
            });
        } else {
            visit();
        }
    }
}

/// Has clients visit as tasks, and aborts some of them.
pub(crate) fn serve_tasks(server: &Arc<Server>, runtime: &Runtime, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut tasks: Vec<JoinHandle<()>> = Vec::new();
    while !server.stopped() {
        let (ended, running): (Vec<_>, Vec<_>) =
            tasks.into_iter().partition(|task| task.is_finished());
        tasks = running;
        for task in ended {
            end(server, runtime, task);
        }
        while tasks.len() < TASKS {
            let visit = visit::as_task(Arc::clone(server), random.u64(..));
            tasks.push(runtime.spawn(visit));
        }
        if random.u32(..4) == 0 {
            tasks[random.usize(..TASKS)].abort();
        }
        thread::park_timeout(Duration::from_millis(random.u64(..8)));
    }
    for task in tasks {
        end(server, runtime, task);
    }
}

fn end(server: &Server, runtime: &Runtime, task: JoinHandle<()>) {
    match runtime.block_on(task) {
        Ok(()) => {}
        Err(error) if error.is_cancelled() => server.totals().add(Count::Cancelled),
        Err(error) => server.panicked(&*error.into_panic()),
    }
}

/// Has operators that spill, one after another.
pub(crate) fn spill(server: &Server, seed: u64) {
    fastrand::seed(seed);
    while !server.stopped() {
        let Ok(allocator) = server.root.child("sort").build() else {
            continue;
        };
        let mut operator = Operator::new(allocator);
        for _ in 0..fastrand::u32(1..200) {
            let survived = server.survive(|| operator.step(&server.ground, SHARE));
            if survived.is_none() || server.stopped() {
                break;
            }
        }
    }
}

/// Moves limits, has the manager fail, cancels clients, changes caches, and verifies the tree.
pub(crate) fn operate(server: &Server, seed: u64) {
    fastrand::seed(seed);
    let mut verified = Instant::now();
    while !server.stopped() {
        match fastrand::u32(..32) {
            0..6 => move_limits_of_a_client(server),
            6..8 => dip(server),
            8..16 => change_the_manager(server),
            16 => cancel_a_client(server),
            17..28 => change_a_cache(server),
            _ => {}
        }
        if verified.elapsed() > Duration::from_millis(200) {
            verified = Instant::now();
            match server.root.verify() {
                Ok(()) => server.totals().add(Count::Verified),
                Err(error) => server.totals().fail(error.to_string()),
            }
        }
        thread::park_timeout(Duration::from_micros(fastrand::u64(..4000)));
    }
}

fn move_limits_of_a_client(server: &Server) {
    let Some(client) = server.any_client() else {
        return;
    };
    let bytes = fastrand::usize(LIMIT / 64..LIMIT / 4);
    match fastrand::u32(..4) {
        0 => client.set_cap(Some(bytes)),
        1 => client.set_cap(None),
        _ => client.set_limit(bytes),
    }
}

/// Lowers the limit of the server for a moment.
fn dip(server: &Server) {
    let low = LIMIT / 2 + fastrand::usize(..LIMIT / 2);
    if fastrand::bool() {
        server.root.set_limit(low);
    } else {
        server.root.set_cap(Some(low));
    }
    thread::park_timeout(Duration::from_micros(fastrand::u64(..2000)));
    server.root.set_limit(LIMIT);
    server.root.set_cap(None);
}

fn change_the_manager(server: &Server) {
    match fastrand::u32(..8) {
        0 => {
            server.failing.fail_always();
            thread::park_timeout(Duration::from_micros(fastrand::u64(..500)));
            server.failing.recover();
        }
        1 => server.failing.fail_every(fastrand::u64(2..200)),
        2 => {
            let call = server.panicking.calls() + fastrand::u64(..20);
            server.panicking.panic_at(call);
        }
        _ => server.failing.recover(),
    }
}

/// The cache asks for memory, and the manager may panic.
fn change_a_cache(server: &Server) {
    server.survive(|| server.change_cache());
}

fn cancel_a_client(server: &Server) {
    if let Some(client) = server.any_client() {
        client.retire();
    }
}
