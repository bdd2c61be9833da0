//! The program as its users run it.

mod adopt;
mod bad_input;
mod captures;
mod columns;
mod compare;
mod csv;
mod demo;
mod files;
mod program;
mod robust;
mod scan;
