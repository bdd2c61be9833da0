//! Markdown on standard output.

use std::process::Command;

/// Prints the heading of a result: what it is, where and when it was measured, and how.
pub(crate) fn heading(title: &str) {
    let file = |path| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_once(':'));
        value.map_or("unknown".to_owned(), |(_, value)| value.trim().to_owned())
    };
    let date = Command::new("date").args(["-u", "+%F %H:%M UTC"]).output();
    let date = date.map_or(String::new(), |date| {
        String::from_utf8_lossy(&date.stdout).into_owned()
    });
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let features = if cfg!(feature = "attributed") {
        " --features attributed"
    } else {
        ""
    };
    println!("# {title}\n");
    println!(
        "{}, {} cores, {} of memory; {}; DataFusion {}\n",
        field(&file("/proc/cpuinfo"), "model name"),
        std::thread::available_parallelism().map_or(0, usize::from),
        field(&file("/proc/meminfo"), "MemTotal"),
        date.trim(),
        datafusion::DATAFUSION_VERSION,
    );
    println!(
        "`cargo run --release -p engine-tests{features} --example engines -- {}`\n",
        arguments.join(" "),
    );
}

/// Prints the first two lines of a table.
pub(crate) fn columns(names: &[&str]) {
    row(names.iter().map(|name| (*name).to_owned()));
    row(names.iter().map(|_| "---".to_owned()));
}

/// Prints a line of a table.
pub(crate) fn row(cells: impl IntoIterator<Item = String>) {
    let cells: Vec<String> = cells.into_iter().collect();
    println!("| {} |", cells.join(" | "));
}
