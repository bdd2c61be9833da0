//! Tables of the command line: files and folders, and the names that a query has for them.

use std::fs;
use std::path::{Path, PathBuf};

use datafusion::common::TableReference;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::prelude::{CsvReadOptions, ParquetReadOptions, SessionContext};

use crate::failure::{Failure, one_line};

/// A table: its name, and the file or the folder that has its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) name: String,
    path: PathBuf,
}

impl std::str::FromStr for Table {
    type Err = String;

    /// Reads `NAME=PATH`, or a path alone: then the name is that of the file.
    fn from_str(text: &str) -> Result<Self, String> {
        // A path may have an equals sign, too: `year=2026/rows.parquet`.
        let named = text
            .split_once('=')
            .filter(|(name, _)| !name.contains(['/', '\\', '.']))
            .filter(|(_, path)| Path::new(path).exists() || !Path::new(text).exists());
        let Some((name, path)) = named else {
            let path = PathBuf::from(text);
            let name = name_of(&path).ok_or_else(|| format!("`{text}` is no path of a file"))?;
            return Ok(Self { name, path });
        };
        if !is_name(name) || path.is_empty() {
            return Err(format!(
                "`{text}` is not NAME=PATH: a name has letters, digits and `_`, and begins with no digit"
            ));
        }
        Ok(Self {
            name: name.to_ascii_lowercase(),
            path: path.into(),
        })
    }
}

fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.chars().all(allowed) && name.starts_with(|c: char| !c.is_ascii_digit())
}

/// Returns the name of the file without its ending, as SQL without quotes can have it.
fn name_of(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_string_lossy();
    let kind = Kind::of(&file);
    let stem = kind.map_or(&*file, |kind| &file[..file.len() - kind.ending.len()]);
    let mut name: String = stem
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '_'
            }
        })
        .collect();
    if !is_name(&name) {
        name.insert(0, '_');
    }
    Some(name)
}

/// What a file is, by the ending of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    ending: &'static str,
    format: Format,
    compressed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Parquet,
    /// With that separator.
    Csv(u8),
}

impl Kind {
    const ALL: [Self; 5] = [
        Self::new(".parquet", Format::Parquet, false),
        Self::new(".csv", Format::Csv(b','), false),
        Self::new(".tsv", Format::Csv(b'\t'), false),
        Self::new(".csv.gz", Format::Csv(b','), true),
        Self::new(".tsv.gz", Format::Csv(b'\t'), true),
    ];

    const fn new(ending: &'static str, format: Format, compressed: bool) -> Self {
        Self {
            ending,
            format,
            compressed,
        }
    }

    fn of(file: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| file.len() > kind.ending.len() && file.ends_with(kind.ending))
    }
}

/// Makes the tables known to the session.
///
/// # Errors
///
/// A table whose file is not there or cannot be read, or two tables of one name.
pub(crate) async fn register(session: &SessionContext, tables: &[Table]) -> Result<(), Failure> {
    for (index, table) in tables.iter().enumerate() {
        if let Some(other) = tables[..index]
            .iter()
            .find(|other| other.name == table.name)
        {
            return Err(Failure::usage(format!(
                "two tables are called `{}`: `{}` and `{}`; name one with --table NAME=PATH",
                table.name,
                other.path.display(),
                table.path.display()
            )));
        }
        table.register(session).await?;
    }
    Ok(())
}

impl Table {
    async fn register(&self, session: &SessionContext) -> Result<(), Failure> {
        let failed = |what: &str| {
            let (name, path) = (&self.name, self.path.display());
            Failure::new(format!("table `{name}`: `{path}`: {what}"))
        };
        let path = fs::canonicalize(&self.path).map_err(|error| failed(&error.to_string()))?;
        let kind = match path.is_dir() {
            true => kind_of_folder(&path).map_err(|what| failed(&what))?,
            false => Kind::of(&path.to_string_lossy()).ok_or_else(|| {
                failed("the name must end in .parquet, .csv, .tsv, .csv.gz or .tsv.gz")
            })?,
        };
        let text = path
            .to_str()
            .ok_or_else(|| failed("the path is no UTF-8"))?;
        if text.contains(['*', '?', '[']) {
            return Err(failed(
                "a path with `*`, `?` or `[` would be a pattern: rename it",
            ));
        }
        let name = TableReference::bare(&*self.name);
        let registered = match kind.format {
            Format::Parquet => {
                let options = ParquetReadOptions::default().file_extension(kind.ending);
                session.register_parquet(name, text, options).await
            }
            Format::Csv(separator) => {
                let options = CsvReadOptions::new()
                    .delimiter(separator)
                    .file_extension(kind.ending)
                    .file_compression_type(match kind.compressed {
                        true => FileCompressionType::GZIP,
                        false => FileCompressionType::UNCOMPRESSED,
                    });
                session.register_csv(name, text, options).await
            }
        };
        registered.map_err(|error| failed(&one_line(&error.strip_backtrace())))
    }
}

/// Returns what the files below a folder are. Files of other kinds, and hidden ones, are left alone.
fn kind_of_folder(folder: &Path) -> Result<Kind, String> {
    let mut found: Option<(Kind, PathBuf)> = None;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).map_err(|error| error.to_string())?;
        for entry in entries {
            let path = entry.map_err(|error| error.to_string())?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with(['.', '_']) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let Some(kind) = Kind::of(&name) else {
                continue;
            };
            match &found {
                Some((known, other)) if *known != kind => {
                    return Err(format!(
                        "it has files of two kinds, `{}` and `{}`: give each kind a folder",
                        other.display(),
                        path.display()
                    ));
                }
                Some(_) => {}
                None => found = Some((kind, path)),
            }
        }
    }
    let nothing = || "it has no file that ends in .parquet, .csv or .tsv".to_owned();
    found.map(|(kind, _)| kind).ok_or_else(nothing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_called_as_its_file_unless_it_is_named() {
        let cases = [
            ("lineitem.parquet", "lineitem", "lineitem.parquet"),
            (
                "a/b/Line-Item.2.parquet",
                "line_item_2",
                "a/b/Line-Item.2.parquet",
            ),
            ("2026.csv.gz", "_2026", "2026.csv.gz"),
            ("tpch/orders/", "orders", "tpch/orders/"),
            ("L=lineitem.parquet", "l", "lineitem.parquet"),
            ("x=a=b.parquet", "x", "a=b.parquet"),
            ("./year=2026/r.csv", "r", "./year=2026/r.csv"),
        ];
        for (text, name, path) in cases {
            let table: Table = text.parse().expect(text);
            assert_eq!(
                (&*table.name, &*table.path),
                (name, Path::new(path)),
                "{text}"
            );
        }
    }

    #[test]
    fn what_no_query_could_name_is_refused() {
        for text in ["", "..", "a b=x.parquet", "1=x.parquet", "=x.parquet", "x="] {
            text.parse::<Table>().expect_err(text);
        }
    }
}
