//! The streams of a query that are open, so that a query that is cancelled can end them.

use std::sync::Arc;

use futures::stream::AbortHandle;

/// A stream that is open.
pub(crate) struct Open {
    pub(crate) abort: AbortHandle,
    pub(crate) plan: Arc<dyn Spills>,
}

/// A plan that runs. It is not kept alive by this: a plan may hold what its operators have built.
pub(crate) trait Spills: Send + Sync {
    /// Returns the bytes that the plan's operators have spilled, unless it has ended.
    fn spilled(&self) -> Option<usize>;
}

/// The open streams of a query, or why there are none any more.
#[derive(Default)]
pub(crate) struct OpenStreams {
    streams: Vec<(u64, Open)>,
    opened: u64,
    ended: Option<Arc<str>>,
}

impl OpenStreams {
    /// Adds a stream and returns its number, or says why the query has ended.
    pub(crate) fn open(&mut self, open: Open) -> Result<u64, Arc<str>> {
        if let Some(reason) = &self.ended {
            return Err(Arc::clone(reason));
        }
        self.opened += 1;
        self.streams.push((self.opened, open));
        Ok(self.opened)
    }

    /// Takes a stream out, to be dropped by the caller.
    pub(crate) fn close(&mut self, stream: u64) -> Option<Open> {
        let index = self
            .streams
            .iter()
            .position(|(number, _)| *number == stream)?;
        Some(self.streams.swap_remove(index).1)
    }

    /// Lets no further stream in, and returns those that are open, to be ended. `None` if that was done before.
    pub(crate) fn end(&mut self, reason: &str) -> Option<Vec<AbortHandle>> {
        if self.ended.is_some() {
            return None;
        }
        self.ended = Some(reason.into());
        Some(
            self.streams
                .iter()
                .map(|(_, open)| open.abort.clone())
                .collect(),
        )
    }

    pub(crate) fn end_reason(&self) -> Option<Arc<str>> {
        self.ended.clone()
    }

    pub(crate) fn len(&self) -> usize {
        self.streams.len()
    }

    pub(crate) fn plans(&self) -> Vec<Arc<dyn Spills>> {
        self.streams
            .iter()
            .map(|(_, open)| Arc::clone(&open.plan))
            .collect()
    }
}
