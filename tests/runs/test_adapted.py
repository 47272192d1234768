"""Policies after adaptation: batches of observations, and a file that holds one."""

import dataclasses
import importlib.util
import json
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from packaging.version import Version
from quick import quick
from safetensors.torch import load_file, save_file
from tiny_runs import ROOT, tiny

import metarl
from metarl import UserError
from metarl.envs.space_json import space_from_json, space_to_json
from metarl.envs.spaces import flatten
from metarl.policies.action_map import ActionMap
from metarl.runs.build import build
from metarl.runs.trained_agent import Agent

OBSERVATIONS = np.random.default_rng(0).uniform(-1, 1, (5, 2))


def adapted(**settings):
    """An agent that was not trained, adapted to a goal."""
    config = tiny("nowhere", **settings)
    agent = Agent(config, build(config.resolve())[1].initial(np.random.default_rng(0)))
    env = gymnasium.make("metarl/Navigation-v0")
    env.reset(seed=0, options={"task": np.array([0.3, -0.2])})
    rollouts = 1 if config.algo == "rl2" else 2
    return agent.adapt(env, num_steps=1, num_rollouts=rollouts, horizon=5)


def test_a_batch_of_observations_gives_an_action_each():
    policy = adapted()
    actions = policy.predict(OBSERVATIONS)
    assert actions.shape == (5, 2)
    np.testing.assert_allclose(actions, [policy.predict(one) for one in OBSERVATIONS], rtol=1e-5)
    draws = policy.predict(OBSERVATIONS, False, np.random.default_rng(3))
    rng = np.random.default_rng(3)
    np.testing.assert_allclose(draws, [policy.predict(one, False, rng) for one in OBSERVATIONS], rtol=1e-5)
    with pytest.raises(UserError, match=r"the observation must have shape \(2,\), got \(5, 3\)"):
        policy.predict(np.zeros((5, 3)))
    with pytest.raises(UserError, match=r"the observation must have shape \(2,\), got \(0, 2\)"):
        policy.predict(np.zeros((0, 2)))


@pytest.mark.parametrize("settings", [{}, {"algo": "l2f", "normalise_observations": True, "activation": "tanh"}])
def test_a_saved_policy_acts_as_before(tmp_path, settings):
    policy = adapted(**settings)
    policy.save(tmp_path / "policy.safetensors")
    again = metarl.load_policy(tmp_path / "policy.safetensors")
    np.testing.assert_array_equal(again.predict(OBSERVATIONS), policy.predict(OBSERVATIONS))
    draws = [p.predict(OBSERVATIONS, False, np.random.default_rng(1)) for p in (policy, again)]
    np.testing.assert_array_equal(*draws)
    np.testing.assert_array_equal(again.returns, policy.returns)
    assert again.observation_space == policy.observation_space
    assert repr(again) == repr(policy)


def own_body(inputs, outputs):
    """A body of a user's own."""
    return torch.nn.Sequential(torch.nn.Linear(inputs, 6), torch.nn.ReLU(), torch.nn.Linear(6, outputs))


ACTION_SPACES = [
    spaces.Box(np.float32([-1, 0]), np.float32([1, 5])),
    spaces.Box(-0.1, 0.1, (1,), np.float64),
    spaces.Box(-3, 4, (2,), np.int64),
    spaces.Discrete(5, start=2),
    spaces.MultiDiscrete([[2, 3], [4, 2]], start=[[0, 1], [-1, 0]]),
    spaces.MultiBinary(3),
]


@pytest.mark.parametrize("space", quick({str(space): space for space in ACTION_SPACES}, str(ACTION_SPACES[0])))
def test_an_exported_policy_acts_as_the_policy_does(tmp_path, space):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    if isinstance(space, spaces.Discrete) and Version(torch.__version__) < Version("2.13"):
        pytest.skip("PyTorch 2.9 cannot export a body of a user's own")
    body = {"policy_body": "test_adapted:own_body"} if isinstance(space, spaces.Discrete) else {"activation": "tanh"}
    policy = adapted(normalise_observations=True, **body)
    action_map = ActionMap(space, 70.0)  # Beyond the bounds, too.
    network = policy.blueprint.make(2, action_map.distribution)
    parameters = network.initial(np.random.default_rng(1))
    policy = dataclasses.replace(policy, action_map=action_map, policy=network, parameters=parameters)
    policy.export_onnx(tmp_path / "policy.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "policy.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["policy.onnx"]
    for observation in 3 * OBSERVATIONS:
        (action,) = session.run(["action"], {"observation": observation.astype(np.float32)})
        expected = policy.predict(observation)
        assert (action.dtype, action.shape) == (expected.dtype, np.shape(expected))
        np.testing.assert_allclose(action, expected, rtol=1e-5, atol=1e-6)
        assert space.contains(action)


def test_export_names_the_packages_that_are_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs onnx and onnxscript; install it .*: pip install '\.\[onnx\]'"):
        adapted().export_onnx(tmp_path / "policy.onnx")


def test_a_policy_that_pytorch_cannot_export_is_told(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise torch.onnx.OnnxExporterError("vmap")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(UserError, match=r"cannot export this policy to ONNX \(vmap\)\. A body of your own .* needs"):
        adapted().export_onnx(tmp_path / "policy.onnx")
    assert not list(tmp_path.iterdir())


def test_an_agent_with_memory_says_why_it_cannot_be_exported(tmp_path):
    with pytest.raises(UserError, match=r"cannot be exported: .* depends on its memory, .*; use save\(path\)"):
        adapted(algo="rl2", rollouts_per_task=1).export_onnx(tmp_path / "agent.onnx")
    assert not list(tmp_path.iterdir())


def test_a_saved_agent_with_memory_goes_on(tmp_path):
    agent = adapted(algo="rl2", rollouts_per_task=1)
    agent.start()
    agent.predict(OBSERVATIONS[0])
    with pytest.raises(UserError, match="an episode is running"):
        agent.save(tmp_path / "agent")
    agent.finish(1.0)
    agent.save(tmp_path / "agent")
    again = metarl.load_policy(tmp_path / "agent")
    for one in (agent, again):
        one.start()
    for observation, reward in zip(OBSERVATIONS, (None, -1.0, 0.5), strict=False):
        np.testing.assert_array_equal(agent.predict(observation, reward), again.predict(observation, reward))
    assert torch.equal(agent.memory, again.memory)


def test_a_saved_policy_needs_no_training_code(tmp_path):
    adapted().save(tmp_path / "policy")
    code = f"""
import sys, numpy, metarl
print(metarl.load_policy({str(tmp_path / "policy")!r}).predict(numpy.zeros(2)).shape)
parts = ("metarl.inner", "metarl.outer", "metarl.agents", "metarl.runs.build")
print([name for name in sys.modules if name.startswith(parts)])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout == "(2,)\n[]\n"


BODY = """
from torch import nn

def body(inputs, outputs, shape):
    assert shape == (inputs,)
    return nn.Linear(inputs, outputs)
"""


def test_a_policy_body_is_imported_only_on_the_callers_word(tmp_path, monkeypatch):
    (tmp_path / "my_saved_body.py").write_text(BODY)
    monkeypatch.syspath_prepend(str(tmp_path))
    policy = adapted(policy_body="my_saved_body:body")
    policy.save(tmp_path / "policy")
    actions = metarl.load_policy(tmp_path / "policy").predict(OBSERVATIONS)  # This process has imported it already.
    np.testing.assert_array_equal(actions, policy.predict(OBSERVATIONS))
    monkeypatch.setattr("metarl.common.importing._imported", set())
    with pytest.raises(UserError, match="code from outside metarl, policy_body 'my_saved_body:body'") as error:
        metarl.load_policy(tmp_path / "policy")
    assert str(error.value).startswith(f"the policy in {tmp_path / 'policy'} names code")
    assert str(error.value).endswith("if you trust it, pass trust=True or trust=['my_saved_body:body'].")
    assert metarl.load_policy(tmp_path / "policy", trust=True)


def test_files_that_hold_no_policy_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "policy"
    with pytest.raises(UserError, match="there is no file"):
        metarl.load_policy(path)
    path.write_bytes(b"something else")
    with pytest.raises(UserError, match="is damaged"):
        metarl.load_policy(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="holds no policy"):
        metarl.load_policy(path)
    adapted().save(path)
    tensors, header = load_file(path), _header(path)
    (tmp_path / "imported_by_a_policy.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    foreign = {"blueprint": {**header["blueprint"], "algo": "imported_by_a_policy:Rule"}}
    spaces_of_no_kind = {"observation_space": {"kind": "Box"}}, {"action_space": {"kind": "Line"}}
    for change in (*spaces_of_no_kind, {"blueprint": []}, foreign):
        save_file(tensors, path, {"format": "metarl-policy-1", "policy": json.dumps({**header, **change})})
        with pytest.raises(UserError, match="holds no whole policy"):
            metarl.load_policy(path)
    texts = {"format": "metarl-policy-1", "policy": json.dumps(header)}
    save_file({**tensors, "parameters": torch.zeros(3)}, path, texts)
    with pytest.raises(UserError, match="parameters must have shape"):
        metarl.load_policy(path)
    content = path.read_bytes()
    adapted().save(path)
    assert path.read_bytes() != content
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(UserError, match="does not match its checksum"):
        metarl.load_policy(path)


def _header(path):
    content = path.read_bytes()
    metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    return json.loads(metadata["policy"])


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-np.inf, np.inf, (3,), np.float64),
        spaces.Box(0, 255, (2, 3, 1), np.uint8),
        spaces.Box(-1, 1, ()),
        spaces.Box(np.array([-1.5, -np.inf], np.float32), np.array([0.1, 2.0], np.float32)),
        spaces.Discrete(3, start=-1),
        spaces.MultiDiscrete([2, 3], start=[1, -1]),
        spaces.MultiBinary([2, 2]),
        spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Tuple([spaces.Box(0, 1, (1,)), spaces.MultiBinary(2)])}),
    ],
    ids=str,
)
def test_spaces_survive_json(space):
    assert space_from_json(json.loads(json.dumps(space_to_json(space), allow_nan=False))) == space


def test_the_order_of_parts_survives_json():
    """Gymnasium takes these spaces for equal; their elements are flattened in different orders."""
    box = spaces.Box(0, 1, (1,))
    space = spaces.Dict([("position", box), ("goal", spaces.Dict([("y", box), ("x", box)]))])
    space.seed(0)
    value = space.sample()
    restored = space_from_json(json.loads(json.dumps(space_to_json(space))))
    np.testing.assert_array_equal(flatten(restored, value, "it"), flatten(space, value, "it"))
    assert len({float(number) for number in flatten(space, value, "it")}) == 3


def test_a_space_of_ones_own_is_refused():
    with pytest.raises(UserError, match=r"a file cannot hold the space .* \(Text\)"):
        space_to_json(spaces.Text(3))
