//! The rules of the choice, on registries of their own; the process's registry is tested in
//! `tests/managers/`, where child processes set the environment.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::*;
use crate::ManagerError;
use crate::testing::StdManager;

fn start() -> Result<Arc<dyn AllocationManager>, ManagerError> {
    Ok(Arc::new(StdManager))
}

fn fail() -> Result<Arc<dyn AllocationManager>, ManagerError> {
    Err(ManagerError::new("no luck"))
}

const fn registration(name: &'static str, preference: u32) -> BackendRegistration {
    BackendRegistration {
        name,
        preference,
        manager: start,
    }
}

static THREE: [BackendRegistration; 4] = [
    registration("", 0),
    registration("low", 10),
    registration("named", 0),
    registration("high", 20),
];

fn none() -> &'static [BackendRegistration] {
    &THREE[..1]
}

fn three() -> &'static [BackendRegistration] {
    &THREE
}

fn unset() -> Option<String> {
    None
}

/// A registry of its own.
fn backends(
    linked: fn() -> &'static [BackendRegistration],
    environment: fn() -> Option<String>,
) -> &'static Backends {
    Box::leak(Box::new(Backends::new(linked, environment)))
}

/// The name of the default, by the identity of its manager.
fn default_of(backends: &'static Backends) -> &'static str {
    let manager = backends.default_manager().expect("a default");
    let same = |name: &&str| {
        let named = backends.manager(name).expect("a supported name");
        Arc::ptr_eq(&manager, &named)
    };
    let names = backends.supported();
    names
        .into_iter()
        .find(same)
        .expect("the default has a name")
}

#[test]
fn the_preferred_backend_is_listed_first_and_is_the_default() {
    let backends = backends(three, unset);

    assert_eq!(backends.supported(), ["high", "low", "named"]);
    assert_eq!(default_of(backends), "high");
}

#[test]
fn a_program_without_backends_is_told_which_to_add() {
    let backends = backends(none, unset);

    assert!(backends.supported().is_empty());
    for error in [
        backends.default_manager().unwrap_err(),
        backends.manager("system").unwrap_err(),
        backends.manager("").unwrap_err(),
        backends.set_default("system").unwrap_err(),
    ] {
        assert!(matches!(error, BackendError::NoneLinked), "{error}");
        assert!(error.to_string().contains("arrow-memory-system"), "{error}");
    }
}

#[test]
fn a_backend_of_preference_zero_is_used_by_name_only() {
    fn only_named() -> &'static [BackendRegistration] {
        &THREE[2..3]
    }
    let backends = backends(only_named, unset);

    let error = backends.default_manager().unwrap_err();
    assert!(matches!(error, BackendError::NoneLinked), "{error}");

    backends.set_default("named").unwrap();
    assert_eq!(default_of(backends), "named");
}

#[test]
fn the_environment_beats_the_program_which_beats_preference() {
    let by_program = backends(three, unset);
    by_program.set_default("low").unwrap();
    assert_eq!(default_of(by_program), "low");

    let by_environment = backends(three, || Some("named".to_owned()));
    by_environment.set_default("low").unwrap();
    assert_eq!(default_of(by_environment), "named");
}

#[test]
fn a_name_in_the_environment_that_is_not_linked_is_passed_over() {
    let backends = backends(three, || Some("tcmalloc".to_owned()));
    backends.set_default("low").unwrap();

    assert_eq!(default_of(backends), "low");
    assert!(backends.warned.load(Ordering::Relaxed));
}

#[test]
fn the_default_is_set_once_and_before_it_is_used() {
    let set = backends(three, unset);
    set.set_default("low").unwrap();
    let error = set.set_default("high").unwrap_err();
    assert!(
        matches!(&error, BackendError::AlreadyChosen { current } if current == "low"),
        "{error}"
    );

    let used = backends(three, unset);
    used.default_manager().unwrap();
    let error = used.set_default("low").unwrap_err();
    assert!(
        matches!(&error, BackendError::AlreadyChosen { current } if current == "high"),
        "{error}"
    );
}

#[test]
fn an_unknown_name_is_answered_with_the_known_ones() {
    let backends = backends(three, unset);

    let error = backends.manager("tcmalloc").unwrap_err();

    assert_eq!(
        error.to_string(),
        "no memory backend is called `tcmalloc`; linked are: high, low, named"
    );
    let error = backends.set_default("").unwrap_err();
    assert!(matches!(error, BackendError::Unknown { .. }), "{error}");
}

#[test]
fn a_backend_registered_by_hand_counts_as_one_that_was_linked() {
    static HIGHER: BackendRegistration = registration("higher", 30);
    static SECOND: BackendRegistration = registration("high", 99);
    let backends = backends(three, unset);

    backends.register(&HIGHER);
    backends.register(&HIGHER);
    backends.register(&SECOND);

    assert_eq!(backends.supported(), ["higher", "high", "low", "named"]);
    assert_eq!(default_of(backends), "higher");
}

#[test]
fn a_backend_that_fails_to_start_is_asked_again() {
    static FAILURES: AtomicUsize = AtomicUsize::new(0);
    static FLAKY: BackendRegistration = BackendRegistration {
        name: "flaky",
        preference: 99,
        manager: || match FAILURES.fetch_add(1, Ordering::Relaxed) {
            0 => fail(),
            _ => start(),
        },
    };
    let backends = backends(three, unset);
    backends.register(&FLAKY);

    let error = backends.default_manager().unwrap_err();
    assert_eq!(
        format!("{error:#}"),
        "memory backend `flaky` did not start: no luck"
    );
    assert_eq!(default_of(backends), "flaky");
    assert_eq!(FAILURES.load(Ordering::Relaxed), 2);
}

#[test]
fn a_backend_may_stand_on_the_default_besides_itself() {
    let named = backends(three, || Some("named".to_owned()));
    let high = named.manager("high").unwrap();
    let below = named.default_manager_besides("named").unwrap();
    assert!(Arc::ptr_eq(&below, &high));

    let set = backends(three, || Some("named".to_owned()));
    set.set_default("low").unwrap();
    let low = set.manager("low").unwrap();
    let below = set.default_manager_besides("named").unwrap();
    assert!(Arc::ptr_eq(&below, &low));
}

#[test]
fn a_backend_may_ask_for_another_one_while_it_starts() {
    static STACKED: Backends = Backends::new(
        || {
            static BOTH: [BackendRegistration; 2] = [
                BackendRegistration {
                    name: "upper",
                    preference: 20,
                    manager: || {
                        let below = STACKED.default_manager_besides("upper");
                        below.map_err(|error| ManagerError::new(error.to_string()))
                    },
                },
                registration("lower", 10),
            ];
            &BOTH
        },
        unset,
    );

    let upper = STACKED.default_manager().unwrap();

    assert!(Arc::ptr_eq(&upper, &STACKED.manager("lower").unwrap()));
}

#[test]
fn threads_that_start_a_backend_together_see_one_manager() {
    for _ in 0..100 {
        let backends = backends(three, unset);
        let managers: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| backends.default_manager().unwrap()))
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });

        assert!(managers.iter().all(|m| Arc::ptr_eq(m, &managers[0])));
    }
}

#[test]
fn a_choice_that_was_accepted_is_kept_whoever_asks_meanwhile() {
    for _ in 0..200 {
        let backends = backends(three, unset);
        let (accepted, name) = thread::scope(|scope| {
            let asking = scope.spawn(|| default_of(backends));
            let accepted = backends.set_default("low").is_ok();
            (accepted, asking.join().unwrap())
        });

        assert_eq!(name, if accepted { "low" } else { "high" });
    }
}
