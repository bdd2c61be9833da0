//! The numbers behind this backend's decisions: what a block costs from `malloc`, from
//! `posix_memalign`, from a mapping of its own, and from [`SystemManager`].
//!
//! ```sh
//! cargo run --release -p arrow-memory-system --example measure
//! ```
//!
//! Times are the best of several rounds, in ns. The first argument, a number, scales the rounds.
#![expect(unsafe_code, reason = "calls the allocators that are compared")]
#![expect(
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    clippy::unwrap_used,
    reason = "a benchmark: sizes and alignments are constants, and blocks are used as they were made"
)]

#[cfg(target_os = "linux")]
fn main() {
    linux::main();
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("what is measured here is Linux's");
}

#[cfg(target_os = "linux")]
mod linux {
    use std::alloc::Layout;
    use std::env;
    use std::hint::black_box;
    use std::ptr::{self, NonNull};
    use std::time::Instant;

    use arrow_memory_manager::AllocationManager;
    use arrow_memory_system::SystemManager;

    const KIB: usize = 1024;
    const MIB: usize = 1024 * KIB;
    const GIB: usize = 1024 * MIB;

    static MANAGER: SystemManager = SystemManager::new();

    /// How blocks are made, grown and given back.
    trait Source {
        fn allocate(&self, size: usize) -> *mut u8;
        fn grow(&self, ptr: *mut u8, old: usize, new: usize) -> *mut u8;
        fn free(&self, ptr: *mut u8, size: usize);
    }

    struct Malloc;
    struct Posix;
    struct Mapped {
        huge: bool,
    }
    struct Copying;
    struct Manager(&'static dyn AllocationManager);

    impl Source for Malloc {
        fn allocate(&self, size: usize) -> *mut u8 {
            unsafe { libc::malloc(size).cast() }
        }
        fn grow(&self, ptr: *mut u8, _old: usize, new: usize) -> *mut u8 {
            unsafe { libc::realloc(ptr.cast(), new).cast() }
        }
        fn free(&self, ptr: *mut u8, _size: usize) {
            unsafe { libc::free(ptr.cast()) }
        }
    }

    impl Source for Posix {
        fn allocate(&self, size: usize) -> *mut u8 {
            let mut block = ptr::null_mut();
            unsafe { assert_eq!(libc::posix_memalign(&raw mut block, 64, size), 0) };
            block.cast()
        }
        // There is no aligned realloc.
        fn grow(&self, ptr: *mut u8, old: usize, new: usize) -> *mut u8 {
            let grown = self.allocate(new);
            unsafe { ptr::copy_nonoverlapping(ptr, grown, old.min(new)) };
            self.free(ptr, old);
            grown
        }
        fn free(&self, ptr: *mut u8, _size: usize) {
            unsafe { libc::free(ptr.cast()) }
        }
    }

    impl Source for Mapped {
        fn allocate(&self, size: usize) -> *mut u8 {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            unsafe {
                let block = libc::mmap(ptr::null_mut(), size, protection, flags, -1, 0);
                assert_ne!(block, libc::MAP_FAILED);
                if self.huge {
                    libc::madvise(block, size, libc::MADV_HUGEPAGE);
                }
                block.cast()
            }
        }
        fn grow(&self, ptr: *mut u8, old: usize, new: usize) -> *mut u8 {
            unsafe { libc::mremap(ptr.cast(), old, new, libc::MREMAP_MAYMOVE).cast() }
        }
        fn free(&self, ptr: *mut u8, size: usize) {
            unsafe { libc::munmap(ptr.cast(), size) };
        }
    }

    impl Source for Copying {
        fn allocate(&self, size: usize) -> *mut u8 {
            Malloc.allocate(size)
        }
        fn grow(&self, ptr: *mut u8, old: usize, new: usize) -> *mut u8 {
            let moved = Malloc.allocate(new);
            unsafe { moved.copy_from_nonoverlapping(ptr, old) };
            Malloc.free(ptr, old);
            moved
        }
        fn free(&self, ptr: *mut u8, size: usize) {
            Malloc.free(ptr, size);
        }
    }

    impl Source for Manager {
        fn allocate(&self, size: usize) -> *mut u8 {
            self.0.allocate(layout(size)).unwrap().as_ptr()
        }
        fn grow(&self, ptr: *mut u8, old: usize, new: usize) -> *mut u8 {
            let ptr = NonNull::new(ptr).unwrap();
            unsafe { self.0.reallocate(ptr, layout(old), new).unwrap().as_ptr() }
        }
        fn free(&self, ptr: *mut u8, size: usize) {
            let ptr = NonNull::new(ptr).unwrap();
            unsafe { self.0.deallocate(ptr, layout(size)) };
        }
    }

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 64).unwrap()
    }

    fn touch(ptr: *mut u8, from: usize, to: usize) {
        for offset in (from..to).step_by(4 * KIB) {
            unsafe { ptr.add(offset).write_volatile(1) };
        }
    }

    pub(super) fn main() {
        let scale = env::args().nth(1).map_or(1, |scale| scale.parse().unwrap());
        let manager = Manager(black_box(&MANAGER));
        let sources: [(&str, &dyn Source); 5] = [
            ("malloc", &Malloc),
            ("posix_memalign", &Posix),
            ("mmap", &Mapped { huge: false }),
            ("mmap huge", &Mapped { huge: true }),
            ("manager", &manager),
        ];
        let head = |what: &str| {
            println!("\n{what}, ns per block");
            print!("{:>10}", "bytes");
            sources.iter().for_each(|(name, _)| print!("{name:>16}"));
            println!();
        };
        let sizes = || (6..=26).map(|shift| 1_usize << shift).chain([100 * MIB]);

        for touched in [false, true] {
            head(match touched {
                false => "allocate, free",
                true => "allocate, write to each page, free",
            });
            for size in sizes() {
                print!("{size:>10}");
                for (name, source) in &sources {
                    if name.starts_with("mmap") && size < 16 * KIB {
                        print!("{:>16}", "");
                        continue;
                    }
                    print!("{:>16.0}", cycle(*source, size, touched, scale));
                }
                println!();
            }
        }

        head("allocate 128 MiB and write to each page, then free it all");
        for size in sizes().filter(|&size| size >= 64 * KIB) {
            print!("{size:>10}");
            for (_, source) in &sources {
                print!("{:>16.0}", hold(*source, size, scale));
            }
            println!();
        }

        println!("\ngrowth by doubling from 64 KiB to 1 GiB, writing to each new page, ms");
        let sources: [(&str, &dyn Source); 4] = [
            ("realloc", &Malloc),
            ("copy", &Copying),
            ("mremap", &Mapped { huge: false }),
            ("manager", &manager),
        ];
        for (name, source) in sources {
            println!("{name:>16} {:>8.1}", double(source, scale) / 1e6);
        }
    }

    /// The best mean of 5 rounds.
    fn cycle(source: &dyn Source, size: usize, touched: bool, scale: usize) -> f64 {
        let count = if size <= 64 * KIB {
            20_000
        } else {
            (4 * MIB / size * 20).max(4)
        };
        best(5 * scale, || {
            let start = Instant::now();
            for _ in 0..count {
                let block = black_box(source.allocate(size));
                if touched {
                    touch(block, 0, size);
                }
                source.free(block, size);
            }
            start.elapsed().as_secs_f64() * 1e9 / count as f64
        })
    }

    fn hold(source: &dyn Source, size: usize, scale: usize) -> f64 {
        let count = (128 * MIB).div_ceil(size);
        best(3 * scale, || {
            let start = Instant::now();
            let blocks: Vec<_> = (0..count).map(|_| source.allocate(size)).collect();
            blocks.iter().for_each(|&block| touch(block, 0, size));
            blocks.iter().for_each(|&block| source.free(block, size));
            start.elapsed().as_secs_f64() * 1e9 / count as f64
        })
    }

    fn double(source: &dyn Source, scale: usize) -> f64 {
        best(3 * scale, || {
            let start = Instant::now();
            let mut size = 64 * KIB;
            let mut block = source.allocate(size);
            touch(block, 0, size);
            while size < GIB {
                block = source.grow(block, size, 2 * size);
                touch(block, size, 2 * size);
                size *= 2;
            }
            source.free(block, size);
            start.elapsed().as_secs_f64() * 1e9
        })
    }

    fn best(rounds: usize, mut round: impl FnMut() -> f64) -> f64 {
        (0..rounds).map(|_| round()).fold(f64::INFINITY, f64::min)
    }
}
