//! `events` and `dangling`: what `perf script` printed about memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, IsTerminal, Write};
use std::path::Path;

use arrow_memory_profile::{Dangling, DanglingReport, Event, Events, Malformed, StackFrame};

use crate::failure::{Failure, one_line};
use crate::terminal;

/// How what was never freed is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Text,
    Json,
    /// `frame;frame;… bytes`, outermost frame first.
    Folded,
}

/// Prints one JSON object per line, as the text comes in.
pub(crate) fn events(file: Option<&Path>) -> Result<(), Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut open = true;
    let malformed = for_each_event(file, &mut |event| {
        let written = serde_json::to_writer(&mut out, event).map_err(io::Error::from);
        match written.and_then(|()| out.write_all(b"\n")) {
            // The reader has seen enough, as `head` does.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => open = false,
            Err(error) => return Err(cannot_write(&error)),
            Ok(()) => {}
        }
        Ok(open)
    })?;
    match out.flush() {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(cannot_write(&error));
        }
        _ => {}
    }
    report(&malformed);
    Ok(())
}

/// Prints what was never freed: `top` stacks of it, or all.
pub(crate) fn dangling(
    file: Option<&Path>,
    top: Option<usize>,
    shape: Shape,
) -> Result<(), Failure> {
    let mut dangling = Dangling::default();
    let malformed = for_each_event(file, &mut |event| {
        dangling.add(event);
        Ok(true)
    })?;
    let mut found = dangling.report();
    let left_out = found.stacks.len().saturating_sub(top.unwrap_or(usize::MAX));
    found.stacks.truncate(top.unwrap_or(usize::MAX));
    match shape {
        Shape::Json => terminal::print_json(&found)?,
        Shape::Folded => terminal::print(&folded(&found))?,
        Shape::Text => {
            terminal::print(&found.to_string())?;
            if left_out > 0 {
                terminal::print(&format!("{left_out} smaller stacks left out\n"))?;
            }
        }
    }
    report(&malformed);
    Ok(())
}

/// Opens a file; standard input if there is none, or if it is called `-`.
pub(crate) fn open(file: Option<&Path>) -> Result<Box<dyn BufRead>, Failure> {
    match file {
        Some(path) if path != Path::new("-") => {
            let cannot = |error| Failure::new(format!("cannot read `{}`: {error}", path.display()));
            let file = File::open(path).map_err(cannot)?;
            Ok(Box::new(BufReader::new(file)))
        }
        _ if io::stdin().is_terminal() => Err(Failure::usage(
            "nothing to read: name a file, or pipe the text in",
        )),
        _ => Ok(Box::new(io::stdin().lock())),
    }
}

/// Calls `f` with each event until it says that this is enough.
fn for_each_event(
    file: Option<&Path>,
    f: &mut dyn FnMut(&Event) -> Result<bool, Failure>,
) -> Result<Malformed, Failure> {
    let name = || file.map_or_else(|| "standard input".into(), Path::to_string_lossy);
    let mut events = Events::new(open(file)?);
    let mut none = true;
    for event in &mut events {
        let event =
            event.map_err(|error| Failure::new(format!("cannot read `{}`: {error}", name())))?;
        none = false;
        if !f(&event)? {
            break;
        }
    }
    if none && events.malformed().count > 0 {
        return Err(Failure::new(format!(
            "cannot read `{}`: not one line is of a capture; give it what `perf script` printed",
            name()
        )));
    }
    Ok(events.malformed().clone())
}

/// Says on standard error which lines were not understood.
fn report(malformed: &Malformed) {
    if malformed.count == 0 {
        return;
    }
    let count = malformed.count;
    let (lines, were) = if count == 1 {
        ("line", "was")
    } else {
        ("lines", "were")
    };
    eprintln!("warning: {count} {lines} {were} not understood");
    for (number, text) in &malformed.first {
        eprintln!("  line {number}: {}", one_line(text));
    }
}

/// The stacks in the form that flame graphs are drawn from; equal ones are put together.
fn folded(report: &DanglingReport) -> String {
    let mut stacks: BTreeMap<String, u64> = BTreeMap::new();
    for stack in &report.stacks {
        let frames: Vec<String> = stack.stack.iter().rev().map(name).collect();
        let frames = if frames.is_empty() {
            "[no stack]".to_owned()
        } else {
            frames.join(";")
        };
        let bytes = stacks.entry(frames).or_default();
        *bytes = bytes.saturating_add(stack.bytes);
    }
    let line = |(frames, bytes): (String, u64)| format!("{frames} {bytes}\n");
    stacks.into_iter().map(line).collect()
}

/// The function of a frame, without its offset.
fn name(frame: &StackFrame) -> String {
    let symbol = match frame.symbol.rsplit_once("+0x") {
        Some((symbol, _)) => symbol,
        None => &frame.symbol,
    };
    one_line(&symbol.replace(';', ":"))
}

fn cannot_write(error: &io::Error) -> Failure {
    Failure::new(format!("cannot write to standard output: {error}"))
}
