//! The errors in traces, and the meaning of each word of a trace.

use super::*;

const START: &str = "policy pow2\nroot a0 100 -> ok | a0 0 100 0 0;\n";

fn problem(line: &str) -> String {
    Trace::parse("t", &format!("{START}{line}\nend\n"))
        .unwrap_err()
        .to_string()
}

#[test]
fn a_broken_line_is_named_with_its_number_and_what_is_wrong() {
    let broken = [
        ("alloc b0 a0 64", "t:3: no ` -> `"),
        ("alloc b0 a0 64 -> ok 64 1", "t:3: no ` |`"),
        ("alloc b0 a0 -> oom a0 | ", "t:3: a word is missing"),
        (
            "alloc b0 b0 64 -> oom a0 | ",
            "t:3: `b0` is not `a` and a number",
        ),
        ("alloc b0 a0 x -> oom a0 | ", "t:3: `x` is no number"),
        (
            "alloc b0 a0 64 -> last | ",
            "t:3: `last` is no result of this operation",
        ),
        ("alloc b0 a0 64 64 -> oom a0 | ", "t:3: `64` is too much"),
        ("borrow b0 -> ok | ", "t:3: unknown operation `borrow`"),
        (
            "close a0 -> ok | a0 0 0 2 0",
            "t:3: state `a0 0 0 2 0`: `2` is neither 0 nor 1",
        ),
    ];
    for (line, message) in broken {
        assert_eq!(problem(line), message, "{line}");
    }
}

#[test]
fn a_trace_that_breaks_off_is_an_error() {
    let error = Trace::parse("t", START).unwrap_err();

    assert_eq!(error.to_string(), "t:2: the trace breaks off: no `end`");
}

#[test]
fn a_line_is_read_with_its_operation_its_outcome_and_every_state() {
    let line = "transfer b1 b2 a0 -> ok over 2 64 | a0 64 -36 1 64; a1 0 -36 1 128;";
    let trace = Trace::parse("t", &format!("{START}{line}\nend\n")).unwrap();

    let step = &trace.steps[1];
    assert_eq!(step.line, 3);
    assert_eq!(
        step.operation,
        Operation::Transfer {
            moved: 1,
            buffer: 2,
            allocator: 0
        }
    );
    assert_eq!(
        step.outcome,
        Outcome::Transferred {
            fit: false,
            references: 2,
            accounted: 64
        }
    );
    let texts: Vec<String> = step.states.iter().map(State::to_string).collect();
    assert_eq!(texts, ["a0 64 -36 1 64", "a1 0 -36 1 128"]);
}

#[test]
fn a_transfer_after_which_nothing_is_over_its_limit_is_expected_to_fit() {
    for (over, fit) in [(1, false), (0, true)] {
        let line = format!("transfer b1 b2 a0 -> ok over 2 64 | a0 64 36 {over} 64");
        let trace = Trace::parse("t", &format!("{START}{line}\nend\n")).unwrap();

        let expected = trace.steps[1].expected();

        assert!(
            matches!(expected, Outcome::Transferred { fit: it, .. } if it == fit),
            "{line}: {expected:?}"
        );
    }
}
