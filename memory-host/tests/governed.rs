//! A program whose unaccounted memory grows to half of its cgroup, with a governor and without.
//!
//! The test runs itself again as a child, in a cgroup of its own, which it may create as root only. Nothing
//! is checked, and a message says so, where it may not.
//!
//! `ARROW_MEMORY_HOST_MIB` is the size of the cgroup, 512 by default. Memory grows by `ARROW_MEMORY_HOST_MIB_PER_SECOND`,
//! by default by 1/16 of the cgroup: what 1 GiB/s is for a machine of 16 GiB.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::env;
use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use arrow_memory_core::{ArrowBufMut, BufferAllocator, RootAllocator};
use arrow_memory_host::{Governor, HostExt, HostLimit};
use arrow_memory_system as _;

const MIB: usize = 1 << 20;
/// The time between two looks of a thread.
const STEP: Duration = Duration::from_millis(10);
/// What the child says before memory grows.
const BEFORE: &str = "before:";
const MODE: &str = "ARROW_MEMORY_HOST_MODE";
const CGROUP: &str = "ARROW_MEMORY_HOST_CGROUP";
const SIZE: &str = "ARROW_MEMORY_HOST_MIB";
const RATE: &str = "ARROW_MEMORY_HOST_MIB_PER_SECOND";

#[test]
fn a_program_survives_its_unaccounted_memory_with_a_governor_only() {
    if let Ok(mode) = env::var(MODE) {
        return live(&mode);
    }
    let cgroup = match Cgroup::new() {
        Ok(cgroup) => cgroup,
        Err(error) => return eprintln!("skipped: no cgroup may be created here: {error}"),
    };

    let alone = cgroup.run("alone");
    let governed = cgroup.run("governed");

    // The cgroup's end is a SIGKILL.
    assert_eq!(alone.status.signal(), Some(9), "{}", text(&alone));
    assert!(
        text(&alone).contains(BEFORE),
        "it was killed before anything grew"
    );
    assert!(governed.status.success(), "{}", text(&governed));
    eprintln!("{}", text(&governed));
}

fn text(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    format!("{}\n{out}{err}", output.status)
}

fn size() -> usize {
    env::var(SIZE).map_or(512, |mib| mib.parse().unwrap()) * MIB
}

/// How much memory grows in a second, in bytes.
fn rate() -> usize {
    env::var(RATE).map_or(size() / 16, |mib| mib.parse::<usize>().unwrap() * MIB)
}

// ---- the parent: a cgroup for the child -----------------------------------------------------

/// A memory cgroup below the own one, removed at the end.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> io::Result<Self> {
        let (parent, limit) = parent()?;
        let path = parent.join(format!("arrow-memory-host-{}", process::id()));
        fs::create_dir(&path)?;
        let cgroup = Self(path);
        fs::write(cgroup.0.join(limit), size().to_string())?;
        // Swap would only delay what is tested; not every machine has any.
        let _ = fs::write(cgroup.0.join("memory.swappiness"), "0");
        let _ = fs::write(cgroup.0.join("memory.swap.max"), "0");
        Ok(cgroup)
    }

    fn run(&self, mode: &str) -> Output {
        Command::new(env::current_exe().unwrap())
            .args(["--nocapture", "--test-threads=1"])
            .env(MODE, mode)
            .env(CGROUP, &self.0)
            .output()
            .unwrap()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("{} could not be removed: {error}", self.0.display());
        }
    }
}

/// The directory of the own memory cgroup, and the name of the file for the limit.
fn parent() -> io::Result<(PathBuf, &'static str)> {
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let path = |start: &str| {
        own.lines().find_map(|line| {
            line.split_once(start)
                .map(|(_, path)| path.trim_start_matches('/'))
        })
    };
    if let Some(path) = path(":memory:") {
        return Ok((
            Path::new("/sys/fs/cgroup/memory").join(path),
            "memory.limit_in_bytes",
        ));
    }
    let path = path("0::").ok_or(io::ErrorKind::NotFound)?;
    Ok((Path::new("/sys/fs/cgroup").join(path), "memory.max"))
}

// ---- the child: a server ------------------------------------------------------------------

/// Serves queries over a cache while memory that no tree counts grows to half of the cgroup.
fn live(mode: &str) {
    let cgroup = PathBuf::from(env::var_os(CGROUP).unwrap());
    fs::write(cgroup.join("cgroup.procs"), process::id().to_string()).unwrap();
    let limit = HostLimit::read().unwrap();
    assert_eq!(limit.bytes(), size(), "{limit}");
    // The backend keeps up to 64 MiB of what is released.
    let root = RootAllocator::new(limit.fraction(0.8).bytes());
    let cache = Arc::new(Cache::default());
    let evicted = cache.clone();
    let governor = (mode == "governed").then(|| {
        // What grows within a second, and what the backend keeps of the blocks of one size while another is needed,
        // has to fit in the rest.
        Governor::over(&root)
            .target(0.85)
            .on_pressure(move |bytes| evicted.evict(bytes))
            .start()
            .unwrap()
    });
    let ends = AtomicBool::new(false);

    thread::scope(|scope| {
        scope.spawn(|| cache.fill(&root.child("cache").build().unwrap(), &ends));
        scope.spawn(|| queries(&root.child("queries").build().unwrap(), &ends));
        // Until the tree holds what it can get.
        pace(Duration::from_secs(60), |_| {
            root.allocated_memory() < root.limit() - size() / 32
        });
        println!("{BEFORE} {}", root.reconcile());
        let (least, most) = grow(&root);
        println!("{mode}: accounted was {least} to {most}");
        // Relaxed: nothing else is told by it.
        ends.store(true, Ordering::Relaxed);
    });
    drop(governor);
}

/// Grows to half of the cgroup, and stays there for two more seconds. Returns the minimum and the maximum of
/// accounted bytes.
fn grow(root: &BufferAllocator) -> (usize, usize) {
    let mut unaccounted: Vec<Vec<u8>> = Vec::new();
    let (mut least, mut most) = (usize::MAX, 0);
    let mut look = || {
        let accounted = root.allocated_memory();
        (least, most) = (least.min(accounted), most.max(accounted));
        true
    };
    let start = Instant::now();
    let (mut due, mut before) = (0.0, Duration::ZERO);
    pace(Duration::from_secs(60), |passed| {
        // What a busy machine has held up is not made up for: then memory would grow faster.
        let step = (passed - before).min(10 * STEP);
        before = passed;
        due += rate() as f64 * step.as_secs_f64();
        while ((unaccounted.len() * MIB) as f64) < due.min(size() as f64 / 2.0) {
            unaccounted.push(vec![1; MIB]);
        }
        look() && unaccounted.len() * MIB < size() / 2
    });
    let seconds = start.elapsed().as_secs_f64();
    pace(Duration::from_secs(2), |_| look());
    println!("after {seconds:.1} s: {}", root.reconcile());
    (least, most)
}

/// Calls `each` every `STEP`, with the time that has passed, while it returns true.
fn pace(time: Duration, mut each: impl FnMut(Duration) -> bool) {
    let (_never, clock) = mpsc::channel::<()>();
    let start = Instant::now();
    while start.elapsed() < time && each(start.elapsed()) {
        let _ = clock.recv_timeout(STEP);
    }
}

/// Blocks of 1 MiB, as many as the tree has room for.
#[derive(Default)]
struct Cache(Mutex<Vec<ArrowBufMut>>);

impl Cache {
    fn fill(&self, allocator: &BufferAllocator, ends: &AtomicBool) {
        pace(Duration::MAX, |_| {
            while let Ok(block) = touched(allocator, MIB) {
                self.0.lock().unwrap().push(block);
            }
            // Relaxed: see `live`.
            !ends.load(Ordering::Relaxed)
        });
    }

    fn evict(&self, bytes: usize) {
        let mut blocks = self.0.lock().unwrap();
        let rest = blocks.len().saturating_sub(bytes.div_ceil(MIB));
        blocks.truncate(rest);
    }
}

/// Queries that take blocks while they get any, up to 1/16 of the cgroup, then release all.
fn queries(allocator: &BufferAllocator, ends: &AtomicBool) {
    let mut held = Vec::new();
    pace(Duration::MAX, |_| {
        match touched(allocator, 4 * MIB) {
            Ok(block) if held.len() * 4 * MIB < size() / 16 => held.push(block),
            _ => held.clear(),
        }
        // Relaxed: see `live`.
        !ends.load(Ordering::Relaxed)
    });
}

/// A block whose pages exist.
fn touched(
    allocator: &BufferAllocator,
    size: usize,
) -> Result<ArrowBufMut, arrow_memory_core::AllocError> {
    let mut block = allocator.buffer(size)?;
    block.resize(size, 1)?;
    Ok(block)
}
