//! Everything of this crate for the arrays of arrow 60.

/// The crates of arrow 60 that this module works on.
pub mod deps {
    pub use ::arrow_array_60 as arrow_array;
    pub use ::arrow_buffer_60 as arrow_buffer;
    #[cfg(feature = "csv")]
    pub use ::arrow_csv_60 as arrow_csv;
    pub use ::arrow_data_60 as arrow_data;
    #[cfg(feature = "ipc")]
    pub use ::arrow_ipc_60 as arrow_ipc;
    pub use ::arrow_schema_60 as arrow_schema;
    #[cfg(feature = "parquet")]
    pub use ::parquet_60 as parquet;
}

#[cfg(feature = "csv")]
#[path = "versioned/csv.rs"]
pub mod csv;
#[cfg(feature = "ipc")]
#[path = "versioned/ipc/mod.rs"]
pub mod ipc;
#[cfg(feature = "parquet")]
#[path = "versioned/parquet.rs"]
pub mod parquet;
#[path = "versioned/mod.rs"]
mod source;

#[cfg(feature = "ipc")]
use deps::arrow_ipc::convert::try_fb_to_schema;
pub use source::*;
