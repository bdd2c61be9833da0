use std::sync::Arc;

use arrow_memory_manager::backend::{self, BackendRegistration};
use arrow_memory_manager::testing::StdManager;
use arrow_memory_manager::{AllocationManager, BackendError, ManagerError, register_backend};
use arrow_memory_system as _;

use crate::children;
use crate::subscriber::Recorder;

fn start() -> Result<Arc<dyn AllocationManager>, ManagerError> {
    Ok(Arc::new(StdManager))
}

register_backend!(BackendRegistration {
    name: "std",
    preference: 99,
    manager: start,
});

#[test]
fn backends_of_this_crate_and_of_others_are_linked_in() {
    assert_eq!(backend::supported(), ["std", "system"]);
    assert_eq!(backend::manager("system").unwrap().name(), "system");
    assert_eq!(backend::manager("std").unwrap().name(), "std");
}

#[test]
fn a_manager_is_the_same_one_each_time() {
    let (one, two) = (backend::manager("std"), backend::manager("std"));

    assert!(Arc::ptr_eq(&one.unwrap(), &two.unwrap()));
}

#[test]
fn an_unknown_backend_is_an_error_that_names_the_known_ones() {
    let error = backend::manager("tcmalloc").unwrap_err();

    assert!(matches!(error, BackendError::Unknown { .. }), "{error}");
    assert!(
        error.to_string().ends_with("linked are: std, system"),
        "{error}"
    );
}

/// The default backend in a process with this environment, and its warnings.
fn default_in_child(pool: Option<&str>, set: Option<&str>) -> String {
    let mut variables = vec![("SET_DEFAULT", set.unwrap_or(""))];
    variables.extend(pool.map(|pool| (backend::DEFAULT_POOL_VARIABLE, pool)));
    let output = children::run("backend::child_that_tells_its_default", &variables);
    assert!(output.status.success(), "{}", children::stderr(&output));
    let stdout = children::stdout(&output);
    let told = stdout.split_once("told: ").expect("the child tells").1;
    told.split_once(".\n").expect("the child ends").0.to_owned()
}

#[test]
#[ignore = "run by others, in a child process"]
fn child_that_tells_its_default() {
    let mut name = String::new();
    let warnings = Recorder::record(|| {
        if let Some(set) = std::env::var("SET_DEFAULT")
            .ok()
            .filter(|set| !set.is_empty())
        {
            backend::set_default(&set).unwrap();
        }
        for _ in 0..3 {
            name = backend::default_manager().unwrap().name().to_owned();
        }
        assert!(matches!(
            backend::set_default("std"),
            Err(BackendError::AlreadyChosen { .. })
        ));
    });
    println!("told: {name} {warnings:?}.");
}

#[test]
fn without_a_word_the_preferred_backend_is_the_default() {
    assert_eq!(default_in_child(None, None), "std []");
}

#[test]
fn an_empty_variable_is_as_good_as_none() {
    assert_eq!(default_in_child(Some(""), None), "std []");
}

#[test]
fn the_variable_beats_the_program_which_beats_preference() {
    assert_eq!(default_in_child(None, Some("system")), "system []");
    assert_eq!(default_in_child(Some("system"), None), "system []");
    assert_eq!(default_in_child(Some("system"), Some("std")), "system []");
}

#[test]
fn an_unknown_name_is_warned_about_once_and_passed_over() {
    let warning = r#"["WARN ARROW_DEFAULT_MEMORY_POOL names `jemaloc`, which is not linked into this program; supported are: std, system"]"#;

    assert_eq!(
        default_in_child(Some("jemaloc"), None),
        format!("std {warning}")
    );
    assert_eq!(
        default_in_child(Some("jemaloc"), Some("system")),
        format!("system {warning}")
    );
}
