//! `tracing`: which events are emitted, at which level, and that a subscriber may allocate.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once};

use arrow_memory_core::testing::TrackingManager;
use arrow_memory_core::{BufferAllocator, ForeignAllocation, RootAllocator};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};

/// Keeps events as text and, if it has an allocator, allocates from it at each event.
#[derive(Clone)]
struct Recording {
    /// The maximum of the levels that it keeps, if any.
    most: Option<Level>,
    heard: Arc<Mutex<Vec<String>>>,
    allocator: Arc<Mutex<Option<BufferAllocator>>>,
    spans: Arc<AtomicUsize>,
}

impl Recording {
    fn up_to(most: Level) -> Self {
        static ONCE: Once = Once::new();
        // The subscriber of threads that have none of their own wants nothing, but has `tracing` ask the subscriber
        // at hand for each event: an event that another test's thread emits first, while no subscriber wants it,
        // would otherwise be skipped from then on.
        ONCE.call_once(|| tracing::subscriber::set_global_default(Self::of(None)).unwrap());
        Self::of(Some(most))
    }

    fn of(most: Option<Level>) -> Self {
        Self {
            most,
            heard: Arc::default(),
            allocator: Arc::default(),
            spans: Arc::default(),
        }
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }

    fn hear(&self, text: String) {
        self.heard.lock().unwrap().push(text);
        let allocator = self.allocator.lock().unwrap().clone();
        if let Some(allocator) = allocator {
            // One request is too large: if its refusal emitted an event, the recursion would not end.
            drop((
                allocator.buffer(1 << 40),
                allocator.buffer(64),
                allocator.child("log").build(),
            ));
        }
    }
}

impl Subscriber for Recording {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.most.is_some_and(|most| *metadata.level() <= most)
            && metadata.target().starts_with("arrow_memory_core")
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        self.most.map(Into::into)
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut text = Text(String::new());
        span.record(&mut text);
        self.hear(format!("span {}{}", span.metadata().name(), text.0));
        Id::from_u64(1 + self.spans.fetch_add(1, Ordering::Relaxed) as u64)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        self.hear(format!("{}{}", event.metadata().level(), text.0));
    }
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let name = match field.name() {
            "id" | "error" => return,
            name => name,
        };
        self.0 += &format!(" {name}={value:?}");
    }
}

fn root(limit: usize) -> RootAllocator {
    RootAllocator::builder()
        .limit(limit)
        .debug(false)
        .allocation_manager(Arc::new(TrackingManager::default()))
        .build()
        .unwrap()
}

/// Runs every operation that can succeed, and then every one that can fail.
fn work(root: &RootAllocator) {
    let (scan, sort) = (
        root.child("scan").build().unwrap(),
        root.child("sort").limit(100).build().unwrap(),
    );
    let buffer = scan.buffer_from_slice(&[1; 1000]).unwrap();
    drop(buffer.clone());
    assert!(sort.buffer(4096).is_err());
    let moved = buffer.transfer_ownership(&sort).unwrap();
    assert!(!moved.allocation_fit);
    drop(buffer);
    scan.close().unwrap();
    assert!(sort.close().is_err());
    drop(moved);
}

#[test]
fn events_have_levels_and_fields() {
    let subscriber = Recording::up_to(Level::DEBUG);
    let root = root(1 << 20);

    tracing::subscriber::with_default(subscriber.clone(), || work(&root));

    assert_eq!(
        subscriber.heard(),
        [
            "DEBUG message=child allocator created allocator=scan parent=ROOT reservation=0 limit=18446744073709551615",
            "DEBUG message=child allocator created allocator=sort parent=ROOT reservation=0 limit=100",
            "DEBUG message=allocation refused allocator=sort size=4096",
            "DEBUG message=over limit after a transfer allocator=sort from=scan size=1024 outcome=\"over limit\"",
            "span slow work=\"close\" allocator=scan",
            "DEBUG message=allocator closed allocator=scan outcome=\"closed\"",
            "span slow work=\"close\" allocator=sort",
            "ERROR message=closed with memory outstanding allocator=sort size=1024 outcome=\"outstanding\"",
            "DEBUG message=release after close allocator=sort size=1024",
        ]
    );
}

/// Runs the other failures.
fn trouble(root: &RootAllocator) {
    assert!(root.child("large").reservation(2 << 20).build().is_err());
    let lost = root.child("lost").build().unwrap();
    lost.allocate_bytes(100).unwrap();
    drop(lost);
    let left = root.child("left").build().unwrap();
    let mut buffer = left.buffer(64).unwrap();
    drop(left);
    // Each growth holds a handle for a moment.
    buffer.resize(1000, 1).unwrap();
    buffer.resize(10_000, 1).unwrap();
    drop(buffer);
    let foreign = ForeignAllocation::from_owner(Hostile);
    let panics = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    drop(root.wrap_foreign_allocation(foreign).unwrap());
    std::panic::set_hook(panics);
}

/// Bytes whose owner panics when it is dropped.
struct Hostile;

impl AsRef<[u8]> for Hostile {
    fn as_ref(&self) -> &[u8] {
        &[1; 8]
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        panic!("as it likes");
    }
}

#[test]
fn what_goes_wrong_is_told_once_whether_or_not_the_subscriber_allocates() {
    for allocates in [false, true] {
        let subscriber = Recording::up_to(Level::DEBUG);
        let root = root(1 << 20);
        if allocates {
            *subscriber.allocator.lock().unwrap() = Some((*root).clone());
        }

        tracing::subscriber::with_default(subscriber.clone(), || trouble(&root));

        let mut heard = subscriber.heard();
        heard.retain(|line| !line.contains("child allocator created"));
        assert_eq!(
            heard,
            [
                "DEBUG message=child allocator refused allocator=large size=2097152",
                "WARN message=external bytes were still charged when the last handle was dropped; released allocator=lost size=100",
                "DEBUG message=last handle dropped with memory outstanding allocator=left size=64",
                "ERROR message=a callback panicked during a release; ignored allocator=ROOT",
            ]
        );
        *subscriber.allocator.lock().unwrap() = None;
        assert_eq!(root.allocated_memory(), 0);
        root.verify().unwrap();
    }
}

#[test]
fn at_info_normal_work_shows_nothing() {
    let subscriber = Recording::up_to(Level::INFO);

    tracing::subscriber::with_default(subscriber.clone(), || {
        let root = root(1 << 20);
        let child = root.child("scan").reservation(100).build().unwrap();
        let buffer = child.buffer_from_slice(&[1; 1000]).unwrap();
        assert!(child.buffer(2 << 20).is_err());
        drop((buffer.clone(), buffer));
        child.release_unused();
        child.close().unwrap();
        root.close().unwrap();
    });

    assert_eq!(subscriber.heard(), [""; 0]);
}

#[test]
fn a_subscriber_that_allocates_from_the_same_tree_neither_deadlocks_nor_recurses() {
    let subscriber = Recording::up_to(Level::DEBUG);
    let root = root(1 << 20);
    *subscriber.allocator.lock().unwrap() = Some((*root).clone());

    tracing::subscriber::with_default(subscriber.clone(), || work(&root));

    assert_eq!(subscriber.heard().len(), 9, "{:?}", subscriber.heard());
    assert_eq!(root.allocated_memory(), 0);
}

#[test]
fn a_root_that_is_built_while_everything_is_traced_is_in_debug_mode() {
    let build = |most| {
        tracing::subscriber::with_default(Recording::up_to(most), || {
            RootAllocator::builder()
                .allocation_manager(Arc::new(TrackingManager::default()))
                .build()
                .unwrap()
        })
    };

    assert!(build(Level::TRACE).is_debug());
    if std::env::var_os("ARROW_MEMORY_DEBUG_ALLOCATOR").is_none() {
        assert!(!build(Level::DEBUG).is_debug());
    }
}

#[test]
fn retiring_tells_nothing_above_debug_whatever_is_outstanding() {
    let subscriber = Recording::up_to(Level::DEBUG);
    let root = root(1 << 20);
    let query = root.child("query").build().unwrap();
    let buffer = query.buffer(100).unwrap();
    query.allocate_bytes(10).unwrap();

    tracing::subscriber::with_default(subscriber.clone(), || query.retire());

    assert_eq!(
        subscriber.heard(),
        ["DEBUG message=allocator retired allocator=query outcome=\"retired\""]
    );
    query.release_bytes(10);
    drop(buffer);
}

#[test]
fn memory_that_outlives_the_last_handle_is_a_warning_in_debug_mode() {
    for (debug, level) in [(true, "WARN"), (false, "DEBUG")] {
        let subscriber = Recording::up_to(Level::DEBUG);
        let root = RootAllocator::builder()
            .debug(debug)
            .allocation_manager(Arc::new(TrackingManager::default()))
            .build()
            .unwrap();
        let scan = root.child("scan").build().unwrap();
        let buffer = scan.buffer(100).unwrap();

        tracing::subscriber::with_default(subscriber.clone(), || drop(scan));

        let event = "message=last handle dropped with memory outstanding allocator=scan size=128";
        assert_eq!(subscriber.heard(), [format!("{level} {event}")]);
        drop(buffer);
    }
}

#[test]
fn external_bytes_that_outlive_the_last_handle_are_released_with_a_warning() {
    let subscriber = Recording::up_to(Level::WARN);
    let root = root(1 << 20);
    let scan = root.child("scan").build().unwrap();
    scan.allocate_bytes(100).unwrap();

    tracing::subscriber::with_default(subscriber.clone(), || drop(scan));

    let message = "external bytes were still charged when the last handle was dropped; released";
    assert_eq!(
        subscriber.heard(),
        [format!("WARN message={message} allocator=scan size=100")]
    );
    assert_eq!(root.allocated_memory(), 0);
}

#[test]
fn a_panic_in_a_release_is_an_error_event_and_no_panic() {
    struct Grenade([u8; 10]);
    impl AsRef<[u8]> for Grenade {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    impl Drop for Grenade {
        fn drop(&mut self) {
            panic!("told to");
        }
    }
    let subscriber = Recording::up_to(Level::ERROR);
    let root = root(1 << 20);
    let foreign = ForeignAllocation::from_owner(Grenade([1; 10]));
    let buffer = root.wrap_foreign_allocation(foreign).unwrap();

    tracing::subscriber::with_default(subscriber.clone(), || drop(buffer));

    assert_eq!(
        subscriber.heard(),
        ["ERROR message=a callback panicked during a release; ignored allocator=ROOT"]
    );
    assert_eq!(root.allocated_memory(), 0);
}

/// The macros in this source that emit something, as `(level, message)`.
fn emitted(source: &str) -> Vec<(String, String)> {
    let code: Vec<&str> = source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect();
    let code = code.join("\n");
    let mut found = Vec::new();
    for (start, _) in code.match_indices("tracing::") {
        let rest = &code[start + "tracing::".len()..];
        let Some((name, rest)) = rest.split_once("!(") else {
            continue;
        };
        let level = name.trim_end_matches("_span");
        if !["error", "warn", "info", "debug", "trace"].contains(&level) {
            continue;
        }
        // Only the last argument has a closing parenthesis behind a quotation mark.
        let ends = [rest.find("\")"), rest.find("\"\n")];
        let end = ends
            .into_iter()
            .flatten()
            .min()
            .expect("a message ends the macro");
        let message = rest[..end]
            .rsplit_once('"')
            .expect("a message is a literal")
            .1;
        let span = if name.ends_with("_span") { "span" } else { "" };
        let message = match span {
            "" => message.to_owned(),
            _ => format!(
                "span {}",
                rest.trim_start_matches('"').split('"').next().unwrap()
            ),
        };
        found.push((level.to_owned(), message));
    }
    found
}

fn sources(folder: &std::path::Path, into: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|end| end == "rs") {
            into.push(std::fs::read_to_string(path).unwrap());
        }
    }
}

/// Compares the table of `docs/events.md`, which has the events of all libraries, with their sources.
#[test]
fn the_list_of_events_is_that_of_the_sources() {
    let workspace = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let table = std::fs::read_to_string(workspace.join("docs/events.md")).unwrap();
    let mut listed: Vec<(String, String)> = table
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            (cells[2].to_owned(), cells[3].replace('`', ""))
        })
        .collect();
    let mut texts = Vec::new();
    for library in [
        "manager", "core", "arrow", "arena", "system", "jemalloc", "mimalloc", "host", "global",
    ] {
        sources(&workspace.join(format!("memory-{library}/src")), &mut texts);
    }

    let mut found: Vec<_> = texts.iter().flat_map(|text| emitted(text)).collect();

    assert!(found.len() > 15, "{found:?}");
    listed.sort();
    listed.dedup();
    found.sort();
    found.dedup();
    assert_eq!(listed, found);
}
