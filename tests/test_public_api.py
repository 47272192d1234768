"""A wrong call of a public function is refused at its door, in one sentence of our own."""

import sys

import gymnasium
import numpy as np
import pytest
import torch
from tiny_runs import tiny

import metarl
import metarl.sb3
from metarl import Config, UserError
from metarl.store.evaluations import Evaluation


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    """An agent on navigation, not trained."""
    return made(tiny(tmp_path_factory.mktemp("runs") / "run"))


@pytest.fixture(scope="module")
def fitting(tmp_path_factory):
    """An agent on sinusoids, not trained."""
    return made(Config(env="sinusoid", algo="maml", hidden_sizes=(8,)))


@pytest.fixture(scope="module")
def policy(agent):
    return agent.adapt(navigation(), num_steps=0, num_rollouts=1, horizon=3)


def made(config):
    """The agent of a configuration before training."""
    from metarl.runs.build import build
    from metarl.runs.trained_agent import Agent

    return Agent(config, build(config.resolve())[1].initial(np.random.default_rng(0)))


def test_looking_up_a_name_of_metarl_leaves_the_import_path_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert metarl.Stage.__module__ == "metarl.inner.rule"
    assert Config(env="navigation", algo="maml").resolve().run.processes == 1
    assert sys.path == before


def navigation():
    env = gymnasium.make("metarl/Navigation-v0")
    env.reset(seed=0)
    return env


def refusal(call, *arguments):
    with pytest.raises(UserError) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


PATH = r"must be a path (in UTF-8; names of at most 255 bytes, together at most 4095), got"

FUNCTIONS = [
    (lambda: metarl.train("navigation"), "config must be a metarl.Config, got 'navigation'."),
    (lambda: metarl.train(None), "config must be a metarl.Config, got None."),
    (
        lambda: metarl.train(Config(algo="maml"), 3),
        "callback must be a function of (iteration, row, agent), got 3.",
    ),
    (lambda: metarl.plot("run", "curve.png", y=3), "y must be a text, got 3."),
    (lambda: metarl.evaluate("run", {"tasks": 3}), "config must be a metarl.EvaluationConfig, got {'tasks': 3}."),
    (lambda: metarl.evaluate(3), f"run_dir {PATH} 3."),
    (lambda: metarl.analyze("run", 3), "config must be a metarl.AnalysisConfig, got 3."),
    (lambda: metarl.analyze(None), f"run_dir {PATH} None."),
    (lambda: metarl.load(None), f"run_dir {PATH} None."),
    (lambda: metarl.record("run", {"task": 3}), "config must be a metarl.RecordingConfig, got {'task': 3}."),
    (lambda: metarl.record(None), f"run_dir {PATH} None."),
    (lambda: metarl.RecordingConfig(task=40), "task must be at most 39, got 40."),
    (lambda: metarl.load("reference:none"), "there is no reference agent 'none'."),
    (lambda: metarl.load("x" * 300), f"run_dir {PATH} 'xxxx"),
    (lambda: metarl.load("run", 3), "checkpoint must be one of last, best; got 3."),
    (lambda: metarl.plot(3, "curve.png"), "runs must be a list or tuple, got 3."),
    (lambda: metarl.plot(["run", 3], "curve.png"), f"runs[1] {PATH} 3."),
    (lambda: metarl.plot("run", None), f"output {PATH} None."),
    (
        lambda: metarl.plot("run", "curve.png", x="steps"),
        "x must be one of gradient-step, adaptation-episodes, adaptation-steps, env-steps, cpu-seconds, iteration, "
        "input; got 'steps'. Did you mean 'env-steps'",
    ),
    (
        lambda: metarl.plot("run", "curve.png", checkpoint=["last"]),
        "checkpoint must be one of last, best; got [",
    ),
    (lambda: metarl.compare(3), "runs must be a list or tuple, got 3."),
    (lambda: metarl.compare("run", reference=3), f"reference {PATH} 3."),
    (lambda: metarl.compare("run", step="one"), "step must be a whole number, got 'one'."),
    (lambda: metarl.preset(3), "name must be a text, got 3."),
    (lambda: metarl.get_family(3), "give a task family as a name, a subclass of metarl.TaskFamily or a family, got 3."),
    (
        lambda: metarl.register(3),
        "register takes a subclass of metarl.TaskFamily or metarl.SupervisedFamily, a",
    ),
    (lambda: metarl.register("navigation2"), "or the text package.module:Class, got 'navigation2'."),
    (lambda: metarl.register("a:B", name=3), "the name of a task family must be a text, got 3."),
    (lambda: metarl.check_task_family("navigation"), "a task family must be an instance of a subclass of metarl.Task"),
    (lambda: metarl.check_rule(3), "rule must be a rule's class, its name, or package.module:Rule, got 3."),
    (lambda: metarl.check_rule("maml", seed="x"), "seed must be a whole number, got 'x'."),
    (lambda: metarl.check_rule("mamlpp", 0), "settings must be MAMLppConfig or a dictionary of its settings, got 0."),
    (lambda: Config.from_dict(3), "a configuration must be a dictionary of settings, got 3."),
    (lambda: Config.from_dict({3: 4}), "unknown setting 3 in the configuration."),
    (lambda: Config.from_dict({"algo": ["maml"]}), "algo must be a text, got ['maml']."),
    (lambda: Config(hidden_sizes=np.zeros((99, 99))), "hidden_sizes[0] must be a whole number, got array([0., 0., 0.,"),
    (lambda: Evaluation.from_json(3), "it must be a dictionary, got 3."),
    (lambda: metarl.sb3.start_from("model.zip", 3), "config must be a metarl.Config, got 3."),
    (lambda: metarl.sb3.AdaptedModel(3), "adapted must be a metarl.AdaptedPolicy, got 3."),
    (lambda: metarl.sb3.TaskEnv("navigation", tasks=3), "tasks must be a list or an array of tasks, got 3."),
    (lambda: metarl.sb3.TaskEnv("navigation", split=3), "there is no split 3"),
]


@pytest.mark.parametrize(("call", "message"), FUNCTIONS, ids=[message[:60] for _, message in FUNCTIONS])
def test_a_wrong_argument_is_named(call, message):
    assert message in refusal(call)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"env": "navigation"}, "env must be a gymnasium.Env, got 'navigation'."),
        ({"num_steps": 1.5}, "num_steps must be a whole number, got 1.5."),
        ({"num_steps": -1}, "num_steps must be at least 0, got -1."),
        ({"num_rollouts": 0}, "num_rollouts must be at least 1, got 0."),
        ({"horizon": "long"}, "horizon must be a whole number, got 'long'."),
        ({"seed": -1}, "seed must be at least 0, got -1."),
        ({"mode": 7}, "mode must be at most 0, got 7."),
    ],
)
def test_adapt_says_what_is_wrong(agent, arguments, message):
    assert refusal(lambda: agent.adapt(**{"env": navigation(), **arguments})) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["abc"], "the observation must be numbers of shape (2,), got 'abc'."),
        ([None], "the observation must be numbers of shape (2,), got None."),
        ([[0.0, float("nan")]], "observation must be finite numbers, got [0.0, nan]."),
        ([[0.0] * 3], "observation must have shape (2,), got (3,)."),
        ([[0.0, 0.0], "no"], "deterministic must be True or False, got 'no'."),
        ([[0.0, 0.0], False], "needs a generator: rng=numpy.random.default_rng(seed), got rng=None."),
        ([[0.0, 0.0], False, 3], "needs a generator: rng=numpy.random.default_rng(seed), got rng=3."),
    ],
)
def test_predict_says_what_is_wrong(policy, arguments, message):
    assert message in refusal(policy.predict, *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([3, 3], "inputs must have shape (examples, 1), got ()."),
        ([["a"], ["b"]], "inputs must be an array of numbers, got ['a']."),
        ([np.zeros((0, 1)), np.zeros((0, 1))], "inputs must have shape (examples, 1), got (0, 1)."),
        ([np.zeros((2, 1)), np.zeros(2)], "targets must have shape (examples, 1), got (2,)."),
        ([np.full((2, 1), np.nan), np.zeros((2, 1))], "inputs must be finite numbers."),
        ([np.zeros((2, 1)), np.zeros((3, 1))], "targets of sinusoid must have shape (2, 1), got (3, 1)."),
        ([np.zeros((2, 1)), np.zeros((2, 1)), -1], "num_steps must be at least 0, got -1."),
    ],
)
def test_fit_says_what_is_wrong(fitting, arguments, message):
    assert refusal(fitting.fit, *arguments) == message


def test_a_fitted_function_says_what_is_wrong_with_its_inputs(fitting):
    fitted = fitting.fit(np.zeros((2, 1)), np.zeros((2, 1)))
    assert refusal(fitted.predict, np.zeros(3)) == "inputs must have shape (examples, 1), got (3,)."
    assert refusal(fitted.predict, "x") == "inputs must be an array of numbers, got 'x'."


def test_an_agent_is_made_of_a_configuration_and_parameters(agent):
    kind = type(agent)
    assert refusal(kind, "maml", agent.meta) == "config must be a metarl.Config, got 'maml'."
    assert refusal(kind, agent.config, [1.0]) == "meta must be a torch.Tensor, got [1.0]."
    assert torch.equal(kind(agent.config, agent.meta).meta, agent.meta)
