//! Where there is no `fork`, or a tool stands in its place.

/// Does nothing.
pub(super) fn install(
    _before: extern "C" fn(),
    _in_parent: extern "C" fn(),
    _in_child: extern "C" fn(),
) {
}
