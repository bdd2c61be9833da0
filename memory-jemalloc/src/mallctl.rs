//! jemalloc's control interface, `mallctl`, for numbers and actions.
#![expect(unsafe_code, reason = "calls jemalloc's control functions in C")]

use std::ffi::{CString, c_int, c_void};
use std::ptr;

use tikv_jemalloc_sys as jemalloc;

use crate::error::JemallocError;

/// The index that stands for all arenas together, in `stats.arenas.<i>` and in actions.
pub(crate) const ALL_ARENAS: u32 = 4096;

/// Any number that jemalloc keeps, by its name in the manual (`stats.allocated`); -1 is `u64::MAX`.
///
/// The numbers below `stats` are those of this moment: jemalloc's snapshot is renewed before.
pub(crate) fn statistic(name: &str) -> Result<u64, JemallocError> {
    let unknown = || JemallocError::UnknownStatistic { name: name.into() };
    let c_name = CString::new(name).map_err(|_| unknown())?;
    let mut mib = [0_usize; MAX_DEPTH];
    let mut depth = mib.len();
    // SAFETY: the name ends with a zero byte, and `mib` has room for `depth` components.
    let code =
        unsafe { jemalloc::mallctlnametomib(c_name.as_ptr(), mib.as_mut_ptr(), &raw mut depth) };
    if code != 0 {
        return Err(unknown());
    }
    if !is_number(name) {
        return Err(JemallocError::NotANumber { name: name.into() });
    }
    refresh();
    match read_any(name, &c_name) {
        // A name that only others lie below, or an index that does not exist.
        Err(JemallocError::Refused {
            code: NO_SUCH_ENTRY,
            ..
        }) => Err(unknown()),
        result => result,
    }
}

/// Renews the snapshot from which jemalloc answers what lies below `stats`.
pub(crate) fn refresh() {
    // It fails only if the name or the size were wrong, which the tests would see.
    let _ = write("epoch", 1_u64);
}

/// The number called `name`, of whatever width, without renewing the snapshot.
pub(crate) fn read(name: &str) -> Result<u64, JemallocError> {
    let c_name =
        CString::new(name).map_err(|_| JemallocError::UnknownStatistic { name: name.into() })?;
    read_any(name, &c_name)
}

/// Sets the value called `name`, whose C type must be that of `T`: jemalloc checks its size.
pub(crate) fn write<T: Number>(name: &str, mut value: T) -> Result<(), JemallocError> {
    let c_name =
        CString::new(name).map_err(|_| JemallocError::UnknownStatistic { name: name.into() })?;
    // SAFETY: the name ends with a zero byte; nothing is read back; the new value is a plain
    // number in a live local, whose size is given and compared with what the name expects.
    let code = unsafe {
        jemalloc::mallctl(
            c_name.as_ptr(),
            ptr::null_mut(),
            ptr::null_mut(),
            (&raw mut value).cast::<c_void>(),
            size_of::<T>(),
        )
    };
    check(name, code)
}

/// Creates what `name` creates (an arena, a thread cache) and returns its number.
pub(crate) fn create(name: &str) -> Result<u32, JemallocError> {
    let c_name =
        CString::new(name).map_err(|_| JemallocError::UnknownStatistic { name: name.into() })?;
    // Asked with another width, jemalloc might make it and not tell.
    let (mut bytes, mut width) = ([0_u8; 8], size_of::<u32>());
    check(name, read_bytes(&c_name, &mut bytes, &mut width))?;
    Ok(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// Does the action called `name`, one that neither takes nor gives a value.
pub(crate) fn act(name: &str) -> Result<(), JemallocError> {
    let c_name =
        CString::new(name).map_err(|_| JemallocError::UnknownStatistic { name: name.into() })?;
    // SAFETY: the name ends with a zero byte, and no value is passed in or out.
    let code = unsafe {
        jemalloc::mallctl(
            c_name.as_ptr(),
            ptr::null_mut(),
            ptr::null_mut(),
            ptr::null_mut(),
            0,
        )
    };
    check(name, code)
}

/// Plain numbers that values of jemalloc are made of.
pub(crate) trait Number: Copy {}
impl Number for u32 {}
impl Number for u64 {}
impl Number for usize {}
impl Number for isize {}

/// Reads a value of 1, 4 or 8 bytes: jemalloc says how wide it is when it was asked wrongly.
fn read_any(name: &str, c_name: &CString) -> Result<u64, JemallocError> {
    let mut bytes = [0_u8; 8];
    let mut width = bytes.len();
    let mut code = read_bytes(c_name, &mut bytes, &mut width);
    if code != 0 && width < bytes.len() {
        code = read_bytes(c_name, &mut bytes, &mut width);
    }
    check(name, code)?;
    Ok(match width {
        1 => u64::from(bytes[0]),
        4 => u64::from(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])),
        _ => u64::from_ne_bytes(bytes),
    })
}

/// Reads up to `width` bytes of a value; afterwards `width` is how many there were.
fn read_bytes(c_name: &CString, bytes: &mut [u8; 8], width: &mut usize) -> c_int {
    debug_assert!(*width <= bytes.len());
    // SAFETY: the name ends with a zero byte; jemalloc writes at most `width` bytes, which is at
    // most what `bytes` holds; no value is passed in.
    unsafe {
        jemalloc::mallctl(
            c_name.as_ptr(),
            bytes.as_mut_ptr().cast::<c_void>(),
            width,
            ptr::null_mut(),
            0,
        )
    }
}

fn check(name: &str, code: c_int) -> Result<(), JemallocError> {
    match code {
        0 => Ok(()),
        code => Err(JemallocError::Refused {
            name: name.into(),
            code,
        }),
    }
}

/// Whether reading `name` gives a number and does nothing else.
fn is_number(name: &str) -> bool {
    let (space, rest) = name.split_once('.').unwrap_or((name, ""));
    let last = rest.rsplit('.').next().unwrap_or(rest);
    match space {
        "stats" => !matches!(last, "dss" | "name"),
        "arenas" => !matches!(last, "create" | "lookup"),
        "arena" => matches!(
            last,
            "initialized"
                | "dirty_decay_ms"
                | "muzzy_decay_ms"
                | "oversize_threshold"
                | "retain_grow_limit"
        ),
        "config" => last != "malloc_conf",
        "opt" => !rest.starts_with("malloc_conf") && !TEXT_OPTIONS.contains(&rest),
        "thread" => matches!(
            rest,
            "allocated" | "deallocated" | "arena" | "peak.read" | "tcache.max"
        ),
        _ => name == "background_thread" || name == "max_background_threads",
    }
}

/// The options of jemalloc 5.3 that are texts, or fixed-point numbers.
const TEXT_OPTIONS: [&str; 12] = [
    "dss",
    "hpa_dirty_mult",
    "junk",
    "metadata_thp",
    "percpu_arena",
    "prof_prefix",
    "prof_time_resolution",
    "stats_interval_opts",
    "stats_print_opts",
    "thp",
    "zero_realloc",
    "hpa_hugify_style",
];

/// `ENOENT`.
const NO_SUCH_ENTRY: c_int = 2;

/// More components than any name of jemalloc has.
const MAX_DEPTH: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_width_can_be_read() {
        assert_eq!(statistic("config.stats"), Ok(1)); // bool
        assert!(statistic("arenas.narenas").unwrap() > 0); // unsigned
        assert_eq!(statistic("arenas.page").unwrap() % 4096, 0); // size_t
        assert!(statistic("stats.resident").unwrap() > 0);
        assert_eq!(statistic("opt.muzzy_decay_ms"), Ok(0)); // ssize_t
    }

    #[test]
    fn a_name_that_jemalloc_does_not_know_is_a_typed_error() {
        for name in [
            "",
            "stats",
            "stats.nothing",
            "nul\0byte",
            "stats.arenas.99999.pdirty",
        ] {
            let error = statistic(name).unwrap_err();
            assert_eq!(error, JemallocError::UnknownStatistic { name: name.into() });
        }
    }

    #[test]
    fn what_acts_or_is_a_text_is_not_read_as_a_number() {
        let makes_no_arena = || {
            let arenas = statistic("arenas.narenas").unwrap();
            for name in [
                "arenas.create",
                "tcache.create",
                "version",
                "opt.dss",
                "arena.0.purge",
            ] {
                let error = statistic(name).unwrap_err();
                assert_eq!(error, JemallocError::NotANumber { name: name.into() });
            }
            statistic("arenas.narenas").unwrap() == arenas
        };

        // Other tests make a few arenas at the same time.
        assert!((0..100).any(|_| makes_no_arena()));
    }

    #[test]
    fn every_text_among_the_options_is_known() {
        // An option that is added to jemalloc as a text would be read as a pointer.
        let mut text = Vec::new();
        let options = tikv_jemalloc_ctl::stats_print::Options::default();
        tikv_jemalloc_ctl::stats_print::stats_print(&mut text, options).unwrap();

        for line in String::from_utf8_lossy(&text).lines() {
            let Some((option, value)) = line.trim().split_once(": ") else {
                continue;
            };
            if let Some(rest) = option.strip_prefix("opt.") {
                let is_text = value.starts_with('"');
                assert!(!is_text || !is_number(option), "{rest} is a text: {value}");
            }
        }
    }
}
