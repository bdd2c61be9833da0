//! Parses the output of `perf script` into events.
//!
//! An event is a line that starts in one of the first columns, then one line for each frame of its stack,
//! which starts with blanks, then an empty line:
//!
//! ```text
//! arrow-array-tes 14344 [003]  7501.073802: probe_libarrow:je_arrow_mallocx: (7fbcd20bb640) size=0x80 flags=6
//!         7fbcd20bb640 je_arrow_mallocx+0x0 (/usr/lib/libarrow.so.700)
//! ```

use std::collections::BTreeMap;
use std::io::{self, BufRead};

use crate::event::{Event, StackFrame};

/// The events of a capture, in order: an iterator over the text of `perf script`.
#[derive(Debug)]
pub struct Events<R> {
    text: R,
    line: u64,
    /// The event whose stack is incomplete.
    current: Option<Event>,
    malformed: Malformed,
    done: bool,
}

/// The lines that could not be parsed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Malformed {
    /// The number of these lines.
    pub count: u64,
    /// The first of these lines, with their numbers from 1.
    pub first: Vec<(u64, String)>,
}

impl Malformed {
    /// The maximum number of lines that are kept.
    const KEPT: usize = 10;

    fn add(&mut self, line: u64, text: &str) {
        self.count += 1;
        if self.first.len() < Self::KEPT {
            let text = text.chars().take(200).collect();
            self.first.push((line, text));
        }
    }
}

impl<R: BufRead> Events<R> {
    /// Creates an iterator over the events of this text.
    pub fn new(text: R) -> Self {
        Self {
            text,
            line: 0,
            current: None,
            malformed: Malformed::default(),
            done: false,
        }
    }

    /// The lines that could not be parsed so far.
    pub fn malformed(&self) -> &Malformed {
        &self.malformed
    }

    /// Parses a line. Returns the event that this line completes.
    fn take(&mut self, line: &str) -> Option<Event> {
        let line = line.trim_end();
        if line.is_empty() {
            return self.current.take();
        }
        if line.starts_with('#') {
            return None;
        }
        let frame = line.trim_start();
        // A frame is indented by a tab, or by more blanks than a command that perf right-aligns. A line that
        // can be read as a head is one, since a head has a colon behind its time.
        if let Some(event) = parse_head(line) {
            return self.current.replace(event);
        }
        if frame.len() < line.len()
            && let Some(current) = &mut self.current
            && let Some(frame) = parse_frame(frame)
        {
            current.stack.push(frame);
            return None;
        }
        self.malformed.add(self.line, line);
        // Frames behind a head that could not be parsed do not belong to the event before it.
        if frame.len() == line.len() {
            return self.current.take();
        }
        None
    }
}

impl<R: BufRead> Iterator for Events<R> {
    type Item = io::Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = Vec::new();
        while !self.done {
            line.clear();
            match self.text.read_until(b'\n', &mut line) {
                Ok(0) => self.done = true,
                Ok(_) => {
                    self.line += 1;
                    let line = String::from_utf8_lossy(&line);
                    if let Some(event) = self.take(&line) {
                        return Some(Ok(event));
                    }
                }
                Err(error) => {
                    self.done = true;
                    return Some(Err(error));
                }
            }
        }
        self.current.take().map(Ok)
    }
}

/// Parses `command tid [cpu] time: group:event: (address <- address) key=value …`.
fn parse_head(line: &str) -> Option<Event> {
    // The command may contain blanks, so the text before the time is read backwards.
    let (before, time, rest) = split_time(line)?;
    let mut words = before.rsplitn(2, char::is_whitespace);
    let mut last = words.next()?;
    let mut command = words.next().unwrap_or_default().trim_end();
    let mut cpu = None;
    if let Some(number) = last.strip_prefix('[').and_then(|cpu| cpu.strip_suffix(']')) {
        cpu = Some(number.parse().ok()?);
        (command, last) = command.rsplit_once(char::is_whitespace)?;
    }
    let (pid, tid) = match last.split_once('/') {
        Some((pid, tid)) => (Some(pid.parse().ok()?), tid.parse().ok()?),
        None => (None, last.parse().ok()?),
    };
    let (name, arguments) = split_name(rest.trim_start())?;
    Some(Event {
        command: command.trim().to_owned(),
        pid,
        tid,
        cpu,
        time: time.to_owned(),
        event: name.to_owned(),
        params: parse_params(arguments)?,
        stack: Vec::new(),
    })
}

/// Splits at the first word that is a time, such as `12.345678:`.
fn split_time(line: &str) -> Option<(&str, &str, &str)> {
    let mut from = 0;
    while let Some(colon) = line[from..].find(':') {
        let colon = from + colon;
        let start = line[..colon]
            .char_indices()
            .rfind(|(_, c)| c.is_whitespace())
            .map_or(0, |(at, c)| at + c.len_utf8());
        let time = &line[start..colon];
        let is_time = time.split_once('.').is_some_and(|(seconds, fraction)| {
            let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            digits(seconds) && digits(fraction)
        });
        if is_time {
            return Some((line[..start].trim_end(), time, &line[colon + 1..]));
        }
        from = colon + 1;
    }
    None
}

/// Splits behind `group:event:`. (In captures that have periods, a count precedes it.)
fn split_name(text: &str) -> Option<(&str, &str)> {
    let text = text
        .trim_start_matches(|c: char| c.is_ascii_digit())
        .trim_start();
    let end = text
        .find(": ")
        .or_else(|| text.strip_suffix(':').map(str::len))?;
    let name = &text[..end];
    let good = !name.is_empty() && !name.contains(char::is_whitespace);
    good.then(|| (name, text[end + 1..].trim()))
}

/// Parses `(55d0 <- 55e0) key=value key="value"`; `None` if a word is no such pair.
fn parse_params(text: &str) -> Option<BTreeMap<String, String>> {
    let rest = match text.strip_prefix('(') {
        Some(rest) => rest.split_once(')')?.1,
        None => text,
    };
    let mut params = BTreeMap::new();
    let mut rest = rest.trim_start();
    while !rest.is_empty() {
        let (key, behind) = rest.split_once('=')?;
        let (value, behind) = match behind.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => behind
                .split_once(char::is_whitespace)
                .unwrap_or((behind, "")),
        };
        if key.is_empty() || key.contains(char::is_whitespace) {
            return None;
        }
        params.insert(key.to_owned(), value.to_owned());
        rest = behind.trim_start();
    }
    Some(params)
}

/// Parses `address symbol+offset (module)`.
fn parse_frame(text: &str) -> Option<StackFrame> {
    let (address, rest) = text.split_once(char::is_whitespace)?;
    u64::from_str_radix(address, 16).ok()?;
    let rest = rest.trim();
    let (symbol, module) = match rest
        .strip_suffix(')')
        .and_then(|rest| rest.rsplit_once(" ("))
    {
        Some((symbol, module)) => (symbol.trim(), module),
        // perf omits the module if it does not know the symbol either.
        None => (rest, ""),
    };
    Some(StackFrame {
        address: address.to_owned(),
        symbol: symbol.to_owned(),
        module: module.to_owned(),
    })
}
