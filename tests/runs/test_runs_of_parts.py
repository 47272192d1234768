"""Whole runs on families whose actions, observations and tasks have several parts, or are whole numbers."""

import json

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from machines import Countdown, Lever, Machine, Switches
from quick import quick
from tiny_runs import assert_same_run, numbers, tiny

from metarl import EvaluationConfig, UserError, analyze, evaluate, load, load_policy, plot, train
from metarl.common.strict_json import plain
from metarl.config.measuring import AnalysisConfig
from metarl.store.runs import read_run

FAMILIES = {"MachineFamily": Machine, "SwitchesFamily": Switches, "LeverFamily": Lever}
SMALL = {"tasks": 4, "rollouts": 2, "gradient_steps": 1}


def small(folder, family, **settings):
    return tiny(folder, env=f"machines:{family}", **{"horizon": 5, **settings})


@pytest.fixture(scope="module", params=FAMILIES)
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    train(small(folder, request.param, algo="l2f"))
    return request.param, folder


def test_an_agent_adapts_to_an_environment_and_acts_in_it(run):
    name, folder = run
    env = FAMILIES[name]()
    policy = load(folder).adapt(env, num_steps=1, num_rollouts=2)
    observation, _ = env.reset(seed=0)
    assert policy.predict(observation) in env.action_space
    for seed in range(3):
        action = policy.predict(observation, deterministic=False, rng=np.random.default_rng(seed))
        assert action in env.action_space
        env.step(action)


def test_an_evaluation_is_written_and_read_back_and_is_a_task_file(run):
    name, folder = run
    result = evaluate(folder, EvaluationConfig(**SMALL))
    read = read_run(folder).evaluated()
    assert result.tasks.shape[0] == len(read.tasks) == 4
    assert read.to_json() == result.to_json()
    assert result.finite == read.finite == (name == "LeverFamily")
    assert (result.interval is None) == (name == "LeverFamily")
    again = evaluate(folder, EvaluationConfig(**SMALL, task_file=folder / "evaluation.json"))
    assert again.to_json() == result.to_json()
    assert all(task in load(folder).family.task_space for task in again.tasks)


def test_figures_and_analyses_are_made(run, tmp_path):
    _, folder = run
    evaluate(folder, EvaluationConfig(**SMALL))
    path = plot([folder], tmp_path / "curve.png")
    result = analyze(folder, AnalysisConfig(tasks=4, rollouts=2, embedding_tasks=4, threads=1))
    assert path.exists()
    assert len(plain(result.tasks)) == 4


@pytest.mark.parametrize("algo", quick(["maml", "mumomaml", "mamlpp", "rl2", "oracle", "pretrain"], "mumomaml", "rl2"))
def test_other_algorithms_train_and_are_evaluated(algo, tmp_path):
    train(small(tmp_path, "MachineFamily", algo=algo, iterations=1))
    assert np.isfinite(evaluate(tmp_path, EvaluationConfig(**SMALL)).returns).all()


class OtherOrder(gymnasium.ObservationWrapper):
    """The same observations, in a space whose parts stand in the other order; Gymnasium takes the spaces for equal."""

    def __init__(self, env):
        super().__init__(env)
        self.observation_space = spaces.Dict(list(env.observation_space.items())[::-1])

    def observation(self, observation):
        return observation


def test_an_agent_adapts_to_parts_in_another_order_and_acts_on_them_after_loading(tmp_path):
    agent = train(small(tmp_path / "run", "MachineFamily", iterations=1)).agent
    observation, _ = Machine().reset(seed=0)
    actions = []
    for env in (Machine(), OtherOrder(Machine())):
        env.reset(seed=0, options={"task": Machine().task})
        policy = agent.adapt(env, num_rollouts=2, horizon=3)
        policy.save(tmp_path / "policy")
        for each in (policy, load_policy(tmp_path / "policy")):
            rng = np.random.default_rng(0)
            actions.append([each.predict(observation, deterministic=False, rng=rng).tolist() for _ in range(20)])
    assert len({str(of_one) for of_one in actions}) == 1


@pytest.mark.parametrize(
    "family", quick(["MachineFamily", "SwitchesFamily", "LeverFamily", "CountdownFamily"], "MachineFamily")
)
def test_an_agent_with_memory_is_trained_measured_and_deployed_on_parts(family, tmp_path):
    train(small(tmp_path, family, algo="rl2", rl2={"units": 4}))
    assert np.isfinite(evaluate(tmp_path, EvaluationConfig(**SMALL)).returns).all()
    assert analyze(tmp_path, AnalysisConfig(tasks=4, rollouts=2, embedding_tasks=4, threads=1)).memory is not None
    env = {**FAMILIES, "CountdownFamily": Countdown}[family]()
    policy = load(tmp_path).adapt(env, num_steps=1)
    policy.start()
    observation, _ = env.reset(seed=0)
    action = policy.predict(observation)
    assert action in env.action_space
    policy.finish(env.step(action)[1])


def test_other_networks_train(tmp_path):
    train(small(tmp_path, "MachineFamily", iterations=1, policy_body="problems:make_body"))
    assert len(numbers(tmp_path)) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "algo"), [("SwitchesFamily", "maml"), ("SwitchesFamily", "rl2"), ("CountdownFamily", "rl2")]
)
def test_a_resumed_run_is_bit_for_bit_an_uninterrupted_one(family, algo, tmp_path):
    train(small(tmp_path / "whole", family, algo=algo))
    train(small(tmp_path / "parts", family, algo=algo, iterations=1))
    train(small(tmp_path / "parts", family, algo=algo, resume=True))
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_adaptation_sets_the_switches(tmp_path):
    train(small(tmp_path, "SwitchesFamily", iterations=0, inner_lr=20.0, rollouts_per_task=40))
    before, after = evaluate(tmp_path, EvaluationConfig(tasks=10, rollouts=40, gradient_steps=1)).mean
    assert before == pytest.approx(2.5, abs=0.2)
    assert after > before + 0.5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            [{"target": [1, 0]}],
            r"task 0 of .* is wrong: the task must be a dictionary with the keys 'target', 'weights'",
        ),
        (
            [{"target": [1.5, 0], "weights": [1, 0.2]}],
            r"the task\['target'\] must hold whole numbers of type int64, got",
        ),
        ([{"target": [1, 0], "weights": [1]}], r"the task\['weights'\] must be a tuple of 2 parts, got \[1\]"),
        ([{"target": [1, 0], "weights": [1, 9]}], r"is no task of machines:MachineFamily"),
        (
            {"target": [1, 0]},
            r"holds no tasks; for machines:MachineFamily it must be JSON such as \{\"tasks\": \[\{\"target\"",
        ),
    ],
)
def test_a_task_file_that_cannot_be_used_is_told(tmp_path, content, message):
    train(small(tmp_path / "run", "MachineFamily", iterations=0))
    (tmp_path / "tasks.json").write_text(json.dumps({"tasks": content}))
    with pytest.raises(UserError, match=message):
        evaluate(tmp_path / "run", EvaluationConfig(**SMALL, task_file=tmp_path / "tasks.json"))


def test_other_choices_than_the_agents_are_told(tmp_path):
    train(small(tmp_path, "MachineFamily", iterations=0))
    env = Machine()
    env.action_space = spaces.MultiDiscrete([2, 3])
    with pytest.raises(
        UserError, match=r"actions are MultiDiscrete\(\[2 3\]\); this agent was trained with MultiDiscrete"
    ):
        load(tmp_path).adapt(env)
