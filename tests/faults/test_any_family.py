"""Whatever an environment does: it is taken, or told with its place."""

import gymnasium as gym
import numpy as np
import pytest
from fault_table import fault
from hypothesis import example, given, settings
from hypothesis import strategies as st
from quick import quick
from tiny_runs import tiny

import metarl
from metarl import TaskFamily
from metarl.common.errors import UserError

NAN, INF = float("nan"), float("inf")
observations = st.sampled_from(
    [
        np.zeros(2),
        np.zeros(3),
        np.zeros((1, 2)),
        [0.0, 0.0],
        (1, 2),
        None,
        "text",
        3,
        np.array([NAN, 0]),
        {},
        np.ones(2) * 1e9,
    ]
)
rewards = st.sampled_from([0.0, 1, np.float32(2), NAN, INF, None, "1", [1.0], np.array([1.0]), np.array(1.0), 1j, True])
ends = st.sampled_from([False, True, np.bool_(False), None, 0, 1, "yes", np.array([False])])
infos = st.sampled_from([{}, {"a": 1}, None, [], "info"])
whole_steps = [None, 3, (), (1, 2, 3), [1, 2, 3, 4, 5]]
whole_resets = [None, np.zeros(2), (), (np.zeros(2),)]
SOUND = (np.zeros(2), {}), (np.zeros(2), 0.0, False, False, {})  # What reset and step may return.


@st.composite
def answers(draw):
    """What reset and step return: sound, but for one place or two."""
    first, then = map(list, SOUND)
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.integers(0, 6))
        kind = [observations, infos, observations, rewards, ends, ends, infos][place]
        (first if place < 2 else then)[place if place < 2 else place - 2] = draw(kind)
    return tuple(first), tuple(then)


pairs = (
    answers()
    | st.sampled_from([(answer, SOUND[1]) for answer in whole_resets])
    | st.sampled_from([(SOUND[0], answer) for answer in whole_steps])
)


class Anything(gym.Env):
    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, first, then):
        self.first, self.then = first, then

    def reset(self, *, seed=None, options=None):
        return self.first

    def step(self, action):
        return self.then


class AnyFamily(TaskFamily):
    horizon = 3
    task_space = gym.spaces.Box(-1.0, 1.0, (), np.float64)
    first = then = None

    def make_env(self, render_mode=None):
        return Anything(AnyFamily.first, AnyFamily.then)


@fault(
    "Environments",
    "anything at all returned by `reset` and `step`",
    "training takes what Gymnasium asks for and refuses the rest with its place",
)
@pytest.mark.parametrize("algo", quick(["maml", "rl2"], "maml"))
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@example(SOUND)
@given(pairs)
def test_training_takes_what_gymnasium_asks_for_and_refuses_the_rest(tmp_path_factory, algo, pair):
    AnyFamily.first, AnyFamily.then = pair
    folder = tmp_path_factory.mktemp("run") / "run"
    sizes = {"iterations": 1, "meta_batch_size": 2, "rollouts_per_task": 2 if algo == "maml" else 1}
    try:
        run = metarl.train(tiny(folder, algo=algo, env=AnyFamily, horizon=3, validate_every=0, **sizes))
    except UserError as error:
        told = str(error)
    else:
        told = "AnyFamily is fine"
        assert np.isfinite(run.agent.meta.numpy()).all()
        assert np.isfinite(run.progress["pre_adaptation_return"]).all()
    # What is sound is taken, and an unsound reset is told before any step.
    if pair is SOUND:
        assert told == "AnyFamily is fine"
    if not isinstance(pair[0], tuple) or not pair[0]:
        assert "in reset of test_any_family:AnyFamily" in told
    assert "AnyFamily" in told
