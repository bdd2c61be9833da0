//! What this process uses, as the operating system says.

/// Bytes in physical memory; `None` where the system does not say.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Resident {
    pub(crate) now: Option<usize>,
    /// The peak since the program began.
    pub(crate) peak: Option<usize>,
}

impl Resident {
    /// Reads what Linux says. Other systems are not asked.
    pub(crate) fn read() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self {
            now: kibibytes(&status, "VmRSS:"),
            peak: kibibytes(&status, "VmHWM:"),
        }
    }
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
}
