//! The link-time table of backends, which linkme makes. Its list of targets is that of `Cargo.toml`.
#![expect(
    unsafe_code,
    reason = "the link-time table is a section of the binary, which linkme declares"
)]

use std::sync::Arc;

use crate::backend::registration::BackendRegistration;
use crate::manager::{AllocationManager, ManagerError};

/// Registers a [`BackendRegistration`] at link time, where the target's linker can.
///
/// The [module `backend`](crate::backend) has an example. On other targets the macro only checks
/// its argument, and the program calls [`backend::register`](crate::backend::register).
#[macro_export]
macro_rules! register_backend {
    ($registration:expr $(,)?) => {
        const _: () = {
            #[$crate::__private::linkme::distributed_slice($crate::__private::LINKED)]
            #[linkme(crate = $crate::__private::linkme)]
            static LINKED: $crate::backend::BackendRegistration = $registration;
        };
    };
}

pub use linkme;

/// The registrations of all crates of this program.
#[linkme::distributed_slice]
pub static LINKED: [BackendRegistration];

/// Some linkers cannot make an empty table. An empty name is never listed nor found.
#[linkme::distributed_slice(LINKED)]
static HIDDEN: BackendRegistration = BackendRegistration {
    name: "",
    preference: 0,
    manager: nothing,
};

fn nothing() -> Result<Arc<dyn AllocationManager>, ManagerError> {
    Err(ManagerError::new("the hidden entry is no backend"))
}

pub(in crate::backend) fn linked() -> &'static [BackendRegistration] {
    &LINKED
}
