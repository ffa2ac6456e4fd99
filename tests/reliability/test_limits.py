"""Limits of the system under which a flow refuses to start, and says what to change."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastapi_aqueduct.engine.system.cgroup import ControlGroup
from fastapi_aqueduct.engine.system.cpu import available_cores
from fastapi_aqueduct.engine.system.process_memory import OutOfMemory, default_memory_limit

from ..support import DEADLINE, run_script, script_environment, write_script

SCRIPT = """
    import asyncio
    import resource
    from fastapi_aqueduct import ConfigurationError, Flow, FlowStep
    from tests.handlers import Each, pass_on

    async def main():
        limit = getattr(resource, {limit!r})
        resource.setrlimit(limit, ({value}, resource.getrlimit(limit)[1]))
        try:
            async with Flow(FlowStep(Each(pass_on), nprocs={nprocs}), memory_limit={memory_limit}, name="ocr"):
                print("started")
        except ConfigurationError as exc:
            print(exc)

    if __name__ == "__main__":
        asyncio.run(main())
"""

GIB = 1 << 30


@pytest.mark.parametrize(
    ("limit", "value", "words"),
    [
        ("RLIMIT_NOFILE", 64, ["50 workers", "open files", "the limit is 64", "ulimit -n", "LimitNOFILE=", "--ulimit"]),
        ("RLIMIT_AS", 8 * GIB, ["bytes of address space", f"the limit is {8 * GIB}", "ulimit -v", "memory_limit"]),
        ("RLIMIT_FSIZE", GIB, ["a memory file of", f"the limit is {GIB}", "ulimit -f", "memory_limit"]),
    ],
)
def test_a_limit_that_is_too_low_is_told_with_what_to_change(
    tmp_path: Path, limit: str, value: int, words: list[str]
) -> None:
    settings = {"limit": limit, "value": value, "nprocs": 50, "memory_limit": GIB}
    said = run_script(tmp_path, SCRIPT.format(**settings))
    assert "flow ocr" in said
    assert [word for word in words if word not in said] == []


@pytest.mark.parametrize(("limit", "value"), [("RLIMIT_NOFILE", 128), ("RLIMIT_AS", 8 * GIB), ("RLIMIT_FSIZE", GIB)])
def test_a_flow_that_fits_the_limit_starts(tmp_path: Path, limit: str, value: int) -> None:
    settings = {"limit": limit, "value": value, "nprocs": 1, "memory_limit": 64 << 20}
    assert run_script(tmp_path, SCRIPT.format(**settings)) == "started\n"


BARE = """
    import asyncio
    from fastapi_aqueduct import ConfigurationError, Flow
    from tests.handlers import Each, pass_on

    try:
        Flow(Each(pass_on), memory_limit=1 << 24, name="ocr").start()
    except ConfigurationError as exc:
        print(exc)
"""


@pytest.mark.parametrize(
    ("path", "advice"), [("/proc", "mount -t proc proc /proc"), ("/dev", "ln -s /proc/self/fd /dev/fd")]
)
def test_a_system_without_what_a_flow_needs_is_told_so(tmp_path: Path, path: str, advice: str) -> None:
    """As in a chroot that was not given them."""
    write_script(tmp_path, BARE)
    hidden = f'mount -t tmpfs none {path} && exec "$@"'
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", hidden, "sh"]
    if subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("namespaces are not allowed here")
    done = subprocess.run(
        [*command, sys.executable, "main.py"],
        cwd=tmp_path,
        env=script_environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert f"flow ocr needs {'/dev/fd' if path == '/dev' else path}, " in done.stdout, done.stderr
    assert advice in done.stdout


# Control groups


def make_group(directory: Path, membership: str, files: dict[str, str]) -> ControlGroup:
    """Write down what the kernel shows of control groups.

    Args:
        directory: Where.
        membership: The lines of ``/proc/self/cgroup``.
        files: Contents by path.
    """
    (directory / "table").write_text(membership)
    for path, content in files.items():
        file = directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{content}\n")
    return ControlGroup(directory, directory / "table")


V1 = "9:cpu,cpuacct:/app/one\n4:memory:/app/one\n1:name=systemd:/app\n0::/app\n"


@pytest.mark.parametrize(
    ("membership", "files", "memory", "cores", "kills"),
    [
        ("0::/\n", {"memory.max": "max", "cpu.max": "max 100000", "memory.events": "oom 0\noom_kill 0"}, None, None, 0),
        ("0::/app/one\n", {"app/one/memory.max": "max", "app/memory.max": "4096", "memory.max": "9000"}, 4096, None, 0),
        ("0::/app\n", {"app/cpu.max": "150000 100000", "app/memory.events": "oom 3\noom_kill 2"}, None, 1.5, 2),
        ("0::/docker/x\n", {"memory.max": "4096", "cpu.max": "50000 100000"}, 4096, 0.5, 0),
        (V1, {"memory/app/one/memory.limit_in_bytes": "4096", "memory/memory.limit_in_bytes": "9000"}, 4096, None, 0),
        (V1, {"memory/app/memory.limit_in_bytes": "4096"}, 4096, None, 0),
        (V1, {"memory/memory.limit_in_bytes": "4096"}, 4096, None, 0),
        (V1, {"cpu,cpuacct/app/cpu.cfs_quota_us": "-1", "cpu,cpuacct/app/cpu.cfs_period_us": "20000"}, None, None, 0),
        (V1, {"cpu,cpuacct/app/cpu.cfs_quota_us": "50000", "cpu,cpuacct/app/cpu.cfs_period_us": "20000"}, None, 2.5, 0),
        (V1, {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, None, 0.5, 0),
        (V1, {"memory/app/one/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 7"}, None, None, 7),
        (V1, {"unified/app/memory.max": "4096"}, 4096, None, 0),
        ("", {}, None, None, 0),
    ],
)
def test_the_limits_of_control_groups_are_seen(
    tmp_path: Path, membership: str, files: dict[str, str], memory: int | None, cores: float | None, kills: int
) -> None:
    """Of both versions, of the group and of those around it, by the name outside a container and by that inside."""
    group = make_group(tmp_path, membership, files)
    assert (group.memory_limit(), group.cpu_limit(), group.out_of_memory_kills()) == (memory, cores, kills)


_UNUSED = {"a/memory.max": "4096", "a/memory.current": "96"}


@pytest.mark.parametrize(
    ("membership", "files", "free"),
    [
        ("0::/\n", {"memory.max": "max", "memory.current": "50"}, None),
        ("0::/\n", {"memory.max": "4096"}, None),  # the kernel does not count
        ("0::/\n", {"memory.max": "4096", "memory.current": "5000"}, 0),
        ("0::/\n", {"memory.max": "4096", "memory.current": "96", "memory.stat": "anon 50\ninactive_file 40"}, 4040),
        ("0::/a\n", {**_UNUSED, "memory.max": "9000", "memory.current": "8000"}, 1000),
        (V1, {"memory/app/memory.limit_in_bytes": "4096", "memory/app/memory.usage_in_bytes": "96"}, 4000),
    ],
)  # fmt: skip
def test_the_memory_that_is_left_is_what_no_process_of_a_group_uses(
    tmp_path: Path, membership: str, files: dict[str, str], free: int | None
) -> None:
    assert make_group(tmp_path, membership, files).free_memory() == free


def test_what_follows_from_them(tmp_path: Path) -> None:
    files = {"memory/app/one/memory.limit_in_bytes": "4096", "memory/app/one/memory.oom_control": "oom_kill 1"}
    group = make_group(tmp_path, V1, {**files, "cpu/cpu.cfs_quota_us": "30000", "cpu/cpu.cfs_period_us": "100000"})
    assert default_memory_limit(group) == 2048
    assert available_cores(group) == 1
    kernel = OutOfMemory(group)
    assert not kernel.happened()
    make_group(tmp_path, V1, {"memory/app/one/memory.oom_control": "oom_kill 2"})
    assert kernel.happened()
    assert not kernel.happened()


def test_a_real_limit_of_version_1_is_seen(tmp_path: Path) -> None:
    line = next((line for line in Path("/proc/self/cgroup").read_text().splitlines() if ":memory:" in line), None)
    if line is None:
        pytest.skip("version 2 only")
    group = Path("/sys/fs/cgroup/memory") / line.split(":", 2)[2].lstrip("/") / f"aqueduct-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as exc:
        pytest.skip(f"no group can be made: {exc}")
    try:
        (group / "memory.limit_in_bytes").write_text(str(GIB))
        source = f"""
            import os
            from pathlib import Path
            Path({str(group)!r}, "cgroup.procs").write_text(str(os.getpid()))
            from fastapi_aqueduct.engine.system.process_memory import default_memory_limit
            print(default_memory_limit())
        """
        assert run_script(tmp_path, source) == f"{GIB // 2}\n"
    finally:
        group.rmdir()
