//! Behaviour of the allocator tree and its buffers, by every promise in the docs.

mod debug;
mod events;
mod leak_check;
mod leaks;
mod numbers;
mod probes;
mod release;
mod tree;
