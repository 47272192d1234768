"""Whatever happened to a run's JSON files, reading them ends with a value or with one sentence."""

import contextlib
import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from quick import quick
from tiny_runs import ROOT

from metarl import Config, UserError
from metarl.common.strict_json import read_json
from metarl.reports.labels import group_runs
from metarl.reports.tables import evaluation_table
from metarl.store.config_file import load_config, save_config, with_former_behaviour
from metarl.store.evaluations import Evaluation, References
from metarl.store.runs import read_run

FEW = settings(max_examples=80, deadline=None, derandomize=True, database=None)

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**40), 10**40),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["navigation", "maml", "trpo", "a:b", "x" * 300, "\0", "\ud800"]),
)
VALUES = st.recursive(SCALARS, lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=3), part))

CONFIGS = {
    "l2f": Config(env="navigation", env_kwargs={"goal_bound": 0.25}),
    "pretrain": Config(env="cheetah-dir", algo="pretrain", baseline={"trainer": "ppo"}),
    "anil": Config(algo="anil", attenuate=True, trpo={"max_kl": 0.3}, hidden_sizes=(8,)),
    "sinusoid": Config(env="sinusoid", algo="maml"),
}


def places(value, path=()):
    """Paths to all parts of a JSON value."""
    yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from places(part, (*path, key))


def edited(content, path, new):
    """A copy of a JSON value with another part at a path; the part is left out if it is ``...``."""
    if not path:
        return new
    copy = dict(content) if isinstance(content, dict) else list(content)
    if len(path) == 1 and new is ...:
        del copy[path[0]]
    else:
        copy[path[0]] = edited(copy[path[0]], path[1:], new)
    return copy


@st.composite
def edits(draw, content):
    """The text of a file after an edit: another value, a missing one, or a text that ends too early."""
    path = draw(st.sampled_from(list(places(content))))
    text = json.dumps(edited(content, path, draw(VALUES if not path else VALUES | st.just(...))))
    return draw(st.sampled_from([text, text, text, text[: draw(st.integers(0, len(text)))]]))


@contextlib.contextmanager
def a_sentence_at_worst():
    """Accepts a UserError of one line, and no other exception."""
    problem = "none."
    try:
        yield
    except UserError as error:
        problem = str(error)
    assert "\n" not in problem
    assert problem.endswith((".", "?"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run, whose files are written again and again."""
    return tmp_path_factory.mktemp("runs") / "run"


def stored(run, config):
    """The content of a configuration's file."""
    (run / "config.json").unlink(missing_ok=True)
    save_config(Config(**{**config.chosen, "run_dir": run}), {"version": "0.1", "commit": "abc"})
    return json.loads((run / "config.json").read_text())


@pytest.mark.parametrize("config", quick(CONFIGS, "anil"))
def test_an_edited_configuration_is_read_or_refused_in_a_sentence(run, config):
    content = stored(run, config)

    @FEW
    @given(edits(content))
    def check(text):
        (run / "config.json").write_text(text)
        with a_sentence_at_worst():
            load_config(run).resolve()
        with a_sentence_at_worst():
            assert all(group.label for group in group_runs([read_run(run)]))

    check()


def test_an_edited_evaluation_is_read_or_refused_in_a_sentence(run):
    content = evaluation(stored(run, CONFIGS["l2f"])).to_json()
    stored(run, CONFIGS["l2f"])
    (run / "evaluation.json").write_text(json.dumps(content))
    assert "MAML on navigation" in evaluation_table(read_run(run).evaluated())

    @FEW
    @given(edits(content))
    @example(json.dumps(edited(content, ("references", "random_initialisation"), [1.0])))
    @example(json.dumps(edited(content, ("returns", 0, 0), float("inf"))))
    @example(json.dumps(edited(content, ("measure",), "bananas")))
    def check(text):
        (run / "evaluation.json").write_text(text)
        with a_sentence_at_worst():
            shown = read_run(run).evaluated()
            assert evaluation_table(shown)
            assert np.isfinite(shown.mean[0]) or np.isnan(shown.mean[0])

    check()


def evaluation(config):
    """An evaluation of three tasks and two steps."""
    returns = np.arange(9.0).reshape(3, 3)
    return Evaluation(
        config={name: value for name, value in config.items() if name not in ("chosen", "metarl")},
        env="navigation",
        checkpoint="last",
        seed=0,
        rollouts=2,
        step_scales=(1.0, 0.5),
        tasks=np.ones((3, 2)),
        finite=False,
        task_names=None,
        returns=returns,
        mean=returns.mean(0),
        interval=np.ones(3),
        share_made_worse=np.zeros(3),
        env_steps=10,
        references=References(None, np.zeros(3)),
        metarl={"version": "0.1"},
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"returns": [[1.0, "x", 3.0]] * 3}, r"'returns' must be a list of numbers, got \[\[1\.0, 'x', 3\.0\],"),
        ({"returns": [[1.0, float("inf"), 3.0]] * 3}, "'returns' must hold finite numbers"),
        ({"tasks": [["a"]] * 3}, "'tasks' must be a list of numbers"),
        ({"tasks": [[1.0], [1.0, 2.0], [3.0, 4.0]]}, "'tasks' must hold as many numbers of each task"),
        ({"mean": [1.0]}, "'mean' must have a number for each column of 'returns'"),
        ({"task_names": ["left"]}, "'task_names' must have a name for each of 'tasks'"),
        ({"references": {"standstill": None, "random_initialisation": [1.0]}}, "'random_initialisation' must have a"),
        ({"seed": "x"}, "seed must be a whole number, got 'x'"),
        ({"finite": 1}, "finite must be True or False, got 1"),
        ({"measure": "bananas"}, "measure must be one of return, error, accuracy; got 'bananas'"),
        ({"config": {"env": "navigation"}}, "its 'config' has no 'algo'"),
        ({"config": {"algo": ["maml"]}}, r"algo must be a text, got \['maml'\]"),
    ],
)
def test_a_wrong_field_of_an_evaluation_is_named(run, change, message):
    content = evaluation(stored(run, CONFIGS["l2f"])).to_json() | change
    with pytest.raises(UserError, match=message):
        Evaluation.from_json(content)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is damaged, or no JSON: Expecting value: line 1 column 1"),
        ('{"env": "nav', "is damaged, or no JSON: Unterminated string"),
        ("[]", "is damaged: expected a JSON object, got list"),
        ("[" * 100_000, "is damaged: its values are nested too deeply"),
        ('{"a":' * 60 + "1" + "}" * 60, "is damaged: its values are nested too deeply"),
        ('{"a": "\\ud800"}', "is damaged, or no JSON: 'utf-8' codec can't encode"),
        ('{"a": ' + "9" * 5000 + "}", "is damaged, or no JSON: Exceeds the limit"),
    ],
)
def test_a_file_that_is_no_json_object_is_refused_in_a_sentence(tmp_path, text, message):
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        read_json(path)
    assert str(path) in str(error.value)


def test_bytes_that_are_no_text_and_a_folder_are_refused_in_a_sentence(tmp_path):
    (tmp_path / "file.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(UserError, match="is damaged, or no JSON: 'utf-8' codec"):
        read_json(tmp_path / "file.json")
    with pytest.raises(UserError, match=r"cannot read .*: Is a directory\."):
        read_json(tmp_path)


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks/results").glob("*/*/config.json"))[::10], ids=str)
def test_configurations_of_older_versions_are_read(path):
    assert read_run(path.parent).env == json.loads(path.read_text())["env"]


@pytest.mark.parametrize("group", ["adam", "l2f"])
def test_a_group_of_settings_of_another_type_is_no_traceback(group):
    assert with_former_behaviour({"algo": "l2f", group: "x"})[group] == "x"
