use std::fs;

use crate::program::{directory, feed, run, text};

/// Composed by hand, from the documented format.
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
    let nothing = feed(["events"], b"");
    assert_eq!(nothing.code, Some(0), "{nothing:?}");
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
    assert!(top.out.contains("1 smaller stacks left out"), "{}", top.out);
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
fn captures_cut_short_and_nothing_at_all_are_no_failure() {
    for input in [&b""[..], b"\n\n", &CAPTURE[..300]] {
        for command in ["events", "dangling"] {
            let ran = feed([command], input);
            assert_eq!(ran.code, Some(0), "{ran:?}");
        }
    }
    feed(["flame"], b"").failed(1, &["no folded stacks"]);
    run(["events", "no-such-capture.txt"]).failed(1, &["no-such-capture.txt"]);
}
