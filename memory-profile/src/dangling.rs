//! Finds the blocks that were allocated and never freed, by stack.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use serde::Serialize;

use crate::event::{Call, Event, StackFrame};

/// Collects events. [`report`](Self::report) returns the blocks that are still allocated.
#[derive(Debug, Default)]
pub struct Dangling {
    /// By thread, the request whose return has not been seen, and so whose address is unknown.
    asked: HashMap<u32, Asked>,
    live: HashMap<u64, Block>,
    allocations: u64,
    unmatched: u64,
    unreadable: u64,
}

#[derive(Debug)]
struct Asked {
    size: u64,
    /// The address of the block that the request resizes.
    from: Option<u64>,
}

#[derive(Debug)]
struct Block {
    size: u64,
    stack: Vec<StackFrame>,
}

/// The blocks that were never freed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DanglingReport {
    /// The stacks, in descending order of bytes.
    pub stacks: Vec<DanglingStack>,
    /// Number of blocks that the capture shows to be allocated, freed or not. If this is 0, the capture has
    /// no allocation, and an empty `stacks` does not mean that everything was freed.
    pub allocations: u64,
    /// Number of frees and resizes of blocks that were allocated before the capture began.
    pub unmatched: u64,
    /// Number of events with a known name whose arguments are missing or are not numbers.
    pub unreadable: u64,
}

/// The blocks of one stack that were never freed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DanglingStack {
    /// Number of blocks.
    pub count: u64,
    /// Bytes of these blocks.
    pub bytes: u64,
    /// The stack, innermost frame first.
    pub stack: Vec<StackFrame>,
}

impl Dangling {
    /// Adds an event. Events are added in the order of the capture.
    pub fn add(&mut self, event: &Event) {
        let Some(call) = event.call() else {
            self.unreadable += 1;
            return;
        };
        match call {
            Call::Allocated { address, size } => self.allocate(address, size, event),
            Call::Resized { from, to, size } => {
                let asked = Asked {
                    size,
                    from: Some(from),
                };
                match to {
                    Some(to) => self.finish(asked, to, event),
                    None => drop(self.asked.insert(event.tid, asked)),
                }
            }
            Call::Asked { size } => drop(self.asked.insert(event.tid, Asked { size, from: None })),
            Call::Returned { address } => match self.asked.remove(&event.tid) {
                Some(asked) => self.finish(asked, address, event),
                None => self.unmatched += 1,
            },
            Call::Freed { address } => self.free(address),
            Call::Other => {}
        }
    }

    /// Ends a request. A null pointer means that it failed and changed nothing.
    fn finish(&mut self, asked: Asked, address: u64, event: &Event) {
        if address == 0 {
            return;
        }
        if let Some(from) = asked.from {
            self.free(from);
        }
        self.allocate(address, asked.size, event);
    }

    fn allocate(&mut self, address: u64, size: u64, event: &Event) {
        let stack = event.stack.clone();
        self.allocations += 1;
        self.live.insert(address, Block { size, stack });
    }

    fn free(&mut self, address: u64) {
        if address != 0 && self.live.remove(&address).is_none() {
            self.unmatched += 1;
        }
    }

    /// The blocks that are still allocated.
    pub fn report(&self) -> DanglingReport {
        let mut by_stack: HashMap<&[StackFrame], (u64, u64)> = HashMap::new();
        for block in self.live.values() {
            let (count, bytes) = by_stack.entry(&block.stack).or_default();
            *count += 1;
            *bytes = bytes.saturating_add(block.size);
        }
        let mut stacks: Vec<DanglingStack> = by_stack
            .into_iter()
            .map(|(stack, (count, bytes))| DanglingStack {
                count,
                bytes,
                stack: stack.to_vec(),
            })
            .collect();
        stacks.sort_by(|a, b| {
            let size = (b.bytes, b.count).cmp(&(a.bytes, a.count));
            size.then_with(|| a.stack.cmp(&b.stack))
        });
        DanglingReport {
            stacks,
            allocations: self.allocations,
            unmatched: self.unmatched,
            unreadable: self.unreadable,
        }
    }
}

impl DanglingReport {
    /// The bytes that were never freed, summed over all stacks.
    pub fn bytes(&self) -> u64 {
        let bytes = self.stacks.iter().map(|stack| stack.bytes);
        bytes.fold(0, u64::saturating_add)
    }
}

impl fmt::Display for DanglingReport {
    /// Prints the stacks, largest first, each with its bytes and blocks. Control characters in names are
    /// escaped; other characters are printed as they are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for DanglingStack {
            count,
            bytes,
            stack,
        } in &self.stacks
        {
            let (bytes, count) = (counted(*bytes, "byte"), counted(*count, "block"));
            writeln!(f, "{bytes} in {count} never freed")?;
            for frame in stack {
                writeln!(
                    f,
                    "    {} {} ({})",
                    plain(&frame.address),
                    plain(&frame.symbol),
                    plain(&frame.module)
                )?;
            }
        }
        if self.allocations == 0 {
            writeln!(f, "no allocations in this capture")?;
        } else if self.stacks.is_empty() {
            writeln!(f, "everything was freed")?;
        }
        if self.unmatched > 0 {
            let frees = counted(self.unmatched, "free");
            writeln!(f, "{frees} of blocks that the capture does not know")?;
        }
        if self.unreadable > 0 {
            let events = counted(self.unreadable, "event");
            writeln!(f, "{events} with arguments that cannot be read")?;
        }
        Ok(())
    }
}

fn counted(number: u64, noun: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{ending}")
}

/// A name of the capture, with the characters escaped that a terminal would interpret.
fn plain(name: &str) -> Cow<'_, str> {
    let harmful = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
    };
    if !name.contains(harmful) {
        return Cow::Borrowed(name);
    }
    let mut text = String::with_capacity(name.len() + 8);
    for c in name.chars() {
        if harmful(c) {
            text.extend(c.escape_default());
        } else {
            text.push(c);
        }
    }
    Cow::Owned(text)
}
