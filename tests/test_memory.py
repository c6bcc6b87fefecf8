"""Free and resident memory as Linux tells them, from made-up trees of its files."""

import resource
import subprocess
import sys

import numpy as np
import pytest

from cnnzoo.memory import free_memory, peak_memory_above, resident_memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the files of Linux")
GB = 10**9


@pytest.fixture
def machine(tmp_path):
    """Return a maker of the two trees: 8 GB available, and control groups by their path."""

    def make(membership="", groups=None, available=8 * GB):
        proc, top = tmp_path / "proc", tmp_path / "cgroup"
        (proc / "self").mkdir(parents=True)
        (proc / "meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable:    {available // 1024} kB\n")
        (proc / "self" / "cgroup").write_text(membership)
        (proc / "self" / "statm").write_text("1000 1 1 1 0 1 0\n")
        for name, content in (groups or {}).items():
            path = top / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{content}\n")
        return proc, top

    return make


def test_what_the_machine_has(machine):
    assert free_memory(*machine()) == 8 * GB // 1024 * 1024


def test_a_groups_limit_less_what_it_uses_and_cannot_drop(machine):
    groups = {"a/b/memory.max": 3 * GB, "a/b/memory.current": 2 * GB, "a/b/memory.stat": f"anon 1\ninactive_file {GB}"}
    assert free_memory(*machine("0::/a/b\n", groups)) == 2 * GB


def test_a_group_above_may_have_the_least(machine):
    groups = {"a/b/memory.max": "max", "a/b/memory.current": 0, "a/b/memory.stat": ""}
    groups |= {"a/memory.max": 2 * GB, "a/memory.current": GB, "a/memory.stat": "inactive_file 0"}
    assert free_memory(*machine("0::/a/b\n", groups)) == GB


def test_groups_of_the_first_version(machine):
    prefix = "memory/job"
    groups = {f"{prefix}/memory.limit_in_bytes": 5 * GB, f"{prefix}/memory.usage_in_bytes": GB}
    groups |= {f"{prefix}/memory.stat": f"inactive_file 7\ntotal_inactive_file {GB // 2}"}
    assert free_memory(*machine("3:cpu,cpuacct:/x\n4:memory:/job\n", groups)) == 4 * GB + GB // 2


def test_never_below_zero(machine):
    groups = {"a/memory.max": GB, "a/memory.current": 2 * GB, "a/memory.stat": ""}
    assert free_memory(*machine("0::/a\n", groups)) == 0


def test_system_that_does_not_tell(tmp_path):
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        pytest.skip("the tests run with a limit on address space, which tells")
    assert free_memory(tmp_path, tmp_path) is None


def test_own_limit_on_address_space():
    code = "import resource; resource.setrlimit(resource.RLIMIT_AS, (10**9, 10**9))\n"
    code += "from cnnzoo.memory import free_memory; print(free_memory())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 5 * 10**8 < int(run.stdout) < 10**9


def test_resident_memory(tmp_path):
    (tmp_path / "self").mkdir()
    (tmp_path / "self/status").write_text("Name:\tpython\nVmHWM:\t  300 kB\nVmRSS:\t  200 kB\n")
    assert resident_memory(proc=tmp_path) == 200 * 1024
    assert resident_memory(peak=True, proc=tmp_path) == 300 * 1024


def test_peak_above_what_stood_before():
    before = resident_memory()
    block = np.ones(200_000_000, np.uint8)
    assert peak_memory_above(before) >= 0.9 * block.nbytes
    assert peak_memory_above(None) is None
