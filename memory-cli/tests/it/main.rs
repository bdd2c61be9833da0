//! The program as its users run it.

mod bad_input;
mod captures;
mod compare;
mod demo;
mod program;
mod scan;
