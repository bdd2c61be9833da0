//! Behaviour of the allocator tree and its buffers, by every promise in the docs.

mod release;
mod tree;
