//! `flame`: draws folded stacks as a flame graph.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use inferno::flamegraph::{self, Palette, color::BasicPalette};

use crate::captures;
use crate::failure::{Failure, one_line};
use crate::output::{self, cannot_write};
use crate::size::counted;
use crate::text::escaped;

/// A summary of the graph that was drawn.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Drawn {
    pub(crate) out: PathBuf,
    pub(crate) stacks: usize,
    /// The number of lines that are no stacks.
    pub(crate) malformed: usize,
}

impl Drawn {
    pub(crate) fn line(&self) -> String {
        let out = escaped(&self.out.display().to_string());
        format!("{out}  {}\n", counted(self.stacks as u64, "stack"))
    }
}

/// Draws the stacks of a file, or of standard input, to `out`.
pub(crate) fn flame(file: Option<&Path>, out: &Path, title: &str) -> Result<Drawn, Failure> {
    let cannot = |error| cannot_write("graph", out, &error, "--out");
    let mut text = captures::open(file)?;
    let mut stacks = Vec::new();
    let mut malformed = 0;
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        let read = text.read_until(b'\n', &mut bytes);
        if read.map_err(|error| Failure::new(format!("cannot read the stacks: {error}")))? == 0 {
            break;
        }
        let line = one_blank(&String::from_utf8_lossy(&bytes));
        if is_stack(&line) {
            stacks.push(line);
        } else if !line.is_empty() {
            malformed += 1;
        }
    }
    if malformed > 0 {
        let lines = counted(malformed as u64, "line");
        let were = if malformed == 1 { "was" } else { "were" };
        eprintln!("warning: {lines} {were} no `frame;frame;… bytes`");
    }
    if stacks.is_empty() {
        return Err(Failure::new(
            "there are no folded stacks to draw: give it what `arrow_memory_profile::write_folded` or `arrow-memory dangling --folded` wrote",
        ));
    }
    let input = file.filter(|path| *path != Path::new("-"));
    output::check(out, input).map_err(cannot)?;
    let svg = draw(&stacks, title)?;
    output::replace(out, &svg).map_err(cannot)?;
    Ok(Drawn {
        out: out.to_owned(),
        stacks: stacks.len(),
        malformed,
    })
}

fn draw(stacks: &[String], title: &str) -> Result<Vec<u8>, Failure> {
    let mut options = flamegraph::Options::default();
    options.title = one_line(title);
    options.count_name = "bytes".to_owned();
    options.colors = Palette::Basic(BasicPalette::Mem);
    let mut svg = Vec::new();
    flamegraph::from_lines(&mut options, stacks.iter().map(String::as_str), &mut svg)
        .map_err(|error| Failure::new(format!("cannot draw these stacks: {error}")))?;
    Ok(svg)
}

/// The line with each control character replaced by a blank.
fn one_blank(line: &str) -> String {
    line.trim_end().replace(|c: char| c.is_control(), " ")
}

/// Whether the line consists of frames and a number of bytes other than 0.
fn is_stack(line: &str) -> bool {
    line.rsplit_once(' ').is_some_and(|(frames, bytes)| {
        let bytes = bytes.parse::<u64>();
        !frames.trim().is_empty() && bytes.is_ok_and(|bytes| bytes > 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_is_frames_and_a_number() {
        for line in ["main;scan 4096", "a b;c 1"] {
            assert!(is_stack(line), "{line}");
        }
        for line in ["", "main", "main x", " 12", "main 0", "main -4"] {
            assert!(!is_stack(line), "{line}");
        }
    }
}
