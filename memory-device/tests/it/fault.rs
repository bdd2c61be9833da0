//! A dereference of simulated memory faults: shown by a second process that does it.
#![expect(unsafe_code, reason = "reads an address that must not be readable")]

use std::env;
use std::process::Command;
use std::ptr;

use arrow_memory_device::{DeviceBuf, DeviceRoot, SimDevice};

/// Set in the second process: the address that it is to read, in its own memory if this is `own`.
const ROLE: &str = "ARROW_MEMORY_DEVICE_TEST_READS";

fn buffer() -> DeviceBuf {
    let gpu = DeviceRoot::builder()
        .manager(SimDevice::new())
        .build()
        .unwrap();
    let mut buffer = gpu.allocate(4096).unwrap();
    buffer.write_at(0, &[7; 4096]).unwrap();
    buffer.freeze()
}

/// Reads a byte at an address and says so.
fn read(address: u64) {
    println!("about to read");
    let at: *const u8 = ptr::with_exposed_provenance(address as usize);
    // SAFETY: either the address of a live byte, or one at which no process has memory: then the process ends.
    let byte = unsafe { at.read_volatile() };
    println!("has read {byte}");
}

/// Runs this test in a second process, with that role; what it printed, and whether it ended well.
fn second_process(role: &str) -> (String, bool) {
    let output = Command::new(env::current_exe().unwrap())
        .args([
            "--exact",
            "fault::a_dereference_of_simulated_memory_faults",
            "--nocapture",
        ])
        .env(ROLE, role)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (text, output.status.success())
}

#[test]
fn a_dereference_of_simulated_memory_faults() {
    match env::var(ROLE).as_deref() {
        Ok("first") => return read(buffer().address()),
        Ok("last") => return read(buffer().slice(4095..).address()),
        Ok(_) => return read(ptr::from_ref(&7_u8).expose_provenance() as u64),
        Err(_) => {}
    }

    for role in ["first", "last"] {
        let (text, success) = second_process(role);
        assert!(text.contains("about to read"), "{text}");
        assert!(!success && !text.contains("has read"), "{text}");
    }
    let (text, success) = second_process("own");
    assert!(success && text.contains("has read 7"), "{text}"); // the same read of readable memory
}
