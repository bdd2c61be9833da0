//! Environment variables: read where they matter, and never passed over in silence.

use std::env;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::events;
use crate::text::Escaped;

/// A variable that turns something on or off.
pub struct Switch {
    name: &'static str,
    /// Whether a word that means neither was told of.
    told: AtomicBool,
}

impl Switch {
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            told: AtomicBool::new(false),
        }
    }

    /// Whether the variable says on. A word that means neither is told of once and counts as off.
    pub fn is_on(&self) -> bool {
        let Some(value) = env::var_os(self.name) else {
            return false;
        };
        let value = value.to_string_lossy();
        let on = on_or_off(&value);
        // Relaxed: the flag guards no other memory.
        if on.is_none() && !self.told.swap(true, Ordering::Relaxed) {
            let (name, value) = (self.name, Escaped(&value));
            events::variable_ignored(&format!(
                "{name} is ignored: `{value}` is none of 1, on, true, yes and 0, off, false, no"
            ));
        }
        on == Some(true)
    }
}

/// What a word means for something that is on or off; `None` if neither. In any case of letters.
pub fn on_or_off(word: &str) -> Option<bool> {
    match word.trim().to_ascii_lowercase().as_str() {
        "1" | "on" | "true" | "yes" => Some(true),
        "" | "0" | "off" | "false" | "no" => Some(false),
        _ => None,
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn words_for_on_and_off_are_alike_in_any_case() {
        for word in ["1", "on", "ON", "true", "True", "yes", "YES", " yes "] {
            assert_eq!(on_or_off(word), Some(true), "{word}");
        }
        for word in ["", " ", "0", "off", "Off", "false", "FALSE", "no", "No"] {
            assert_eq!(on_or_off(word), Some(false), "{word}");
        }
        for word in ["2", "enabled", "y", "tru"] {
            assert_eq!(on_or_off(word), None, "{word}");
        }
    }
}
