//! Tables and queries of TPC-H, for the demo.

use std::fs::File;
use std::path::{Path, PathBuf};

use datafusion::arrow::array::RecordBatchReader;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::file::properties::WriterProperties;
use tpchgen::generators as rows;
use tpchgen_arrow as arrays;

/// A query: its name and its text.
pub(crate) type Query = (&'static str, &'static str);

pub(crate) const QUERIES: [Query; 6] = [
    ("q1", include_str!("tpch/q1.sql")),
    ("q3", include_str!("tpch/q3.sql")),
    ("q5", include_str!("tpch/q5.sql")),
    ("q9", include_str!("tpch/q9.sql")),
    ("q10", include_str!("tpch/q10.sql")),
    ("q18", include_str!("tpch/q18.sql")),
];

/// The names of the tables.
pub(crate) const TABLES: [&str; 8] = [
    "customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier",
];

/// Rows of a row group: so few that two tasks have something to read.
const GROUP: usize = 1 << 16;

/// Returns the file of a table in the folder.
pub(crate) fn file(folder: &Path, table: &str) -> PathBuf {
    folder.join(format!("{table}.parquet"))
}

/// Writes the tables to the folder.
pub(crate) fn generate(folder: &Path, scale: f64) -> Result<(), Box<dyn std::error::Error>> {
    macro_rules! table {
        ($generator:ident, $arrow:ident) => {
            Box::new(arrays::$arrow::new(rows::$generator::new(scale, 1, 1)))
        };
    }
    for table in TABLES {
        let batches: Box<dyn RecordBatchReader> = match table {
            "customer" => table!(CustomerGenerator, CustomerArrow),
            "lineitem" => table!(LineItemGenerator, LineItemArrow),
            "nation" => table!(NationGenerator, NationArrow),
            "orders" => table!(OrderGenerator, OrderArrow),
            "part" => table!(PartGenerator, PartArrow),
            "partsupp" => table!(PartSuppGenerator, PartSuppArrow),
            "region" => table!(RegionGenerator, RegionArrow),
            _ => table!(SupplierGenerator, SupplierArrow),
        };
        let properties = WriterProperties::builder()
            .set_max_row_group_row_count(Some(GROUP))
            .build();
        let target = File::create(file(folder, table))?;
        let mut writer = ArrowWriter::try_new(target, batches.schema(), Some(properties))?;
        for batch in batches {
            writer.write(&batch?)?;
        }
        writer.close()?;
    }
    Ok(())
}
