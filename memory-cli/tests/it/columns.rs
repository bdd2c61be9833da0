//! The selection of columns, limits and the numbers that they bound, and files that cannot be read.

use std::fs;
use std::path::Path;

use crate::files;
use crate::program::{directory, run, text};

#[test]
fn columns_are_named_with_blanks_quotes_and_dots() {
    let directory = directory("columns");
    for format in ["parquet", "arrow", "arrows"] {
        let file = files::write(&directory.join(format!("t.{format}")), &files::batches());
        let scan = |columns: &str| {
            let ran = run([
                "--json",
                "scan",
                "--keep",
                "--columns",
                columns,
                text(&file),
            ]);
            assert_eq!(ran.code, Some(0), "{format} {columns}: {ran:?}");
            let report = ran.json();
            (
                report["files"][0]["columns"].as_u64().unwrap(),
                report["accounted"]["used"].as_u64().unwrap(),
            )
        };

        assert_eq!(scan("id, s").0, 2);
        assert_eq!(scan("\"id\"").0, 1);
        let (whole, part) = (scan("s").1, scan("s.a").1);
        assert_eq!(part * 2, whole, "{format}: one of two fields");
    }
    let csv = directory.join("commas.csv");
    fs::write(&csv, "\"a,b\",c.d\n1,2\n").unwrap();
    let chosen = |columns: &str| run(["scan", "--columns", columns, text(&csv)]).code;
    assert_eq!(chosen("\"a,b\""), Some(0));
    assert_eq!(chosen("c.d"), Some(0));
    run(["scan", "--columns", "c.e", text(&csv)]).failed(2, &["did you mean `c.d`?"]);
    run(["scan", "--columns", "a,,b", text(&csv)]).failed(2, &["an element is empty"]);
}

#[test]
fn a_wrong_column_of_a_later_file_is_told_before_the_work() {
    let directory = directory("later-column");
    let first = files::write(&directory.join("a.parquet"), &files::batches());
    let later = directory.join("b.csv");
    fs::write(&later, "id,other\n1,2\n").unwrap();

    let ran = run(["scan", "--columns", "id,view", text(&first), text(&later)]);
    ran.failed(2, &["b.csv", "no column `view`"]);
}

/// Messages are memory of the tree: a limit bounds them, and the report says so.
#[test]
fn messages_are_under_the_limit() {
    let directory = directory("messages");
    for format in ["arrow", "arrows"] {
        let file = files::write(&directory.join(format!("t.{format}")), &files::batches());
        let scan = |limit: &str| {
            run([
                "--json",
                "scan",
                "--columns",
                "id",
                "--limit",
                limit,
                text(&file),
            ])
        };
        let report = scan("1").json();
        let needed = report["need"]["batch"].as_u64().unwrap();
        let messages = report["need"]["messages"].as_u64().unwrap();

        // A batch is one message of some 140 kB; the column is 16 kB of it.
        assert!(messages > 130_000 && needed > messages, "{report}");
        assert_eq!(report["need"]["columns"]["batch"], 16_000);
        assert_eq!(
            report["need"]["bounded_by_limit"],
            serde_json::json!(["columns", "messages"])
        );
        assert!(report["need"]["process"].as_u64().unwrap() > needed);
        assert_eq!(scan(&needed.to_string()).code, Some(0), "{format}");
        let refused = scan(&(messages / 2).to_string());
        assert_eq!(refused.code, Some(3), "{format}");
        let asked_by = refused.json()["refusal"]["asked_by"].to_string();
        assert!(asked_by.contains("(messages)"), "{asked_by}");
        assert_eq!(
            refused.json()["need"]["batch"].as_u64(),
            Some(needed),
            "{format}"
        );
        assert_eq!(refused.json()["rows"], 10_000, "the rest is measured");
    }
}

#[test]
fn the_verdict_says_what_a_limit_bounds() {
    let directory = directory("verdict");
    let parquet = files::write(&directory.join("t.parquet"), &files::batches());
    let arrow = files::write(&directory.join("t.arrow"), &files::batches());
    let said = |arguments: &[&str]| {
        let ran = run(["scan"].iter().chain(arguments));
        ran.out.split_whitespace().collect::<Vec<_>>().join(" ")
    };

    let unlimited = said(&[text(&parquet)]);
    assert!(!unlimited.contains("Fits"), "{unlimited}");
    assert!(unlimited.contains("It needs"), "{unlimited}");
    let limited = said(&["--limit", "1GiB", text(&arrow)]);
    for words in [
        "✓ Fits. It needs",
        "--limit bounds the columns (",
        "and the messages (",
        "it does not bound the process, which had",
    ] {
        assert!(limited.contains(words), "no `{words}` in {limited}");
    }
    let json = run(["--json", "scan", text(&parquet)]).json();
    assert!(
        json["fits"].is_null()
            && json["limit"].is_null()
            && json["need"]["bounded_by_limit"].is_null()
    );
    assert!(json["need"]["messages"].is_null(), "{json}");
}

#[test]
fn the_largest_are_shown_first_and_as_many_as_were_asked_for() {
    let directory = directory("top");
    let file = files::write(&directory.join("t.parquet"), &files::batches());
    let names = |options: &[&str]| -> Vec<String> {
        let ran = run(["scan", "--keep", text(&file)].iter().chain(options));
        let rows = ran.out.lines().filter(|line| line.contains(['├', '└']));
        let name = |line: &str| {
            line.trim_start_matches([' ', '├', '└', '─'])
                .split("  ")
                .next()
                .unwrap()
                .to_owned()
        };
        rows.map(name).collect()
    };

    let all = names(&[]);
    assert_eq!(
        all,
        ["t.parquet", "id", "view", "dictionary", "s", "(decoding)"]
    );
    assert_eq!(names(&["--sort", "size"])[..3], ["t.parquet", "view", "s"]);
    assert_eq!(
        names(&["--top", "2"]),
        ["t.parquet", "view", "s", "(3 more)"]
    );
}

/// pyarrow 26 wrote `tests/data/encrypted-column.parquet` with a footer in plain text
/// (`EncryptionConfiguration(plaintext_footer=True)`). Its keys no longer exist.
#[test]
fn encrypted_files_are_told() {
    let directory = directory("encrypted");
    let whole = directory.join("whole.parquet");
    fs::write(&whole, b"PAREabcdefgh\x08\0\0\0PARE").unwrap();
    run(["scan", text(&whole)]).failed(1, &["encrypted"]);

    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let column = data.join("encrypted-column.parquet");
    run(["scan", text(&column)]).failed(1, &["encrypted"]);
    let open = run(["--json", "scan", "--columns", "open", text(&column)]);
    assert_eq!(open.json()["rows"], 2);
}

#[test]
#[cfg(feature = "codecs")]
fn compressed_files_are_read() {
    use arrow_memory_arrow::arrow_60::deps::arrow_ipc::CompressionType;
    use arrow_memory_arrow::arrow_60::deps::arrow_ipc::writer::{
        FileWriter, IpcWriteOptions, StreamWriter,
    };
    use arrow_memory_arrow::arrow_60::deps::parquet::arrow::ArrowWriter;
    use arrow_memory_arrow::arrow_60::deps::parquet::basic::Compression;
    use arrow_memory_arrow::arrow_60::deps::parquet::file::properties::WriterProperties;

    let directory = directory("codecs");
    let batches = files::batches();
    let schema = batches[0].schema();
    let create = |name: &str| fs::File::create(directory.join(name)).unwrap();
    for (name, codec) in [
        ("zstd", Compression::ZSTD(Default::default())),
        ("gzip", Compression::GZIP(Default::default())),
        ("brotli", Compression::BROTLI(Default::default())),
        ("lz4", Compression::LZ4),
        ("lz4_raw", Compression::LZ4_RAW),
        ("snappy", Compression::SNAPPY),
    ] {
        let properties = WriterProperties::builder().set_compression(codec).build();
        let file = create(&format!("{name}.parquet"));
        let mut writer = ArrowWriter::try_new(file, schema.clone(), Some(properties)).unwrap();
        batches
            .iter()
            .for_each(|batch| writer.write(batch).unwrap());
        writer.close().unwrap();
    }
    for (name, codec) in [
        ("zstd", CompressionType::ZSTD),
        ("lz4", CompressionType::LZ4_FRAME),
    ] {
        let options = || {
            IpcWriteOptions::default()
                .try_with_compression(Some(codec))
                .unwrap()
        };
        let mut writer =
            FileWriter::try_new_with_options(create(&format!("{name}.arrow")), &schema, options())
                .unwrap();
        batches
            .iter()
            .for_each(|batch| writer.write(batch).unwrap());
        writer.finish().unwrap();
        let mut writer = StreamWriter::try_new_with_options(
            create(&format!("{name}.arrows")),
            &schema,
            options(),
        )
        .unwrap();
        batches
            .iter()
            .for_each(|batch| writer.write(batch).unwrap());
        writer.finish().unwrap();
    }
    let report = run(["--json", "scan", text(&directory)]).json();
    assert_eq!(report["rows"], 10 * 10_000, "{report}");
    for name in ["zstd.arrow", "lz4.arrows"] {
        let file = directory.join(name);
        let keep = |limit: &str| {
            run([
                "--json",
                "scan",
                "--adopt",
                "--keep",
                "--limit",
                limit,
                text(&file),
            ])
        };
        let needed = keep("1TiB").json()["need"]["kept"].as_u64().unwrap();
        let short = keep(&(needed - 1).to_string());
        assert_eq!(
            (keep(&needed.to_string()).code, short.code),
            (Some(0), Some(3)),
            "{name}"
        );
        for limit in [needed - 1, needed / 2, 1] {
            let refused = keep(&limit.to_string()).json();
            assert_eq!(
                refused["need"]["kept"].as_u64(),
                Some(needed),
                "{name} {limit}"
            );
        }
    }
}
