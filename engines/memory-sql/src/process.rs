//! What this process uses, as the operating system says.

/// Bytes in physical memory; `None` if the system does not say.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Resident {
    pub(crate) now: Option<usize>,
    /// The peak since the program began, or since the last [`forget_peak`].
    pub(crate) peak: Option<usize>,
}

impl Resident {
    pub(crate) fn read() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self {
            now: kibibytes(&status, "VmRSS:"),
            peak: kibibytes(&status, "VmHWM:"),
        }
    }
}

/// Begins the peak anew, where the system can.
pub(crate) fn forget_peak() {
    // If this fails, the peak is that of the whole process, which is true, too.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

fn kibibytes(status: &str, field: &str) -> Option<usize> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let number = line.trim().strip_suffix("kB")?.trim();
    number.parse::<usize>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_in_kibibytes() {
        let status = "Name:\ta\nVmHWM:\t    5200 kB\nVmRSS:\t    4800 kB\n";
        assert_eq!(kibibytes(status, "VmHWM:"), Some(5200 * 1024));
        assert_eq!(kibibytes(status, "VmSwap:"), None);
        assert_eq!(kibibytes("VmRSS: many kB", "VmRSS:"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_peak_that_is_forgotten_begins_anew() {
        let block = vec![1_u8; 64 << 20];
        let with = Resident::read().peak.expect("linux says so");
        drop(std::hint::black_box(block));
        forget_peak();
        let after = Resident::read();
        assert!(after.peak < Some(with), "{after:?} {with}");
        assert!(after.now <= after.peak);
    }
}
