"""Every algorithm from the command line's point of view: it learns, goes on where it was stopped, and can be used."""

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from quick import quick
from tiny_runs import TINY, arguments, assert_same_run, final_parameters, numbers, tiny

import metarl
from metarl import (
    EvaluationConfig,
    L2FConfig,
    MAMLppConfig,
    MuMoMAMLConfig,
    ProMPConfig,
    SACConfig,
    TRPOConfig,
    UserError,
)
from metarl.commands.train import main
from metarl.config.algorithms import ALGORITHMS
from metarl.envs import get_family
from metarl.envs.navigation import NavigationFamily
from metarl.envs.oracle import TaskObservation
from metarl.reports.tables import evaluation_table
from metarl.runs.protocol import evaluate
from metarl.runs.training import train

GRADIENT = sorted(name for name, row in ALGORITHMS.items() if row.training == "meta" and not row.remembers)
META_TRAINED = sorted(name for name, algorithm in ALGORITHMS.items() if algorithm.training == "meta")
TWO_STEPS = {"algo": "mamlpp", "num_inner_steps": 2, "mamlpp": MAMLppConfig(2, 1)}
VARIANTS = {
    **{name: {"algo": name} for name in META_TRAINED if name != "pearl"},
    "pearl": {"algo": "pearl", "sac": SACConfig(updates=3)},
    **{f"{name}-attenuated": {"algo": name, "attenuate": True} for name in GRADIENT if name not in ("l2f", "maml")},
    "l2f-affine-filter": {"algo": "l2f", "l2f": L2FConfig(scope="filter", transform="affine")},
    "l2f-constant": {"algo": "l2f", "l2f": L2FConfig(conditioning="constant")},
    "mamlpp-annealing": TWO_STEPS,
    "pretrain": {"algo": "pretrain"},
    "oracle": {"algo": "oracle"},
    "l2f-gru": {"algo": "l2f", "l2f": L2FConfig(embedding="gru", trajectories=2)},
    "mumomaml-softmax": {"algo": "mumomaml", "mumomaml": MuMoMAMLConfig("softmax", 4, trajectories=2)},
    "dice": {"algo": "maml", "inner_loss": "dice"},
    "promp": {"algo": "maml", "meta_optimiser": "promp"},
}


@pytest.mark.parametrize(
    "settings", quick(VARIANTS, "anil-attenuated", "l2f", "maml", "mumomaml", "pearl", "promp", "rl2", "varibad")
)
def test_resumed_run_on_any_number_of_threads_is_an_uninterrupted_one(tmp_path, monkeypatch, settings):
    monkeypatch.setattr(NavigationFamily, "min_envs_per_shard", 1)
    settings = {**settings, "env": "navigation-bimodal"}
    train(tiny(tmp_path / "whole", iterations=3, threads=1, **settings))
    train(tiny(tmp_path / "parts", iterations=1, threads=3, **settings))
    train(tiny(tmp_path / "parts", iterations=3, threads=2, resume=True, **settings))
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("algo", quick(sorted(ALGORITHMS), "anil", "l2f", "mumomaml", "oracle", "pearl", "rl2"))
def test_a_run_can_be_evaluated_loaded_and_adapted(tmp_path, algo):
    settings = {"iterations": 1} if ALGORITHMS[algo].training != "none" else {"iterations": 0}
    train(tiny(tmp_path, env="navigation-bimodal", algo=algo, **settings))
    result = evaluate(tmp_path, EvaluationConfig(tasks=3, rollouts=2, gradient_steps=2))
    assert np.array(result.returns).shape == (3, 3)
    agent = metarl.load(tmp_path)
    env = gym.make("metarl/Navigation-v0", max_episode_steps=10)
    env.reset(seed=0, options={"task": [0.3, -0.2]})
    if ALGORITHMS[algo].sees_task:
        with pytest.raises(UserError, match=r"observations have 2 numbers; this agent was trained on .* with 5"):
            agent.adapt(env)
        return
    policy = agent.adapt(env, num_steps=1, num_rollouts=1 if ALGORITHMS[algo].remembers else 2, mode=1)
    if ALGORITHMS[algo].remembers:
        policy.start()
    assert env.action_space.contains(policy.predict(np.zeros(2)))
    assert len(policy.returns) == 2


def test_multi_maml_must_be_told_the_mode(tmp_path):
    train(tiny(tmp_path, env="navigation-bimodal", algo="multi-maml", iterations=0))
    env = gym.make("metarl/Navigation-v0", max_episode_steps=10)
    with pytest.raises(UserError, match="multi-maml must be told each task's mode, 0 to 1"):
        metarl.load(tmp_path).adapt(env, num_steps=1, num_rollouts=2)


def test_a_family_that_does_not_tell_modes_is_refused_by_multi_maml(tmp_path):
    train(tiny(tmp_path, env="navigation-bimodal", algo="multi-maml", iterations=0))
    with pytest.raises(UserError, match="multi-maml must be told each task's mode"):
        evaluate(tmp_path, EvaluationConfig(env="navigation", tasks=2, rollouts=2))


def test_oracle_sees_the_task_of_another_family_too(tmp_path):
    train(tiny(tmp_path, algo="oracle", iterations=0))
    result = evaluate(tmp_path, EvaluationConfig(env="navigation-c", tasks=2, rollouts=2, gradient_steps=1))
    assert np.array(result.returns).shape == (2, 2)


@pytest.mark.parametrize("algo", sorted(name for name, row in ALGORITHMS.items() if not row.adapts))
def test_what_never_adapts_makes_no_task_worse(algo, tmp_path):
    train(tiny(tmp_path, algo=algo, iterations=0))
    result = evaluate(tmp_path, EvaluationConfig(tasks=3, rollouts=2, gradient_steps=1))
    assert result.share_made_worse is None
    assert [line.split()[3] for line in evaluation_table(result).splitlines()[2:4]] == ["-", "-"]


class Dial(gym.Env):
    """Rewards are minus the size of the action, so that only the zero action gives 0."""

    observation_space = spaces.Box(-1, 1, (1,))

    def __init__(self, action_space):
        self.action_space = action_space

    def set_task(self, task):
        pass

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), -float(np.abs(action).sum()), False, False, {}


class DialFamily(metarl.TaskFamily):
    """Dials whose centre is not 0."""

    horizon = 5
    task_space = spaces.Box(-1, 1, ())
    actions = spaces.Box(np.array([-0.25, 0.0], np.float32), np.array([1.0, 0.5], np.float32))

    def make_env(self):
        return Dial(self.actions)


class WholeDialFamily(DialFamily):
    """With whole numbers as actions."""

    actions = spaces.Box(np.array([0, -3]), np.array([5, 1]), dtype=np.int64)


class NoZeroFamily(DialFamily):
    """Without a zero action."""

    actions = spaces.Box(1.0, 2.0, (1,))


@pytest.mark.parametrize("env", [DialFamily, WholeDialFamily])
def test_standstill_is_the_zero_action_wherever_the_centre_of_the_actions_is(tmp_path, env):
    train(tiny(tmp_path, env=env, algo="standstill", horizon=5, action_scale=0.5, iterations=0))
    result = evaluate(tmp_path, EvaluationConfig(tasks=2, rollouts=2, gradient_steps=1))
    assert result.references.standstill == 0
    np.testing.assert_allclose(result.returns, 0, atol=1e-4)  # The noise that the floor of the deviation leaves.


@pytest.mark.parametrize("env", ["navigation", "cheetah-dir", "ant-dir"])
def test_where_the_centre_of_the_actions_is_0_standstill_has_no_weights_but_0(tmp_path, env):
    rule = train(tiny(tmp_path, env=env, algo="standstill", iterations=0)).agent.rule
    *weights, _ = rule.policy.layout.views(rule.initial(np.random.default_rng(0))[None])
    assert not any(part.any() or part.signbit().any() for part in weights)


def test_standstill_is_refused_where_there_is_no_zero_action(tmp_path):
    with pytest.raises(UserError, match="standstill is the zero action, and the action space of this task family"):
        train(tiny(tmp_path / "run", env=NoZeroFamily, algo="standstill", horizon=5, iterations=0))
    assert not (tmp_path / "run").exists()


def test_oracle_knows_its_task_and_never_adapts(tmp_path):
    run = train(tiny(tmp_path, algo="oracle", iterations=0))
    task = [0.3, -0.2]
    env = TaskObservation(gym.make("metarl/Navigation-v0", max_episode_steps=10), get_family("navigation"))
    env.reset(seed=0, options={"task": task})
    adapted = run.agent.adapt(env, num_steps=2, num_rollouts=2)
    observation = np.array([0.1, 0.2, *task])
    expected = run.agent.rule.policy.outputs(run.agent.meta[None], torch.tensor(observation).float()[None, None])
    np.testing.assert_allclose(adapted.predict(observation), 0.1 * expected[0, 0].clamp(-1, 1), rtol=1e-5)


def test_mamlpp_trained_without_inner_steps_never_adapts(tmp_path):
    train(tiny(tmp_path, algo="mamlpp", num_inner_steps=0, iterations=1))
    result = evaluate(tmp_path, EvaluationConfig(tasks=2, rollouts=2, gradient_steps=2))
    assert np.array(result.returns).shape == (2, 3)


def test_a_run_on_top_of_which_l2f_is_goes_on_by_its_options_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--algo", "anil", "--attenuate", *arguments(TINY)]
    for more in (["--iterations", "1"], ["--iterations", "2", "--resume"]):
        assert main([*options, *more]) == 0
    assert len(numbers(tmp_path / "runs/navigation-anil-attenuated-seed0")) == 2


@pytest.mark.parametrize("algo", quick(GRADIENT, "l2f"))
def test_agent_learns_to_navigate(tmp_path, algo):
    progress = train(_learning(tmp_path, algo=algo)).progress
    before, after = (progress[f"{when}_adaptation_return"] for when in ("pre", "post"))
    assert after[-3:].mean() > before[-3:].mean() + 5
    assert after[-3:].mean() > after[0] + 5


@pytest.mark.slow
def test_promp_learns_to_navigate(tmp_path):
    run = train(_learning(tmp_path, algo="maml", meta_optimiser="promp", promp=ProMPConfig(lr=0.01)))
    after = run.progress["post_adaptation_return"]
    assert after[-3:].mean() > after[0] + 5


def _learning(folder: Path, **settings: object) -> metarl.Config:
    if "promp" not in settings:
        sampled = TRPOConfig(max_kl=0.03, cg_iterations=6, fisher_fraction=0.1, hessian_fraction=0.25)
        settings = {**settings, "trpo": sampled}
    return tiny(
        folder,
        env="navigation-bimodal" if settings["algo"] == "multi-maml" else "navigation",
        iterations=10,
        meta_batch_size=20,
        rollouts_per_task=10,
        horizon=50,
        hidden_sizes=(32, 32),
        validate_every=0,
        **settings,
    )


def test_pretraining_is_maml_without_inner_steps_whose_evaluation_takes_steps(tmp_path):
    pretrained = train(tiny(tmp_path / "pretrain", algo="pretrain", num_inner_steps=2))
    train(tiny(tmp_path / "none", algo="maml", num_inner_steps=0))
    train(tiny(tmp_path / "maml", algo="maml", num_inner_steps=2))
    none, maml = (final_parameters(tmp_path / name) for name in ("none", "maml"))
    np.testing.assert_array_equal(final_parameters(pretrained.path), none)
    assert (none != maml).any()
    rows = numbers(pretrained.path)
    assert [int(row["env_steps"]) for row in rows] == [4 * 4 * 20, 2 * 4 * 4 * 20]
    assert "outcome" in rows[0]
    assert not {"post_adaptation_return", "post_adaptation_return_std", "seconds_ppo"} & rows[0].keys()
    assert rows[1]["validation_pre_adaptation_return"] != rows[1]["validation_post_adaptation_return"]
    result = evaluate(pretrained.path, EvaluationConfig(tasks=3, rollouts=2, gradient_steps=3))
    assert result.step_scales == (1.0, 1.0, 0.5)
    assert (result.returns[:, 0] != result.returns[:, 1]).any()
    assert evaluation_table(result).startswith("pretrained (TRPO) on navigation")


def test_oracles_policy_reads_its_task_and_moves(tmp_path):
    run = train(tiny(tmp_path, algo="oracle", iterations=2))
    start = train(tiny(tmp_path / "start", algo="oracle", iterations=0))
    weights = [r.agent.rule.policy.layout.views(r.agent.meta[None])[0][0] for r in (start, run)]
    assert weights[0].shape == (16, 4)
    assert (weights[0][:, 2:] != weights[1][:, 2:]).any()
    assert all(outcome.startswith("accepted") for outcome in run.progress["outcome"])


def test_unadapted_layers_are_left_alone_at_test_time(tmp_path):
    """Freezing everything but one bias costs gains; freezing nothing is the plain evaluation."""
    train(tiny(tmp_path, iterations=2, num_inner_steps=1))
    config = {"tasks": 4, "rollouts": 4, "gradient_steps": 2}
    plain = evaluate(tmp_path, EvaluationConfig(**config))
    names = ("weight1", "bias1", "weight2", "bias2", "log_std")
    everything = evaluate(tmp_path, EvaluationConfig(**config, adapted_layers=names))
    little = evaluate(tmp_path, EvaluationConfig(**config, adapted_layers=("bias1",)))
    np.testing.assert_array_equal(everything.returns, plain.returns)
    np.testing.assert_array_equal(little.returns[:, 0], plain.returns[:, 0])
    assert (little.returns[:, 1] != plain.returns[:, 1]).any()
    assert little.adapted_layers == ("bias1",)
    assert "MAML on navigation, adapting bias1 alone: " in evaluation_table(little)
    assert "alone" not in evaluation_table(plain)
    assert (tmp_path / "evaluation-adapting-bias1.json").is_file()


def test_step_sizes_of_an_evaluation_can_be_chosen(tmp_path):
    """The last factor holds for later steps; the steps before a factor that differs are the same."""
    run = train(tiny(tmp_path, iterations=1))
    config = {"tasks": 3, "rollouts": 2, "gradient_steps": 3}
    usual = evaluate(tmp_path, EvaluationConfig(**config))
    same = evaluate(tmp_path, EvaluationConfig(**config, step_scales=usual.step_scales))
    shorter = evaluate(tmp_path, EvaluationConfig(**config, step_scales=(1, 0.25)))
    np.testing.assert_array_equal(same.returns, usual.returns)
    assert shorter.step_scales == (1.0, 0.25, 0.25)
    np.testing.assert_array_equal(shorter.returns[:, :2], usual.returns[:, :2])
    assert (shorter.returns[:, 2] != usual.returns[:, 2]).any()
    assert "MAML on navigation, step sizes times 1 0.25 0.25: " in evaluation_table(shorter)
    assert "times" not in evaluation_table(usual)
    assert (tmp_path / "evaluation-scales-1-0.25.json").is_file()
    env = run.agent.family.make_env()
    first, half = (run.agent.adapt(env, 2, step_scales=scales).parameters for scales in ((), (1, 0.5)))
    assert torch.equal(first, half)
    assert not torch.equal(first, run.agent.adapt(env, 2, step_scales=[1, 0.25]).parameters)
    with pytest.raises(UserError, match="step_scales"):
        run.agent.adapt(env, 2, step_scales=[1, 0])
    with pytest.raises(UserError, match="step_scales has 3 factors for 2 steps"):
        run.agent.adapt(env, 2, step_scales=[1, 1, 1])


@pytest.mark.parametrize("algo", ["rl2", "oracle"])
def test_step_sizes_of_an_agent_without_gradient_steps_cannot_be_chosen(tmp_path, algo):
    train(tiny(tmp_path, algo=algo, iterations=1))
    with pytest.raises(UserError, match=f"step_scales would do nothing: {algo} takes no gradient steps"):
        evaluate(tmp_path, EvaluationConfig(tasks=2, rollouts=2, step_scales=(1, 0.5)))


def test_evaluation_tells_the_return_of_the_modulated_policy(tmp_path):
    config = EvaluationConfig(tasks=3, rollouts=2, gradient_steps=1)
    for algo, measured in (("mumomaml", True), ("maml", False)):
        progress = train(tiny(tmp_path / algo, algo=algo, iterations=1)).progress
        result = evaluate(tmp_path / algo, config)
        assert ("modulated_return" in progress) == measured
        assert (result.modulated is not None) == measured
        assert ("modulated, before the first gradient step: -" in evaluation_table(result)) == measured


def test_layers_that_the_agent_never_adapts_are_refused_at_test_time(tmp_path):
    train(tiny(tmp_path, algo="anil", iterations=0))
    with pytest.raises(
        UserError, match="adapted_layers names no tensor that this agent adapts; it adapts weight2, bias2, log_std"
    ):
        evaluate(tmp_path, EvaluationConfig(adapted_layers=("weight1",)))


def test_layers_of_an_agent_with_memory_cannot_be_frozen_at_test_time(tmp_path):
    run = train(tiny(tmp_path, algo="rl2", iterations=0))
    with pytest.raises(UserError, match="adapted_layers would do nothing: rl2 takes no gradient steps"):
        evaluate(tmp_path, EvaluationConfig(adapted_layers=tuple(run.agent.rule.adapted)))


def test_environment_steps_of_query_rollouts_are_counted(tmp_path):
    settings = {"env": "cheetah-dir", "horizon": 5, "validate_every": 0, "iterations": 3}
    train(tiny(tmp_path / "mamlpp", **settings, **TWO_STEPS))
    # Two supports and two queries at first; from the third iteration on the last query alone.
    steps = np.diff([0, *(int(row["env_steps"]) for row in numbers(tmp_path / "mamlpp"))])
    assert steps.tolist() == [4 * 80, 4 * 80, 3 * 80]
    for trajectories in (1, 3):
        run = tmp_path / f"mumomaml{trajectories}"
        train(tiny(run, **settings, algo="mumomaml", mumomaml={"trajectories": trajectories}))
        steps = np.diff([0, *(int(row["env_steps"]) for row in numbers(run))])
        assert steps.tolist() == [(trajectories + 4 + 4) * 4 * 5] * 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"algo": "random", "iterations": 3}, "random is not trained: iterations must be 0 with it, got 3"),
        (
            {"algo": "pretrain", "meta_optimiser": "promp"},
            "pretrain is trained by trpo: leave out meta_optimiser, or choose baseline.trainer ppo",
        ),
        (
            {"algo": "oracle", "attenuate": True},
            "attenuate needs an algorithm that is meta-trained; oracle is a baseline.",
        ),
        ({"algo": "maml", "adapted_layers": ("bias1",)}, "adapted_layers would do nothing: it is for algo anil"),
        ({"algo": "maml", "l2f": L2FConfig(scope="filter")}, "l2f would do nothing: it is for algo l2f, or attenuate"),
        ({"algo": "anil", "mamlpp": MAMLppConfig(1, 1)}, "mamlpp would do nothing: it is for algo mamlpp"),
        ({"algo": "maml", "promp": ProMPConfig(lr=0.1)}, "promp would do nothing: it is for meta_optimiser promp"),
        ({"algo": "maml", "promp": {"lr": 0}}, "promp.lr must be greater than 0, got 0"),
        ({"algo": "anil", "attenuate": True, "inner_loss": "score"}, "the score loss is wrong for the unattenuated"),
        ({"meta_optimiser": "promp", "inner_loss": "score"}, "the score loss is wrong from ProMP's second epoch on"),
        (
            {"algo": "l2f", "num_inner_steps": 0},
            "num_inner_steps must be at least 1 with l2f, got 0: without a gradient step nothing would train the "
            "attenuation.",
        ),
        ({"algo": "mumomaml", "num_inner_steps": 0}, "got 0: .* nothing would train the modulation."),
        (
            {"algo": "mumomaml", "mumomaml": {"embedding_size": 0}},
            "embedding_size must be at least 1, got 0",
        ),
        ({"algo": "cavia", "cavia": {"step_size": 0}}, "cavia.step_size must be greater than 0, got 0"),
        ({"algo": "cavia", "context_size": 3}, "context_size would do nothing: it is for algo context"),
        ({"algo": "mumomaml", "mumomaml": {"trajectories": 0}}, "mumomaml.trajectories must be at least 1, got 0"),
        ({"algo": "mamlpp", "mamlpp": {"first_order_iterations": -1}}, "must be at least 0, got -1"),
        ({"algo": "anli"}, r"unknown algorithm 'anli'\. Did you mean 'anil'"),
    ],
)
def test_impossible_settings_are_refused(tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        tiny(tmp_path, **settings)


def test_multi_maml_without_modes_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(
        UserError, match="multi-maml needs a task family with several modes, such as navigation-bimodal"
    ):
        train(tiny(tmp_path / "run", algo="multi-maml"))
    assert not (tmp_path / "run").exists()
