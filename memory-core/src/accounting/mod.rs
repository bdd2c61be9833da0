//! essay to come
mod charge;
mod handle;
mod lifecycle;
#[cfg(all(test, loom))]
#[expect(unsafe_code, reason = "gives back what it charged")]
mod model;
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
