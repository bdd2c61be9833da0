//! One event of a capture.

use std::collections::BTreeMap;

use serde::Serialize;

/// One event as `perf script` printed it. Serialises to one JSON object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Event {
    /// The command's name.
    pub command: String,
    /// The process, where the capture says it (`perf script -F +pid`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The thread.
    pub tid: u32,
    /// The processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u32>,
    /// Seconds, as they were printed: all digits are kept.
    pub time: String,
    /// The event's name, with its group.
    pub event: String,
    /// Its arguments.
    pub params: BTreeMap<String, String>,
    /// The stack, innermost frame first.
    pub stack: Vec<StackFrame>,
}

/// One frame of an event's stack.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[non_exhaustive]
pub struct StackFrame {
    /// The address.
    pub address: String,
    /// The function and the offset in it; `[unknown]` where perf does not know.
    pub symbol: String,
    /// The file that it was loaded from.
    pub module: String,
}

/// What an event says about memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Call {
    /// So many bytes were asked for; a return follows on the same thread.
    Asked {
        /// The bytes.
        size: u64,
    },
    /// The address of what this thread asked for.
    Returned {
        /// The address; 0 if the request failed.
        address: u64,
    },
    /// A block.
    Allocated {
        /// Its address.
        address: u64,
        /// Its size in bytes.
        size: u64,
    },
    /// A block moved, perhaps nowhere; if `to` is `None`, a return follows on the same thread.
    Resized {
        /// Where it was.
        from: u64,
        /// Where it is.
        to: Option<u64>,
        /// Its new size in bytes.
        size: u64,
    },
    /// A block was given back.
    Freed {
        /// Its address; 0 for the null pointer.
        address: u64,
    },
    /// Something else: a refusal, a transfer, another probe.
    Other,
}

impl Event {
    /// What this says about memory; `None` if an argument is missing or is no number.
    pub fn call(&self) -> Option<Call> {
        let name = self.event.rsplit(':').next().unwrap_or_default();
        let ours = self.event.contains("arrow_memory:");
        Some(match name {
            "allocate" if ours => Call::Allocated {
                address: self.number(&["arg1", "address"])?,
                size: self.number(&["arg2", "size"])?,
            },
            "reallocate" if ours => Call::Resized {
                from: self.number(&["arg1", "old"])?,
                to: Some(self.number(&["arg2", "new"])?),
                size: self.number(&["arg3", "size"])?,
            },
            "release" if ours => Call::Freed {
                address: self.number(&["arg1", "address"])?,
            },
            "je_arrow_mallocx" | "je_mallocx" | "mallocx" | "mi_malloc_aligned" => Call::Asked {
                size: self.number(&["size"])?,
            },
            "je_arrow_rallocx" | "je_rallocx" | "rallocx" => Call::Resized {
                from: self.number(&["ptr"])?,
                to: None,
                size: self.number(&["size"])?,
            },
            "mi_realloc_aligned" => Call::Resized {
                from: self.number(&["p"])?,
                to: None,
                size: self.number(&["newsize", "size"])?,
            },
            "je_arrow_dallocx" | "je_arrow_sdallocx" | "je_dallocx" | "je_sdallocx" | "dallocx"
            | "sdallocx" => Call::Freed {
                address: self.number(&["ptr"])?,
            },
            "mi_free" => Call::Freed {
                address: self.number(&["p"])?,
            },
            _ if is_return(name) => Call::Returned {
                address: self.number(&["arg1", "ret"])?,
            },
            _ => Call::Other,
        })
    }

    /// The first of these arguments that is there, as a number.
    fn number(&self, names: &[&str]) -> Option<u64> {
        let text = names.iter().find_map(|name| self.params.get(*name))?;
        match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            // perf prints arguments of 64 bits as signed decimals, too.
            None => {
                (text.parse().ok()).or_else(|| text.parse::<i64>().ok().map(i64::cast_unsigned))
            }
        }
    }
}

/// Whether this is the return of a function that hands out memory.
fn is_return(name: &str) -> bool {
    const ALLOCATING: [&str; 4] = [
        "mallocx",
        "rallocx",
        "mi_malloc_aligned",
        "mi_realloc_aligned",
    ];
    name.strip_suffix("__return")
        .is_some_and(|function| ALLOCATING.iter().any(|known| function.ends_with(known)))
}
