"""Limits of control groups, in pretended trees: version 1, version 2, both at once, nested, and as a container shows them."""

from pathlib import Path

import pytest

from fastlift.system.machine import cores, cpu_quota, memory, processor_flags, processor_name
from fastlift.system.machine.cgroups import folders

GIB = 2**30
V2 = "31 23 0:28 / /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate"


def v1(controllers: str, top: str = "/", point: str = "") -> str:
    point = point or f"/sys/fs/cgroup/{controllers}"
    return f"32 31 0:29 {top} {point} rw,relatime - cgroup cgroup rw,{controllers}"


def tree(root: Path, groups: str, mounts: str, **files: str) -> Path:
    """A pretended root; names of files have "/" for "__" and stand below sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    (root / "proc/self/mountinfo").write_text(f"22 1 8:1 / / rw - ext4 /dev/sda rw\n{mounts}\nbroken line\n")
    (root / "proc/meminfo").write_text(f"MemTotal: {64 * 2**20} kB\nMemFree: 1 kB\nMemAvailable: {40 * 2**20} kB\n")
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def write(root: Path, name: str, text: object) -> None:
    path = root / "sys/fs/cgroup" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def test_no_groups_no_limits(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    assert memory(tmp_path).available is None
    root = tree(tmp_path, "0::/\n", V2)
    assert cpu_quota(root) is None
    found = memory(root)
    assert (found.total, found.available, found.limited) == (64 * GIB, 40 * GIB, False)


@pytest.mark.parametrize(
    ("text", "quota"),
    [("200000 100000", 2.0), ("50000 100000", 0.5), ("max 100000", None), ("", None), ("1 0", None), ("x y", None)],
)
def test_version_2_quota(tmp_path: Path, text: str, quota: float | None) -> None:
    root = tree(tmp_path, "0::/job\n", V2)
    write(root, "job/cpu.max", text)
    assert cpu_quota(root) == quota


@pytest.mark.parametrize(("granted", "period", "quota"), [("150000", "100000", 1.5), ("-1", "100000", None)])
def test_version_1_quota(tmp_path: Path, granted: str, period: str, quota: float | None) -> None:
    root = tree(tmp_path, "3:cpu,cpuacct:/job\n0::/\n", v1("cpu,cpuacct"))
    write(root, "cpu,cpuacct/job/cpu.cfs_quota_us", granted)
    write(root, "cpu,cpuacct/job/cpu.cfs_period_us", period)
    assert cpu_quota(root) == quota


@pytest.mark.parametrize("tightest", ["slice", "slice/pod", "slice/pod/job"])
def test_the_tightest_group_up_the_tree_decides(tmp_path: Path, tightest: str) -> None:
    root = tree(tmp_path, "0::/slice/pod/job\n", V2)
    for group in ("slice", "slice/pod", "slice/pod/job"):
        write(root, f"{group}/cpu.max", "150000 100000" if group == tightest else "800000 100000")
        write(root, f"{group}/memory.max", 4 * GIB if group == tightest else 32 * GIB)
        write(root, f"{group}/memory.current", GIB)
    write(root, "cpu.max", "100 100000")  # of the top, which has none in truth: still a limit if it is there
    (root / "sys/fs/cgroup/cpu.max").unlink()
    assert cpu_quota(root) == 1.5
    found = memory(root)
    assert (found.total, found.available, found.limited) == (4 * GIB, 3 * GIB, True)


def test_the_tightest_total_need_not_be_the_tightest_room(tmp_path: Path) -> None:
    """The group around may be fuller than its size tells, by others' memory."""
    root = tree(tmp_path, "0::/pod/job\n", V2)
    for group, limit, used in (("pod", 16, 15), ("pod/job", 8, 1)):
        write(root, f"{group}/memory.max", limit * GIB)
        write(root, f"{group}/memory.current", used * GIB)
    assert memory(root).total == 8 * GIB
    assert memory(root).available == GIB


def test_other_groups_do_not_count(tmp_path: Path) -> None:
    root = tree(tmp_path, "0::/pod/job\n", V2)
    write(root, "pod/other/cpu.max", "10000 100000")
    write(root, "elsewhere/memory.max", GIB)
    assert cpu_quota(root) is None
    assert memory(root).total == 64 * GIB


def test_cached_files_count_as_free(tmp_path: Path) -> None:
    """Reading a data set fills the group with cached pages, which the kernel gives up when memory is short."""
    root = tree(tmp_path, "0::/job\n", V2)
    write(root, "job/memory.max", 8 * GIB)
    write(root, "job/memory.current", 7 * GIB)
    write(root, "job/memory.stat", f"anon {GIB}\nactive_file {2 * GIB}\ninactive_file {3 * GIB}")
    assert memory(root).available == 6 * GIB


def test_version_1_memory(tmp_path: Path) -> None:
    root = tree(tmp_path, "4:memory:/docker/abc\n", v1("memory"))
    write(root, "memory/memory.limit_in_bytes", 9223372036854771712)  # no limit
    write(root, "memory/docker/abc/memory.limit_in_bytes", 2 * GIB)
    write(root, "memory/docker/abc/memory.usage_in_bytes", 2 * GIB)
    write(
        root,
        "memory/docker/abc/memory.stat",
        f"inactive_file 5\ntotal_active_file {GIB}\ntotal_inactive_file {GIB // 2}",
    )
    found = memory(root)
    assert (found.total, found.available, found.limited) == (2 * GIB, 3 * GIB // 2, True)


def test_memory_high_is_a_limit(tmp_path: Path) -> None:
    root = tree(tmp_path, "0::/job\n", V2)
    write(root, "job/memory.max", "max")
    write(root, "job/memory.high", 3 * GIB)
    assert memory(root).total == 3 * GIB


def test_both_versions_at_once(tmp_path: Path) -> None:
    root = tree(tmp_path, "1:cpu:/a\n0::/b\n", f"{v1('cpu')}\n{V2.replace('/sys/fs/cgroup', '/sys/fs/cgroup/unified')}")
    write(root, "cpu/a/cpu.cfs_quota_us", 300000)
    write(root, "cpu/a/cpu.cfs_period_us", 100000)
    write(root, "unified/b/memory.max", GIB)
    assert cpu_quota(root) == 3.0
    assert memory(root).total == GIB


def test_a_container_without_a_namespace_of_its_own(tmp_path: Path) -> None:
    """Docker with version 1: the path is the host's, the mount shows the container's group at its top."""
    root = tree(tmp_path, "4:memory:/docker/abc/inner\n", v1("memory", top="/docker/abc"))
    write(root, "memory/memory.limit_in_bytes", 2 * GIB)
    write(root, "memory/inner/memory.limit_in_bytes", GIB)
    assert memory(root).total == GIB


@pytest.mark.parametrize("path", ["/elsewhere", "/../../host/slice"])
def test_a_group_outside_the_mount_has_the_mount_s_limits(tmp_path: Path, path: str) -> None:
    root = tree(tmp_path, f"0::{path}\n", V2.replace(" / /sys", " /docker/abc /sys") if path == "/elsewhere" else V2)
    write(root, "cpu.max", "250000 100000")
    assert cpu_quota(root) == 2.5


def test_mount_points_with_blanks(tmp_path: Path) -> None:
    root = tree(tmp_path, "1:cpu:/\n", v1("cpu", point="/my\\040groups"))
    assert folders("cpu", root) == [root / "my groups"]


def test_the_processor(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(
        "processor\t: 0\nmodel name\t: Some CPU @ 2.1 GHz\nflags\t\t: fpu avx2 amx_tile\n"
    )
    assert processor_name(tmp_path) == "Some CPU @ 2.1 GHz"
    assert "amx_tile" in processor_flags(tmp_path)
    assert processor_flags(tmp_path / "nowhere") == frozenset()


def test_two_threads_of_a_core_are_one_core(tmp_path: Path) -> None:
    for cpu in range(8):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    assert cores(tmp_path, frozenset(range(8))) == 4
    assert cores(tmp_path, frozenset({0, 4, 5})) == 2
    assert cores(tmp_path / "nowhere", frozenset({0, 4, 5})) == 3
