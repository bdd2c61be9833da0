//! TPC-H's tables as Parquet files.

use std::fs::File;
use std::path::{Path, PathBuf};

use datafusion::arrow::record_batch::RecordBatchReader;
use datafusion::error::Result;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::file::properties::WriterProperties;
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator,
    PartSuppGenerator, RegionGenerator, SupplierGenerator,
};
use tpchgen_arrow::{
    CustomerArrow, LineItemArrow, NationArrow, OrderArrow, PartArrow, PartSuppArrow, RegionArrow,
    SupplierArrow,
};

use crate::folders;

/// The names of the tables.
pub const TABLES: [&str; 8] = [
    "customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier",
];

/// Rows of a row group: small enough that eight partitions of the scale 0.1 have something to read.
const GROUP: usize = 1 << 16;

/// Returns the folder with the tables of that scale, a Parquet file each. They are written once, and kept in the target
/// directory.
///
/// # Errors
///
/// If a file cannot be written.
pub fn tables(scale: f64) -> Result<PathBuf> {
    let target = folders::target("tpch");
    let folder = target.join(format!("scale-{scale}"));
    if folder.exists() {
        return Ok(folder);
    }
    // Two programs may do this at once. The folder gets its name when it is complete.
    let unfinished = tempfile::tempdir_in(&target)?;
    for table in TABLES {
        let file = unfinished.path().join(format!("{table}.parquet"));
        write(generator(table, scale), &file)?;
    }
    let renamed = std::fs::rename(unfinished.path(), &folder);
    if !folder.exists() {
        renamed?;
    }
    Ok(folder)
}

fn generator(table: &str, scale: f64) -> Box<dyn RecordBatchReader> {
    match table {
        "customer" => Box::new(CustomerArrow::new(CustomerGenerator::new(scale, 1, 1))),
        "lineitem" => Box::new(LineItemArrow::new(LineItemGenerator::new(scale, 1, 1))),
        "nation" => Box::new(NationArrow::new(NationGenerator::new(scale, 1, 1))),
        "orders" => Box::new(OrderArrow::new(OrderGenerator::new(scale, 1, 1))),
        "part" => Box::new(PartArrow::new(PartGenerator::new(scale, 1, 1))),
        "partsupp" => Box::new(PartSuppArrow::new(PartSuppGenerator::new(scale, 1, 1))),
        "region" => Box::new(RegionArrow::new(RegionGenerator::new(scale, 1, 1))),
        "supplier" => Box::new(SupplierArrow::new(SupplierGenerator::new(scale, 1, 1))),
        other => unreachable!("TPC-H has no table `{other}`"),
    }
}

fn write(batches: Box<dyn RecordBatchReader>, file: &Path) -> Result<()> {
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(GROUP))
        .build();
    let mut writer = ArrowWriter::try_new(File::create(file)?, batches.schema(), Some(properties))?;
    for batch in batches {
        writer.write(&batch?)?;
    }
    writer.close()?;
    Ok(())
}
