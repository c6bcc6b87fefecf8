"""The doctor: what it finds on this machine, and what it says of machines where something is off."""

import copy
import json

import pytest

from cnnzoo import doctor


@pytest.fixture(scope="module")
def found():
    return doctor.examine()


def test_what_is_found_is_plausible(found):
    assert found["cores"] >= 1
    assert found["threads"] >= 1
    assert found["threading_layer"] in ("omp", "tbb", "workqueue")
    assert found["vector_bytes"] in (16, 32, 64)
    assert 1e9 < found["operations_per_second"] < 1e14
    assert 1e8 < found["bytes_per_second"] < 1e13
    assert set(found["denormal_slowdown"]) == {"as they are", "flushed"}
    json.dumps(found)


@pytest.fixture
def healthy(found):
    """Return what would be found on a machine where nothing is off."""
    healthy = copy.deepcopy(found) | {
        "threads": 4, "cores": 4, "threading_layer": "omp", "vector_bytes": 64, "load": 0.0, "free_memory": 10**10,
        "denormal_slowdown": {"as they are": 90.0, "flushed": 1.0},
    }  # fmt: skip
    healthy["cache"] |= {"compiled": ["correlate"], "old_folders": 0}
    assert doctor.list_findings(healthy) == []
    return healthy


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"threads": 1, "cores": 4}, "1 of 4 cores are used"),
        ({"threads": 9, "cores": 4}, "set --threads to 4"),
        ({"threading_layer": "workqueue"}, "install OpenMP"),
        ({"system": "Linux x86_64", "vector_bytes": 16}, "no AVX"),
        ({"load": 100.0}, "other programs compute"),
        ({"free_memory": 10**9}, "little memory is free"),
        ({"denormal_slowdown": {"as they are": 90.0, "flushed": 90.0}}, "90 times slower"),
        ({"cache": {"compiled": []}}, "cnnzoo warmup"),
        ({"cache": {"old_folders": 2, "old_bytes": 5e6}}, "5 MB of kernels of other versions"),
    ],
)
def test_findings(healthy, changes, part):
    cache = healthy["cache"] | changes.get("cache", {})
    (finding,) = doctor.list_findings(healthy | changes | {"cache": cache})
    assert part in finding


@pytest.mark.parametrize(
    ("ranks", "threads", "findings"),
    [
        (2, 4, []),
        (3, 2, ["6 of 8 cores are used: start a number of ranks on this host that divides 8, not 3"]),
        (9, 1, ["9 threads on 8 cores wait for each other: start 8 ranks on this host at most, not 9"]),
    ],
)
def test_ranks_on_a_host_are_counted_together(healthy, ranks, threads, findings):
    """The host's cores are those that its ranks may use, whatever each is bound to, or the machine has."""
    here = {"host": "a", "threads": threads, "cores": 4, "host_cores": 8}
    elsewhere = {"host": "b", "threads": 64, "cores": 64, "host_cores": 64}
    assert doctor.list_findings(healthy | {"ranks": [here] * ranks + [elsewhere]}) == findings


def test_free_memory_is_what_a_run_goes_by(monkeypatch):
    monkeypatch.setattr(doctor, "free_memory", lambda: 123)
    assert doctor.examine()["free_memory"] == 123


def test_command(capsys):
    assert doctor.main([]) == 0
    output = capsys.readouterr().out
    for beginning in ("processor: ", "vectors: ", "threads: ", "products: ", "memory: ", "compiled kernels: "):
        assert f"\n{beginning}" in f"\n{output}"
    assert doctor.main(["--json"]) == 0
    assert "findings" in json.loads(capsys.readouterr().out)
    assert doctor.main(["--jsno"]) == 2
    assert doctor.main(["--distributed", "mpii"]) == 2
