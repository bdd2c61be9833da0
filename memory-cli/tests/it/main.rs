//! The program as its users run it.

mod adopt;
mod bad_input;
mod captures;
mod compare;
mod demo;
mod files;
mod program;
mod scan;
