#![doc = include_str!("../README.md")]

mod client;
mod clients;
mod counts;
mod endpoint;
mod engine;
mod http;
mod job;
pub mod local;
mod memory;
mod options;
mod placement;
mod process;
mod status;

pub use arrow_memory_datafusion::{BufferAllocator, OnRefusal, RootAllocator};
pub use client::{ClusterExecutor, cluster, collect, connect};
pub use clients::Clients;
pub use endpoint::{EACH, Endpoint, Executor};
pub use engine::MemoryEngine;
pub use http::{ANSWER, CONNECTIONS, REQUEST, TIME, Token, request};
pub use memory::{BallistaMemory, BallistaMemoryBuilder};
pub use options::{JobOptions, MemoryOptions, RETRIES, session_config};
pub use placement::{AVOIDED, Placed, Placement, STALE, Told};
pub use status::{ExecutorStatus, ExecutorTree, JobStatus, Omitted, OperatorStatus};
