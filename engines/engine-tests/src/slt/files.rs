//! Which sqllogictest files are run, and which are not, and why.

use std::path::{Path, PathBuf};

/// A file, or a folder, that is not run.
#[derive(Debug)]
pub struct Excluded {
    /// Its path relative to `test_files`.
    pub path: &'static str,
    /// Why it is not run.
    pub reason: &'static str,
    /// Whether it fails, or cannot be set up, with DataFusion's own pool. A test checks that it does.
    pub fails: bool,
}

impl Excluded {
    /// Returns whether it is that file, or a folder around it.
    pub fn has(&self, file: &Path) -> bool {
        file.starts_with(self.path)
    }
}

const fn fails(path: &'static str, reason: &'static str) -> Excluded {
    Excluded {
        path,
        reason,
        fails: true,
    }
}

const fn left_out(path: &'static str, reason: &'static str) -> Excluded {
    Excluded {
        path,
        reason,
        fails: false,
    }
}

/// What is not run at all. Single records that need data which is not shipped need no entry: they fail with DataFusion's
/// own pool, too.
pub const EXCLUDED: &[Excluded] = &[
    left_out(
        "spark",
        "scalar functions of Spark's dialect, which hold no memory",
    ),
    left_out("pg_compat", "compares DataFusion with PostgreSQL"),
    left_out("tpch", "its data is not shipped; the tests of TPC-H run it"),
    left_out(
        "avro.slt",
        "needs a feature of datafusion-sqllogictest, and Avro files that are not shipped",
    ),
    fails(
        "encrypted_parquet.slt",
        "needs DataFusion's feature `parquet_encryption`",
    ),
];

/// Records that differ under a limit without a refusal, and why.
pub const SHOWS_THE_LIMIT: &[(&str, &str)] = &[
    ("set_variable.slt:591", "shows the limit of the session"),
    (
        "set_variable.slt:600",
        "sets a limit above the session's, which goes on to hold",
    ),
];

/// Records that print the bytes of a table that a query has filled, with or without a limit. Buffers that were charged
/// have their length as capacity, so that these are fewer.
pub const SHOWS_CAPACITY: &[&str] = &[
    "explain_tree.slt:259",
    "explain_tree.slt:313",
    "explain_tree.slt:558",
    "explain_tree.slt:909",
    "explain_tree.slt:1161",
];

/// Returns the files of the short run: those whose operators hold memory, and those that change a session's memory.
pub fn selection() -> Vec<PathBuf> {
    [
        "aggregate_memory_spill.slt",
        "explain_analyze.slt",
        "explain_tree.slt",
        "group_by.slt",
        "information_schema.slt",
        "joins.slt",
        "nested_loop_join_spill.slt",
        "order.slt",
        "ordered_aggregate_spill.slt",
        "set_variable.slt",
        "sort_merge_join.slt",
        "sort_merge_join_spill.slt",
        "topk.slt",
        "union.slt",
        "window.slt",
    ]
    .map(PathBuf::from)
    .to_vec()
}
