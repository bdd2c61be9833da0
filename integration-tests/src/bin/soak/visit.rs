//! A client's visit from its arrival to its leaving: on a thread, with waits that block it, or as a task of tokio, with
//! waits that do not.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use arrow_memory_core::{AllocError, BufferAllocator, WaitError};
use arrow_memory_integration_tests::load::{Cache, Count, large, millis, size};

use crate::attic::{Leak, mend};
use crate::client::{Client, Held};
use crate::server::{LIMIT, Server};

/// One client in so many leaks.
const LEAKY: u32 = 64;
/// How long the memory of a closed client may be in the hands of other threads.
const SOON: Duration = Duration::from_secs(10);

/// A visit on this thread.
pub(crate) fn on_thread(server: &Arc<Server>, seed: u64) {
    fastrand::seed(seed);
    let admitted = if fastrand::u32(..8) == 0 {
        let admission = server.root.admit(&server.name());
        let admission = admission.reservation(large(LIMIT / 4)).limit(limit());
        admission.blocking(millis())
    } else {
        arrive(server).map_err(WaitError::Refused)
    };
    let Some(mut client) = admit(server, admitted, seed) else {
        return;
    };
    let mut cache = None;
    for _ in 0..steps() {
        client.begin_step();
        match fastrand::u32(..110) {
            choice @ 0..100 => client.step(choice),
            100..108 => wait(&mut client),
            _ => keep_cache(&mut client, &mut cache),
        }
        if server.stopped() || client.cancelled {
            break;
        }
    }
    drop(cache);
    leave(client);
}

/// A visit as a task. It may be aborted at each `await`.
pub(crate) async fn as_task(server: Arc<Server>, seed: u64) {
    fastrand::seed(seed);
    let admitted = if fastrand::bool() {
        let admission = server.root.admit(&server.name());
        let admission = admission.reservation(large(LIMIT / 4)).limit(limit());
        admission.at_most(50 * millis()).await
    } else {
        arrive(&server).map_err(WaitError::Refused)
    };
    let Some(mut client) = admit(&server, admitted, seed) else {
        return;
    };
    for _ in 0..steps() {
        client.begin_step();
        match fastrand::u32(..120) {
            choice @ 0..100 => client.step(choice),
            100..115 => wait_async(&mut client).await,
            _ => tokio::task::yield_now().await,
        }
        if server.stopped() || client.cancelled {
            break;
        }
    }
    leave(client);
}

fn arrive(server: &Server) -> Result<BufferAllocator, AllocError> {
    let child = server.root.child(&server.name()).limit(limit());
    child.reservation(size() / 8).build()
}

fn limit() -> usize {
    fastrand::usize(LIMIT / 64..LIMIT / 4)
}

fn steps() -> u32 {
    fastrand::u32(20..400)
}

fn admit(
    server: &Arc<Server>,
    admitted: Result<BufferAllocator, WaitError>,
    seed: u64,
) -> Option<Client> {
    match admitted {
        Ok(allocator) => Some(Client::new(server, allocator, seed)),
        Err(error) => {
            server.ground.ended(error, true);
            None
        }
    }
}

/// Blocks until there is memory, for a while.
fn wait(client: &mut Client) {
    let allocator = client.allocator.clone();
    let wait = allocator.wait().at_most(millis());
    let ended = match fastrand::u32(..3) {
        0 => wait.buffer(size()).map(Held::Buffer),
        1 => wait.reserve(large(LIMIT / 4)).map(Held::Reservation),
        _ => match client.buffer_mut() {
            Some(buffer) => {
                if let Err(error) = wait.grow(buffer, size()) {
                    client.waited(Err(error));
                }
                return;
            }
            None => return,
        },
    };
    client.waited(ended);
}

async fn wait_async(client: &mut Client) {
    let allocator = client.allocator.clone();
    let wait = allocator.wait().at_most(10 * millis());
    let ended = match fastrand::u32(..4) {
        0 | 1 => wait.buffer_async(size()).await.map(Held::Buffer),
        2 => {
            let reservation = wait.reserve_async(large(LIMIT / 4)).await;
            reservation.map(Held::Reservation)
        }
        _ => {
            let admission = allocator.admit("admitted").reservation(large(LIMIT / 16));
            admission.at_most(10 * millis()).await.map(Held::Admitted)
        }
    };
    client.waited(ended);
}

/// Registers a cache below the client, or has it take memory.
fn keep_cache(client: &mut Client, cache: &mut Option<Arc<Cache>>) {
    if let Some(cache) = cache {
        client.cancelled |= !cache.fill();
    } else {
        *cache = Cache::new(&client.server.ground, &client.allocator);
        client.had_cache |= cache.is_some();
    }
}

/// The end of a visit.
fn leave(mut client: Client) {
    let totals = client.server.totals();
    if client.cancelled {
        totals.add(Count::Cancelled);
    }
    totals.add(Count::Left);
    match fastrand::u32(..LEAKY) {
        0 => leave_leaks(client),
        1..16 => drop(client),
        16..24 => client.allocator.retire(), // with all that is held
        _ => {
            client.drop_all();
            if let Err(report) = close(&client) {
                let totals = client.server.totals();
                totals.fail(format!("not empty: {report}"));
            }
        }
    }
}

/// Leaves something behind, and looks for it in the report of the closing.
fn leave_leaks(mut client: Client) {
    client.drop_all();
    let leak = Leak::of(&client.allocator);
    let server = Arc::clone(&client.server);
    let began = Instant::now();
    loop {
        let differs = match client.allocator.close() {
            Ok(()) if leak.is_empty() => return,
            Ok(()) => Some("a leak was not found".to_owned()),
            Err(report) if leak.is_empty() => Some(format!("not empty: {report}")),
            Err(report) => leak.differs(&report),
        };
        match differs {
            None => break,
            // A cache may be in the hands of other threads for a moment.
            Some(_) if client.had_cache && began.elapsed() < SOON => give_time(&server),
            Some(differs) => {
                server.totals().fail(differs);
                break;
            }
        }
    }
    server.totals().add(Count::Leaked);
    let oldest = server.attic.keep(client.allocator.clone(), leak);
    if let Some(oldest) = oldest {
        match mend(oldest) {
            Ok(()) => server.totals().add(Count::Mended),
            Err(report) => server.totals().fail(format!("not mended: {report}")),
        }
    }
}

/// Closes an empty client. What its cache has may be in the hands of other threads for a moment.
fn close(client: &Client) -> Result<(), String> {
    let began = Instant::now();
    loop {
        match client.allocator.close() {
            Ok(()) => return Ok(()),
            Err(_) if client.had_cache && began.elapsed() < SOON => give_time(&client.server),
            Err(report) => return Err(report.to_string()),
        }
    }
}

/// Answers the ask that is kept, which may be one to a cache, and lets others end what they do.
fn give_time(server: &Server) {
    server.ground.answer_kept();
    thread::park_timeout(Duration::from_millis(1));
}
