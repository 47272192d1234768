"""What a family reports beside the reward: the same from a native batch, from a loop and in rollouts."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from marks import native_batches
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.vec_env import VecMonitor

from metarl.common.errors import UserError
from metarl.envs import EpisodeBatch, OracleFamily, TaskFamily, check_task_family, get_family
from metarl.envs.checked import checked_episodes
from metarl.envs.looped import LoopedEpisodes
from metarl.envs.native import NativeEpisodes
from metarl.policies.action_map import ActionMap
from metarl.policies.mlp import MLPPolicy
from metarl.rollouts.sampler import Sampler
from metarl.sb3 import TaskEnv, TaskVecEnv

TERMS = {
    "navigation": ("reward_distance",),
    "cheetah-dir": ("reward_run", "reward_ctrl"),
    "ant-vel": ("reward_survive", "reward_task", "reward_ctrl"),
}
SLOTS = 3
FAMILIES = {  # Metrics and costs.
    "navigation": (("success", "distance"), ("distance",)),
    "cheetah-dir": (("x_velocity",), ()),
    "cheetah-vel": (("x_velocity", "velocity_error"), ("velocity_error",)),
    "ant-dir": (("x_velocity", "reward_without_survive"), ()),
    "ant-vel": (("x_velocity", "reward_without_survive", "velocity_error"), ("velocity_error",)),
    "ant-goal": (("reward_without_survive", "distance"), ("distance",)),
    "walker-params": (("x_velocity", "reward_without_survive"), ()),
    "humanoid-dir": (("reward_run", "reward_without_survive"), ()),
}


class Step(gym.Env):
    """A step of the task's size; it succeeds beyond 1 and ends beyond 2."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = spaces.Box(-1, 1, (1,), np.float32)
    size = 0.5

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.size = (options or {}).get("task", self.size)
        self.place = np.zeros(1)
        return self.place.copy(), {}

    def step(self, action):
        self.place = self.place + self.size + 0.01 * action
        info = {"success": bool(self.place[0] > 1), "TimeLimit": "text that is no term"}
        return self.place.copy(), 0.0, bool(self.place[0] > 2), False, info


class Steps(TaskFamily):
    horizon = 6
    task_space = spaces.Box(0.1, 1.0, (), np.float64)
    metrics = {"success": "any"}  # noqa: RUF012

    def make_env(self, render_mode=None):
        return Step()


def reporting(name, terms=None):
    """A built-in family that reports terms."""
    family = get_family(name)
    family.costs = ()
    family.metrics = dict.fromkeys(TERMS[name] if terms is None else terms, "sum")
    return family


def run(family, batch, steps):
    """Terms of each step, [step, slot], and flags after each, [step, slot]."""
    tasks = family.sample_tasks(SLOTS, np.random.default_rng(1))
    observations, flags = np.zeros((SLOTS, *family.observation_space.shape)), np.zeros((2, SLOTS), bool)
    batch.reset(tasks, [1, 2, 3], observations)
    family.action_space.seed(0)
    terms, ended = {name: [] for name in batch.terms}, []
    for _ in range(steps):
        actions = np.stack([family.action_space.sample() for _ in range(SLOTS)])
        batch.step(actions, observations, np.zeros(SLOTS), *flags)
        ended.append(flags.any(0))
        for name, values in batch.terms.items():
            terms[name].append(values.copy())
    return {name: np.array(values) for name, values in terms.items()}, np.array(ended)


@pytest.mark.parametrize("name", native_batches(TERMS))
@pytest.mark.parametrize("wrap", [lambda family: family, OracleFamily], ids=["plain", "oracle"])
def test_a_native_batch_and_a_loop_report_the_same_terms(name, wrap):
    family = wrap(reporting(name))
    native, horizon = family.make_episodes(SLOTS, 60), 60
    terms, ended = run(family, native, horizon + 2)
    looped, looped_ended = run(family, LoopedEpisodes(family, SLOTS, horizon), horizon + 2)
    assert tuple(terms) == tuple(looped) == TERMS[name]
    for term, values in terms.items():
        np.testing.assert_array_equal(values, looped[term])
        assert values[:10].any()
        assert not values[-1].any(), "a slot that had ended before reports 0"
    np.testing.assert_array_equal(ended, looped_ended)


@pytest.mark.parametrize("name", native_batches(TERMS))
def test_families_that_report_terms_pass_the_check(name):
    check_task_family(reporting(name))


def test_a_family_that_reports_terms_in_a_loop_passes_the_check():
    check_task_family(Steps())


@pytest.mark.parametrize("name", native_batches([*FAMILIES]))
def test_built_in_families_report_what_their_metrics_name(name):
    family = get_family(name)
    native = family.make_episodes(SLOTS, 20)
    assert isinstance(native, NativeEpisodes)
    terms, _ = run(family, native, 20)
    looped, _ = run(family, LoopedEpisodes(family, SLOTS, 20), 20)
    assert (tuple(terms), family.costs) == FAMILIES[name]
    for term, values in terms.items():
        np.testing.assert_array_equal(values, looped[term])


def test_navigation_succeeds_where_the_episode_terminates():
    env = get_family("navigation", end_distance=0.06).make_env()
    env.reset(options={"task": [0.2, 0.0]})
    steps = [env.step(np.array([0.05, 0.03])) for _ in range(3)]
    infos = [info for *_, info in steps]
    assert [info["distance"] for info in infos] == pytest.approx([0.15297, 0.11662, 0.10296], abs=1e-5)
    assert [info["success"] for info in infos] == [0, 0, 0]
    _, _, terminated, _, info = env.step(np.array([0.05, -0.08]))
    assert (terminated, info["success"]) == (True, 1)


@pytest.mark.parametrize("name", ["ant-vel", "cheetah-vel"])
def test_the_velocity_error_is_the_distance_from_the_target(name):
    env = get_family(name).make_env()
    env.reset(seed=0, options={"task": 1.3})
    *_, info = env.step(env.action_space.sample())
    assert info["velocity_error"] == abs(info["x_velocity"] - 1.3)
    if name == "ant-vel":
        assert info["reward_without_survive"] == info["reward_task"] + info["reward_ctrl"]


@pytest.mark.parametrize(
    ("metrics", "costs", "problem"),
    [
        (("success",), (), r"Steps\.metrics must be a dictionary such as {'success': 'any'}, got "),
        ({"success": "first"}, (), "'success' must be aggregated by one of any, last, mean, sum, max; got 'first'"),
        ({"return": "sum"}, (), "'return' is the name of something else; take another name"),
        ({"success": "any"}, ("sucess",), "there is no metric 'sucess'. Did you mean 'success'"),
    ],
)
def test_wrong_metrics_are_refused(metrics, costs, problem):
    family = Steps()
    family.metrics, family.costs = metrics, costs
    with pytest.raises(UserError, match=problem):
        family.check_metrics()
    with pytest.raises(UserError, match=problem):
        check_task_family(family)


@pytest.mark.parametrize(
    ("family", "known"), [(reporting("navigation", ("success",)), "reward_distance"), (Steps(), "success, TimeLimit")]
)
def test_a_term_that_no_step_reports_is_refused(family, known):
    family.metrics = {"wins": "any"}
    with pytest.raises(UserError, match=f"metrics name 'wins', which its steps do not report; they report {known}"):
        run(family, family.make_episodes(SLOTS, 5), 1)


def test_terms_reach_rollouts():
    family, tasks, rollouts = Steps(), np.array([0.22, 0.9]), 4
    action_map = ActionMap(family.action_space)
    policy = MLPPolicy(1, action_map.distribution, (4,))
    parameters = torch.stack([policy.initial(np.random.default_rng(0))] * 2)
    sampler = Sampler(family.make_episodes(2 * rollouts, family.horizon), action_map, 2, family.horizon)
    collected = sampler.collect(policy.begin, parameters, tasks, [np.random.default_rng(task) for task in range(2)])
    success = collected.terms["success"]
    assert success.shape == collected.rewards.shape
    after = torch.arange(1, 7) * torch.tensor([[0.22], [0.9]])  # Actions of 0.01 change no success here.
    expected = (after > 1)[:, None] * collected.mask
    assert torch.equal(success, expected)
    assert 0 < collected.mask.sum() < collected.mask.numel()


class Forgetful(Steps):
    """Its batch was not told the family's terms."""

    def make_episodes(self, num_envs, horizon):
        return LoopedEpisodes(Unreporting(), num_envs, horizon)


class Unreporting(Steps):
    metrics = {}  # noqa: RUF012


class Counted(Steps):
    metrics = {"success": "any", "place": "last", "sum": "sum"}  # noqa: RUF012

    def make_env(self, render_mode=None):
        return Places()


class Places(Step):
    """It also tells its place, twice."""

    def step(self, action):
        *results, info = super().step(action)
        place = float(self.place[0])
        return *results, {**info, "place": place, "sum": place}


class Always(Steps):
    task_space = spaces.Box(0.9, 1.0, (), np.float64)


class Duck:
    num_envs = 2


class Loose(Steps):
    """Its batch looks like one, and is none."""

    def make_episodes(self, num_envs, horizon):
        return Duck()


class Swapped(Steps):
    """Its batch reports something else under the name of the term."""

    class Batch(LoopedEpisodes):
        def step(self, *args):
            super().step(*args)
            self.terms["success"][...] = 0.5

    def make_episodes(self, num_envs, horizon):
        return self.Batch(self, num_envs, horizon)


@pytest.mark.parametrize(
    ("family", "problem"),
    [
        (Forgetful, r"make_episodes reports the terms \[\], and the family's metrics name \['success'\]"),
        (Loose, "make_episodes made a Duck, which is no batch of episodes; derive it from EpisodeBatch"),
        (Swapped, "make_episodes differs from a single environment in slot 0"),
    ],
)
def test_the_check_finds_wrong_batches(family, problem):
    with pytest.raises(UserError, match=problem):
        check_task_family(family())


def test_a_batch_that_is_none_is_refused_where_it_would_be_used():
    uses = (
        lambda: checked_episodes(Loose(), 2, 5),
        lambda: TaskVecEnv(Loose(), 2),
        lambda: OracleFamily(Loose()).make_episodes(2, 5),
    )
    for use in uses:
        with pytest.raises(UserError, match=r"made a Duck, which is no batch .*; derive it from EpisodeBatch\.$"):
            use()


def test_an_incomplete_batch_cannot_be_made():
    class Incomplete(EpisodeBatch):
        def reset(self, tasks, seeds, observations, slots=None):
            pass

    with pytest.raises(TypeError, match="abstract"):
        Incomplete(1, 1)


@pytest.mark.parametrize("horizon", [4, 6])
def test_stable_baselines3_is_told_the_metrics_at_the_end_of_an_episode(horizon):
    batch, tasks = TaskVecEnv(Counted(), 3, horizon=horizon), []
    batch.reset()
    told = []
    for _ in range(3 * horizon):
        tasks = [info["task"] for info in batch.reset_infos]
        _, _, ended, infos = batch.step(np.zeros((3, 1), np.float32))
        told += [(float(task), info) for task, info, end in zip(tasks, infos, ended, strict=True) if end]
        assert not any({"metrics", "is_success"} & set(info) for info, end in zip(infos, ended, strict=True) if not end)
    assert len(told) >= 9
    for task, info in told:
        steps = min(horizon, int(2 / task) + 1)
        expected = {"success": float(task * steps > 1), "place": task * steps, "sum": task * steps * (steps + 1) / 2}
        assert info["metrics"] == pytest.approx(expected)
        assert info["is_success"] is bool(expected["success"])
        single = TaskEnv(Counted(), tasks=[task], horizon=horizon)
        single.reset()
        *_, last = [single.step(np.zeros(1))[4] for _ in range(steps)]
        assert (last["metrics"], last["is_success"]) == (info["metrics"], info["is_success"])
    # The two episodes of a slot are told apart.
    assert len({info["metrics"]["place"] for _, info in told}) > 3


def test_eval_callback_sees_the_success_rate(tmp_path):
    model = PPO("MlpPolicy", VecMonitor(TaskVecEnv(Steps(), 2, horizon=4)), n_steps=4, batch_size=8, device="cpu")
    callback = EvalCallback(VecMonitor(TaskVecEnv(Always(), 2, horizon=4)), eval_freq=4, log_path=str(tmp_path))
    model.learn(8, callback)
    assert np.load(tmp_path / "evaluations.npz")["successes"].all()


def test_an_algorithm_of_stable_baselines3_is_told_the_terms():
    batch, single = TaskVecEnv(Steps(), 2, horizon=4), TaskEnv(Steps(), tasks=[0.6], horizon=4)
    batch.reset()
    tasks = [info["task"] for info in batch.reset_infos]
    for _ in range(3):
        *_, infos = batch.step(np.zeros((2, 1), np.float32))
    single.reset()
    assert [single.step(np.zeros(1))[4]["success"] for _ in range(3)] == [False, True, True]
    assert [info["success"] for info in infos] == [float(3 * task > 1) for task in tasks]


def test_a_number_of_a_metric_that_is_none_is_told_by_its_name():
    class Listing(Step):
        def step(self, action):
            *result, info = super().step(action)
            return *result, {**info, "success": np.zeros(2)}

    class Listed(Steps):
        def make_env(self, render_mode=None):
            return Listing()

    with pytest.raises(
        UserError, match=r"a step reports array\(\[0\., 0\.\]\) as 'success', .*; it must be one number"
    ):
        run(Listed(), LoopedEpisodes(Listed(), SLOTS, 6), 1)
