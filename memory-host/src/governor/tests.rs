mod manager;

use std::fs;
use std::sync::{Arc, Mutex};

use arrow_memory_core::{ArrowBufMut, Ask, Cost, Reclaim, RootAllocator};
use arrow_memory_system as _;
use tempfile::TempDir;

use self::manager::Panics;
use super::*;

/// A cgroup of 100,000 bytes, of which `used` are used.
struct Cgroup(TempDir);

impl Cgroup {
    fn new(used: usize) -> Self {
        let cgroup = Self(tempfile::tempdir().unwrap());
        for folder in ["proc/self", "sys/fs/cgroup/a"] {
            fs::create_dir_all(cgroup.0.path().join(folder)).unwrap();
        }
        cgroup.write("proc/self/cgroup", "0::/a\n");
        cgroup.write("sys/fs/cgroup/a/memory.max", "100000\n");
        cgroup.uses(used);
        cgroup
    }

    fn write(&self, path: &str, text: &str) {
        fs::write(self.0.path().join(path), text).unwrap();
    }

    fn uses(&self, bytes: usize) {
        self.write(
            "sys/fs/cgroup/a/memory.stat",
            &format!("anon {bytes}\nsock 0\n"),
        );
    }

    fn machine(&self) -> Machine {
        Machine::below(self.0.path())
    }

    fn watch(&self, root: &BufferAllocator, hook: Option<Hook>) -> Watch {
        Watch::new(root.downgrade(), self.machine(), 0.9, hook).unwrap()
    }
}

fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn the_cap_follows_the_cgroup_and_the_limit_stays() {
    let cgroup = Cgroup::new(0);
    let root = RootAllocator::new(1 << 20);
    let mut watch = cgroup.watch(&root, None);

    assert!(watch.tick(at(0)));
    assert_eq!(root.cap(), Some(90_000));
    cgroup.uses(50_000);
    watch.tick(at(100));
    assert_eq!(root.cap(), Some(40_000));
    cgroup.uses(0);
    watch.tick(at(200));
    assert_eq!(root.cap(), Some(90_000));

    assert_eq!(root.limit(), 1 << 20);
}

#[test]
fn the_hook_is_asked_before_the_cap_falls_and_what_it_gives_back_is_gone() {
    let cgroup = Cgroup::new(80_000);
    let root = RootAllocator::unlimited();
    let held = Arc::new(Mutex::new(Some(root.buffer(65_536).unwrap())));
    let calls = Arc::new(Mutex::new(Vec::new()));
    let (hold, call, allocator) = (held.clone(), calls.clone(), root.downgrade());
    let mut watch = cgroup.watch(
        &root,
        Some(Box::new(move |bytes| {
            let cap = allocator.upgrade().unwrap().cap();
            call.lock().unwrap().push((bytes, cap));
            hold.lock().unwrap().take();
        })),
    );
    watch.tick(at(0));
    let before = root.cap().unwrap();
    assert!(calls.lock().unwrap().is_empty());

    cgroup.uses(95_000);
    watch.tick(at(100));

    assert_eq!(before, 90_000 - (80_000 - 65_536));
    assert_eq!(
        calls.lock().unwrap()[..],
        [(65_536 - (before - 15_000), Some(before))]
    );
    assert_eq!(root.allocated_memory(), 0);
}

#[test]
fn those_that_are_registered_are_asked_and_the_hook_for_what_they_leave() {
    /// A cache that drops its block when it is asked.
    struct Cache(Mutex<Option<ArrowBufMut>>);
    impl Reclaim for Cache {
        fn reclaimable(&self) -> usize {
            16_384
        }
        fn reclaim(&self, _: Ask) {
            self.0.lock().unwrap().take();
        }
    }
    let cgroup = Cgroup::new(81_920);
    let root = RootAllocator::unlimited();
    let child = root.child("cache").build().unwrap();
    let cache = Cache(Mutex::new(Some(child.buffer(16_384).unwrap())));
    let _guard = child.on_shortage(Cost::Drop, cache);
    let _held = root.buffer(65_536).unwrap();
    let calls = Arc::new(Mutex::new(Vec::new()));
    let call = calls.clone();
    let mut watch = cgroup.watch(
        &root,
        Some(Box::new(move |bytes| call.lock().unwrap().push(bytes))),
    );
    watch.tick(at(0));

    cgroup.uses(81_920 + 28_080); // leaves 61,920
    watch.tick(at(100));

    assert_eq!(root.allocated_memory(), 65_536);
    assert_eq!(calls.lock().unwrap()[..], [20_000 - 16_384]);
}

#[test]
fn a_hook_that_panics_does_not_keep_the_cap_up() {
    let cgroup = Cgroup::new(65_536);
    let root = RootAllocator::unlimited();
    let _held = root.buffer(65_536).unwrap();
    let mut watch = cgroup.watch(&root, Some(Box::new(|_| panic!("no"))));
    watch.tick(at(0));

    cgroup.uses(95_000);
    assert!(watch.tick(at(100)));

    assert_eq!(root.cap(), Some(90_000 - (95_000 - 65_536)));
}

#[test]
fn a_manager_that_panics_is_governed_all_the_same() {
    let cgroup = Cgroup::new(50_000);
    let manager = RootAllocator::builder().allocation_manager(Arc::new(Panics));
    let root = manager.build().unwrap();
    root.allocate_bytes(50_000).unwrap();
    let asked = Arc::new(Mutex::new(0));
    let ask = asked.clone();
    let mut watch = cgroup.watch(
        &root,
        Some(Box::new(move |bytes| *ask.lock().unwrap() = bytes)),
    );
    watch.tick(at(0));

    cgroup.uses(95_000);
    assert!(watch.tick(at(100)));

    assert_eq!((root.cap(), *asked.lock().unwrap()), (Some(45_000), 5000));
    root.release_bytes(50_000);
}

/// Of an inner cgroup little is used, and of the one around it others use nearly all.
#[test]
fn the_limit_with_the_least_room_decides_wherever_it_is() {
    let cgroup = Cgroup::new(10_000);
    let around = |limit: &str, used: usize| {
        cgroup.write("sys/fs/cgroup/memory.max", limit);
        let stat = format!("anon {used}\n");
        cgroup.write("sys/fs/cgroup/memory.stat", &stat);
    };
    around("1000000\n", 10_000);
    let root = RootAllocator::unlimited();
    root.allocate_bytes(5000).unwrap();
    let mut watch = cgroup.watch(&root, None);
    watch.tick(at(0));
    assert_eq!(root.cap(), Some(90_000 - 5000));

    // Steps, and the floor, are measured by the smallest limit.
    around("1000000\n", 850_000);
    watch.tick(at(100));
    assert_eq!(root.cap(), Some(900_000 - 845_000));

    around("1000000\n", 700_000);
    watch.tick(at(200));
    assert_eq!(
        root.cap(),
        Some(90_000 - 5000),
        "room for more than the inner limit"
    );

    // `memory.high` of the outer one is smaller, and it vanishes.
    cgroup.write("sys/fs/cgroup/memory.high", "800000\n");
    around("1000000\n", 710_000);
    watch.tick(at(2000));
    assert_eq!(root.cap(), Some(720_000 - 705_000));
    fs::remove_file(cgroup.0.path().join("sys/fs/cgroup/memory.stat")).unwrap();
    watch.tick(at(4000));
    assert_eq!(root.cap(), Some(90_000 - 5000));
    root.release_bytes(5000);
}

/// The recent maximum of accounted memory is kept for each limit: a backend that does not count what is free would otherwise
/// drive the cap down each time that another limit decides.
#[test]
fn limits_that_decide_in_turns_do_not_drive_the_cap_down() {
    let cgroup = Cgroup::new(80_000);
    cgroup.write("sys/fs/cgroup/memory.max", "110000\n");
    // The backend counts nothing, so what was released is taken to be there to be lent again.
    let manager = RootAllocator::builder().allocation_manager(Arc::new(Panics));
    let root = manager.build().unwrap();
    root.allocate_bytes(80_000).unwrap();
    let mut watch = cgroup.watch(&root, None);
    let mut lowest = usize::MAX;
    for tick in 0..100 {
        // Now the inner limit asks for less, now the outer one.
        let around = 80_000 + [8700, 9300][tick % 2];
        cgroup.write("sys/fs/cgroup/memory.stat", &format!("anon {around}\n"));
        watch.tick(at(1100 * tick as u64));
        lowest = lowest.min(root.cap().unwrap());
        if tick == 10 {
            root.release_bytes(50_000); // and the backend keeps all of it
        }
    }

    assert!(lowest > 80_000, "{lowest}");
    root.release_bytes(30_000);
}

#[test]
fn the_limit_is_read_again_and_the_last_one_stays_when_it_vanishes() {
    let cgroup = Cgroup::new(0);
    // Without the cgroup's files nothing is measured: this backend knows nothing either.
    let manager = RootAllocator::builder().allocation_manager(Arc::new(Panics));
    let root = manager.build().unwrap();
    let mut watch = cgroup.watch(&root, None);
    watch.tick(at(0));

    cgroup.write("sys/fs/cgroup/a/memory.max", "50000\n");
    watch.tick(at(900));
    assert_eq!(root.cap(), Some(90_000));
    watch.tick(at(1000));
    assert_eq!(root.cap(), Some(45_000));

    fs::remove_dir_all(cgroup.0.path().join("sys")).unwrap();
    assert!(watch.tick(at(2000)));
    assert_eq!(root.cap(), Some(45_000));
}

#[test]
fn where_nothing_is_measured_the_cap_stays() {
    let cgroup = Cgroup::new(50_000);
    let manager = RootAllocator::builder().allocation_manager(Arc::new(Panics));
    let root = manager.build().unwrap();
    let mut watch = cgroup.watch(&root, None);
    watch.tick(at(0));
    assert_eq!(root.cap(), Some(40_000));

    fs::remove_file(cgroup.0.path().join("sys/fs/cgroup/a/memory.stat")).unwrap();
    assert!(watch.tick(at(5000)));

    assert_eq!(root.cap(), Some(40_000));
}

#[test]
fn the_thread_ends_and_the_cap_goes_with_the_guard() {
    let cgroup = Cgroup::new(0);
    let root = RootAllocator::unlimited();
    let _held = root.buffer(65_536).unwrap();
    let (tell, told) = mpsc::channel();
    cgroup.uses(95_000);

    let governor = Governor::over(&root).every(at(1)).on(cgroup.machine());
    let governor = governor
        .on_pressure(move |bytes| {
            tell.send((bytes, thread::current().name().map(str::to_owned)))
                .unwrap()
        })
        .start()
        .unwrap();
    let (bytes, name) = told.recv().unwrap();
    drop(governor);

    assert_eq!(bytes, 65_536 - (90_000 - (95_000 - 65_536)));
    assert_eq!(name.as_deref(), Some("arrow-memory-governor"));
    assert_eq!(root.cap(), None);
    assert!(
        told.iter().all(|(again, _)| again == bytes),
        "and the hook is dropped"
    );
}

#[test]
fn a_hook_may_drop_the_guard_of_its_own_governor() {
    let cgroup = Cgroup::new(95_000);
    let root = RootAllocator::unlimited();
    let _held = root.buffer(65_536).unwrap();
    let slot: Arc<Mutex<Option<GovernorGuard>>> = Arc::default();
    let (own, (tell, told)) = (slot.clone(), mpsc::channel::<()>());
    let governor = Governor::over(&root).every(at(1)).on(cgroup.machine());
    let mut first = slot.lock().unwrap();
    *first = Some(
        governor
            .on_pressure(move |_| {
                let _ = &tell;
                drop(own.lock().unwrap().take());
            })
            .start()
            .unwrap(),
    );
    drop(first);

    assert!(told.recv().is_err(), "the thread has dropped the hook");
}

#[test]
fn the_thread_ends_with_its_root() {
    let cgroup = Cgroup::new(0);
    let root = RootAllocator::unlimited();
    let (tell, told) = mpsc::channel::<()>();
    let governor = Governor::over(&root).every(at(1)).on(cgroup.machine());
    let _guard = governor
        .on_pressure(move |_| tell.send(()).unwrap_or(()))
        .start()
        .unwrap();

    drop(root);

    assert!(told.recv().is_err(), "the thread has dropped the hook");
}

#[test]
fn without_any_limit_it_does_not_start() {
    let nothing = tempfile::tempdir().unwrap();
    let root = RootAllocator::unlimited();

    let error = Governor::over(&root)
        .on(Machine::below(nothing.path()))
        .start()
        .unwrap_err();

    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}
