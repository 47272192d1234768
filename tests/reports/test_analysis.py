"""Analyses of trained agents: what is computed, for every rule, and what is written and drawn."""

import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import MODES, initial, make_policy, make_rule, run
from quick import quick
from tiny_runs import tiny

from metarl import AnalysisConfig, EvaluationConfig, L2FConfig
from metarl.agents.anil import PartialAdaptation
from metarl.agents.normalised import NormalisedObservations
from metarl.commands import analyze as command
from metarl.common.errors import UserError
from metarl.common.files import NotWritten
from metarl.common.parallel import Workers
from metarl.common.statistics import mean_and_interval
from metarl.common.streams import Purpose, stream
from metarl.common.strict_json import read_json
from metarl.config.algorithms import ALGORITHMS
from metarl.data import ExampleBatch
from metarl.envs.spaces import stacked
from metarl.inner.rule import WrappedAdaptation, before_others
from metarl.inner.runner import Runner, make_runner
from metarl.outer.objective import MetaObjective
from metarl.policies.distributions import SquaredError
from metarl.policies.layout import Layout
from metarl.policies.mlp import MLPPolicy
from metarl.policies.recurrent import RecurrentPolicy
from metarl.reports.analysis import GAMMAS, _InnerLoops, _projection, analyze
from metarl.reports.analysis_figures import (
    _draw_attenuation,
    _draw_conflict,
    _draw_embedding,
    _draw_gamma_sweep,
    _draw_landscape,
    _draw_memory,
    _draw_memory_r2,
    _draw_training,
    _origin,
    _shown_r2,
    draw,
)
from metarl.reports.inspection import _part, conflict, inspect, layers, meta_gradients, states_of
from metarl.reports.measures import (
    PrincipalAxes,
    leave_one_out_r2,
    over_tasks,
    principal_components,
    task_r2,
    unrelated_angle,
)
from metarl.reports.tables import _column, analysis_table
from metarl.runs.protocol import evaluate
from metarl.runs.trained_agent import load
from metarl.runs.training import train

SMALL = {"tasks": 4, "rollouts": 3, "embedding_tasks": 6, "threads": 1}
SECTIONS = ("conflict", "attenuation", "landscape", "representations", "movement", "freezing", "embedding", "memory")
# Parts that are left out unless they are asked for.
OTHERS = {"through_training", "gamma_sweep"}
RULES = [
    ("maml", {}),
    ("l2f", {}),
    ("anil", {}),
    ("meta-sgd", {}),
    ("mamlpp", {"num_steps": 2}),
    ("mumomaml", {}),
    ("multi-maml", {"num_modes": 2}),
    ("context", {}),
    ("mumomaml", {"attenuate": True}),
]


def analysed(folder, small=SMALL, **settings):
    """A run without training and its analysis; the untrained agent is as good as any for what is tested here."""
    train(tiny(folder, **{"iterations": 0, "validate_every": 0, **settings}))
    return analyze(folder, AnalysisConfig(**small))


@pytest.fixture(scope="module")
def maml(tmp_path_factory):
    return analysed(tmp_path_factory.mktemp("maml"))


@pytest.fixture(scope="module")
def l2f(tmp_path_factory):
    return analysed(tmp_path_factory.mktemp("l2f"), algo="l2f", l2f=L2FConfig(initial_gamma=0.7))


@pytest.fixture(scope="module")
def mumomaml(tmp_path_factory):
    return analysed(tmp_path_factory.mktemp("mumomaml"), algo="mumomaml", env="navigation-bimodal", iterations=1)


# Meta-gradients and their conflict


def gradients_of_tasks(loop):
    each = [loop.tasks(i, i + 1) for i in range(loop.num_tasks)]
    return torch.cat([meta_gradients(one, [one.queries]) for one in each])


@pytest.mark.parametrize(("algo", "settings"), RULES)
def test_mean_of_the_tasks_meta_gradients_is_the_meta_objectives(algo, settings):
    rule = make_rule(algo, make_policy(), **settings)
    loop = run(rule, initial(rule), num_steps=settings.get("num_steps", 1))
    with Workers(1) as workers:
        _, expected = MetaObjective(loop, workers).loss_and_gradient()
    torch.testing.assert_close(gradients_of_tasks(loop).mean(0), expected, rtol=1e-9, atol=1e-12)


def test_a_first_order_rule_has_other_meta_gradients():
    rules = [make_rule(algo, make_policy()) for algo in ("maml", "fomaml")]
    first, second = (gradients_of_tasks(run(rule, initial(rule))) for rule in rules)
    assert (first - second).abs().max() > 1e-2 * first.abs().max()


def test_a_tasks_meta_gradient_is_the_weighted_mean_of_its_episodes():
    rule = make_rule("maml", make_policy())
    loop = run(rule, initial(rule)).tasks(0, 1)
    (query,) = loop.queries
    episodes = range(query.rewards.shape[1])
    whole, *parts = meta_gradients(loop, [[query], *([query.part(e)] for e in episodes)])
    share = query.mask.sum(2)[0] / query.mask.sum()
    assert len(set(share.tolist())) > 1
    torch.testing.assert_close(share @ torch.stack(parts), whole, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("algo", "settings"), RULES)
def test_initialisation_tells_which_meta_parameters_a_policy_starts_from(algo, settings):
    rule = make_rule(algo, make_policy(), **settings)
    meta = initial(rule)
    indices = rule.initialisation(MODES)
    torch.testing.assert_close(meta[indices], rule.start(meta, MODES)[:, : rule.policy.layout.size], rtol=0, atol=0)
    assert bool((indices[0] == indices[1]).all()) == (algo != "multi-maml")


def test_conflict_is_told_tensor_by_tensor():
    layout = Layout([("shared", (2,)), ("own", (3,))])
    gradients = np.zeros((3, 1 + 2, 5))
    gradients[:, :, 0] = [[1], [2], [3]]
    gradients[range(3), :, range(2, 5)] = 1
    found = conflict(gradients, [[0, 1, 2]], layout)
    np.testing.assert_allclose(found.between_tasks.mean, [0, unrelated_angle(3)], atol=1e-15)
    np.testing.assert_allclose(found.within_task.mean, [0, 0], atol=1e-15)
    np.testing.assert_allclose(found.between_episodes.mean, [0, unrelated_angle(2)], atol=1e-15)
    np.testing.assert_allclose(found.excess.per_task, [[0, unrelated_angle(2)]] * 3, atol=1e-15)
    np.testing.assert_allclose(found.excess.interval, 0, atol=1e-15)
    compared = found.between_tasks, found.within_task, found.between_episodes
    assert [angles.num_vectors for angles in compared] == [3, 2, 2]


@pytest.mark.parametrize("num_tasks", [4, 5, 7])
def test_every_task_is_compared_however_few_its_episodes(num_tasks):
    gradients = np.random.default_rng(0).normal(size=(num_tasks, 1 + 3, 20_000))
    found = conflict(gradients, [list(range(num_tasks))], Layout([("all", (20_000,))]))
    np.testing.assert_allclose(found.between_tasks.per_task, unrelated_angle(num_tasks), atol=0.03)
    for name in ("within_task", "between_episodes"):
        np.testing.assert_allclose(getattr(found, name).per_task, unrelated_angle(3), atol=0.03)


def test_conflict_of_independent_episodes_is_the_same_within_and_between_tasks():
    gradients = np.random.default_rng(0).normal(size=(6, 1 + 6, 20_000))
    found = conflict(gradients, [list(range(6))], Layout([("all", (20_000,))]))
    for name in ("between_tasks", "within_task", "between_episodes"):
        np.testing.assert_allclose(getattr(found, name).mean, unrelated_angle(6), atol=0.02)


def test_noise_alone_makes_no_excess_but_tasks_apart_do():
    rng = np.random.default_rng(0)
    noise, layout = rng.normal(size=(6, 1 + 6, 20_000)), Layout([("all", (20_000,))])
    groups = [list(range(6))]
    assert conflict(noise, groups, layout).excess.mean[0] == pytest.approx(0, abs=0.01)
    apart = conflict(noise + rng.normal(size=(6, 1, 20_000)), groups, layout).excess
    assert apart.mean[0] > 0.2 > 10 * apart.interval[0]
    together = conflict(noise + rng.normal(size=20_000), groups, layout).excess
    assert together.mean[0] == pytest.approx(0, abs=0.01)
    assert conflict(noise, groups, layout, independent=False).excess.interval is None


def test_tasks_with_different_initialisations_do_not_conflict():
    layout = Layout([("all", (2,))])
    gradients = np.zeros((4, 1 + 2, 2))
    gradients[[0, 2], :, 0] = gradients[[1, 3], :, 1] = 1
    apart = conflict(gradients, [[0, 2], [1, 3]], layout).between_tasks
    together = conflict(gradients, [[0, 1, 2, 3]], layout).between_tasks
    np.testing.assert_allclose(apart.per_task, 0, atol=1e-15)
    np.testing.assert_allclose(together.per_task, math.pi / 4)


# Layers and what they represent


def test_similarity_of_what_never_varies_is_left_out(tmp_path):
    result = analysed(tmp_path, env="bandit")
    assert "does not vary" in result.left_out["similarity"]
    assert "CKA" not in analysis_table(result)
    assert result.movement.start.distance.mean[0] > 0
    assert tmp_path / "representations.png" in draw(result, tmp_path)


@pytest.mark.parametrize("kind", ["gaussian", "categorical"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_activations_of_a_module_are_those_of_the_same_perceptron(kind, activation):
    policy, module = (make_policy(kind, activation, body) for body in ("mlp", "module"))
    parameters = policy.initial(np.random.default_rng(0)).double()
    generator = torch.Generator().manual_seed(0)
    observations = torch.randn(7, policy.observation_size, dtype=torch.float64, generator=generator)
    expected, found = (each.activations(parameters, observations) for each in (policy, module))
    assert list(expected) == ["hidden1", "hidden2", "output"]
    # The module's linear maps and activations count one by one.
    assert list(found) == ["0", "1", "2", "3", "output"]
    for name, same in (("hidden1", "1"), ("hidden2", "3"), ("output", "output")):
        torch.testing.assert_close(found[same], expected[name])
    outputs = policy.outputs(parameters[None], observations[None])[0]
    torch.testing.assert_close(expected["output"], outputs)


def test_layers_are_a_weight_with_its_bias_and_the_last_one_has_the_log_std():
    named = [["weight1", "bias1"], ["weight2", "bias2"], ["weight3", "bias3", "log_std"]]
    assert layers(make_policy()) == named
    assert layers(make_policy("categorical")) == [*named[:2], named[2][:2]]
    assert layers(make_policy(body="module")) == [
        ["0.weight", "0.bias"], ["2.weight", "2.bias"], ["4.weight", "4.bias", "log_std"]
    ]  # fmt: skip


# Every rule


@pytest.mark.parametrize("algo", quick(sorted(ALGORITHMS), "anil", "l2f", "oracle", "varibad"))
def test_every_algorithm_is_analysed(tmp_path, algo):
    result = analysed(tmp_path, algo=algo, env="navigation-bimodal")
    assert json.loads((tmp_path / "analysis" / "analysis.json").read_text()) == result.to_json()
    assert {name for name in SECTIONS if getattr(result, name) is None} == set(result.left_out) - OTHERS
    assert (result.memory if ALGORITHMS[algo].remembers else result.conflict) is not None
    assert all(name in analysis_table(result) for name in [*result.tensors, *result.left_out])


@pytest.mark.parametrize(
    "settings",
    [
        {"algo": "anil", "attenuate": True},
        {"algo": "mumomaml", "attenuate": True},
        {"algo": "mamlpp", "num_inner_steps": 2},
        {"algo": "l2f", "env": "bandit"},
        {"algo": "maml", "env": "cheetah-dir", "horizon": 5},
        {"algo": "l2f", "policy_body": "problems:make_body"},
        {"algo": "l2f", "l2f": L2FConfig(scope="filter", transform="affine", attenuation_rollouts="fresh")},
    ],
    ids=lambda settings: "-".join(map(str, settings.values()))[:30],
)
def test_other_settings_are_analysed(tmp_path, settings):
    result = analysed(tmp_path, **settings)
    for name in ("conflict", "landscape", "representations", "movement", "freezing"):
        assert getattr(result, name) is not None
    assert (result.attenuation is None) == ("attenuate" not in settings and settings["algo"] != "l2f")


@pytest.mark.parametrize("which", quick(["maml", "l2f", "mumomaml"], "l2f"))
def test_what_applies_is_drawn(tmp_path, request, which):
    result = request.getfixturevalue(which)
    drawn = draw(result, tmp_path)
    assert {path.stem for path in drawn} == {name for name in SECTIONS if getattr(result, name)} - {"movement"}
    # Something is in the picture: PNG compresses an empty one to less.
    assert all(path.stat().st_size > 10_000 for path in drawn)


def test_tasks_of_many_numbers_and_without_variation_are_drawn(l2f, tmp_path):
    others = dict.fromkeys(set(SECTIONS) - {"attenuation"})
    for tasks in (np.random.default_rng(0).normal(size=(4, 2, 10)), np.full(4, 3.0)):
        (drawn,) = draw(replace(l2f, tasks=tasks, **others), tmp_path)
        assert drawn.name == "attenuation.png"


def test_without_inner_steps_only_the_conflict_is_left(tmp_path):
    result = analysed(tmp_path, algo="maml", num_inner_steps=0)
    assert [name for name in SECTIONS if getattr(result, name)] == ["conflict"]
    assert [path.name for path in draw(result, tmp_path)] == ["conflict.png"]
    reason = "(no gradient step changes the policy)"
    assert f"left out: landscape, representations, movement, freezing, gamma_sweep {reason}" in analysis_table(result)


def test_of_standing_still_only_the_conflict_is_left(tmp_path):
    result = analysed(tmp_path, algo="standstill")
    assert [name for name in SECTIONS if getattr(result, name)] == ["conflict"]
    assert [path.name for path in draw(result, tmp_path)] == ["conflict.png"]
    figure, reading = _draw_conflict(result.conflict, result.tensors)
    assert [label.get_text() for label in figure.axes[1].get_xticklabels()] == ["bias2"]
    assert "Without a gradient: weight1, bias1, weight2, log_std." in reading


@pytest.mark.parametrize(
    ("algo", "kept"), [("l2f", None), pytest.param("mumomaml", {"modulation"}, marks=pytest.mark.slow)]
)
def test_attenuation_by_constants_has_no_embedding_of_tasks(tmp_path, algo, kept):
    constant = analysed(tmp_path / "constant", algo=algo, attenuate=True, l2f=L2FConfig(conditioning="constant"))
    learned = analysed(tmp_path / "task", algo=algo, attenuate=True)
    assert "attenuation" in learned.embedding.seen
    if kept is None:
        assert constant.embedding is None
        assert "looks at no task" in constant.left_out["embedding"]
    else:
        assert constant.embedding.seen.keys() == kept
        assert constant.left_out["embedding of attenuation"] == "what it sees is the same for every task"
        assert (tmp_path / "embedding.png") in draw(constant, tmp_path)


def test_attenuation_is_reported_of_l2f_inside_another_rule():
    rule = make_rule("maml", make_policy(), attenuate=True)
    meta = initial(rule)
    frozen = PartialAdaptation(rule, ["bias1"])
    with Workers(1) as workers:
        plain, wrapped = (inspect(run(each, meta), workers) for each in (rule, frozen))
        without = inspect(run(make_rule("maml", make_policy()), initial(make_rule("maml", make_policy()))), workers)
    np.testing.assert_array_equal(wrapped.attenuation.gamma.per_task, plain.attenuation.gamma.per_task)
    assert (plain.attenuation.gamma.per_task[:, :-1] != 1).all()
    assert "attenuation" not in wrapped.left_out
    assert (without.attenuation, without.left_out["attenuation"]) == (None, "the rule does not attenuate")


class Watching(WrappedAdaptation):
    """Appends two numbers of each task to what a rule observes, as `NormalisedObservations` appends its statistics."""

    def __init__(self, rule):
        super().__init__(rule, rule.num_meta)

    def observe(self, loop):
        seen = super().observe(loop)
        return torch.cat([seen, seen.new_full((len(seen), 2), math.nan)], dim=1)

    @property
    def observed(self):
        return before_others(super().observed, 2)


@pytest.mark.parametrize("algo", ["l2f", "mumomaml"])
def test_normalised_observations_hide_nothing_of_what_a_rule_sees(algo, tmp_path):
    plain = make_rule(algo, make_policy())
    rule = NormalisedObservations(plain)
    loop = run(rule, initial(rule))
    inner = replace(loop, rule=plain, meta=loop.meta[: plain.num_meta])
    for name, columns in plain.observed.items():
        seen = rule.observe(loop)[:, rule.observed[name]]
        torch.testing.assert_close(seen, plain.observe(inner)[:, columns], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("algo", "settings", "widths"),
    [
        ("maml", {}, {}),
        ("l2f", {}, {"attenuation": 7}),
        ("mumomaml", {}, {"modulation": 8}),
        ("mumomaml", {"attenuate": True, "embedding_size": 3}, {"modulation": 3, "attenuation": 7}),
    ],
)
def test_a_rule_names_every_column_of_what_it_observes(algo, settings, widths):
    rule = make_rule(algo, make_policy(), **settings)
    loop = run(rule, initial(rule))
    # Wrappers may observe more, which they do not name.
    for each in (rule, PartialAdaptation(rule, []), Watching(rule)):
        columns = [torch.arange(each.observe(loop).shape[1])[part] for part in each.observed.values()]
        assert {name: len(part) for name, part in zip(each.observed, columns, strict=True)} == widths
        assert torch.cat([torch.tensor([]), *columns]).tolist() == list(range(sum(widths.values())))


def test_single_examples_are_of_all_classes_and_weigh_what_the_whole_batch_does():
    classes = torch.arange(12).div(4, rounding_mode="floor")[None]  # Sorted, as few-shot tasks are.
    query = ExampleBatch(torch.zeros(1, 12, 2), classes)
    rows = [_part(query, number, 3).samples.weights[0] for number in range(3)]
    assert [classes[0, int(row.argmax())].item() for row in rows] == [0, 1, 2]
    assert [row.sum().item() for row in rows] == [1, 1, 1]
    examples = ExampleBatch(torch.randn(1, 4, 3), torch.randn(1, 4, 2))
    policy = MLPPolicy(3, SquaredError(2), (8,), "tanh")
    parameters = policy.initial(np.random.default_rng(0))[None]
    whole = policy.inner_gradient(parameters, examples.samples, "score")
    parts = [policy.inner_gradient(parameters, _part(examples, n, 4).samples, "score") for n in range(4)]
    torch.testing.assert_close(torch.stack(parts).mean(0), whole)


def test_a_component_that_never_changes_leaves_the_direction_its_r2():
    r2 = {"task[0]": 0.5, "direction[0]": 0.8, "direction[1]": math.nan, "length": 0.3}
    assert _shown_r2(r2, ["task[0]"]) == {"task[0]": 0.5, "direction": 0.8, "length": 0.3}
    by_step = {**r2, "direction[0]": np.array([0.8, math.nan]), "direction[1]": np.array([0.4, math.nan])}
    np.testing.assert_allclose(_shown_r2(by_step, [])["direction"], [0.6, math.nan])


def test_what_a_rule_sees_but_does_not_name_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr("metarl.agents.mumomaml.MuMoMAML.observed", {})
    result = analysed(tmp_path, algo="mumomaml")
    assert result.embedding is None
    assert result.left_out["embedding"] == "the rule does not name what it sees of a task"


@pytest.mark.parametrize(
    ("env", "names"),
    [
        ("navigation", ["task[0]", "task[1]", "direction[0]", "direction[1]", "length"]),
        ("cheetah-dir", ["task"]),
    ],
)
def test_what_the_rule_sees_predicts_the_tasks_numbers_direction_and_length(tmp_path, env, names):
    result = analysed(tmp_path, algo="l2f", env=env, horizon=5)
    (seen,) = result.embedding.seen.values()
    assert list(seen.r2) == names
    tasks = np.array(result.embedding.tasks, float).reshape(6, -1)
    length = np.linalg.norm(tasks, axis=1, keepdims=True)
    targets = np.concatenate([tasks, tasks / length, length], axis=1)[:, : len(names)]
    np.testing.assert_allclose(list(seen.r2.values()), leave_one_out_r2(seen.features, targets))
    assert result.to_json()["embedding"]["attenuation"]["r2"].keys() == set(names)
    printed = analysis_table(result)
    assert f"leave-one-out over {'6 tasks' if env == 'navigation' else '6 repeats of 2 tasks'}" in printed
    assert all(f"\n{name} " in printed for name in names)
    figure, reading = _draw_embedding(result.embedding)
    assert f"{names[0]} {seen.r2[names[0]]:.2f}" in reading
    assert f"coloured by {names[0]}, R\N{SUPERSCRIPT TWO} {seen.r2[names[0]]:.2f}" == figure.axes[0].get_title("left")


def test_what_cannot_be_predicted_is_not_defined():
    features = np.random.default_rng(0).normal(size=(8, 2))
    tasks = features @ np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 0.0]])
    known = task_r2(features, tasks, finite=False)
    assert known["task[0]"] > 0.99
    assert math.isnan(known["task[2]"])
    assert math.isnan(known["direction[2]"])
    tasks[3] = 0
    found = task_r2(features, tasks, finite=False)
    assert all(math.isnan(found[f"direction[{index}]"]) for index in range(3))
    assert math.isfinite(found["length"])


def test_repeats_of_a_task_are_left_out_together(monkeypatch):
    """An arbitrary code of ten tasks says nothing of an eleventh, however often each is repeated."""
    monkeypatch.setattr("metarl.reports.measures.RIDGES", (0.01,))
    rng, of_row = np.random.default_rng(0), np.repeat(np.arange(10), 8)
    codes, tasks = rng.normal(size=(10, 6))[of_row] + 0.01 * rng.normal(size=(80, 6)), rng.normal(size=(10, 1))[of_row]
    x = np.c_[(codes - codes.mean(0)) / codes.std(0), np.ones(80)]
    ridge = np.eye(7)[:6] * (80 * 0.01) ** 0.5  # The constant has none.
    errors, baseline = [], []
    for group in range(10):
        rest, own = of_row != group, of_row == group
        fit = np.linalg.lstsq(np.vstack([x[rest], ridge]), np.vstack([tasks[rest], np.zeros((6, 1))]))[0]
        errors.append(tasks[own] - x[own] @ fit)
        baseline.append(tasks[own] - tasks[rest].mean())
    by_hand = 1 - np.square(errors).sum() / np.square(baseline).sum()
    assert task_r2(codes, tasks, finite=False)["task"] == pytest.approx(by_hand, rel=1e-9)
    assert by_hand < 0.3
    assert task_r2(codes, tasks, finite=True)["task"] > 0.6


def test_the_numbers_of_tasks_of_several_parts_are_predicted_one_by_one():
    features = np.random.default_rng(0).normal(size=(8, 2))
    tasks = stacked([{"kind": 2, "where": (np.array([x]), y)} for x, y in features])
    known = task_r2(features, tasks, finite=False)
    assert min(known["task[1]"], known["task[2]"]) > 0.99
    assert math.isnan(known["task[0]"])


def test_tasks_of_many_numbers_are_told_in_a_few_rows(tmp_path):
    printed = analysis_table(analysed(tmp_path, algo="l2f", env="tabular-mdp"))
    assert "\ntask[11] " in printed
    assert "task[12]" not in printed
    assert "\nlength " in printed
    assert "more in the file" in printed


# Memory


@pytest.fixture(scope="module", params=["gru", "lstm"])
def rl2(request, tmp_path_factory):
    """An agent whose episodes end early."""
    settings = {"rl2": {"units": 8, "cell": request.param}, "num_inner_steps": 2, "iterations": 1}
    return analysed(
        tmp_path_factory.mktemp(request.param), algo="rl2", env="machines:CountdownFamily", horizon=5, **settings
    )


def trial_of(result, tasks):
    """The inner loop of one trial of each task, with the analysis's random streams."""
    agent = load(result.config["run_dir"])
    stages = agent.rule.stages((1.0,) * agent.settings.inner.num_inner_steps)
    with Workers(1) as workers:
        runner = make_runner(
            agent.family, agent.rule, len(tasks), agent.settings.measured_on(1), workers, torch.device("cpu")
        )
        adapted, _ = runner.run(agent.meta, tasks, stages, result.settings.seed, Purpose.TEST_ROLLOUTS, 0)
        runner.close()
    return agent, adapted


def test_states_are_those_that_the_agent_acted_from(rl2, monkeypatch):
    """Recorded while it acts, one step after the other."""
    acted, act = [], RecurrentPolicy.act

    def recorded(self, *arguments):
        outputs, memory = act(self, *arguments)
        acted.append(memory[:, :8])
        return outputs, memory

    monkeypatch.setattr(RecurrentPolicy, "act", recorded)
    _, adapted = trial_of(rl2, rl2.memory.tasks)
    states, lengths = states_of(adapted.loop)
    assert (lengths < 5).any()
    first = 0
    for episode, longest in enumerate(lengths.max(0)):
        for task, length in enumerate(lengths[:, episode]):
            lived = torch.stack([acted[first + step][task] for step in range(length)]).numpy()
            np.testing.assert_allclose(states[task, episode, :length], lived, atol=1e-5)
            held = states[task, episode, length - 1 :]
            np.testing.assert_array_equal(held, np.broadcast_to(held[:1], held.shape))
        first += longest
    assert first == len(acted)


def test_memory_is_stored_as_states_and_what_they_tell_of_the_task(rl2):
    memory, (_, adapted) = rl2.memory, trial_of(rl2, rl2.memory.tasks)
    states, lengths = states_of(adapted.loop)
    assert states.shape == (6, 3, lengths.max(), 8)
    np.testing.assert_array_equal(memory.lengths, lengths)
    np.testing.assert_array_equal(memory.ends, states[:, :, -1])
    axes = PrincipalAxes.of(memory.ends.reshape(-1, 8))
    np.testing.assert_allclose(memory.coordinates, axes.coordinates(memory.ends))
    np.testing.assert_allclose(memory.paths, axes.coordinates(states[:4]))
    np.testing.assert_array_equal(memory.paths[:, :, -1], memory.coordinates[:4])
    np.testing.assert_allclose(memory.variance_shares, axes.shares)
    assert list(memory.r2) == ["task"]
    for episode, step in ((0, 0), (1, 2), (2, lengths.max() - 1)):
        expected = task_r2(states[:, episode, step], memory.tasks, finite=True)["task"]
        np.testing.assert_allclose(memory.r2["task"][episode, step], expected)
    stored = rl2.to_json()["memory"]
    assert np.shape(stored["r2"]["task"]) == (3, lengths.max())


def test_a_task_is_read_from_the_memory_once_its_rewards_were_seen(tmp_path):
    small = {**SMALL, "embedding_tasks": 60}
    settings = {"rl2": {"units": 16}, "num_inner_steps": 1, "iterations": 1, "horizon": 5}
    result = analysed(tmp_path, small, algo="rl2", env="machines:CountdownFamily", **settings)
    r2 = result.memory.r2["task"]
    # No state has read the last reward of its own episode, which for some is the only one.
    assert r2[0, 0] < 0.2 < 0.5 < r2[0, -1] < 0.9 < r2[1, 0]


def test_returns_of_an_agent_with_memory_are_those_of_an_evaluation(rl2):
    config = EvaluationConfig(tasks=4, rollouts=3, gradient_steps=2)
    expected = evaluate(rl2.config["run_dir"], config)
    np.testing.assert_array_equal(rl2.tasks, expected.tasks)
    np.testing.assert_array_equal(rl2.returns, expected.returns)


def test_memory_is_drawn_and_told(rl2, tmp_path):
    assert {path.stem for path in draw(rl2, tmp_path)} == {"memory", "memory_r2"}
    printed, value = analysis_table(rl2), rl2.memory.r2["task"][1, -1]
    first, last = rl2.returns.mean(0)[[0, 2]]
    assert f"return of the first episode {first:.2f}, of episode 3 {last:.2f}\n" in printed
    assert "left out: embedding (the rule looks at no task before its first episode)" in printed
    assert printed.split("\npredicted")[1].split()[:6] == ["episode", "1", "episode", "2", "episode", "3"]
    assert printed.split("\ntask ")[1].split()[1] == f"{value:.2f}"
    figure, _ = _draw_memory(rl2.memory)
    titles = [ax.get_title("left") for ax in figure.axes[:4]]
    assert titles[1] == f"end of episode 2, R\N{SUPERSCRIPT TWO} {value:.2f}"
    assert titles[3] == "along the trial, 4 tasks"
    assert _origin(rl2, "memory")[1].startswith("6 held-out tasks, episodes of each: 3 ")
    figure, reading = _draw_memory_r2(rl2.memory)
    (ax,) = figure.axes
    line, *boundaries = ax.get_lines()
    np.testing.assert_array_equal(line.get_ydata(), rl2.memory.r2["task"].ravel())
    length = rl2.memory.r2["task"].shape[1]
    assert [boundary.get_xdata()[0] for boundary in boundaries] == [length + 0.5, 2 * length + 0.5]
    assert "keeps its last state" in reading


def test_memories_of_modes_and_of_many_episodes_are_drawn(tmp_path):
    settings = {"algo": "rl2", "env": "navigation-bimodal", "horizon": 3, "rl2": {"units": 4}, "num_inner_steps": 8}
    result = analysed(tmp_path, **settings)
    figure, _ = _draw_memory(result.memory)
    titles = [ax.get_title("left") for ax in figure.axes]
    assert titles == [*(f"end of episode {k}" for k in (1, 4, 6, 9)), "along the trial, 4 tasks"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["mode 0", "mode 1"]
    names = [text.get_text() for text in _draw_memory_r2(result.memory)[0].legends[0].get_texts()]
    assert names == ["task[0]", "task[1]", "task[2]", "direction", "length"]
    assert "episode 5" in analysis_table(result)
    assert "episode 6" not in analysis_table(result)


def test_a_trial_of_one_episode_has_no_boundaries(tmp_path):
    result = analysed(tmp_path, algo="rl2", env="bandit", horizon=4, rl2={"units": 4}, num_inner_steps=0)
    figure, reading = _draw_memory_r2(result.memory)
    assert len(figure.axes[0].get_lines()) == 6  # Four arms, direction and length.
    assert "Dotted" not in reading
    assert f"return of the first episode {result.returns.mean():.2f}\n" in analysis_table(result)


def test_options_for_gradient_steps_say_that_they_do_not_apply(tmp_path):
    kept = {"iterations": 1, "checkpoint_every": 1, "keep_checkpoints": True}
    result = analysed(tmp_path, {**SMALL, "gamma_sweep": True}, algo="rl2", **kept)
    reason = "the agent has a memory and takes no gradient steps"
    assert {name for name, why in result.left_out.items() if why == reason} == {
        "conflict", "attenuation", "landscape", "representations", "movement", "freezing", "gamma_sweep",
        "through_training",
    }  # fmt: skip


# Attenuation by hand


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    return analysed(tmp_path_factory.mktemp("swept"), {**SMALL, "gamma_sweep": True, "oracle_return": -1.0})


def halves_of_a_sweep(result, scaled, gamma):
    """Returns after the inner loop in both halves, the initialisation scaled beforehand, [half, task]."""
    agent = load(result.config["run_dir"])
    meta = torch.where(agent.rule.policy.layout.members(scaled), gamma * agent.meta, agent.meta)
    episodes = replace(agent.settings.rollouts, rollouts_per_task=result.settings.rollouts)
    loss, found = agent.settings.inner.inner_loss, []
    with Workers(1) as workers:
        runner = Runner(agent.family, agent.rule, len(result.tasks), episodes, loss, workers, torch.device("cpu"))
        for half in (0, 1):
            stages, purpose = agent.rule.stages((1.0,)), Purpose.TEST_ROLLOUTS
            adapted, _ = runner.run(meta, result.tasks, stages, result.settings.seed, purpose, half)
            found.append(adapted.returns[:, -1].numpy())
        runner.close()
    return np.array(found)


def test_the_sweep_is_what_scaled_initialisations_return(swept):
    sweep = swept.gamma_sweep
    assert sweep.parts == ["layer 1", "layer 2", "network"]
    assert sweep.tensors == [["weight1", "bias1"], ["weight2", "bias2"], ["weight1", "bias1", "weight2", "bias2"]]
    returns = sweep.returns.per_task
    assert returns.shape == (4, 3, len(GAMMAS))
    for part, gamma in ((0, 0.4), (1, 0.0), (2, 1.2), (2, 1.0)):
        halves = halves_of_a_sweep(swept, sweep.tensors[part], gamma)
        np.testing.assert_allclose(returns[:, part, GAMMAS.index(gamma)], halves.mean(0))
        assert (halves[0] != halves[1]).all()
    one = returns[:, :, GAMMAS.index(1.0)]
    assert (one == sweep.unattenuated.per_task[:, None]).all()
    assert (returns[:, :, GAMMAS.index(0.4)] != one).all()


def test_the_best_gamma_is_scored_on_the_half_that_did_not_choose_it(swept):
    sweep = swept.gamma_sweep
    halves = np.array([halves_of_a_sweep(swept, sweep.tensors[1], gamma) for gamma in GAMMAS])  # [gamma, half, task]
    chosen = halves.argmax(0)
    np.testing.assert_array_equal(sweep.chosen[:, :, 1], np.array(GAMMAS)[chosen])
    score = np.mean([[halves[chosen[half, i], 1 - half, i] for i in range(4)] for half in (0, 1)], axis=0)
    np.testing.assert_allclose(sweep.best.per_task[:, 1], score)
    np.testing.assert_allclose(sweep.gain.per_task[:, 1], score - sweep.unattenuated.per_task)
    expected = mean_and_interval(sweep.gain.per_task)
    np.testing.assert_allclose(sweep.gain.mean, expected.mean)
    np.testing.assert_allclose(sweep.gain.interval, expected.half_width)


def test_the_gain_is_a_share_of_the_gap_from_standing_still_to_the_oracle(swept):
    gap, gain = swept.gamma_sweep.gap, swept.gamma_sweep.gain
    # From the origin, 20 steps at the goal's distance.
    assert gap.standstill == pytest.approx(-20 * np.hypot(*swept.tasks.T).mean())
    np.testing.assert_allclose(gap.share, gain.mean / (-1 - gap.standstill))
    np.testing.assert_allclose(gap.interval, gain.interval / (-1 - gap.standstill))


def test_the_sweep_is_told_and_drawn(swept, tmp_path):
    printed = analysis_table(swept)
    row = next(line for line in printed.splitlines() if line.startswith("network"))
    gain, gap = swept.gamma_sweep.gain, swept.gamma_sweep.gap
    assert row.split()[1:] == [
        f"{value:.2f}" for value in (
            swept.gamma_sweep.unattenuated.mean, swept.gamma_sweep.best.mean[2], gain.mean[2], gain.interval[2]
        )
    ] + [f"{gap.share[2]:.1%}"]  # fmt: skip
    assert "from standing still" in printed
    assert tmp_path / "gamma_sweep.png" in draw(swept, tmp_path)
    figure, reading = _draw_gamma_sweep(swept.gamma_sweep, "return")
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].get_lines()}
    np.testing.assert_array_equal(lines["network"], swept.gamma_sweep.returns.mean[2])
    assert f"network {gap.share[2]:.1%}" in reading
    assert swept.to_json()["gamma_sweep"].keys() == {
        "unit", "gammas", "parts", "tensors", "returns", "unattenuated", "best", "gain", "chosen", "gap"
    }  # fmt: skip


def test_a_task_that_diverges_leaves_no_gain_and_is_told(tmp_path, monkeypatch):
    """Means over the other tasks would look better than the agent is."""
    usual = _InnerLoops.run

    def diverging(*arguments, **options):
        adapted = usual(*arguments, **options)
        adapted.returns[0, -1] = torch.nan
        return adapted

    monkeypatch.setattr(_InnerLoops, "run", diverging)
    result = analysed(tmp_path, {**SMALL, "gamma_sweep": True, "oracle_return": -1.0})
    sweep, freezing = result.gamma_sweep, result.freezing
    for undefined in (sweep.returns.mean, sweep.gain.mean, sweep.gain.interval, freezing.returns.mean):
        assert np.isnan(undefined).all()
    assert np.isfinite(sweep.returns.per_task[1:]).all()
    assert analysis_table(result).count("-: the return of 1 task has diverged") == 2


@pytest.mark.slow
def test_the_sweeps_environment_steps_are_counted_and_directions_have_no_interval(tmp_path):
    plain = analysed(tmp_path, env="cheetah-dir", horizon=5)
    swept = analyze(tmp_path, AnalysisConfig(**SMALL, gamma_sweep=True, oracle_return=100.0))
    inner_loop = 4 * 3 * 5 * 2
    assert swept.env_steps - plain.env_steps == (2 * (3 * 8 + 1) - 1) * inner_loop + 4 * 5
    assert plain.gamma_sweep is None
    assert "not asked for" in plain.left_out["gamma_sweep"]
    assert swept.gamma_sweep.gain.interval is None
    assert swept.gamma_sweep.gap.interval is None
    assert swept.conflict.excess.interval is None
    assert tmp_path / "gamma_sweep.png" in draw(swept, tmp_path)
    np.testing.assert_array_equal(swept.returns, plain.returns)


@pytest.mark.parametrize("algo", quick(["anil", "meta-sgd", "mumomaml", "multi-maml", "context"], "mumomaml"))
def test_other_rules_are_swept(tmp_path, algo):
    small = {"tasks": 4, "rollouts": 2, "embedding_tasks": 4, "threads": 1, "gamma_sweep": True}
    result = analysed(tmp_path, small, algo=algo, env="navigation-modes", horizon=5)
    assert "gamma_sweep" not in result.left_out
    assert (np.ptp(result.gamma_sweep.returns.per_task, axis=2) > 0).any()


@pytest.mark.parametrize(
    ("algo", "reason"),
    [("l2f", "the rule attenuates its initialisation by itself"), ("oracle", "no gradient step changes the policy")],
)
def test_rules_without_a_sweep_say_why(tmp_path, algo, reason):
    result = analysed(tmp_path, {**SMALL, "gamma_sweep": True}, algo=algo)
    assert (result.gamma_sweep, result.left_out["gamma_sweep"]) == (None, reason)


@pytest.mark.parametrize(
    ("env", "oracle", "message"),
    [
        ("navigation", -500.0, r"oracle_return must exceed the return of standing still, -\d+\.\d\d, got -500"),
        ("bandit", 5.0, "bandit has no action for standing still, so leave out oracle_return"),
    ],
)
def test_an_oracle_that_makes_no_gap_is_refused(tmp_path, env, oracle, message):
    with pytest.raises(UserError, match=message):
        analysed(tmp_path, {**SMALL, "gamma_sweep": True, "oracle_return": oracle}, env=env)
    assert not (tmp_path / "analysis").exists()


def test_an_oracle_without_a_sweep_is_refused():
    with pytest.raises(UserError, match="oracle_return is used by gamma_sweep alone"):
        AnalysisConfig(oracle_return=1.0)
    with pytest.raises(UserError, match="oracle_return must be a finite number, got inf"):
        AnalysisConfig(oracle_return=math.inf, gamma_sweep=True)


# What figures and tables say


def test_gammas_that_hardly_differ_are_drawn_as_such(l2f):
    figure, reading = _draw_attenuation(l2f.attenuation, l2f.tensors, l2f.tasks)
    (limits,) = {ax.get_ylim() for ax in figure.axes}
    assert limits[1] - limits[0] >= 0.1 - 1e-12
    gamma = np.array(l2f.attenuation.gamma.per_task)[:, :-1]
    assert limits[0] <= gamma.min() <= gamma.max() <= limits[1]
    assert np.ptp(gamma[:, 0]) < 0.01
    assert "gamma is 1: log_std" in reading


def test_many_numbers_of_a_task_are_named_by_their_place_and_counted(l2f):
    tasks = np.zeros((4, 8))
    tasks[:, 2:] = np.random.default_rng(0).normal(size=(4, 6))
    figure, reading = _draw_attenuation(l2f.attenuation, l2f.tensors, tasks)
    assert {ax.get_xlabel() for ax in figure.axes} == {f"task[{index}]" for index in range(2, 6)}
    assert "The first 4 of the 6 numbers of a task that vary." in reading
    assert "numbers" not in _draw_attenuation(l2f.attenuation, l2f.tensors, l2f.tasks)[1]


@pytest.mark.parametrize(("small", "lines"), [({"tasks": 3}, 1), ({"tasks": 4}, 2)])
def test_the_angle_of_unrelated_gradients_is_one_line_if_as_many_are_compared(maml, tmp_path, small, lines):
    config = AnalysisConfig(**{**SMALL, **small}, output=tmp_path)
    result = analyze(maml.config["run_dir"], config)
    figure, _ = _draw_conflict(result.conflict, result.tensors)
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert sum(label.startswith("expected if unrelated") for label in labels) == lines == len(set(labels)) - 3


def test_one_outlying_task_does_not_move_what_is_told_of_the_landscape(maml):
    values, summary = maml.landscape.loss_change.per_task, maml.landscape.loss_change
    np.testing.assert_allclose(summary.median, np.median(values, axis=0))
    bold = _draw_landscape(maml.landscape)[0].axes[0].get_lines()[len(values)]
    np.testing.assert_allclose(bold.get_ydata(), [0, *summary.median])
    smoothness = over_tasks([1.0, 2.0, 2.0, 1000.0])
    outlying = replace(maml, landscape=replace(maml.landscape, smoothness=smoothness))
    assert "inner steps: median 2 (tasks: 1 to 1000)" in analysis_table(outlying)


def test_numbers_of_a_column_have_the_same_decimals():
    assert _column([0.5734, None, 0.00463, 0.0]) == ["0.5734", "-", "0.0046", "0.0000"]
    assert _column([439.8, 28.73]) == ["439.8", "28.7"]
    assert _column([-0.001, 3.14159], 2) == ["0.00", "3.14"]
    assert _column([0.0, None]) == ["0.000", "-"]


def test_captions_and_tables_call_the_algorithm_by_its_title(l2f):
    assert analysis_table(l2f).startswith("L2F on navigation: ")
    assert _origin(l2f, "conflict")[0].startswith("L2F on navigation, seed 0, ")


def test_captions_name_a_commit_as_other_figures_do(l2f):
    made = replace(l2f, metarl={**l2f.metarl, "commit": "0123456789ab-dirty"})
    assert _origin(made, "conflict")[1].endswith("commit 012345678-dirty")


def test_a_task_alone_in_its_mode_has_no_conflict(tmp_path):
    train(tiny(tmp_path, algo="multi-maml", env="navigation-bimodal", iterations=0, validate_every=0))
    family = load(tmp_path).family
    tasks = {seed: family.sample_tasks(2, stream(seed, Purpose.TEST_TASKS), "test") for seed in range(20)}
    for num_modes in (1, 2):
        seed = next(seed for seed, pair in tasks.items() if len(set(family.modes(pair))) == num_modes)
        result = analyze(tmp_path, AnalysisConfig(**{**SMALL, "tasks": 2}, seed=seed))
        assert (result.conflict is None) == ("conflict" in result.left_out) == (num_modes == 2)


# What is found


def test_nothing_moves_but_what_anil_adapts(tmp_path, maml):
    result = analysed(tmp_path, algo="anil")
    names = result.tensors
    for found, expected in ((result, {"weight2", "bias2", "log_std"}), (maml, set(names))):
        distances = found.movement.start.distance.min
        assert {name for name, distance in zip(names, distances, strict=True) if distance > 0} == expected
    assert result.representations.start.cka.min[0] == pytest.approx(1, abs=1e-12)
    assert maml.representations.start.cka.max[0] < 1 - 1e-9


def test_freezing_what_does_not_adapt_changes_nothing(tmp_path, maml):
    result = analysed(tmp_path, algo="anil")
    returns = np.array(result.freezing.returns.per_task)
    np.testing.assert_array_equal(returns[:, 1], returns[:, 0])
    other = np.array(maml.freezing.returns.per_task)
    assert (other[:, 1] != other[:, 0]).all()


def test_returns_with_frozen_layers_are_compared_with_those_without(maml):
    found = maml.freezing
    returns = np.array(found.returns.per_task)
    np.testing.assert_array_equal(returns[:, 0], np.array(maml.returns)[:, -1])
    np.testing.assert_allclose(found.difference, (returns - returns[:, :1]).mean(0))
    assert found.interval[0] == 0 < found.interval[1]
    assert found.frozen_layers == [0, 1, 2]


def test_with_every_layer_frozen_the_policies_stay_where_they_were():
    rule = PartialAdaptation(make_rule("maml", make_policy()), [])
    loop = run(rule, initial(rule))
    before, after = loop.replay(loop.meta)
    torch.testing.assert_close(before, after, rtol=0, atol=0)


def test_gamma_is_what_the_initialisation_was_scaled_by(l2f):
    gamma = np.array(l2f.attenuation.gamma.per_task)
    assert gamma.shape == (4, len(l2f.tensors))
    np.testing.assert_array_equal(gamma[:, -1], 1)
    np.testing.assert_allclose(gamma[:, :-1], 0.7, atol=0.25)
    before, attenuated = (part.norm[0] for part in (l2f.movement.start, l2f.movement.gradient_steps))
    assert attenuated / before == pytest.approx(gamma[:, 0].mean(), rel=1e-5)


def test_scaling_of_whole_layers_is_no_change_of_representation(l2f):
    # Without biases a ReLU network's representation only changes in size, which the distance tells and CKA does not.
    assert l2f.representations.start.cka.min[0] > 0.999
    moved = [part.distance.mean[0] for part in (l2f.movement.start, l2f.movement.gradient_steps)]
    assert moved[0] > 10 * moved[1]


@pytest.mark.parametrize("loss", ["ratio", "score", "dice"])
def test_landscape_is_that_of_the_runs_inner_loss(loss):
    rule = make_rule("maml", make_policy())
    loop = run(rule, initial(rule), loss=loss)
    with Workers(1) as workers:
        found = inspect(loop, workers).landscape
    before, after = (loop.supports[0].gradient(policies.detach()) for policies in loop.replay(loop.meta))
    whole = np.array(found.gradient_change.per_task)[:, list(found.fractions).index(1)]
    np.testing.assert_allclose(whole, (after - before).norm(dim=1), rtol=1e-9)


def test_landscape_is_measured_from_the_inner_steps_start(maml):
    found = maml.landscape
    change = np.array(found.loss_change.per_task)
    assert change.shape == (4, len(found.fractions))
    # Against its gradient a loss falls at first.
    assert (change[:, 0] < 0).all()
    assert (np.array(found.gradient_change.per_task) > 0).all()
    step = np.linalg.norm(maml.movement.start.distance.per_task, axis=1, keepdims=True)
    slopes = np.array(found.gradient_change.per_task) / (step * np.array(found.fractions))
    np.testing.assert_allclose(found.smoothness.per_task, slopes.max(1), rtol=1e-6)


def test_embedding_is_what_the_modulation_reads_off_one_trajectory(mumomaml):
    found = mumomaml.embedding
    features = np.array(found.seen["modulation"].features)
    assert features.shape == (6, 8)
    assert len(np.unique(features, axis=0)) == 6
    coordinates, shares = principal_components(features)
    np.testing.assert_allclose(found.seen["modulation"].coordinates, coordinates)
    np.testing.assert_allclose(found.seen["modulation"].variance_shares, shares)
    assert found.rollouts == 1
    np.testing.assert_array_equal(found.modes, found.tasks[:, 2])


def test_embedding_is_the_rules_own(mumomaml):
    agent, tasks = load(mumomaml.config["run_dir"]), np.array(mumomaml.embedding.tasks)
    with Workers(1) as workers:
        episodes, loss = replace(agent.settings.rollouts, rollouts_per_task=1), agent.settings.inner.inner_loss
        runner = Runner(agent.family, agent.rule, len(tasks), episodes, loss, workers, torch.device("cpu"))
        seed = mumomaml.settings.seed
        adapted, _ = runner.run(agent.meta, tasks, agent.rule.stages((1.0,)), seed, Purpose.TEST_ROLLOUTS, 0)
        runner.close()
    expected = agent.rule.embedding(agent.meta, adapted.loop.supports[0])
    np.testing.assert_allclose(mumomaml.embedding.seen["modulation"].features, expected.numpy(), atol=1e-6)


def test_tasks_and_returns_are_those_of_an_evaluation(maml):
    expected = evaluate(maml.config["run_dir"], EvaluationConfig(tasks=4, rollouts=3, gradient_steps=1))
    np.testing.assert_array_equal(maml.tasks, expected.tasks)
    np.testing.assert_array_equal(maml.returns, expected.returns)


def test_results_are_the_same_for_any_number_of_threads(maml, tmp_path):
    config = AnalysisConfig(**{**SMALL, "threads": 3}, output=tmp_path / "elsewhere")
    again = analyze(maml.config["run_dir"], config)
    assert (tmp_path / "elsewhere" / "analysis.json").is_file()
    for name in ("returns", "conflict", "landscape", "movement", "freezing", "env_steps"):
        assert again.to_json()[name] == maml.to_json()[name]
    other = analyze(maml.config["run_dir"], AnalysisConfig(**SMALL, seed=1, output=tmp_path / "other"))
    assert other.to_json()["conflict"] != maml.to_json()["conflict"]


def test_kept_checkpoints_show_the_course_of_training(tmp_path):
    settings = {"iterations": 2, "checkpoint_every": 1, "keep_checkpoints": True}
    result = analysed(tmp_path, algo="l2f", **settings)
    course = result.through_training
    assert [each.iteration for each in course] == [0, 1, 2]
    last = course[-1].conflict.between_tasks
    np.testing.assert_array_equal(last.mean, result.conflict.between_tasks.mean)
    assert (course[0].conflict.between_tasks.mean != last.mean).any()
    stored = result.to_json()["through_training"][-1]
    assert stored.keys() == {"iteration", "returns", *SECTIONS[:5]}
    assert "per_task" not in stored["conflict"]["between_tasks"]
    assert "through_training.png" in [path.name for path in draw(result, tmp_path)]
    assert "through_training" not in result.left_out


def test_the_course_of_training_has_the_analysed_checkpoint_and_another(tmp_path):
    settings = {"iterations": 2, "checkpoint_every": 1, "keep_checkpoints": True}
    whole = analysed(tmp_path, **settings)
    (tmp_path / "checkpoints" / "iteration2.safetensors").unlink()
    without = analyze(tmp_path, AnalysisConfig(**SMALL))
    assert without.to_json()["through_training"] == whole.to_json()["through_training"]
    for iteration in (0, 1):
        (tmp_path / "checkpoints" / f"iteration{iteration}.safetensors").unlink()
    alone = analyze(tmp_path, AnalysisConfig(**SMALL))
    assert alone.through_training is None
    assert "besides the analysed one" in alone.left_out["through_training"]


def test_a_damaged_kept_checkpoint_is_told_before_anything_is_computed(tmp_path, monkeypatch):
    train(tiny(tmp_path, iterations=1, validate_every=0, checkpoint_every=1, keep_checkpoints=True))
    (tmp_path / "checkpoints/iteration0.safetensors").write_bytes(b"damaged")
    monkeypatch.setattr(_InnerLoops, "run", lambda *_: pytest.fail("an inner loop was run"))
    with pytest.raises(UserError, match="iteration0"):
        analyze(tmp_path, AnalysisConfig(**SMALL))


def test_the_course_of_training_is_drawn_in_two_rows_with_whole_iterations(tmp_path):
    result = analysed(tmp_path, iterations=1, checkpoint_every=1, keep_checkpoints=True)
    figure, reading = _draw_training(result.through_training, result.tensors)
    assert [(ax.get_subplotspec().rowspan.start, ax.get_ylabel()) for ax in figure.axes] == [
        (0, "angle, radians"), (0, "angle, radians"), (1, "angle, radians"), (1, "effective beta-smoothness")
    ]  # fmt: skip
    assert all(float(tick).is_integer() for ax in figure.axes for tick in ax.get_xticks())
    assert "band" in reading


# The command, and what it refuses


@pytest.mark.slow
def test_command_prints_the_table_and_writes_the_figures(tmp_path, capsys):
    train(tiny(tmp_path / "run", iterations=1))
    options = ["--tasks", "3", "--rollouts", "2", "--threads", "1", "--gamma-sweep", "--oracle-return", "-1"]
    code = command.main([str(tmp_path / "run"), *options])
    printed = capsys.readouterr().out
    assert code == 0
    assert printed.startswith("MAML on navigation: 3 held-out tasks, 2 episodes, checkpoint last (iteration 1), seed 1")
    written = {path.name for path in (tmp_path / "run" / "analysis").iterdir()}
    pictures = {"conflict.png", "landscape.png", "representations.png", "freezing.png", "gamma_sweep.png"}
    assert written == {"analysis.json", *pictures}
    assert all(name in printed for name in pictures)


def test_an_analysis_of_the_best_checkpoint_replaces_none_of_the_last(tmp_path, capsys):
    train(tiny(tmp_path / "run", iterations=1, validate_every=1))
    for checkpoint in ("last", "best"):
        analyze(tmp_path / "run", AnalysisConfig(**{**SMALL, "checkpoint": checkpoint}))
    stored = [read_json(tmp_path / "run" / folder / "analysis.json") for folder in ("analysis", "analysis-best")]
    assert [content["checkpoint"] for content in stored] == ["last", "best"]


@pytest.mark.parametrize("runs", [[], ["one", "two"]])
def test_any_other_number_of_runs_than_one_is_refused(runs, capsys):
    assert command.main(runs) == 2
    assert f"analyze looks at one run at a time, got {len(runs)} run folders" in capsys.readouterr().err


def test_tsne_without_scikit_learn_is_refused_before_anything_is_computed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(UserError, match="pip install scikit-learn"):
        analysed(tmp_path, {**SMALL, "projection": "tsne"}, algo="mumomaml")
    assert not (tmp_path / "analysis").exists()


def test_tsne_brings_embeddings_to_two_dimensions(tmp_path):
    pytest.importorskip("sklearn")
    result = analysed(tmp_path, {**SMALL, "projection": "tsne"}, algo="mumomaml")
    assert np.array(result.embedding.seen["modulation"].coordinates).shape == (6, 2)
    assert result.embedding.seen["modulation"].variance_shares is None
    assert (tmp_path / "analysis" / "embedding.png") in draw(result, tmp_path / "analysis")


@pytest.mark.parametrize("features", [1, 3])
def test_tsne_takes_features_of_any_number_and_any_seed(features):
    pytest.importorskip("sklearn")
    values = np.random.default_rng(0).normal(size=(6, features))
    (one, _), (other, _) = (
        _projection(AnalysisConfig(projection="tsne", seed=seed))(values) for seed in (3, 2**32 + 3)
    )
    assert one.shape == (6, 2)
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["tasks", "rollouts", "embedding_tasks"])
def test_too_few_to_compare_are_refused(name):
    with pytest.raises(UserError, match=f"{name} must be at least 2, got 1"):
        AnalysisConfig(**{name: 1})


def test_a_folder_that_is_no_run_is_refused(tmp_path, capsys):
    assert command.main([str(tmp_path)]) == 2
    assert "is not the folder of a run" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotWritten, match=r"choose another output \(--output\)"):
        analysed(tmp_path / "run", {**SMALL, "output": tmp_path / "file" / "folder"})
