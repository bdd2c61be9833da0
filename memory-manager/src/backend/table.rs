//! No link-time table: this target's linker cannot make one. On the others `table/linked.rs` takes the place
//! of this file.

use super::registration::BackendRegistration;

/// Registers a [`BackendRegistration`] at link time, where the target's linker can.
///
/// This target's cannot: the program calls [`backend::register`](crate::backend::register).
#[macro_export]
macro_rules! register_backend {
    ($registration:expr $(,)?) => {
        const _: $crate::backend::BackendRegistration = $registration;
    };
}

pub(super) fn linked() -> &'static [BackendRegistration] {
    &[]
}
