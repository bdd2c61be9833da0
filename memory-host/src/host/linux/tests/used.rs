//! What is used of a limit.

use super::super::level::Version;
use super::*;

#[test]
fn version_2_uses_anonymous_and_shared_memory_sockets_and_the_kernels() {
    let fake = Fake::v2("/a");
    let stat = "anon 1000\nfile 99999\nkernel 300\nkernel_stack 7\nsock 20\nanon_thp 5\n";
    fake.write("sys/fs/cgroup/a/memory.stat", stat);
    let level = Level::Cgroup(Version::V2, "/sys/fs/cgroup/a".into());
    assert_eq!(fake.machine().used(&level), Some(1320));

    // Before 5.18 there is no sum.
    let stat = "anon 1000\nkernel_stack 1\npagetables 2\npercpu 3\nsock 20\nslab 4\n";
    fake.write("sys/fs/cgroup/a/memory.stat", stat);
    assert_eq!(fake.machine().used(&level), Some(1030));

    // What is in files in memory is part of `file`, too; what the kernel can free of slabs is part of `kernel`.
    let stat =
        "anon 1000\nfile 999\nkernel 300\nsock 20\nshmem 50\nslab_reclaimable 100\nslab 150\n";
    fake.write("sys/fs/cgroup/a/memory.stat", stat);
    assert_eq!(fake.machine().used(&level), Some(1270));
    let stat = "anon 1000\nkernel_stack 1\nslab_reclaimable 3\nslab_unreclaimable 1\nslab 4\n";
    fake.write("sys/fs/cgroup/a/memory.stat", stat);
    assert_eq!(fake.machine().used(&level), Some(1002));
    fake.write(
        "sys/fs/cgroup/a/memory.stat",
        "anon 1\nkernel 3\nslab_reclaimable 4\n",
    );
    assert_eq!(fake.machine().used(&level), Some(1));

    fake.write("sys/fs/cgroup/a/memory.stat", "anon x\nfile 1\n");
    assert_eq!(fake.machine().used(&level), None);
}

#[test]
fn version_1_uses_what_is_below_it_as_well() {
    let fake = Fake::v1("/a");
    let folder = "sys/fs/cgroup/memory/a";
    fake.write(
        &format!("{folder}/memory.stat"),
        "rss 1\ntotal_cache 5\ntotal_rss 1000\n",
    );
    fake.write(&format!("{folder}/memory.kmem.usage_in_bytes"), "300\n");
    let level = Level::Cgroup(Version::V1, "/sys/fs/cgroup/memory/a".into());
    assert_eq!(fake.machine().used(&level), Some(1300));
    fake.write(&format!("{folder}/memory.kmem.tcp.usage_in_bytes"), "20\n");

    assert_eq!(fake.machine().used(&level), Some(1320));

    fake.write(
        &format!("{folder}/memory.stat"),
        "rss 1\nshmem 2\ntotal_cache 5\ntotal_rss 1000\ntotal_shmem 4\n",
    );
    assert_eq!(fake.machine().used(&level), Some(1324));
}

#[test]
fn of_the_machine_all_is_used_that_is_not_available() {
    let fake = Fake::new();
    assert_eq!(fake.machine().used(&Level::Physical), Some(400 * 1024));
    assert_eq!(fake.machine().anonymous(), Some(70 * 1024));
    assert_eq!(fake.machine().process(), Some(70 * 1024));
    fake.write(
        "proc/self/status",
        "RssAnon:\t70 kB\nRssFile:\t9 kB\nRssShmem:\t5 kB\n",
    );
    assert_eq!(fake.machine().process(), Some(75 * 1024));
}
