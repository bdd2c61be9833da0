//! A server that does not refuse work while it is short of memory: clients wait to be admitted, and what runs
//! waits for memory that others release.
//!
//! `cargo run --release --example server --features all-backends`
//!
//! It simulates 32 clients that send 1,000 queries. Every tenth client loses patience and goes away. The root takes its
//! limit from the machine, 64 MiB at most. A cache fills what is free, and is dropped before anybody waits. The program
//! exits with an error if a query fails, or if a byte is left in the end.

use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arrow_memory::{
    AllocationReservation, ArrowBuf, Ask, BufferAllocator, Cost, Reclaim, RootAllocator, WaitError,
};
use arrow_memory_host::HostLimit;

// recipe: begin
/// Runs a query once there is room for it.
async fn serve(root: &RootAllocator, name: &str) -> Result<(), WaitError> {
    // The query waits here until 4 MiB are free, and holds nothing meanwhile. Older queries come first.
    let query = root
        .admit(name)
        .reservation(4 << 20)
        .limit(16 << 20)
        .at_most(Duration::from_secs(30))
        .await?;
    let mut scan = query.wait().buffer_async(1 << 20).await?; // covered by the reservation
    scan.resize(1 << 20, 7)?;
    let _build_side = more(&query, 6 << 20).await?; // beyond the reservation: it may have to wait
    tokio::task::yield_now().await; // the query computes
    Ok(()) // what the query holds is released, which wakes those that wait for it
}

/// Waits for memory, and gives way to an older query if each waits for what the other one holds.
async fn more(query: &BufferAllocator, bytes: usize) -> Result<AllocationReservation, WaitError> {
    let mut wait = query.wait();
    loop {
        match wait
            .at_most(Duration::from_secs(30))
            .reserve_async(bytes)
            .await
        {
            Err(WaitError::GiveWay(give_way)) => {
                spill(query).await; // or drop a cache, or end the query
                wait = query.wait().after(give_way); // keeps its place in the queue
            }
            ended => return ended,
        }
    }
}
// recipe: end

/// Where a real query writes its hash table to disk.
async fn spill(query: &BufferAllocator) {
    // The reservation was for the hash table. It is given back to the query's parent.
    let kept = query.set_reservation(0);
    debug_assert!(kept.is_ok());
    tokio::task::yield_now().await;
}

/// Pages that were read: they can be read again.
struct Cache {
    allocator: BufferAllocator,
    pages: Mutex<Vec<ArrowBuf>>,
    dropped: AtomicUsize,
}

impl Cache {
    /// Keeps a page if there is room for it. A request of the cache's own does not ask the cache.
    fn keep(&self) {
        let page = self.allocator.buffer_zeroed(512 << 10);
        if let (Ok(page), Ok(mut pages)) = (page, self.pages.lock()) {
            pages.push(page.freeze());
        }
    }
}

/// The cache as those that need memory know it.
struct Droppable(Arc<Cache>);

impl Reclaim for Droppable {
    fn reclaimable(&self) -> usize {
        self.0.allocator.charged_memory()
    }

    fn reclaim(&self, _ask: Ask) {
        // The thread that asks may be one that holds the lock: never wait for it.
        let pages = self
            .0
            .pages
            .try_lock()
            .map(|mut pages| std::mem::take(&mut *pages));
        let pages = pages.unwrap_or_default();
        self.0.dropped.fetch_add(pages.len(), Ordering::Relaxed);
    }
}

const CLIENTS: usize = 32;
const QUERIES: usize = 1000;

/// What became of the queries.
#[derive(Default)]
struct Totals {
    next: AtomicUsize,
    served: AtomicUsize,
    cancelled: AtomicUsize,
    failed: AtomicUsize,
}

/// Sends queries until all were sent. Every tenth one is cancelled while it waits or runs: its future is dropped,
/// and with it all that it holds.
async fn client(root: RootAllocator, cache: Arc<Cache>, totals: Arc<Totals>) {
    loop {
        let index = totals.next.fetch_add(1, Ordering::Relaxed);
        if index >= QUERIES {
            return;
        }
        let name = format!("query-{index}");
        let patience = match index % 10 {
            9 => Duration::from_micros(index as u64),
            _ => Duration::from_secs(60),
        };
        let count = match tokio::time::timeout(patience, serve(&root, &name)).await {
            Ok(Ok(())) => {
                cache.keep();
                &totals.served
            }
            Err(_) => &totals.cancelled,
            Ok(Err(error)) => {
                eprintln!("{name}: {error:#}");
                &totals.failed
            }
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let began = Instant::now();
    // Elsewhere than on Linux nothing is known of the host.
    let host = HostLimit::read().map_or(usize::MAX, |host| host.fraction(0.8).bytes());
    let root = RootAllocator::builder()
        .name("server")
        .limit(host.min(64 << 20))
        .patience(Duration::from_millis(20))
        .build()?;
    let cache = Arc::new(Cache {
        allocator: root.child("cache").build()?,
        pages: Mutex::default(),
        dropped: AtomicUsize::new(0),
    });
    let droppable = cache
        .allocator
        .on_shortage(Cost::Drop, Droppable(Arc::clone(&cache)));
    let totals = Arc::new(Totals::default());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()?;

    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            runtime.spawn(client(
                root.clone(),
                Arc::clone(&cache),
                Arc::clone(&totals),
            ))
        })
        .collect();
    for client in clients {
        runtime.block_on(client)?;
    }
    drop(runtime);
    let pages = cache.dropped.load(Ordering::Relaxed);
    drop((droppable, cache));

    root.verify()?;
    root.close()?; // or its error would list what is left
    let count = |count: &AtomicUsize| count.load(Ordering::Relaxed);
    let (served, cancelled) = (count(&totals.served), count(&totals.cancelled));
    if served + cancelled != QUERIES {
        return Err(format!("{} queries failed", count(&totals.failed)).into());
    }
    println!(
        "{served} queries served, {cancelled} cancelled, {pages} cached pages dropped for them, in {:.1?}; at most {} \
         of {} MiB allocated, 0 bytes left",
        began.elapsed(),
        root.peak_memory_allocation() >> 20,
        root.limit() >> 20,
    );
    Ok(())
}
