//! The resident memory of this process.

/// The resident memory of this process in bytes, as `/proc/self/status` has it; `None` where there is no such file.
pub fn resident_bytes() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:"))?;
    let kilobytes: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn a_written_vector_is_resident() {
        let before = resident_bytes().unwrap();

        let written = vec![1_u8; 64 << 20];

        let more = resident_bytes().unwrap().saturating_sub(before);
        assert!(more > 48 << 20, "{more} bytes more for {}", written.len());
    }
}
