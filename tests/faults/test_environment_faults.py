"""Faults of environments in a whole training: what is told, what is kept, and how the process ends."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import nullcontext
from functools import partial

import gymnasium
import numpy as np
import pytest
from fault_table import fault
from faulty import FaultyFamily
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from quick import quick
from tiny_runs import ROOT, final_parameters, numbers, stored_progress, tiny

import metarl
from examples.cartpole_family import CartPoleFamily
from metarl.commands import train as command
from metarl.common.errors import Diverged, Terminated, UserError, blaming
from metarl.config.measuring import EvaluationConfig
from metarl.envs.checked import checked_episodes
from metarl.envs.single import require_whole_episodes
from metarl.inner.runner import make_runner
from metarl.policies.action_map import ActionMap
from metarl.reports.tables import evaluation_table
from metarl.runs.training import Trainer

ENV = "faulty:FaultyFamily"
WHERE = "Environments"
seldom = partial(tiny, env=ENV, horizon=6, iterations=40, validate_every=0, checkpoint_every=1)


def rare(run_dir, name, **settings):
    """A run in which a fault happens in some iteration after the first."""
    return seldom(run_dir, env_kwargs={"fault": name, "chance": 0.01}, **settings)


def assert_iterations_are_kept(run_dir):
    """Returns the number of finished iterations; the checkpoint holds them all, and the run can be loaded."""
    metarl.get_family(ENV)  # To name it is the word for it.
    done = len(numbers(run_dir))
    assert 0 < done < 40
    assert stored_progress(run_dir).iteration == done
    assert np.isfinite(final_parameters(run_dir)).all()
    return done


@fault(
    WHERE,
    "an observation or reward that is not a number, infinite, or beyond single precision; a simulation that diverges",
    "the run stops with its checkpoint; one sentence names family, task, rollout, step, seed and number",
)
@pytest.mark.parametrize(
    "name",
    quick(
        ["nan observation", "infinite observation", "nan reward", "huge reward", "reset", "broken"],
        "nan observation",
        "huge reward",
        "broken",
    ),
)
def test_a_bad_number_stops_the_run(name, tmp_path):
    with pytest.raises(
        UserError,
        match=r"^the (observation \(entry \d\)|reward|arm) (is -?(nan|inf, or .*)|has left its base) in faulty:FaultyF",
    ):
        metarl.train(rare(tmp_path, name))
    assert_iterations_are_kept(tmp_path)


def test_a_bad_number_stops_the_run_of_an_agent_with_memory(tmp_path):
    settings = {"algo": "rl2", "env_kwargs": {"fault": "nan reward", "chance": 0.05}}
    told = r"^the reward is nan in faulty:FaultyFamily, task 1, r.*; mend the environment\. "  # No advice to drop it.
    with pytest.raises(UserError, match=told):
        metarl.train(seldom(tmp_path, **settings))
    assert_iterations_are_kept(tmp_path)


@fault(WHERE, "the same with `--on-bad-episode drop`", "the episode is left out and counted in `dropped_episodes`")
def test_dropped_episodes_are_left_out_and_counted(tmp_path):
    run = metarl.train(rare(tmp_path, "nan observation", on_bad_episode="drop"))
    dropped = [int(row["dropped_episodes"]) for row in numbers(tmp_path)]
    assert len(dropped) == 40
    assert 0 < sum(dropped) < 20
    assert f"{sum(dropped)} episodes were dropped" in run.remarks()
    assert all(row["outcome"] != "non-finite" for row in numbers(tmp_path))
    assert np.isfinite(final_parameters(tmp_path)).all()


@fault(
    WHERE, "more than a tenth of an iteration's episodes dropped", "the run stops with its checkpoint and says how many"
)
def test_too_many_dropped_episodes_stop_the_run(tmp_path):
    config = seldom(tmp_path, env_kwargs={"chance": 0.3}, on_bad_episode="drop")
    with pytest.raises(
        UserError, match=r"\d+ of 32 episodes had to be dropped, more than 10%; .* one of them the obse"
    ):
        metarl.train(config)


def test_a_rule_that_reads_a_single_episode_cannot_go_on_without_it(tmp_path):
    with pytest.raises(UserError, match="on_bad_episode drop would leave mumomaml nothing to read: a stage of it"):
        metarl.train(seldom(tmp_path, algo="mumomaml", on_bad_episode="drop"))


@fault(WHERE, "every episode of a task dropped", "the run stops and says so")
def test_a_task_without_episodes_stops_the_run(tmp_path):
    with pytest.raises(UserError, match="all episodes of a task were dropped; in one of them the observation"):
        metarl.train(seldom(tmp_path, on_bad_episode="drop"))


@fault(
    WHERE,
    "any fault while training from the command line",
    "exit code 1; the iteration is named, the last one that is kept, and the command that continues from it",
)
@pytest.mark.parametrize("name", ["nan observation", "4 values"])
def test_a_stopped_run_says_what_is_kept_and_how_to_go_on(name, tmp_path, capsys):
    command_line = ["--env", ENV, "--env-kwargs", "fault", name, "chance", "0.01", *_options(tmp_path)]
    assert command.main(command_line) == 1
    shown = capsys.readouterr().err.splitlines()
    done = assert_iterations_are_kept(tmp_path)
    resume = f"python -m metarl.train --run-dir {tmp_path} --resume --trust {ENV}"
    assert shown[-2] == f"stopped; {tmp_path} holds the run up to iteration {done}; to continue: {resume}"
    assert shown[-1].startswith("error: ")
    assert shown[-1].endswith(f" It happened in iteration {done + 1}.")


@fault(WHERE, "any fault while validating", "the same; the validation is named instead of the iteration")
@pytest.mark.parametrize("name", ["nan observation", "raises"])
def test_a_fault_while_validating_is_called_one_of_validation(name, tmp_path, monkeypatch):
    kwargs = {"fault": name, "chance": 0.0}
    validate = Trainer._validate

    def fail(self, *arguments):
        if len(numbers(tmp_path)) == 3:
            self.family.chance = 1.0
            self._validator = make_runner(
                self.family, self._rule, self._num_validation_tasks, self._settings, self._workers, self.device
            )
        return validate(self, *arguments)

    monkeypatch.setattr(Trainer, "_validate", fail)
    with pytest.raises((UserError, KeyError)) as caught:
        metarl.train(seldom(tmp_path, env_kwargs=kwargs, validate_every=2))
    told = str(caught.value) if name == "nan observation" else caught.value.__notes__[-1]
    assert told.endswith("It happened in the validation after iteration 4.")
    assert assert_iterations_are_kept(tmp_path) == 3


@pytest.mark.slow
def test_a_run_that_stopped_goes_on_with_drop(tmp_path):
    with pytest.raises(UserError):
        metarl.train(rare(tmp_path, "nan observation"))
    run = metarl.train(rare(tmp_path, "nan observation", on_bad_episode="drop", resume=True))
    assert len(numbers(tmp_path)) == 40
    assert "dropped" in run.remarks()[-1]


def test_a_run_that_drops_nothing_is_bit_for_bit_the_one_that_would_stop(tmp_path):
    for name in ("stop", "drop"):
        metarl.train(tiny(tmp_path / name, env=ENV, horizon=6, env_kwargs={"chance": 0.0}, on_bad_episode=name))
    np.testing.assert_array_equal(final_parameters(tmp_path / "stop"), final_parameters(tmp_path / "drop"))


@fault(
    WHERE,
    "an exception in `step`, `reset`, `set_task` or `make_env`",
    "its own traceback, with a note that names the place; the checkpoint holds every finished iteration",
)
def test_an_exception_keeps_the_finished_iterations(tmp_path):
    with pytest.raises(KeyError) as caught:
        metarl.train(rare(tmp_path, "raises"))
    assert "in step of faulty:FaultyFamily, task 1, rollout" in caught.value.__notes__[0]
    assert_iterations_are_kept(tmp_path)


@fault(WHERE, "`sys.exit(0)` or a broken pipe inside an environment", "an error with traceback; the exit code is not 0")
@pytest.mark.parametrize("name", ["exits", "breaks"])
def test_an_exit_inside_an_environment_is_no_finished_run(name, tmp_path):
    with pytest.raises(RuntimeError, match="was raised in step of faulty:FaultyFamily, task 1"):
        command.main(["--env", ENV, "--env-kwargs", "fault", name, *_options(tmp_path)])


@fault(
    WHERE,
    "`step` returns what Gymnasium does not ask for (4 values, a reward of shape (1,), text or None)",
    "the run stops; the sentence names the method and what Gymnasium asks for",
)
@pytest.mark.parametrize(
    "name",
    quick(
        ["4 values", "reward of shape (1,)", "reward of text", "reward of None", "info of None", "observation of None"],
        "4 values",
        "reward of text",
    ),
)
def test_a_step_that_is_not_gymnasiums_stops_the_run(name, tmp_path):
    with pytest.raises(UserError, match=r"step returned .* It happened in step of faulty:FaultyFamily, ta"):
        metarl.train(rare(tmp_path, name))
    assert_iterations_are_kept(tmp_path)


@fault(WHERE, "a bad number while evaluating or in `agent.adapt`", "the same sentence; no number is reported")
def test_evaluation_and_adaptation_stop_too(tmp_path):
    run = metarl.train(tiny(tmp_path, env=ENV, horizon=6, env_kwargs={"chance": 0.0}))
    env = FaultyFamily().make_env()
    env.task = 1.0
    with pytest.raises(
        UserError, match=r"the observation .* is nan in faulty:FaultyFamily, step 3; mend the environment"
    ):
        run.agent.adapt(env, num_steps=1, num_rollouts=2)
    metarl.train(tiny(tmp_path / "sick", env=ENV, horizon=6, iterations=0, validate_every=0))
    with pytest.raises(UserError, match=r"is nan in faulty:FaultyFamily, task 1, rollout \d, step 3"):
        metarl.evaluate(tmp_path / "sick", EvaluationConfig(tasks=2, rollouts=2, gradient_steps=1))
    assert not (tmp_path / "sick" / "evaluation.json").exists()


def test_an_evaluation_leaves_out_what_training_left_out(tmp_path):
    metarl.train(seldom(tmp_path, env_kwargs={"chance": 0.02}, iterations=1, on_bad_episode="drop"))
    result = metarl.evaluate(tmp_path, EvaluationConfig(tasks=20, rollouts=10, gradient_steps=1))
    assert 0 < result.dropped_episodes < 40
    assert np.isfinite(result.returns).all()
    assert f"{result.dropped_episodes} episodes were dropped" in evaluation_table(result)


def test_a_policy_that_is_not_finite_is_told_from_an_environment_with_integers():
    action_map = ActionMap(spaces.Box(0, 5, (1,), np.int64))
    with pytest.raises(Diverged, match="the policy's action is not finite"):
        action_map(np.array([[0.5], [np.nan]], np.float32))
    assert action_map(np.array([[0.5], [np.inf]], np.float32)).tolist() == [[4], [5]]


@fault(WHERE, "a policy that is not finite", "the run stops and names the settings that make steps smaller")
def test_a_diverged_adaptation_is_told(tmp_path):
    explosive = {"inner_lr": 1e12, "hidden_sizes": (16, 16, 16), "activation": "relu"}
    with pytest.raises(
        UserError, match=r"the policy's action is not finite in .* step 1, .* smaller trpo.max_kl or inner_lr"
    ):
        metarl.train(tiny(tmp_path, env=ENV, horizon=6, env_kwargs={"chance": 0.0}, **explosive))
    with pytest.raises(
        UserError, match=r"the policy's probabilities are not finite: .* smaller trpo.max_kl or inner_lr"
    ):
        metarl.train(tiny(tmp_path / "discrete", env="bandit", **explosive))


def test_a_diverged_meta_step_names_the_meta_optimisers_setting(tmp_path):
    config = tiny(tmp_path, meta_optimiser="promp", promp={"lr": 1e3}, iterations=4, validate_every=0, horizon=10)
    with pytest.raises(
        UserError, match=r"are not finite: .* Try a smaller promp.lr or inner_lr, .*smaller rewards\. It happ"
    ):
        metarl.train(config)


@fault(WHERE, "`step` does not return", "`--step-timeout` names the environment and ends the run with its checkpoint")
def test_a_step_that_hangs_is_named_after_the_timeout(tmp_path, monkeypatch):
    monkeypatch.setattr("metarl.common.parallel.SECONDS_TO_STOP", 0.01)
    place = "in step of faulty:FaultyFamily, task 1, rollout"
    with pytest.raises(UserError, match=rf"nothing has come back for 0\.2 seconds \(step_timeout\) {place}"):
        metarl.train(rare(tmp_path, "hangs", step_timeout=0.2))
    assert_iterations_are_kept(tmp_path)


def test_a_timeout_too_short_to_be_kept_is_refused():
    with pytest.raises(UserError, match=r"step_timeout must be 0, for never, or at least 0\.1 seconds, got 0\.05\."):
        metarl.Config(step_timeout=0.05)


HANGING = """
import os, signal, sys, threading
sys.path[:0] = [sys.argv[1]]
import faulty
from metarl.commands.train import main

def interrupt():
    faulty.hanging.wait()
    os.kill(os.getpid(), int(sys.argv[2]))

threading.Thread(target=interrupt, daemon=True).start()
signal.signal(signal.SIGINT, signal.default_int_handler)  # A shell's background jobs ignore Ctrl-C.
sys.exit(main(sys.argv[3:]))
"""


@pytest.mark.slow
@fault(
    WHERE,
    "Ctrl-C or SIGTERM while `step` does not return",
    "the first one ends the process, with every finished iteration in the checkpoint",
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_ends_a_run_whose_environment_hangs(number, tmp_path):
    options = ["--env", ENV, "--env-kwargs", "fault", "hangs", "chance", "0.01", *_options(tmp_path)]
    tests = str(ROOT / "tests")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])}
    arguments = [sys.executable, "-c", HANGING, tests, str(int(number)), *options, "--checkpoint-every", "1000"]
    ended = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode != 0
    assert "Traceback" not in ended.stderr
    assert_iterations_are_kept(tmp_path)


def test_sigterm_is_no_fault_of_an_environment():
    def where():
        return "in step"

    with pytest.raises(Terminated), blaming(where):
        raise Terminated(143)


def test_a_dropped_episode_is_not_stepped_any_more():
    envs = []

    class Kept(FaultyFamily):
        def make_env(self, render_mode=None):
            envs.append(super().make_env())
            return envs[-1]

    batch = checked_episodes(Kept(), 2, 6, on_bad_episode="drop")
    observations, flags = np.zeros((2, 2)), np.zeros((2, 2), bool)
    batch.reset(np.arange(2), [0, 1], observations)
    for _ in range(6):
        batch.step(np.zeros((2, 1)), observations, np.zeros(2), *flags)
    assert list(batch.dropped) == [1]
    assert [env.steps for env in envs] == [6, 3]


@pytest.mark.parametrize("choice", [{"step_timeout": 1.0}, {"on_bad_episode": "drop"}])
def test_what_stable_baselines_cannot_do_is_refused(choice):
    with pytest.raises(UserError, match=f"{next(iter(choice))} is not for Stable-Baselines3's ppo"):
        metarl.Config(env="navigation", algo="pretrain", baseline={"trainer": "ppo"}, **choice).resolve()


def _options(run_dir):
    return [
        *(
            "--algo",
            "maml",
            "--iterations",
            "40",
            "--run-dir",
            str(run_dir),
            "--meta-batch-size",
            "4",
            "--horizon",
            "6",
        ),
        *("--rollouts-per-task", "4", "--hidden-sizes", "16", "--validate-every", "0"),
    ]


def test_no_thread_is_left_behind_by_a_fault(tmp_path):
    before = threading.active_count()
    with pytest.raises(KeyError):
        metarl.train(rare(tmp_path, "raises"))
    assert threading.active_count() == before


@fault(WHERE, "`make_env` limits episodes to fewer steps than `horizon`", "refused before training")
@pytest.mark.parametrize("settings", [{}, {"algo": "oracle"}, {"algo": "rl2"}])
def test_a_limit_below_the_horizon_is_refused(settings, tmp_path):
    settings = {"env": "examples.cartpole_family:CartPoleFamily", "iterations": 0, "validate_every": 0, **settings}
    with pytest.raises(
        UserError, match=r"^make_env limits episodes to 500 steps, and horizon is 501; give max_episode_"
    ):
        metarl.train(tiny(tmp_path / "run", **settings, horizon=501))
    assert metarl.train(tiny(tmp_path / "run", **settings, horizon=500)).path == tmp_path / "run"


class Scaled(gymnasium.RewardWrapper):
    def reward(self, reward):
        return 2 * reward


class Skipping(gymnasium.Wrapper):
    """Each of its steps is two."""

    def step(self, action):
        self.env.step(action)
        return self.env.step(action)


@pytest.mark.parametrize(("wrapper", "told"), [(Scaled, True), (Skipping, False)])
def test_a_limit_counts_inside_wrappers_that_count_no_other_steps(wrapper, told, monkeypatch):
    monkeypatch.setattr(CartPoleFamily, "make_env", lambda self: wrapper(gymnasium.make("CartPole-v1")))
    with pytest.raises(UserError, match="make_env limits episodes to 500 steps") if told else nullcontext():
        require_whole_episodes(CartPoleFamily(), 600)


def test_a_limit_below_the_horizon_of_another_family_is_refused(tmp_path, monkeypatch):
    poles = "examples.cartpole_family:CartPoleFamily"
    train_it = {"iterations": 0, "validate_every": 0, "horizon": 300}
    run = metarl.train(tiny(tmp_path / "run", env=poles, **train_it)).path
    monkeypatch.setattr(CartPoleFamily, "make_env", lambda self: TimeLimit(gymnasium.make("CartPole-v1").unwrapped, 50))
    few = {"tasks": 2, "rollouts": 2, "gradient_steps": 1}
    assert metarl.evaluate(run, EvaluationConfig(**few), trust=poles).mean.shape == (
        2,
    )  # A stored run is read as it is.
    monkeypatch.setattr(metarl.runs.protocol, "family_of", lambda *_: CartPoleFamily())
    with pytest.raises(UserError, match="make_env limits episodes to 50 steps, and horizon is 300"):
        metarl.evaluate(run, EvaluationConfig(env="navigation", **few), trust=poles)
