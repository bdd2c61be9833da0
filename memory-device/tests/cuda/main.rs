//! The CUDA code on machines without a GPU: without a driver, and on a stand-in for it (`stand_in.c`).
//!
//! cudarc finds the driver by the name of its library, once for each process. So this program runs itself again for each
//! scenario, with a stand-in where the system looks for libraries.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use arrow_memory_device::DeviceManager;
use arrow_memory_device::cuda::{self, CudaManager};
use arrow_memory_system as _;

mod answers;
mod arrays;
mod pinned;
mod streams;

/// Runs in a process of its own.
type Scenario = (&'static str, fn(), &'static [(&'static str, &'static str)]);

const SCENARIOS: &[Scenario] = &[
    ("the suite with pools", whole_suite, &[]),
    (
        "the suite without pools",
        whole_suite,
        &[("FAKE_CUDA_POOLS", "0")],
    ),
    ("pinned memory", pinned::all, &[]),
    ("streams and events", streams::all, &[]),
    (
        "streams and events without pools",
        streams::all,
        &[("FAKE_CUDA_POOLS", "0")],
    ),
    ("arrays of the C Device Data Interface", arrays::all, &[]),
    (
        "the suite while another thread captures a graph",
        whole_suite,
        &[("FAKE_CUDA_CAPTURE", "1")],
    ),
    (
        "the suite without pools, while another thread captures a graph",
        whole_suite,
        &[("FAKE_CUDA_CAPTURE", "1"), ("FAKE_CUDA_POOLS", "0")],
    ),
    (
        "pinned memory while another thread captures a graph",
        pinned::all,
        &[("FAKE_CUDA_CAPTURE", "1")],
    ),
    (
        "the suite with a driver that refuses to wait",
        whole_suite,
        &[("FAKE_CUDA_CAPTURE", "2")],
    ),
    (
        "the suite without pools, with a driver that refuses to wait",
        whole_suite,
        &[("FAKE_CUDA_CAPTURE", "2"), ("FAKE_CUDA_POOLS", "0")],
    ),
    (
        "events with a driver that refuses to tell",
        streams::untold,
        &[("FAKE_CUDA_CAPTURE", "3")],
    ),
    (
        "streams and events while another thread captures a graph",
        streams::all,
        &[("FAKE_CUDA_CAPTURE", "1")],
    ),
    (
        "streams that are captured",
        streams::captured,
        &[("FAKE_CUDA_CAPTURED", "1")],
    ),
    (
        "a device that fails",
        streams::failed,
        &[("FAKE_CUDA_SYNC", "719")],
    ),
    (
        "work that fails",
        answers::the_work_fails,
        &[("FAKE_CUDA_ANSWER", "719"), ("FAKE_CUDA_ANSWER_FROM", "4")],
    ),
    (
        "work that fails, without pools",
        answers::the_work_fails,
        &[
            ("FAKE_CUDA_ANSWER", "719"),
            ("FAKE_CUDA_ANSWER_FROM", "4"),
            ("FAKE_CUDA_POOLS", "0"),
        ],
    ),
    (
        "a driver that shuts down",
        answers::the_context_is_gone,
        &[("FAKE_CUDA_ANSWER", "4"), ("FAKE_CUDA_ANSWER_FROM", "4")],
    ),
    (
        "a context that was destroyed",
        answers::the_context_is_gone,
        &[("FAKE_CUDA_ANSWER", "709"), ("FAKE_CUDA_ANSWER_FROM", "4")],
    ),
    (
        "a driver that is not initialised",
        answers::the_driver_is_not_initialised,
        &[("FAKE_CUDA_ANSWER", "3"), ("FAKE_CUDA_ANSWER_FROM", "4")],
    ),
    (
        "a driver of which nothing is known",
        answers::nothing_is_known,
        &[
            ("FAKE_CUDA_ANSWER", "999"),
            ("FAKE_CUDA_ANSWER_FROM", "4"),
            ("TESTING_CUDA_PATIENCE_MS", "300"),
        ],
    ),
    (
        "a driver of which nothing is known, without pools",
        answers::nothing_is_known,
        &[
            ("FAKE_CUDA_ANSWER", "999"),
            ("FAKE_CUDA_ANSWER_FROM", "4"),
            ("TESTING_CUDA_PATIENCE_MS", "300"),
            ("FAKE_CUDA_POOLS", "0"),
        ],
    ),
    (
        "a driver that lacks a function",
        too_old,
        &[("WITH_STAND_IN", LACKS)],
    ),
    (
        "a driver without devices",
        no_devices,
        &[("FAKE_CUDA_DEVICES", "0")],
    ),
    (
        "a driver that does not start",
        no_start,
        &[("FAKE_CUDA_INIT", "100")],
    ),
];

fn main() {
    if let Ok(name) = env::var("SCENARIO") {
        let scenario = SCENARIOS.iter().find(|(known, ..)| *known == name);
        let (_, run, _) = scenario.expect("a scenario of the list");
        return run();
    }
    without_a_driver_everything_says_so();
    every_function_is_looked_up();
    let whole = build_stand_in("cuda", &[]);
    let lacks = build_stand_in(LACKS, &["-DLACKS_PEER"]);
    for (name, _, variables) in SCENARIOS {
        println!("--- {name}");
        let status = Command::new(env::current_exe().unwrap())
            .env("SCENARIO", name)
            .env(
                "LD_LIBRARY_PATH",
                match variables.contains(&("WITH_STAND_IN", LACKS)) {
                    true => &lacks,
                    false => &whole,
                },
            )
            .envs(variables.iter().copied())
            .status()
            .unwrap();
        assert!(status.success(), "{name}: {status}");
    }
    println!("{} passed, 0 failed", SCENARIOS.len() + 2);
}

/// On a machine that has a driver, there is one.
fn without_a_driver_everything_says_so() {
    match CudaManager::new(0) {
        Ok(_) => assert!(cuda::is_available()),
        Err(error) => {
            assert!(error.to_string().contains("CUDA"), "{error}");
            assert!(!error.is_out_of_memory());
        }
    }
    assert!(CudaManager::new(usize::MAX).is_err());
    assert_eq!(
        cuda::is_available(),
        CudaManager::count().is_ok_and(|count| count > 0)
    );
}

/// The crate checks that the driver has all functions that it calls. The stand-in has no others than those, and than those
/// that the check on a GPU calls itself, so the list is whole.
fn every_function_is_looked_up() {
    let listed = include_str!("../../src/cuda/context.rs");
    let functions = include_str!("stand_in.c").lines().filter_map(|line| {
        let (name, _) = line.strip_prefix("CUresult cu")?.split_once('(')?;
        Some(format!("\"cu{name}\","))
    });
    let mut found = 0;
    for name in functions {
        let for_the_check = ["cuMemcpyHtoD_v2", "cuMemcpyDtoH_v2", "cuCtxSetCurrent"];
        let is_for_the_check = for_the_check.iter().any(|check| name.contains(check));
        assert!(listed.contains(&name) != is_for_the_check, "{name}");
        found += 1;
    }
    assert!(found > 30, "{found}");
}

/// The folder of the stand-in that lacks a function.
const LACKS: &str = "cuda-lacks";

/// Compiles the stand-in as the library that cudarc looks for. Returns its folder.
fn build_stand_in(name: &str, options: &[&str]) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda/stand_in.c");
    let built = Command::new(env::var_os("CC").unwrap_or_else(|| "cc".into()))
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"])
        .args(options)
        .arg("-o")
        .arg(folder.join("libcuda.so"))
        .arg(source)
        .arg("-lpthread")
        .status()
        .unwrap();
    assert!(built.success(), "the stand-in is compiled");
    folder
}

fn whole_suite() {
    let mut failed = Vec::new();
    for (name, promise) in arrow_memory_device::testing::SUITE {
        let manager: Arc<dyn DeviceManager> = CudaManager::new(0).unwrap();
        if catch_unwind(AssertUnwindSafe(|| promise(&manager))).is_err() {
            failed.push(name);
        }
        // The last reference of the context: the stand-in ends the process if anything is left.
        drop(manager);
    }
    assert!(failed.is_empty(), "{failed:#?}");
    println!(
        "{} promises kept",
        arrow_memory_device::testing::SUITE.len()
    );
}

fn no_devices() {
    assert!(!cuda::is_available());
    let error = CudaManager::new(0).unwrap_err().to_string();
    assert_eq!(error, "there is no CUDA device 0: the driver has 0");
}

fn too_old() {
    assert!(!cuda::is_available());
    let error = CudaManager::new(0).unwrap_err().to_string();
    assert_eq!(
        error,
        "the CUDA driver is too old: it lacks `cuMemcpyPeerAsync`; install one of CUDA 11.4 or later"
    );
}

fn no_start() {
    let error = CudaManager::new(0).unwrap_err().to_string();
    assert_eq!(
        error,
        "the CUDA driver cannot be used: CUDA_ERROR_NO_DEVICE, the stand-in refuses"
    );
}
