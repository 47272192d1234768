"""README.md and docs/: their commands and programs run, their links lead somewhere, and the README stays short."""

import functools
import glob
import importlib
import re
import runpy
import shlex
from pathlib import Path

import pytest
from images import write_patterns
from meta_worlds import stand_in
from quick import quick
from tiny_runs import ROOT, TINY, arguments, tiny

import metarl
from metarl.commands import evaluate
from metarl.config.config import Config
from metarl.runs.training import train
from metarl.store.runs import read_run

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]


@pytest.fixture(autouse=True)
def _with_stand_in_for_metaworld():
    with stand_in():
        yield


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Commands and programs run in an empty folder of their own, from which examples can be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def _blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def _commands(page):
    """Lines of a page that call the package, as lists of words."""
    text = "".join(_blocks(page, "(?:sh|bash|console)")).replace("\\\n", " ")
    lines = [line.strip().removeprefix("$ ") for line in text.splitlines()]
    return [shlex.split(line, comments=True)[2:] for line in lines if line.startswith("python -m ")]


def _programs(page):
    """Blocks of a page that are whole programs."""
    return [block for block in _blocks(page, "python") if "import metarl\n" in block]


def _pages_with(parts, only):
    return pytest.mark.parametrize("page", quick({page.name: page for page in PAGES if parts(page)}, *only))


def _shortened(module, options):
    """A documented command with sizes small enough for a test; a later option overrides an earlier one."""
    supervised = {"sinusoid", "sinusoid-l2f", "examples.line_family:LineFamily"} & set(options)
    if module == "metarl.train" and "few-shot" in options:
        return [*options, "--iterations", "1", "--meta-batch-size", "2", "--validate-every", "0", "--queries", "2"]
    if module == "metarl.train" and supervised:
        return [*options, "--iterations", "2"]
    if module == "metarl.train" and "--help" not in options:
        return [
            *options,
            *arguments({**_small(options), "horizon": 5}),
            "--iterations",
            "2" if "--resume" in options else "1",
        ]
    if module == "metarl.analyze":
        return [*options, "--tasks", "2", "--rollouts", "2", "--embedding-tasks", "4"]
    if module == "metarl.record":
        return [*options, "--steps", "1", "--goals", "1"]
    if module == "metarl.evaluate" and "--help" not in options:
        has_examples = options[0] != "--list" and read_run(options[0]).measure != "return"
        return [*options, "--tasks", "2", *([] if has_examples else ["--rollouts", "2"])]
    return options


def _small(words):
    """Sizes small enough for a test; agents with memory read one episode at a time."""
    return {**TINY, **({"rollouts_per_task": 1} if "rl2" in words else {})}


def _make_images_up(folder):
    """Small stand-ins for the data sets of docs/few-shot.md."""
    write_patterns(folder / "omniglot/images_background", num_classes=40)
    for part in ("train", "val", "test"):
        write_patterns(folder / "mini-imagenet" / part, num_classes=5)
    (snippet,) = _blocks(ROOT / "docs/few-shot.md", "json")
    (folder / "mini-imagenet.json").write_text(snippet)


def _make_runs_up(page, options):
    """Run folders that a documented command takes for granted, such as those of other seeds, evaluated."""
    for path in filter(re.compile("runs/").match, options):
        if not glob.glob(path):
            named = re.fullmatch(r"runs/(.+)-(\w+)-seed(\d+)", path.rstrip("/"))
            assert named, f"{page.name} uses {path}, which no command before it makes"
            train(tiny(path, env=named[1], algo=named[2], seed=int(named[3]), horizon=5, iterations=1))
        for folder in map(Path, glob.glob(path)):
            if not (folder / "evaluation.json").exists():
                evaluate.main([str(folder), "--tasks", "2", "--rollouts", "2"])


@functools.cache
def _run_example(module):
    """Runs an example as a command, once for all pages."""
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def test_the_readme_shows_the_commands():
    assert {"metarl.train", "metarl.evaluate", "metarl.plot", "metarl.analyze"} <= {
        name for name, *_ in _commands(README)
    }


@_pages_with(_commands, only=["README.md", "write-a-family.md"])
def test_every_documented_command_runs(page, folder, capsys):
    (folder / "benchmarks").mkdir()
    for part in ("examples", "benchmarks/results", "benchmarks/task_lists"):
        (folder / part).symlink_to(ROOT / part)
    if page.name == "few-shot.md":
        _make_images_up(folder / "data")
    # The benchmarks behind the figures take hours.
    for module, *options in [command for command in _commands(page) if not command[0].startswith("benchmarks.")]:
        if module in ("metarl.evaluate", "metarl.plot", "metarl.compare", "metarl.report"):
            _make_runs_up(page, options)
            options = [path for option in options for path in sorted(glob.glob(option)) or [option]]
        if module.startswith("metarl."):
            command = importlib.import_module(module.replace("metarl.", "metarl.commands."))
            code = command.main(_shortened(module, options))
            assert code == 0, f"{module} {' '.join(options)}: {capsys.readouterr().err}"
        else:
            _run_example(module)


# What must hold after each page's program.
HOLDS = {
    "meta-world.md": lambda program: [len(steps) for steps in program.success.values()] == [5],
    "deploy.md": lambda program: len(getattr(program, "policy", program.agent).returns) == 3,
    "README.md": lambda program: program.env.action_space.contains(program.action) and len(program.result.mean) == 5,
    "stable-baselines3.md": lambda program: program.mean < 0,
    "supervised.md": lambda program: program.fitted.parameters.isfinite().all(),
    "write-a-family.md": lambda program: metarl.check_task_family(program.LineFamily()) is None,
}


@_pages_with(_programs, only=["README.md", "deploy.md", "supervised.md", "write-a-family.md"])
def test_every_documented_program_runs(page, folder, monkeypatch):
    small = {"hidden_sizes": (8,)} if page.name == "supervised.md" else {**TINY, "horizon": 5}
    monkeypatch.setattr(metarl, "Config", functools.partial(Config, **small, iterations=1))
    few = metarl.EvaluationConfig(tasks=2, rollouts=2)
    monkeypatch.setattr(metarl, "evaluate", functools.partial(metarl.evaluate, config=few))
    for number, program in enumerate(_programs(page)):
        name = f"program_{number}_of_" + re.sub(r"\W", "_", page.stem)
        (folder / f"{name}.py").write_text(program)
        assert HOLDS[page.name](importlib.import_module(name))


def _anchors(page):
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in _anchors(target), f"{page.name} links to {link}"


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= 150
