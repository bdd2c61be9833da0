//! Memory profiles: writes reports of sampling in common formats, and reads the output of `perf script`.
//!
//! [`to_pprof`] and [`write_folded`] write a report of [`sampling`](arrow_memory_core::sampling) for other
//! tools. The other items read captures: they parse events and find blocks that were never freed.
//!
//! The captures may be of the USDT probes of `arrow-memory-core` (`docs/profiling.md` says how to make them),
//! or of the uprobes documented for Arrow C++: `je_arrow_mallocx`, `je_arrow_rallocx`, `je_arrow_dallocx`,
//! `mi_malloc_aligned`, `mi_realloc_aligned` and `mi_free`, with their returns.
//!
//! [`Events`] turns the text into [`Event`]s, which serialise to one JSON object per line. [`Dangling`]
//! collects them and reports, by stack, the blocks that were never freed. Lines that are not understood are
//! counted and skipped; the first of them are kept for a report.
//!
//! ```
//! use arrow_memory_profile::{Dangling, Events};
//!
//! let text = "\
//! scan  7 [000] 1.000001: sdt_arrow_memory:allocate: (55d0) arg1=0x7f00 arg2=64 arg3=1 arg4=1
//! \t    55d0 scan::main+0x10 (/bin/scan)
//!
//! scan  7 [000] 1.000002: sdt_arrow_memory:allocate: (55d0) arg1=0x8f00 arg2=64 arg3=1 arg4=1
//! \t    55d0 scan::main+0x10 (/bin/scan)
//!
//! scan  7 [000] 1.000003: sdt_arrow_memory:release: (55e0) arg1=0x7f00 arg2=64 arg3=1 arg4=1
//! \t    55e0 scan::main+0x20 (/bin/scan)
//! ";
//! let mut events = Events::new(text.as_bytes());
//! let mut dangling = Dangling::default();
//! for event in &mut events {
//!     dangling.add(&event?);
//! }
//! let report = dangling.report();
//! assert_eq!((report.stacks[0].count, report.stacks[0].bytes), (1, 64));
//! assert_eq!(events.malformed().count, 0);
//! # Ok::<(), std::io::Error>(())
//! ```
#![cfg_attr(docsrs, feature(doc_cfg))]

mod dangling;
mod event;
mod folded;
mod parse;
mod pprof;

pub use dangling::{Dangling, DanglingReport, DanglingStack};
pub use event::{Call, Event, StackFrame};
pub use folded::write_folded;
pub use parse::{Events, Malformed};
pub use pprof::to_pprof;
