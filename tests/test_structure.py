"""The shape of the package: layers, links, wheel, lazy imports."""

import ast
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from quick import quick
from tiny_runs import ROOT, TINY, arguments

import metarl

PACKAGE = ROOT / "metarl"

# One row a folder, from the bottom up: a module imports from its own folder and from those above it in this list.
LAYERS = (
    "_version",
    "common",
    "data",
    "envs",
    "config",
    "policies",
    "rollouts",
    "inner",
    "agents",
    "outer",
    "store",
    "runs",
    "sb3",
    "reports",
    "commands",
    "train",
    "evaluate",
    "analyze",
    "plot",
    "record",
    "report",
    "compare",
    "__main__",
)
LAYER_OF = {folder: layer for layer, folder in enumerate(LAYERS)}

HEAVY = ("torch", "scipy.stats", "stable_baselines3")


@cache
def _modules() -> dict[str, Path]:
    """Files of the package by dotted name, without the package's own front door."""
    paths = {path.relative_to(ROOT).with_suffix(""): path for path in PACKAGE.rglob("*.py")}
    names = {".".join(name.parts).removesuffix(".__init__"): path for name, path in paths.items()}
    return {name: path for name, path in names.items() if name != "metarl"}


def _without_type_checking(tree: ast.Module) -> ast.Module:
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
    ]
    return tree


@cache
def _imports(path: Path, *, for_types: bool = True) -> set[str]:
    """Dotted names that a file imports, inside functions too, and under ``if TYPE_CHECKING`` if ``for_types``."""
    names = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree if for_types else _without_type_checking(tree)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import; write the module's full name"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _own_imports(path: Path, *, for_types: bool = True) -> set[str]:
    """Modules of the package that a file imports; ``from metarl.data import Rollouts`` is ``metarl.data``."""
    known = _modules()
    found = set()
    for name in _imports(path, for_types=for_types):
        while name and name not in known:
            name = name.rpartition(".")[0]
        found |= {name} - {""}
    return found


def _layer(module: str) -> int:
    part = module.split(".")[1]
    assert part in LAYER_OF, f"metarl/{part} is in no layer: add it to the table in {Path(__file__).name}"
    return LAYER_OF[part]


@pytest.mark.parametrize("module", sorted(_modules()))
def test_module_imports_nothing_from_a_layer_above(module):
    upward = [name for name in _own_imports(_modules()[module]) if _layer(name) > _layer(module)]
    assert upward == [], f"{module} (layer {_layer(module)}) must not import {upward}"


def test_imports_have_no_cycle():
    graph = {name: _own_imports(path, for_types=False) - {name} for name, path in _modules().items()}
    TopologicalSorter(graph).prepare()


def test_agents_and_environments_know_nothing_of_each_other():
    for side, other in (("metarl.agents", "metarl.envs"), ("metarl.envs", "metarl.agents")):
        for module, path in _modules().items():
            if f"{module}.".startswith(f"{side}."):
                met = [name for name in _own_imports(path) if f"{name}.".startswith(f"{other}.")]
                assert met == [], f"{module} must not import {met}"


def test_environments_do_without_torch():
    for module, path in _modules().items():
        if f"{module}.".startswith("metarl.envs."):
            heavy = [name for name in _imports(path) if f"{name}.".startswith(tuple(f"{big}." for big in HEAVY))]
            assert heavy == [], f"{module} must not import {heavy}"


@pytest.mark.parametrize("name", ["envs", "agents"])
def test_root_folder_is_a_link_to_the_package(name):
    assert (ROOT / name).is_symlink()
    assert os.readlink(ROOT / name) == f"metarl/{name}"
    assert (PACKAGE / name / "__init__.py").is_file()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The package as `make dist` builds it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    # Built from a copy, because a build leaves folders beside pyproject.toml.
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(PACKAGE, source / "metarl", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("envs", "agents"):
        (source / name).symlink_to(f"metarl/{name}")
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--quiet", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True)
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_installs_one_typed_package(wheel):
    files = zipfile.ZipFile(wheel).namelist()
    packages = {name.split("/")[0] for name in files if ".dist-info/" not in name}
    assert packages == {"metarl"}
    assert "metarl/py.typed" in files
    parts = [*PACKAGE.rglob("*.py"), *(path for path in (PACKAGE / "reference").rglob("*") if path.is_file())]
    assert {f"metarl/{path.relative_to(PACKAGE).as_posix()}" for path in parts} <= set(files)


@pytest.mark.slow
def test_wheel_runs_the_three_commands_in_a_fresh_environment(wheel, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv/bin/python")
    pip = [python, "-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt"), str(wheel)]
    train = ["--env", "navigation", "--algo", "l2f", "--iterations", "1", *arguments(TINY), "--run-dir", "run"]
    for command in (
        pip,
        [python, "-m", "metarl.train", *train],
        [python, "-m", "metarl.evaluate", "run", "--tasks", "2", "--rollouts", "2"],
        [python, "-m", "metarl.plot", "run", "--output", "curve.png"],
    ):
        subprocess.run(command, check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": ""})
    assert (tmp_path / "curve.png").is_file()


def test_the_version_is_written_once():
    assert f"\nversion: {metarl.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {metarl.__version__}" in (ROOT / "docs/release-notes.md").read_text()


def _run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.mark.parametrize("module", ["metarl", "metarl.envs", "metarl.config.config", "metarl.commands.train"])
def test_import_is_light(module):
    result = _run(f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"


def test_the_light_import_test_can_fail():
    result = _run(f"import sys, torch; print([name for name in {HEAVY} if name in sys.modules])")
    assert result.stdout.strip() == "['torch']"


@pytest.mark.parametrize(
    "command", quick(["train", "evaluate", "analyze", "plot", "record", "compare", "report"], "train")
)
def test_help_answers_without_heavy_imports(command):
    code = f"""
import atexit, sys
from metarl.commands.{command} import main
atexit.register(lambda: print("heavy:", [name for name in {HEAVY} if name in sys.modules]))
main(["--help"])
"""
    result = _run(code)
    assert result.returncode == 0, result.stderr
    assert "usage:" in result.stdout
    assert "heavy: []" in result.stdout


def test_the_overview_answers_without_heavy_imports():
    result = _run(f"""
import runpy, sys
runpy.run_module("metarl", run_name="__main__")
print("heavy:", [name for name in {HEAVY} if name in sys.modules])
""")
    assert result.returncode == 0, result.stderr
    assert "heavy: []" in result.stdout


def test_ci_script_is_executable():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
