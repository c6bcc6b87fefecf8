"""Imports run downward only, numba stays in its place, and importing the package costs next to nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import cnnzoo
from cnnzoo.__main__ import VERBS

PACKAGE = Path(cnnzoo.__file__).parent

# From the bottom up. A module imports from its own floor and the floors below.
FLOORS = [
    {"errors"},
    {"atomic", "hashing", "threads", "recipes", "settings", "interrupts", "memory", "versions"},
    {"kernels"},
    {"machine"},
    {"graph"},
    {"config"},
    {"models"},
    {"interop"},
    {"data"},
    {"training"},
    {"command"},
    {"profiling"},
    set(VERBS) - {"data"},
    {"__init__", "__main__"},
]
FLOOR_OF = {name: number for number, floor in enumerate(FLOORS) for name in floor}
MODULES = sorted(PACKAGE.rglob("*.py"))


def _top_name(path: Path) -> str:
    """Return the name directly below the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _floor(path: Path) -> int:
    """Return the floor of a file: a package that can be run has a command in it, ``__main__.py``."""
    is_command = path.name == "__main__.py" and path.parent != PACKAGE
    return FLOOR_OF["train" if is_command else _top_name(path)]


def _list_imports(path: Path) -> list[tuple[int, str]]:
    """Return (line, module) for each import of a file, those inside of functions and TYPE_CHECKING included."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            module = node.module or ""
            # `from cnnzoo import data` names a floor in what it imports.
            names = [f"cnnzoo.{alias.name}" for alias in node.names] if module == "cnnzoo" else [module]
            found += [(node.lineno, name) for name in names]
    return found


def test_every_module_has_a_floor():
    assert {_top_name(path) for path in MODULES} <= FLOOR_OF.keys()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downward(path):
    floor = _floor(path)
    upward = []
    for line, name in _list_imports(path):
        parts = name.split(".")
        if parts[0] != "cnnzoo":
            continue
        # `import cnnzoo` itself reaches every floor.
        target = FLOOR_OF["__init__"] if len(parts) == 1 else FLOOR_OF[parts[1]]
        if target > floor:
            upward.append(f"line {line}: {name}")
    assert not upward


def test_numba_is_imported_by_kernels_and_threads_only():
    places = set()
    for path in MODULES:
        if any(name.split(".")[0] in ("numba", "llvmlite") for _, name in _list_imports(path)):
            places.add(_top_name(path))
    assert places == {"kernels", "threads"}


def _modules_after(code: str) -> set[str]:
    """Return the names of all modules that a fresh Python has loaded after some code."""
    code += "; import sys; print(' '.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import cnnzoo",
        "import cnnzoo.train",
        "import cnnzoo.evaluate",
        "import cnnzoo.export",
        "import cnnzoo.predict",
        "import cnnzoo.summary",
        "import cnnzoo.__main__",
        "import cnnzoo; cnnzoo.RunConfig(model='vgg16')",
    ],
)
def test_import_is_light(code):
    loaded = _modules_after(code)
    assert "cnnzoo" in loaded
    assert not loaded & {"numba", "llvmlite", "numpy", "torch", "tqdm", "safetensors"}


def test_public_names():
    functions = ["create_model", "cross_entropy", "list_models", "mean_squared_error", "set_num_threads"]
    names = ["SGD", "AdamW", "Progress", "RunConfig", "Trainer", *functions]
    assert sorted(cnnzoo.__all__) == sorted(names)
    for name in names:
        assert callable(getattr(cnnzoo, name))
        assert name in dir(cnnzoo)


def test_version_is_the_distribution_s():
    from importlib.metadata import version

    assert cnnzoo.__version__ == version("cnnzoo")


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'create_modle'"):
        cnnzoo.create_modle  # noqa: B018
