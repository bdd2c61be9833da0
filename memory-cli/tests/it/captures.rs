use std::fs;

use crate::program::{directory, feed, run, text};

/// A capture written by hand, after the documented format.
const CAPTURE: &[u8] = b"\
scan  7 [000] 1.000001: sdt_arrow_memory:allocate: (55d0) arg1=0x7f00 arg2=64 arg3=1 arg4=1
\t    55d0 scan::read;x+0x10 (/bin/scan)
\t    55e0 scan::main+0x20 (/bin/scan)

what is this
scan  7 [000] 1.000002: sdt_arrow_memory:allocate: (55d0) arg1=0x8f00 arg2=4096 arg3=1 arg4=1
\t    55d8 scan::join+0x8 (/bin/scan)
\t    55e0 scan::main+0x20 (/bin/scan)

scan  7 [000] 1.000003: sdt_arrow_memory:allocate: (55d0) arg1=0x9f00 arg2=64 arg3=1 arg4=1
\t    55d8 scan::join+0x8 (/bin/scan)
\t    55e0 scan::main+0x20 (/bin/scan)

scan  7 [000] 1.000004: sdt_arrow_memory:release: (55e0) arg1=0x9f00 arg2=64 arg3=1 arg4=1

";

#[test]
fn events_are_one_json_object_per_line_and_bad_lines_are_reported() {
    let ran = feed(["events"], CAPTURE);

    assert_eq!(ran.code, Some(0), "{ran:?}");
    let events: Vec<serde_json::Value> = ran
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(events.len(), 4);
    assert_eq!(events[1]["params"]["arg2"], "4096");
    assert_eq!(events[1]["stack"][0]["symbol"], "scan::join+0x8");
    assert!(ran.err.contains("1 line was not understood"), "{}", ran.err);
    assert!(ran.err.contains("line 5: what is this"), "{}", ran.err);
}

#[test]
fn a_file_without_one_line_of_a_capture_is_an_error() {
    for input in [&b"PAR1 is how something else begins\n"[..], b"\xff\xfe\0\0"] {
        for command in ["events", "dangling"] {
            let ran = feed([command], input);

            assert_eq!((ran.code, &*ran.out), (Some(1), ""), "{ran:?}");
            assert!(
                ran.err.contains("give it what `perf script` printed"),
                "{}",
                ran.err
            );
            assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
        }
    }
}

#[test]
fn what_was_never_freed_is_listed_largest_first() {
    let path = directory("dangling").join("capture.txt");
    fs::write(&path, CAPTURE).unwrap();

    let all = run(["dangling", text(&path)]);
    let top = run(["dangling", "--top", "1", text(&path)]);
    let json = run(["dangling", "--json", text(&path)]).json();

    let join = all.out.find("4096 bytes in 1 block").unwrap();
    let read = all.out.find("64 bytes in 1 block").unwrap();
    assert!(join < read, "{}", all.out);
    assert!(top.out.contains("1 smaller stack left out"), "{}", top.out);
    assert_eq!(json["stacks"][0]["bytes"], 4096);
}

#[test]
fn dangling_stacks_are_folded_and_drawn() {
    let out = directory("flame").join("flame.svg");
    let folded = feed(["dangling", "--folded", "-"], CAPTURE);
    assert_eq!(
        folded.out,
        "scan::main;scan::join 4096\nscan::main;scan::read:x 64\n"
    );

    let input = format!("no stack\n{}", folded.out);
    let ran = feed(
        ["flame", "--title", "A <title>", "--out", text(&out)],
        input.as_bytes(),
    );

    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.err.contains("1 line was no"), "{}", ran.err);
    let svg = fs::read_to_string(&out).unwrap();
    for words in ["<svg", "scan::join", "4,096 bytes", "A &lt;title&gt;"] {
        assert!(svg.contains(words), "no `{words}` in the graph");
    }
}

#[test]
fn captures_cut_short_are_no_failure() {
    for command in ["events", "dangling"] {
        let ran = feed([command], &CAPTURE[..300]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }
    feed(["flame"], b"").failed(1, &["no folded stacks"]);
    run(["events", "no-such-capture.txt"]).failed(1, &["no-such-capture.txt"]);
}

/// `perf record` may record nothing without an error: an empty capture must not look like success.
#[test]
fn an_empty_capture_is_not_an_all_clear() {
    for input in [&b""[..], b"\n\n"] {
        for command in [&["events"][..], &["dangling"], &["dangling", "--json"]] {
            feed(command, input).failed(1, &["no allocations in this capture"]);
        }
    }
    let frees_only = CAPTURE
        .split(|&byte| byte == b'\n')
        .find(|line| line.windows(7).any(|word| word == b"release"));
    let ran = feed(["dangling"], frees_only.unwrap());
    ran.failed(1, &["no allocations in this capture"]);
    let events = feed(["events"], frees_only.unwrap());
    assert_eq!(events.code, Some(0), "{events:?}");
    assert!(events.err.contains("no allocations"), "{}", events.err);
}

/// Thread names may contain any character.
#[test]
fn blanks_of_more_than_a_byte_before_a_colon_are_read() {
    for blank in ["\u{3000}", "\u{2003}", "\u{85}"] {
        let line = format!(
            "x{blank}a:b 5 [000] 1.000002: sdt_arrow_memory:allocate: (55d0) arg1=1 arg2=2 arg3=3 arg4=4\n"
        );
        let ran = feed(["events"], line.as_bytes());

        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(ran.out.contains("\"tid\":5"), "{}", ran.out);
    }
    let binary = fs::read(crate::program::table("parquet")).unwrap();
    feed(["events"], &binary[..4000]).failed(1, &["not one line is of a capture"]);
}

#[test]
fn a_capture_can_be_a_gate() {
    let gate = |allowed: &str| feed(["dangling", "--fail-over", allowed], CAPTURE).code;
    assert_eq!(gate("4160"), Some(0));
    assert_eq!(gate("4159"), Some(3));
}

#[test]
fn names_of_a_capture_cannot_reach_the_terminal_as_commands() {
    let capture = String::from_utf8_lossy(CAPTURE).replace("scan::join", "\u{1b}[31mjoin");
    let ran = feed(["dangling"], capture.as_bytes());

    assert!(!ran.out.contains('\u{1b}'), "{}", ran.out);
    assert!(ran.out.contains("\\u{1b}[31mjoin"), "{}", ran.out);
}
