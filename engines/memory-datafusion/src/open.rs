//! The streams of a query that are open, so that a query that is cancelled can end them.

use std::sync::Arc;

use futures::stream::AbortHandle;

/// The open streams of a query, or why there are none any more.
#[derive(Default)]
pub(crate) struct OpenStreams {
    streams: Vec<(u64, AbortHandle)>,
    opened: u64,
    ended: Option<Arc<str>>,
}

impl OpenStreams {
    /// Adds a stream and returns its number, or says why the query has ended.
    pub(crate) fn open(&mut self, stream: AbortHandle) -> Result<u64, Arc<str>> {
        if let Some(reason) = &self.ended {
            return Err(Arc::clone(reason));
        }
        self.opened += 1;
        self.streams.push((self.opened, stream));
        Ok(self.opened)
    }

    /// Takes a stream out, to be dropped by the caller, and says whether none is left.
    pub(crate) fn close(&mut self, stream: u64) -> (Option<AbortHandle>, bool) {
        let index = self
            .streams
            .iter()
            .position(|(number, _)| *number == stream);
        let closed = index.map(|index| self.streams.swap_remove(index).1);
        (closed, self.streams.is_empty())
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
                .map(|(_, stream)| stream.clone())
                .collect(),
        )
    }

    pub(crate) fn end_reason(&self) -> Option<Arc<str>> {
        self.ended.clone()
    }

    pub(crate) fn len(&self) -> usize {
        self.streams.len()
    }
}
