//! The backends linked into this program, and which of them is the default.
