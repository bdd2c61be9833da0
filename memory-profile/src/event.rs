//! One event of a capture.

use std::collections::BTreeMap;

use serde::Serialize;

/// One event that `perf script` printed. It serialises to one JSON object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Event {
    /// The command's name.
    pub command: String,
    /// The ID of the process, if the capture has it (`perf script -F +pid`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The ID of the thread.
    pub tid: u32,
    /// The number of the processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u32>,
    /// The time in seconds, as text, so that no digit is lost.
    pub time: String,
    /// The event's name, with its group.
    pub event: String,
    /// The event's arguments, by name.
    pub params: BTreeMap<String, String>,
    /// The stack, innermost frame first.
    pub stack: Vec<StackFrame>,
}

/// One frame of an event's stack.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[non_exhaustive]
pub struct StackFrame {
    /// The address in hexadecimal.
    pub address: String,
    /// The function and the offset in it; `[unknown]` if perf does not know it.
    pub symbol: String,
    /// The file that contains the code.
    pub module: String,
}

/// The call to an allocator that an event reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Call {
    /// A request. Its return follows on the same thread.
    Asked {
        /// The number of bytes requested.
        size: u64,
    },
    /// The return of this thread's request.
    Returned {
        /// The address; 0 if the request failed.
        address: u64,
    },
    /// An allocated block.
    Allocated {
        /// Its address.
        address: u64,
        /// Its size in bytes.
        size: u64,
    },
    /// A block was resized, perhaps in place. If `to` is `None`, a return follows on the same thread.
    Resized {
        /// The block's old address.
        from: u64,
        /// The block's new address.
        to: Option<u64>,
        /// Its new size in bytes.
        size: u64,
    },
    /// A block was freed.
    Freed {
        /// Its address; 0 for the null pointer.
        address: u64,
    },
    /// Another event, such as a refusal or a transfer.
    Other,
}

impl Event {
    /// The call that this event reports; `None` if an argument is missing or is not a number.
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

    /// The number in the first of these arguments that exists.
    fn number(&self, names: &[&str]) -> Option<u64> {
        let text = names.iter().find_map(|name| self.params.get(*name))?;
        match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            // perf may print 64-bit arguments as signed decimals.
            None => {
                (text.parse().ok()).or_else(|| text.parse::<i64>().ok().map(i64::cast_unsigned))
            }
        }
    }
}

/// Whether this is the return of an allocation function.
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
