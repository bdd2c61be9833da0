#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "system")]
use arrow_memory_system as _;

mod charge;
mod error;
mod handle;
mod lent;
mod memory;
mod open;
mod operator;
mod options;
mod policy;
mod port;
mod queries;
mod query;
mod refusal;
#[cfg(feature = "session")]
mod replan;
mod report;
#[cfg(feature = "sql")]
mod table;
mod text;

#[cfg(feature = "metrics")]
#[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
pub use arrow_memory_core::MetricsExporter;
pub use arrow_memory_core::{BufferAllocator, RootAllocator};
pub use error::{AdmitError, StillHeld};
pub use handle::QueryMemory;
pub use memory::{DataFusionMemory, DataFusionMemoryBuilder, QueryBuilder};
pub use options::{Charge, Granularity, OnRefusal, Policy, Wait};
#[cfg(feature = "session")]
pub use replan::plan_to_spill;
pub use report::{OperatorReport, QueryReport};

/// The page of the guide, whose program is tested as it stands.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/datafusion.md")]
struct Guide;
