//! Memory and page faults of this process, from the operating system.

/// Memory and page faults of this process; `None` if the system does not provide a number.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub(crate) struct ProcessMemory {
    /// Bytes in physical memory now.
    pub(crate) resident: Option<usize>,
    /// The maximum number of bytes in physical memory so far.
    pub(crate) peak_resident: Option<usize>,
    /// Page faults so far, both those that needed a disk and those that did not.
    pub(crate) page_faults: Option<u64>,
}

impl ProcessMemory {
    pub(crate) fn now() -> Self {
        platform::now()
    }
}

#[cfg(target_os = "linux")]
mod platform {
    use super::ProcessMemory;

    pub(super) fn now() -> ProcessMemory {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        ProcessMemory {
            resident: kibibytes(&status, "VmRSS:"),
            peak_resident: kibibytes(&status, "VmHWM:"),
            page_faults: page_faults(&stat),
        }
    }

    fn kibibytes(status: &str, field: &str) -> Option<usize> {
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        let number = line.trim().strip_suffix("kB")?.trim();
        number.parse::<usize>().ok()?.checked_mul(1024)
    }

    /// Fields 10 and 12 of `/proc/self/stat`; the name before them may contain blanks and parentheses.
    fn page_faults(stat: &str) -> Option<u64> {
        let (_, after_name) = stat.rsplit_once(") ")?;
        let mut fields = after_name.split(' ').skip(7);
        let minor: u64 = fields.next()?.parse().ok()?;
        let major: u64 = fields.nth(1)?.parse().ok()?;
        minor.checked_add(major)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_fields_are_found_behind_a_hostile_name() {
            let stat = "7 (a) b (c) S 1 2 3 4 5 6 100 0 20 0 8 9";
            assert_eq!(page_faults(stat), Some(120));
            assert_eq!(page_faults(""), None);
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod platform {
    use super::ProcessMemory;

    pub(super) fn now() -> ProcessMemory {
        ProcessMemory::default()
    }
}
