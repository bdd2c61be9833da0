#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod backend;
mod events;
mod governor;
mod host;
mod limit;
mod reconcile;

pub use governor::{Governor, GovernorGuard};
pub use limit::HostLimit;
pub use reconcile::{HostExt, Reconciliation};
