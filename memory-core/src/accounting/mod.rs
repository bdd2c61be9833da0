//! essay to come
mod charge;
mod handle;
mod lifecycle;
mod node;
mod report;
mod transfer;
mod walk;
mod word;

pub(crate) use charge::Refusal;
pub(crate) use handle::{Handle, quietly};
pub(crate) use lifecycle::Outstanding;
pub(crate) use node::{Locked, Node, NodeConfig, NodePtr, TreeConfig, hooks};
pub(crate) use report::Census;
