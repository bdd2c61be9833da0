//! What the crate promises, over each device that needs no hardware.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod failure;
mod fault;
mod foreign;
mod host;
mod model;
mod order;
mod sim;
mod twin;
mod wait;

use std::time::Duration;

use arrow_memory_device::{CpuManager, SimDevice, device_suite};
use arrow_memory_system as _;

device_suite!(cpu_suite, CpuManager::new().unwrap());
device_suite!(sim_suite, SimDevice::new());
device_suite!(late_suite, SimDevice::builder().late(true).build());
device_suite!(
    slow_suite,
    SimDevice::builder()
        .id(1)
        .latency(Duration::from_micros(300))
        .build()
);
