"""Policies after adaptation to one task. A file holds one, and needs nothing of the run that trained it."""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import gymnasium
import numpy as np
import torch
from gymnasium.vector.utils import batch_space, iterate
from torch import Tensor

from metarl.common.errors import Fault, UserError, shown
from metarl.common.files import reason, replacing
from metarl.config.checked import Range, convert
from metarl.config.trust import Trust, untrusted
from metarl.envs.space_json import space_from_json, space_to_json
from metarl.envs.spaces import flat_space, flatten
from metarl.policies.action_map import ActionMap
from metarl.policies.base import DifferentiablePolicy
from metarl.policies.blueprint import Blueprint
from metarl.policies.memory import MemoryPolicy
from metarl.policies.normaliser import Normaliser
from metarl.store.tensors import Unreadable, read_tensors, write_tensors

_FORMAT = "metarl-policy-1"
_LARGEST = float(np.finfo(np.float32).max)
_Reward = Annotated[float, Range(-_LARGEST, _LARGEST)]  # As in training.


@dataclass(frozen=True, eq=False)
class AdaptedPolicy:
    """A policy after adaptation to one task.

    Attributes:
        policy: The policy's network and distribution.
        parameters: Its parameters, [parameter].
        action_map: Maps the policy's actions to the environment's.
        observation_space: The environment's observations.
        returns: Mean return in the environment after 0, 1, ... gradient steps, [step]; the last is this policy's.
        blueprint: What the policy is made from.
        normaliser: Normalises the observations, if the policy was trained so.
    """

    policy: DifferentiablePolicy
    parameters: Tensor
    action_map: ActionMap
    observation_space: gymnasium.Space[Any]
    returns: np.ndarray
    blueprint: Blueprint
    normaliser: Normaliser | None = None

    def __repr__(self) -> str:
        return f"<policy adapted by {len(self.returns) - 1} steps, return {self.returns[-1]:.4g}>"

    @torch.no_grad()
    def predict(
        self, observation: Any, deterministic: bool = True, rng: np.random.Generator | None = None
    ) -> np.ndarray:
        """The action for an observation, or the actions for several.

        Args:
            observation: One observation of the environment, or several along a first axis, as the vector environments
                of Gymnasium return them: [row, *observation shape]; of a ``Dict`` or ``Tuple``, one of such arrays.
            deterministic: Return the mode of the distribution instead of a sample.
            rng: Generator of the sample; required unless ``deterministic``.

        Returns:
            An element of the environment's action space, or one for each observation, [row, *action shape].

        Raises:
            UserError: If the observation does not fit the space or is not finite, or ``rng`` is missing.
        """
        flat, alone = flat_observations(self.observation_space, observation)
        if not convert("deterministic", deterministic, bool) and not isinstance(rng, np.random.Generator):
            raise UserError(
                "predict(deterministic=False) needs a generator: rng=numpy.random.default_rng(seed), got "
                f"rng={shown(rng)}."
            )
        parameters = self.parameters[None]
        rows = torch.from_numpy(flat)[None]
        outputs = self.policy.outputs(parameters, self.normaliser(rows) if self.normaliser else rows)
        distribution = self.policy.distribution
        if rng is None or deterministic:
            action = distribution.mode(outputs)
        else:
            noise = torch.from_numpy(distribution.noise(rng, (1, len(flat))))
            action = distribution.sample(outputs, self.policy.extra(parameters), noise)
        result: np.ndarray = self.action_map((action[0, 0] if alone else action[0]).numpy())
        return result

    def save(self, path: str | Path) -> None:
        """Writes the policy into one file, from which `metarl.load_policy` makes it again.

        The file is in the safetensors format and holds no code. It needs neither the run nor the task family; a policy
        body of your own is named in it, and must be there when it is loaded.

        Args:
            path: The file; an older one is replaced.

        Raises:
            UserError: If a file cannot hold the observation space.
            Fault: If the file cannot be written.
        """
        _save(path, self, {"parameters": self.parameters}, {})

    def export_onnx(self, path: str | Path) -> None:
        """Writes the policy as an ONNX graph, which runs without Python, PyTorch and metarl.

        Its input ``observation`` is one observation as the policy sees it: flat (`metarl.envs.spaces.flatten`), float32
        [number]. Its output ``action`` is what `predict` returns for it: the mode of the distribution, as an element of
        the environment's action space. The normaliser of observations is part of the graph.

        Args:
            path: The file; an older one is replaced.

        Raises:
            UserError: If the packages onnx and onnxscript are missing, or PyTorch cannot export the policy; older
                versions cannot if it has a body of your own.
            Fault: If the file cannot be written.
        """
        file: Path = convert("path", path, Path)
        if missing := [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]:
            raise UserError(
                f"export_onnx needs {' and '.join(missing)}; install it from a clone of metarl: pip install '.[onnx]'."
            )
        example = torch.zeros(self.policy.observation_size)
        try:
            program = torch.onnx.export(
                _Deployed(self).eval(),
                (example,),
                input_names=["observation"],
                output_names=["action"],
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise UserError(
                f"PyTorch {torch.__version__} cannot export this policy to ONNX ({_innermost(error)}). A body of your "
                "own (policy_body) needs PyTorch 2.13 or newer, and operations that ONNX has."
            ) from error
        assert program is not None
        try:
            with replacing(file) as opened:
                opened.write(program.model_proto.SerializeToString())
        except OSError as error:
            raise Fault(f"cannot write {file}: {reason(error)}.") from error


def _innermost(error: BaseException) -> str:
    """The first line of the error that led to all others."""
    while error.__cause__ is not None:
        error = error.__cause__
    return shown(error) if not str(error) else str(error).strip().splitlines()[0]


class _Deployed(torch.nn.Module):
    """An adapted policy as a module: from one flat observation to the environment's action."""

    def __init__(self, adapted: AdaptedPolicy) -> None:
        super().__init__()
        self._adapted, self.parameters_of_task = adapted, torch.nn.Parameter(adapted.parameters[None])

    def forward(self, observation: Tensor) -> Tensor:
        adapted = self._adapted
        rows = observation[None, None]
        outputs = adapted.policy.outputs(
            self.parameters_of_task, adapted.normaliser(rows) if adapted.normaliser else rows
        )
        return adapted.action_map.traced(adapted.policy.distribution.mode(outputs)[0, 0])


def flat_observations(space: gymnasium.Space[Any], observation: Any) -> tuple[np.ndarray, bool]:
    """One observation or several as a policy sees them, float32 [row, observation]; and whether it is one alone.

    Raises:
        UserError: If it is neither, or is not finite.
    """
    try:
        rows, alone = [flatten(space, observation, "the observation")], True
    except UserError as error:
        rows, alone = _several(space, observation), False
        if not rows:
            raise UserError(f"{error} Several observations lie along a first axis.") from error
    return _finite(np.stack(rows), observation), alone


def _several(space: gymnasium.Space[Any], observations: Any) -> list[np.ndarray]:
    """Observations along a first axis, each flat; empty if they are not."""
    try:
        return [flatten(space, one, "the observation") for one in iterate(batch_space(space), observations)]
    except (UserError, TypeError, ValueError, LookupError):
        return []


def flat_observation(space: gymnasium.Space[Any], observation: Any) -> np.ndarray:
    """An observation of an environment as a policy sees it, float32 [observation].

    Raises:
        UserError: If it does not fit the space or is not finite.
    """
    return _finite(flatten(space, observation, "the observation"), observation)


def _finite(flat: np.ndarray, observation: Any) -> np.ndarray:
    single = flat.astype(np.float32)
    if not np.isfinite(single).all():
        raise UserError(f"observation must be finite numbers, got {shown(observation)}.")
    return single


class AdaptedMemory:
    """An agent with memory after some episodes in an environment. It remembers those that follow, too.

    Between `start` and `finish` lies one episode:

        agent.start()
        action = agent.predict(observation)
        observation, reward, terminated, truncated, info = env.step(action)
        action = agent.predict(observation, reward)
        ...
        agent.finish(reward)

    `abandon` ends an episode that cannot be finished, and forgets it.

    Args:
        policy: The policy.
        weights: Its weights, [weight].
        rewards: Normalises the rewards.
        memory: The memory, [memory].
        action_map: Maps the policy's actions to the environment's.
        observation_space: The environment's observations.
        returns: Return in the environment after 0, 1, ... episodes, [episode]. The last is of an episode after those
            that the memory holds.
        blueprint: What the policy is made from.
        rng: Draws the actions.
        normaliser: Normalises the observations, if the policy was trained so.
    """

    def __init__(
        self,
        policy: MemoryPolicy,
        weights: Tensor,
        rewards: Normaliser,
        memory: Tensor,
        action_map: ActionMap,
        observation_space: gymnasium.Space[Any],
        returns: np.ndarray,
        blueprint: Blueprint,
        rng: np.random.Generator,
        normaliser: Normaliser | None = None,
    ) -> None:
        self.memory, self.returns, self.observation_space = memory, returns, observation_space
        self.action_map, self.blueprint, self.normaliser = action_map, blueprint, normaliser
        self._policy, self._weights, self._rewards = policy, weights, rewards
        self._network = policy.network(weights)
        self._rng = rng
        self._before: Tensor | None = None  # The memory at the start of the episode that is running.
        self._action: Tensor | None = None

    def __repr__(self) -> str:
        return f"<agent with a memory, adapted by {len(self.returns) - 1} episodes, return {self.returns[-1]:.4g}>"

    def save(self, path: str | Path) -> None:
        """Writes the agent with its memory into one file, as `AdaptedPolicy.save` does. It goes on from there.

        Args:
            path: The file; an older one is replaced.

        Raises:
            UserError: If an episode is running, or a file cannot hold the observation space.
            Fault: If the file cannot be written.
        """
        if self.running:
            raise UserError(
                "an episode is running: call finish(reward) with its last reward, or abandon(), before save."
            )
        tensors = {"weights": self._weights, "memory": self.memory, **_normaliser_tensors("reward", self._rewards)}
        _save(path, self, tensors, {"generator": self._rng.bit_generator.state})

    def export_onnx(self, path: str | Path) -> NoReturn:
        """Raises UserError: an agent with memory is no function of an observation, which is what a graph exports."""
        raise UserError(
            "an agent with memory cannot be exported: an ONNX graph is a function of one observation, and this agent's "
            "action also depends on its memory, on rewards and on chance; use save(path), and metarl.load_policy(path) "
            "where it should act."
        )

    def start(self) -> None:
        """Begins an episode.

        Raises:
            UserError: If the one before has not been finished.
        """
        if self.running:
            raise UserError(
                "the episode before has not ended: call finish(reward) with its last reward first, or abandon()."
            )
        self._before = self.memory
        draws = torch.from_numpy(self._rng.standard_normal((1, self._policy.num_draws), np.float32))
        self.memory = self._policy.started(self.memory[None], draws)[0]

    @torch.no_grad()
    def predict(self, observation: Any, reward: float | None = None, deterministic: bool | None = None) -> np.ndarray:
        """The next action.

        Args:
            observation: One observation of the environment.
            reward: The reward of the action before; None for the first action of an episode, which has none.
            deterministic: Take the mode of the distribution instead of a sample. An agent that explores by chance then
                learns less about its task. By default as in evaluation: PEARL takes the mode, others a sample.

        Returns:
            An element of the environment's action space.

        Raises:
            UserError: If the observation does not fit the space, the reward is missing or not finite, or no episode has
                been started.
        """
        if not self.running:
            raise UserError("no episode is running: call start() first.")
        rows = torch.from_numpy(flat_observation(self.observation_space, observation))[None]
        first = torch.ones(1) if self._action is None else torch.zeros(1)
        by_mode = convert("deterministic", deterministic, bool | None)
        self._receive(reward)  # After all that can be refused: a corrected call would receive it twice.
        policy, network = self._policy, self._network
        seen = self.normaliser(rows) if self.normaliser else rows
        outputs, memory = policy.act(network, self.memory[None], seen, first)
        if policy.acts_by_mode if by_mode is None else by_mode:
            action = policy.distribution.mode(outputs[None])
        else:
            noise = torch.from_numpy(policy.distribution.noise(self._rng, (1, 1)))
            action = policy.distribution.sample(outputs[None], policy.extra(network), noise)
        self.memory, self._action = memory[0], action[0]
        result: np.ndarray = self.action_map(self._action[0].numpy())
        return result

    def finish(self, reward: float) -> None:
        """Ends an episode.

        Args:
            reward: The reward of its last action.

        Raises:
            UserError: If no episode with an action is running, or the reward is not finite.
        """
        if self._action is None:
            raise UserError("no episode with an action is running: call start() and predict(observation) first.")
        self._receive(reward)
        self._before = self._action = None

    def abandon(self) -> None:
        """Ends the running episode and forgets it: the memory is again as before `start`. Without one, does nothing."""
        if self._before is not None:
            self.memory = self._before
        self._before = self._action = None

    def copied(self, rng: np.random.Generator) -> AdaptedMemory:
        """Another agent with the same memory, which draws its actions by ``rng``."""
        other = copy.copy(self)
        other._rng = rng
        return other

    @property
    def running(self) -> bool:
        """Whether an episode is running, between `start` and `finish`."""
        return self._before is not None

    def _receive(self, reward: float | None) -> None:
        """Remembers the reward of the action before."""
        if self._action is None:
            if reward is not None:
                raise UserError("the first action of an episode has no reward before it: leave out reward.")
            return
        if reward is None:
            raise UserError(
                "predict needs the reward of the action before, for the memory: predict(observation, reward)."
            )
        received = torch.tensor([convert("reward", reward, _Reward)])
        self.memory = self._policy.received(self._network, self._rewards, self.memory[None], self._action, received)[0]


def load_policy(path: str | Path, trust: Trust = False) -> AdaptedPolicy | AdaptedMemory:
    """Reads what `AdaptedPolicy.save` or `AdaptedMemory.save` has written.

    Args:
        path: The file.
        trust: True to import a policy body from outside metarl that the file names, or the names
            ("package.module:name") that may be imported.

    Raises:
        UserError: If the file is missing, damaged or holds no policy, or names code that is not trusted.
    """
    file: Path = convert("path", path, Path)
    if not file.is_file():
        raise UserError(f"there is no file {file}; give what the save method of an adapted policy wrote.")
    try:
        texts, tensors = read_tensors(file)
    except Unreadable as error:
        raise UserError(f"{file} is damaged{error}; save the policy again.") from error
    if texts.get("format") != _FORMAT:
        raise UserError(f"{file} holds no policy of this version of metarl; save the policy again.")
    try:
        header = json.loads(texts["policy"])
        foreign = untrusted(header["blueprint"]["network"], trust)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise _incomplete(file, error) from error
    if foreign:
        named = " and ".join(f"{setting} {shown(name)}" for setting, name in foreign.items())
        raise UserError(
            f"the policy in {file} names code from outside metarl, {named}, and loading it would execute that code; if "
            f"you trust it, pass trust=True or trust={[*foreign.values()]!r}."
        )
    try:
        return _restored(header, tensors)
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError, RuntimeError) as error:
        raise _incomplete(file, error) from error


def _incomplete(file: Path, error: Exception) -> UserError:
    return UserError(f"{file} holds no whole policy ({error}); save the policy again.")


def _save(
    path: str | Path, policy: AdaptedPolicy | AdaptedMemory, tensors: Mapping[str, Tensor], more: Mapping[str, Any]
) -> None:
    """Writes a policy, its own ``tensors`` and what ``more`` its header holds."""
    file: Path = convert("path", path, Path)
    header = {
        "blueprint": policy.blueprint.to_json(),
        "observation_space": space_to_json(policy.observation_space),
        "action_space": space_to_json(policy.action_map.space),
        "action_scale": policy.action_map.scale,
        **more,
    }
    normaliser = _normaliser_tensors("observation", policy.normaliser) if policy.normaliser else {}
    every = {**tensors, **normaliser, "returns": torch.as_tensor(policy.returns)}
    try:
        write_tensors(file, every, {"format": _FORMAT, "policy": json.dumps(header)})
    except OSError as error:
        raise Fault(f"cannot write {file}: {reason(error)}.") from error


def _restored(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> AdaptedPolicy | AdaptedMemory:
    """The policy that a file holds; raises one of many kinds of errors if it holds none."""
    for name, values in tensors.items():
        if name != "returns" and not bool(torch.isfinite(values).all()):
            raise ValueError(f"{name} are not finite numbers")
    observations = space_from_json(header["observation_space"])
    action_map = ActionMap(space_from_json(header["action_space"]), header["action_scale"])
    blueprint, returns = Blueprint.from_json(header["blueprint"]), tensors["returns"].numpy()
    size = flat_space(observations, "the observations").shape[0]
    policy, normaliser = blueprint.make(size, action_map.distribution), _normaliser("observation", tensors)
    if isinstance(policy, MemoryPolicy):
        weights, memory = (
            _vector("weights", tensors, policy.weights.size),
            _vector("memory", tensors, policy.layout.size),
        )
        rewards = _normaliser("reward", tensors)
        if rewards is None:
            raise KeyError("reward_mean")
        rng = np.random.Generator(np.random.PCG64())
        rng.bit_generator.state = header["generator"]
        parts = (policy, weights, rewards, memory, action_map, observations, returns, blueprint, rng, normaliser)
        return AdaptedMemory(*parts)
    assert isinstance(policy, DifferentiablePolicy)
    parameters = _vector("parameters", tensors, policy.layout.size)
    return AdaptedPolicy(policy, parameters, action_map, observations, returns, blueprint, normaliser)


def _vector(name: str, tensors: Mapping[str, Tensor], size: int) -> Tensor:
    if tensors[name].shape != (size,):
        raise ValueError(f"{name} must have shape ({size},), got {tuple(tensors[name].shape)}")
    return tensors[name]


def _normaliser_tensors(name: str, normaliser: Normaliser) -> dict[str, Tensor]:
    return {f"{name}_mean": normaliser.mean, f"{name}_std": normaliser.std}


def _normaliser(name: str, tensors: Mapping[str, Tensor]) -> Normaliser | None:
    mean = f"{name}_mean"
    return Normaliser(tensors[mean], tensors[f"{name}_std"]) if mean in tensors else None
