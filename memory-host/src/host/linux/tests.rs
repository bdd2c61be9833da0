//! Made-up machines in a directory.

mod used;

use std::fs;
use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;
use crate::HostLimit;

/// A directory that stands for `/`.
struct Fake {
    directory: TempDir,
}

impl Fake {
    /// A machine with 1000 KiB of memory, of which 600 are available, and without other limits.
    fn new() -> Self {
        let fake = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        fake.write(
            "proc/meminfo",
            "MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable: 600 kB\n",
        );
        fake.write("proc/self/limits", limits("unlimited", "unlimited"));
        fake.write(
            "proc/self/status",
            "Name:\tx\nVmSize:\t  900 kB\nVmData:\t 800 kB\nRssAnon:\t  70 kB\n",
        );
        fake
    }

    /// A process at `path` of version 2, which is mounted in the usual place.
    fn v2(path: &str) -> Self {
        let fake = Self::new();
        fake.write("proc/self/cgroup", format!("0::{path}\n"));
        fake.write("proc/self/mountinfo", V2);
        fake
    }

    /// A process at `path` of version 1, among other controllers.
    fn v1(path: &str) -> Self {
        let fake = Self::new();
        fake.write(
            "proc/self/cgroup",
            format!("5:cpu,cpuacct:/x\n4:memory:{path}\n"),
        );
        fake.write("proc/self/mountinfo", V1);
        fake
    }

    fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn remove(&self, path: &str) {
        fs::remove_file(self.directory.path().join(path)).unwrap();
    }

    fn machine(&self) -> Machine {
        Machine::below(self.directory.path())
    }

    fn limits(&self) -> Ceilings {
        self.machine().limits().unwrap()
    }

    #[track_caller]
    fn decides(&self, file: &str, bytes: usize) {
        let limits = self.limits();
        assert_eq!(limits.least.bytes, bytes, "{}", limits.source);
        assert!(limits.source.starts_with(file), "{}", limits.source);
    }
}

fn limits(address_space: &str, data: &str) -> String {
    format!(
        "Limit                     Soft Limit           Hard Limit           Units     \n\
         Max data size             {data}            unlimited            bytes     \n\
         Max address space         {address_space}            unlimited            bytes     \n"
    )
}

const V2: &str = "24 1 0:22 / /proc rw - proc proc rw\n\
                  30 24 0:26 / /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
const V1: &str = "34 31 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                  35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n";
const OWN: &str = "sys/fs/cgroup/a/b";

#[test]
fn without_cgroups_the_machine_decides() {
    let fake = Fake::new();

    fake.decides("MemTotal of /proc/meminfo", 1000 * 1024);
    let source = fake.limits().source;
    assert!(
        source.contains("no limit in: Max address space"),
        "{source}"
    );
    assert!(
        source.contains("not read: /proc/self/cgroup (No such file"),
        "{source}"
    );
}

#[test]
fn the_smallest_limit_of_version_2_decides_wherever_it_is() {
    for (file, bytes) in [
        ("a/b/memory.max", 1000),
        ("a/b/memory.high", 999),
        ("a/memory.max", 998),
        ("memory.max", 997),
    ] {
        let fake = Fake::v2("/a/b");
        for name in [
            "a/b/memory.max",
            "a/b/memory.high",
            "a/memory.max",
            "a/memory.high",
        ] {
            fake.write(&format!("sys/fs/cgroup/{name}"), "max\n");
        }
        fake.write("sys/fs/cgroup/a/memory.high", "5000\n");

        fake.write(&format!("sys/fs/cgroup/{file}"), format!("{bytes}\n"));

        fake.decides(&format!("/sys/fs/cgroup/{file}: "), bytes);
        assert!(
            fake.limits()
                .source
                .contains("larger: /sys/fs/cgroup/a/memory.high: 5000, MemTotal")
        );
    }
}

#[test]
fn every_cgroup_with_a_limit_is_watched_once_and_the_machine_only_where_it_is_smallest() {
    let fake = Fake::v2("/a/b");
    for (file, text) in [
        ("a/b/memory.max", "500\n"),
        ("a/b/memory.high", "600\n"),
        ("a/memory.max", "900\n"),
        ("a/memory.high", "800\n"),
        ("memory.max", "700\n"),
    ] {
        fake.write(&format!("sys/fs/cgroup/{file}"), text);
    }
    fake.write("proc/self/limits", limits("5000", "unlimited"));
    let levels = || {
        let limits = fake.limits();
        let all = std::iter::once(limits.least).chain(limits.larger);
        all.map(|ceiling| (ceiling.bytes, ceiling.level.to_string()))
            .collect::<Vec<_>>()
    };
    let expected = [
        (500, "cgroup /sys/fs/cgroup/a/b"),
        (700, "cgroup /sys/fs/cgroup"),
        (800, "cgroup /sys/fs/cgroup/a"),
        (5000, "address space of the process"),
    ];
    let expected = expected.map(|(bytes, level)| (bytes, level.to_owned()));
    assert_eq!(levels(), expected);

    fake.write("proc/meminfo", "MemTotal: 0 kB\nMemAvailable: 0 kB\n");
    assert_eq!(levels()[0], (0, "memory of the machine".to_owned()));
    assert_eq!(levels()[1..], expected);
}

#[test]
fn the_limit_that_version_1_computes_is_watched_only_if_it_is_that_of_a_cgroup_that_cannot_be_seen()
{
    let fake = Fake::v1("/a");
    fake.write("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "2000\n");
    for (computed, watched) in [(2000, 1), (1500, 2)] {
        fake.write(
            "sys/fs/cgroup/memory/a/memory.stat",
            format!("hierarchical_memory_limit {computed}\n"),
        );
        let limits = fake.limits();
        assert_eq!(limits.least.bytes, computed);
        assert_eq!(1 + limits.larger.len(), watched);
    }
}

#[test]
fn a_hierarchy_whose_root_has_a_limit_has_cgroups_above_it() {
    let fake = Fake::v2("/");
    fake.write("sys/fs/cgroup/memory.max", "max\n");
    let hidden = "/sys/fs/cgroup has cgroups above it, whose limits cannot be seen";

    assert!(
        fake.limits().source.ends_with(hidden),
        "{}",
        fake.limits().source
    );

    fake.remove("sys/fs/cgroup/memory.max");
    let source = fake.limits().source;
    assert!(!source.contains("cannot be seen"), "{source}");
    assert!(
        source.contains("/sys/fs/cgroup (no limits of memory in it)"),
        "{source}"
    );
}

#[test]
fn version_1_has_its_own_names_and_its_own_infinity() {
    let fake = Fake::v1("/a/b");
    fake.write(
        "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes",
        "9223372036854771712\n",
    );
    fake.write("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "2000\n");

    fake.decides("/sys/fs/cgroup/memory/a/memory.limit_in_bytes: 2000", 2000);
    assert!(
        fake.limits()
            .source
            .contains("no limit in: /sys/fs/cgroup/memory/a/b/memory.limit_in_bytes")
    );

    // An ancestor that cannot be seen.
    fake.write(
        "sys/fs/cgroup/memory/a/b/memory.stat",
        "cache 1\nhierarchical_memory_limit 1500\n",
    );
    fake.decides(
        "hierarchical_memory_limit of /sys/fs/cgroup/memory/a/b/memory.stat",
        1500,
    );
}

#[test]
fn both_versions_at_once_are_both_read() {
    let fake = Fake::v1("/a");
    fake.write("proc/self/cgroup", "4:memory:/a\n0::/s\n");
    let unified = "36 31 0:33 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    fake.write("proc/self/mountinfo", format!("{unified}{V1}"));
    fake.write("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "3000\n");
    fake.write("sys/fs/cgroup/memory/a/memory.stat", "total_rss 10\n");

    fake.decides("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", 3000);
    let source = fake.limits().source;
    assert!(
        source.contains("/sys/fs/cgroup/unified/s (no limits of memory in it)"),
        "{source}"
    );
    assert_eq!(
        fake.machine().cgroup().unwrap().path,
        "/sys/fs/cgroup/memory/a"
    );

    // The memory controller in version 2.
    fake.write("proc/self/cgroup", "3:cpu:/a\n0::/s\n");
    fake.write("sys/fs/cgroup/unified/s/memory.max", "2500\n");
    fake.decides("/sys/fs/cgroup/unified/s/memory.max", 2500);
}

#[test]
fn a_mount_may_show_a_part_of_the_hierarchy() {
    // A container whose cgroups are mounted from the middle, and which sees the whole path.
    let fake = Fake::v1("/docker/c1/inner");
    let mount = r"35 31 0:32 /docker/c1 /sys/fs/my\040group rw - cgroup cgroup rw,memory";
    fake.write("proc/self/mountinfo", mount);
    fake.write("sys/fs/my group/inner/memory.limit_in_bytes", "700\n");
    fake.decides("/sys/fs/my group/inner/memory.limit_in_bytes", 700);

    // A process outside of the root of its namespace, and one that the mount does not show.
    for path in ["/../other", "/elsewhere"] {
        fake.write("proc/self/cgroup", format!("4:memory:{path}\n"));
        fake.write("sys/fs/my group/memory.limit_in_bytes", "800\n");
        fake.decides("/sys/fs/my group/memory.limit_in_bytes", 800);
    }
}

#[test]
fn without_a_list_of_mounts_the_usual_place_is_read() {
    for (fake, file) in [
        (Fake::v2("/a"), "/sys/fs/cgroup/a/memory.max"),
        (
            Fake::v1("/a"),
            "/sys/fs/cgroup/memory/a/memory.limit_in_bytes",
        ),
    ] {
        fake.remove("proc/self/mountinfo");
        fake.write(&file[1..], "700");
        fake.decides(file, 700);
    }
}

#[test]
fn resource_limits_count_with_their_soft_values() {
    let fake = Fake::new();
    fake.write("proc/self/limits", limits("5000", "6000"));
    fake.decides("Max address space of /proc/self/limits: 5000", 5000);
    assert_eq!(fake.machine().used(&Level::AddressSpace), Some(900 * 1024));

    fake.write("proc/self/limits", limits("unlimited", "6000"));
    fake.decides("Max data size of /proc/self/limits: 6000", 6000);
    assert_eq!(fake.machine().used(&Level::Data), Some(800 * 1024));
}

#[test]
fn garbage_is_left_out_and_named() {
    for garbage in [
        "",
        "abc\n",
        "-1\n",
        "1e9\n",
        "12 13\n",
        "\u{0}\u{1}",
        "99999999999999999999999\n",
    ] {
        let fake = Fake::v2("/a/b");
        fake.write(&format!("{OWN}/memory.max"), garbage);
        fake.write("sys/fs/cgroup/a/memory.max", "4000\n");

        fake.decides("/sys/fs/cgroup/a/memory.max", 4000);
        let source = fake.limits().source;
        assert!(
            source.contains("not read: /sys/fs/cgroup/a/b/memory.max (`"),
            "{source}"
        );
    }
    let fake = Fake::v2("/a/b");
    fake.write(&format!("{OWN}/memory.max"), [0xff, 0xfe, b'1']);
    fake.decides("MemTotal", 1000 * 1024);
}

#[test]
fn garbage_in_proc_is_no_cgroup_and_no_limit() {
    for garbage in [
        "",
        "\n\n",
        "0",
        "0:",
        "::::",
        "x:y",
        "4:memory",
        "0::relative",
        "\u{0}",
    ] {
        let fake = Fake::v2("/a");
        fake.write("proc/self/cgroup", garbage);
        fake.write(
            "proc/self/mountinfo",
            " - \n - cgroup2\n1 2 3 / - cgroup2 c rw\n",
        );
        fake.write("proc/self/limits", garbage);

        fake.decides("MemTotal", 1000 * 1024);
        assert_eq!(fake.machine().cgroup(), None);
    }
}

#[test]
fn files_that_vanish_leave_what_the_others_say() {
    let fake = Fake::v2("/a/b");
    fake.write(&format!("{OWN}/memory.max"), "3000\n");
    fake.write(
        &format!("{OWN}/memory.stat"),
        "anon 100\nsock 20\nkernel 3\n",
    );
    fake.write("sys/fs/cgroup/a/memory.max", "4000\n");
    let level = fake.limits().least.level;
    assert_eq!(fake.machine().used(&level), Some(123));

    fake.remove(&format!("{OWN}/memory.max"));
    fake.decides("/sys/fs/cgroup/a/memory.max", 4000);
    fake.remove(&format!("{OWN}/memory.stat"));
    assert_eq!(fake.machine().used(&level), None);
    fs::remove_dir_all(fake.directory.path().join("sys")).unwrap();
    fake.decides("MemTotal", 1000 * 1024);
    fs::remove_dir_all(fake.directory.path().join("proc")).unwrap();

    let error = fake.machine().limits().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(
        error
            .to_string()
            .contains("not read: /proc/self/cgroup (No such file"),
        "{error}"
    );
    assert_eq!(
        (fake.machine().anonymous(), fake.machine().cgroup()),
        (None, None)
    );
    assert_eq!(fake.machine().used(&Level::Physical), None);
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let fake = Fake::v2("/a");
    // A directory, and a link to itself.
    fake.write("sys/fs/cgroup/a/memory.max/x", "");
    symlink(
        "memory.high",
        fake.directory.path().join("sys/fs/cgroup/a/memory.high"),
    )
    .unwrap();

    let source = fake.limits().source;

    for name in ["memory.max (Is a directory", "memory.high (Too many levels"] {
        assert!(source.contains(name), "{source}");
    }
}

#[test]
fn a_limit_prints_in_one_line() {
    let fake = Fake::v2("/a");
    fake.write("sys/fs/cgroup/a/memory.max", "1000\n");

    let limit = HostLimit::of(&fake.machine()).unwrap().fraction(0.5);

    assert_eq!(
        limit.to_string(),
        "500 bytes, from 0.5 of (/sys/fs/cgroup/a/memory.max: 1000; \
         larger: MemTotal of /proc/meminfo: 1024000; \
         no limit in: Max address space of /proc/self/limits, Max data size of /proc/self/limits)"
    );
}

#[test]
fn this_machine_has_a_limit() {
    let limit = HostLimit::read().unwrap();

    assert!(limit.bytes() > 1 << 20, "{limit}");
    assert!(
        Machine::default()
            .used(&Machine::default().limits().unwrap().least.level)
            .is_some()
    );
}
