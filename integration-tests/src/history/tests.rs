//! Correct and incorrect runs, written by hand.

use super::*;

/// Judges calls of two threads at given ticks, below a root of 100 bytes.
fn judged(fill: impl FnOnce(&History, &mut Log, Level)) -> Result<Summary, String> {
    let history = History::default();
    let root = history.level(None, 0, 100, span(0, 1));
    let mut log = Log::default();
    fill(&history, &mut log, root.level);
    log.removed(root, span(1000, 1001));
    history.add(log);
    history.judge()
}

fn span(start: u64, end: u64) -> Span {
    Span { start, end }
}

#[test]
fn a_refusal_of_what_fitted_throughout_is_wrong() {
    let judged = judged(|_, log, root| {
        let held = log.granted(root, 60, span(2, 3));
        log.refused(root, 40, span(10, 11));
        log.ended(held, span(20, 21));
    });

    assert!(judged.unwrap_err().starts_with("40 bytes were refused"));
}

#[test]
fn a_refusal_is_right_if_another_call_may_have_been_in_the_way_for_a_moment() {
    for (made, ended) in [
        ((2, 3), (9, 11)),
        ((11, 13), (20, 21)),
        ((10, 11), (12, 14)),
    ] {
        let judged = judged(|_, log, root| {
            let held = log.granted(root, 61, span(made.0, made.1));
            log.refused(root, 40, span(10, 13));
            log.ended(held, span(ended.0, ended.1));
        });

        assert!(judged.is_ok(), "{made:?} {ended:?}: {judged:?}");
    }
}

#[test]
fn a_refused_request_is_no_excuse_for_another_refusal() {
    let judged = judged(|_, log, root| {
        log.refused(root, 101, span(8, 20));
        log.refused(root, 40, span(10, 13));
    });

    assert!(judged.unwrap_err().starts_with("40 bytes were refused"));
}

#[test]
fn more_than_the_limit_between_two_calls_is_a_limit_passed() {
    let judged = judged(|_, log, root| {
        let a = log.granted(root, 60, span(2, 5));
        let b = log.granted(root, 41, span(3, 4));
        log.ended(a, span(6, 7));
        log.ended(b, span(8, 9));
    });

    assert!(
        judged
            .unwrap_err()
            .contains("101 bytes, above its limit of 100")
    );
}

#[test]
fn a_reservation_counts_for_the_parent_while_its_child_is_there() {
    let run = |asked: (u64, u64)| {
        judged(|history, log, root| {
            let child = history.level(Some(root), 80, 200, span(5, 6));
            let held = log.granted(child.level, 50, span(7, 8));
            log.refused(root, 30, span(asked.0, asked.1));
            log.ended(held, span(11, 12));
            log.removed(child, span(20, 21));
        })
    };

    assert!(run((9, 10)).is_ok());
    assert!(run((13, 14)).is_ok());
    assert!(run((22, 23)).is_err());
}
