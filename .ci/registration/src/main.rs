//! The same as a program.

#[path = "lib.rs"]
mod library;

fn main() {
    std::process::exit(library::missing_backends());
}
