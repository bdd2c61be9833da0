#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(
    all(feature = "arrow-59", feature = "arrow-60"),
    allow(
        clippy::duplicate_mod,
        reason = "one source, compiled against two versions of arrow"
    )
)]

#[cfg(any(feature = "arrow-59", feature = "arrow-60"))]
mod c_data;
mod error;
#[cfg(any(feature = "arrow-59", feature = "arrow-60"))]
mod guard;
mod hand_over;
#[cfg_attr(
    not(any(feature = "arrow-59", feature = "arrow-60")),
    allow(dead_code, reason = "without arrays there is nothing to keep")
)]
mod kept;
#[cfg(any(test, feature = "arrow-59", feature = "arrow-60"))]
mod registry;
#[cfg_attr(
    not(any(feature = "arrow-59", feature = "arrow-60")),
    allow(dead_code, reason = "without arrays there is nothing to share")
)]
mod shares;
#[cfg(any(test, feature = "arrow-59", feature = "arrow-60"))]
mod sync;

#[cfg(feature = "arrow-59")]
pub mod arrow_59;
#[cfg(feature = "arrow-60")]
pub mod arrow_60;

pub use error::{MemoryError, Refused};
pub use hand_over::HandOver;
pub use kept::Kept;
pub use shares::Shares;

#[cfg(all(feature = "arrow-59", not(feature = "arrow-60")))]
pub use arrow_59::*;
#[cfg(feature = "arrow-60")]
pub use arrow_60::*;
