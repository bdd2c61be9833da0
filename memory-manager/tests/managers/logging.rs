use std::alloc::Layout;
use std::sync::Arc;

use arrow_memory_manager::LoggingManager;
use arrow_memory_manager::testing::{Block, FailingManager};

use crate::subscriber::Recorder;

#[test]
fn each_call_is_an_event_with_its_numbers() {
    let failing = Arc::new(FailingManager::new());
    let manager = LoggingManager::new(failing.clone());
    let layout = Layout::from_size_align(100, 64).unwrap();

    let lines = Recorder::record(|| {
        let mut block = Block::zeroed(&manager, layout).unwrap();
        block.resize(200).unwrap();
        failing.fail_always();
        assert!(block.resize(300).is_err());
        drop(block);
    });

    // Addresses differ between runs.
    let shown: Vec<String> = lines
        .iter()
        .map(|line| {
            let words = line.split(' ');
            let same = words.filter(|w| !w.starts_with("address=") && !w.starts_with("from="));
            same.collect::<Vec<_>>().join(" ")
        })
        .collect();
    assert_eq!(
        shown,
        [
            r#"DEBUG allocate_zeroed pool="std" size=100 align=64"#,
            r#"DEBUG reallocate pool="std" old_size=100 size=200 align=64"#,
            r#"WARN reallocate failed pool="std" old_size=200 size=300 align=64 error=call 2 was to fail"#,
            r#"DEBUG deallocate pool="std" size=200 align=64"#,
        ]
    );
}

#[test]
fn a_subscriber_that_panics_or_allocates_disturbs_nothing() {
    struct Hostile(Arc<LoggingManager>);
    impl tracing::Subscriber for Hostile {
        fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::Id {
            tracing::Id::from_u64(1)
        }
        fn record(&self, _: &tracing::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::Id, _: &tracing::Id) {}
        fn event(&self, _: &tracing::Event<'_>) {
            drop(Block::zeroed(&*self.0, Layout::new::<u64>()).unwrap());
            std::panic::resume_unwind(Box::new("a hostile subscriber"));
        }
        fn enter(&self, _: &tracing::Id) {}
        fn exit(&self, _: &tracing::Id) {}
    }
    let tracking = Arc::new(arrow_memory_manager::testing::TrackingManager::new());
    let manager = Arc::new(LoggingManager::new(tracking.clone()));

    tracing::subscriber::with_default(Hostile(manager.clone()), || {
        let mut block = Block::zeroed(&*manager, Layout::new::<u64>()).unwrap();
        block.resize(100).unwrap();
    });

    assert_eq!(tracking.allocations(), 4);
    tracking.assert_clean();
}
