//! `events` and `dangling`: read what `perf script` printed about memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, IsTerminal, Write};
use std::path::Path;

use arrow_memory_profile::{Call, Dangling, DanglingReport, Event, Events, Malformed, StackFrame};

use crate::failure::{Failure, one_line};
use crate::size::counted;
use crate::terminal;

/// The format in which `dangling` prints its report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Text,
    Json,
    /// `frame;frame;… bytes`, outermost frame first.
    Folded,
}

/// Prints one JSON object per line, while the capture is being read.
///
/// # Errors
///
/// If the capture cannot be read, or has no events: then it proves nothing.
pub(crate) fn events(file: Option<&Path>) -> Result<(), Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut open = true;
    let mut allocations = 0_u64;
    let (malformed, count) = for_each_event(file, &mut |event| {
        allocations += u64::from(is_allocation(event));
        let written = serde_json::to_writer(&mut out, event).map_err(io::Error::from);
        match written.and_then(|()| out.write_all(b"\n")) {
            // The reader of standard output closed it, as `head` does.
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
    if count == 0 {
        return Err(nothing_captured("it has no events"));
    }
    if allocations == 0 && open {
        eprintln!("warning: no allocations in this capture");
    }
    Ok(())
}

/// Prints the stacks that were never freed: the `top` largest, or all. Returns the bytes of all stacks.
///
/// # Errors
///
/// If the capture cannot be read, or shows no allocation: then it does not prove that everything was freed.
pub(crate) fn dangling(
    file: Option<&Path>,
    top: Option<usize>,
    shape: Shape,
) -> Result<u64, Failure> {
    let mut dangling = Dangling::default();
    let (malformed, count) = for_each_event(file, &mut |event| {
        dangling.add(event);
        Ok(true)
    })?;
    let mut found = dangling.report();
    if found.allocations == 0 {
        report(&malformed);
        return Err(nothing_captured(match count {
            0 => "it has no events",
            _ => "it has events of other kinds only",
        }));
    }
    let bytes = found.bytes();
    let left_out = found.stacks.len().saturating_sub(top.unwrap_or(usize::MAX));
    found.stacks.truncate(top.unwrap_or(usize::MAX));
    match shape {
        Shape::Json => terminal::print_json(&found)?,
        Shape::Folded => terminal::print(&folded(&found))?,
        Shape::Text => {
            terminal::print(&found.to_string())?;
            if left_out > 0 {
                let stacks = counted(left_out as u64, "smaller stack");
                terminal::print(&format!("{stacks} left out\n"))?;
            }
        }
    }
    report(&malformed);
    Ok(bytes)
}

/// Opens a file, or standard input if there is no file or it is called `-`.
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

fn is_allocation(event: &Event) -> bool {
    matches!(
        event.call(),
        Some(Call::Allocated { .. } | Call::Asked { .. } | Call::Resized { .. })
    )
}

fn nothing_captured(why: &str) -> Failure {
    Failure::new(format!(
        "no allocations in this capture: {why}; see that the probes were recorded (docs/profiling.md)"
    ))
}

/// Calls `f` with each event until it returns `false`. Returns the number of events, too.
fn for_each_event(
    file: Option<&Path>,
    f: &mut dyn FnMut(&Event) -> Result<bool, Failure>,
) -> Result<(Malformed, u64), Failure> {
    let name = || file.map_or_else(|| "standard input".into(), Path::to_string_lossy);
    let mut events = Events::new(open(file)?);
    let mut count = 0;
    for event in &mut events {
        let event =
            event.map_err(|error| Failure::new(format!("cannot read `{}`: {error}", name())))?;
        count += 1;
        if !f(&event)? {
            break;
        }
    }
    if count == 0 && events.malformed().count > 0 {
        return Err(Failure::new(format!(
            "cannot read `{}`: not one line is of a capture; give it what `perf script` printed",
            name()
        )));
    }
    Ok((events.malformed().clone(), count))
}

/// Reports on standard error which lines were not understood.
fn report(malformed: &Malformed) {
    if malformed.count == 0 {
        return;
    }
    let lines = counted(malformed.count, "line");
    let were = if malformed.count == 1 { "was" } else { "were" };
    eprintln!("warning: {lines} {were} not understood");
    for (number, text) in &malformed.first {
        eprintln!("  line {number}: {}", one_line(text));
    }
}

/// The stacks in the input format of flame graphs; equal stacks are merged.
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
