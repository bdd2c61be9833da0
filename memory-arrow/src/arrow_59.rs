//! Everything of this crate for the arrays of arrow 59.

/// The crates of arrow 59 that this module works on.
pub mod deps {
    pub use ::arrow_array_59 as arrow_array;
    pub use ::arrow_buffer_59 as arrow_buffer;
    #[cfg(feature = "csv-59")]
    pub use ::arrow_csv_59 as arrow_csv;
    pub use ::arrow_data_59 as arrow_data;
    #[cfg(feature = "ipc-59")]
    pub use ::arrow_ipc_59 as arrow_ipc;
    pub use ::arrow_schema_59 as arrow_schema;
    #[cfg(feature = "parquet-59")]
    pub use ::parquet_59 as parquet;
}

#[cfg(feature = "csv-59")]
#[path = "versioned/csv.rs"]
pub mod csv;
#[cfg(feature = "ipc-59")]
#[path = "versioned/ipc/mod.rs"]
pub mod ipc;
#[cfg(feature = "parquet-59")]
#[path = "versioned/parquet.rs"]
pub mod parquet;
#[path = "versioned/mod.rs"]
mod source;

pub use source::*;

/// Converts a schema. arrow 60 has this function, and returns an error where this one panics; the caller
/// catches the panic.
#[cfg(feature = "ipc-59")]
fn try_fb_to_schema(
    schema: deps::arrow_ipc::Schema<'_>,
) -> Result<deps::arrow_schema::Schema, deps::arrow_schema::ArrowError> {
    Ok(deps::arrow_ipc::convert::fb_to_schema(schema))
}
