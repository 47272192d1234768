"""A meta-trained agent: adapts to an environment, then acts in it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from metarl.common.errors import UserError, shown
from metarl.common.memory import require_memory
from metarl.common.streams import Purpose, stream
from metarl.common.strict_json import one_line
from metarl.config.checked import Count, Positive, Range, Seed, convert, expect
from metarl.config.config import Config
from metarl.config.measuring import Checkpoint
from metarl.config.settings import Steps
from metarl.config.trust import Trust
from metarl.data import ExampleBatch, Rollouts
from metarl.envs import EpisodeBatch, Family, SupervisedFamily, require_environments
from metarl.envs.checked import CheckedEpisodes
from metarl.envs.single import begin, require_gymnasium, take_step
from metarl.envs.spaces import choices, flat_space, flatten, in_order_of, same_form
from metarl.inner.loop import adapt
from metarl.inner.memory import MemoryRule
from metarl.inner.rule import UNKNOWN_MODE, evaluation_scales
from metarl.inner.supervised import fit
from metarl.policies.action_map import ActionMap
from metarl.policies.base import DifferentiablePolicy, require_derivatives
from metarl.rollouts.sampler import Sampler, with_advantages
from metarl.runs.adapted import AdaptedMemory, AdaptedPolicy
from metarl.runs.build import blueprint, build, require_episodes
from metarl.store.checkpoints import load_checkpoint
from metarl.store.config_file import load_config, read_values
from metarl.store.folder import RunFolder
from metarl.store.reference import run_folder


@dataclass(frozen=True, eq=False)
class FittedFunction:
    """A function after adaptation to one supervised task.

    Attributes:
        policy: The network.
        parameters: Its parameters, [parameter].
    """

    policy: DifferentiablePolicy
    parameters: Tensor

    @torch.no_grad()
    def predict(self, inputs: Any) -> np.ndarray:
        """Targets [example, output], or for classes their logits [example, class], at ``inputs`` [example, input].

        Raises:
            UserError: If the inputs do not have this shape, or are not finite.
        """
        rows = torch.from_numpy(_numbers("inputs", inputs, self.policy.observation_size))[None]
        outputs: np.ndarray = self.policy.outputs(self.parameters[None], rows)[0].numpy()
        return outputs


class Agent:
    """A meta-trained agent.

    Args:
        config: The run's settings.
        meta: Meta-parameters, [meta parameter].

    Raises:
        UserError: If the meta-parameters do not fit the configuration.
    """

    def __init__(self, config: Config, meta: Tensor) -> None:
        expect("config", config, Config)
        expect("meta", meta, Tensor)
        self.config, self.settings, self.meta = config, config.resolve(), meta.cpu()
        self.family, self.rule = build(self.settings)
        if meta.shape != (self.rule.num_meta,):
            raise UserError(
                f"the checkpoint holds {meta.numel()} meta-parameters and the configuration's {config.algo} needs "
                f"{self.rule.num_meta}; it belongs to another run or version of metarl."
            )

    def __repr__(self) -> str:
        experiment = self.settings.experiment
        return f"<agent {self.settings.algorithm_name} on {experiment.env}, {self.meta.numel()} meta-parameters>"

    def adapt(
        self,
        env: gymnasium.Env[Any, Any],
        num_steps: int = 1,
        num_rollouts: int | None = None,
        horizon: int | None = None,
        seed: int = 0,
        mode: int = UNKNOWN_MODE,
        step_scales: Sequence[float] = (),
    ) -> AdaptedPolicy | AdaptedMemory:
        """Adapts to an environment by its own episodes: by policy-gradient steps, or by remembering them.

        Collects episodes for every step, and once more to measure the adapted policy. As many gradient steps as in
        training have the training step size, later ones half of it. A step of an agent with memory is one episode.

        Args:
            env: An environment with the observation and action spaces of the run's family. Resets pass neither seed nor
                options, so it keeps its task; seed it beforehand.
            num_steps: Gradient steps, or episodes to remember; 0 gives the policy before adaptation.
            num_rollouts: Episodes for each step; by default as in training. 1 for an agent with memory.
            horizon: Longest episode; by default as in training.
            seed: Seed of the exploration.
            mode: Mode of the environment's task (`TaskFamily.modes`); only multi-maml needs it.
            step_scales: Factors on the training step size of the first steps instead; the last holds for later steps.

        Returns:
            The adapted policy, which `AdaptedMemory` is for an agent with memory.

        Raises:
            UserError: If the environment does not fit the agent, or a number is out of range.
        """
        self.check_fits(expect("env", env, gymnasium.Env).observation_space, env.action_space)
        require_gymnasium(env, self.family.name)
        settings = self.settings.rollouts
        num_steps, seed = convert("num_steps", num_steps, Steps), convert("seed", seed, Seed)
        num_rollouts = convert("num_rollouts", num_rollouts, Count | None) or settings.rollouts_per_task
        if self.rule.remembers and num_rollouts != 1:
            raise UserError(f"num_rollouts must be 1: {self.config.algo} reads one episode a step, got {num_rollouts}.")
        stages = self.rule.stages(self.step_scales(num_steps, step_scales))
        require_episodes(self.settings.measured_on(num_rollouts), stages, "num_rollouts")
        horizon = convert("horizon", horizon, Count | None) or settings.horizon
        mode = self._checked_mode(mode)
        rows = num_rollouts * horizon
        require_memory("the rollouts", rows * self.rule.policy.observation_size, "num_rollouts or horizon")
        action_map = ActionMap(env.action_space, settings.action_scale)
        family = require_environments(self.family, "adapting in an environment")
        space = in_order_of(family.single_observation_space, env.observation_space)
        episodes = CheckedEpisodes(_OneEnvironment(env, space, horizon), family)
        sampler, begin = Sampler(episodes, action_map, 1, horizon), partial(self.rule.begin, self.meta)
        no_task, normaliser = np.zeros((1, 0)), self.rule.normaliser(self.meta)
        fixed = normaliser, self.rule.policy.acts_by_mode

        def collect(parameters: Tensor, phase: int, wanted: int | None) -> Rollouts:
            streams = [stream(seed, Purpose.DEPLOYMENT, phase, index) for index in range(wanted or num_rollouts)]
            episodes = [sampler.collect(begin, parameters, no_task, [generator], *fixed) for generator in streams]
            if self.rule.remembers:
                return episodes[0]
            return with_advantages(Rollouts.concatenate(episodes, axis=1), settings.discount, settings.gae_lambda)

        adapted = adapt(self.rule, self.meta, stages, torch.tensor([mode]), collect, self.settings.inner.inner_loss)
        # A copy, because without a step they are the agent's own.
        parameters, returns = adapted.parameters[0].clone(), adapted.returns[0].numpy()
        plan = blueprint(self.family, self.settings)
        if isinstance(rule := self.rule.core, MemoryRule):
            weights, rewards = self.meta[: rule.policy.weights.size].clone(), rule.rewards(self.meta)
            made, rng = (action_map, space, returns, plan), stream(seed, Purpose.DEPLOYMENT, len(returns))
            return AdaptedMemory(rule.policy, weights, rewards, parameters, *made, rng, normaliser)
        return AdaptedPolicy(require_derivatives(rule.policy), parameters, action_map, space, returns, plan, normaliser)

    def fit(self, inputs: Any, targets: Any, num_steps: int = 1, mode: int = UNKNOWN_MODE) -> FittedFunction:
        """Adapts to the examples of one supervised task; every step has the training step size.

        Args:
            inputs: [example, input].
            targets: [example, output], or classes, [example].
            num_steps: Gradient steps; 0 gives the function before adaptation.
            mode: Mode of the task (`metarl.envs.Family.modes`); only multi-maml needs it.

        Raises:
            UserError: If the family is not supervised, or the examples do not have its shapes.
        """
        family = self.family
        if not isinstance(family, SupervisedFamily):
            raise UserError(f"this agent acts in environments of {family.name}: call adapt(env), not fit.")
        rows = _numbers("inputs", inputs, family.num_inputs)
        wanted = _numbers("targets", targets, None if family.classes else family.num_outputs)
        num_steps, mode = convert("num_steps", num_steps, Steps), self._checked_mode(mode)
        examples = family.checked(rows, wanted, len(rows))
        batch = ExampleBatch(*(torch.from_numpy(part)[None] for part in examples))
        stages = self.rule.stages(self.step_scales(num_steps))
        adapted = fit(self.rule, self.meta, stages, torch.tensor([mode]), batch, batch)
        return FittedFunction(require_derivatives(self.rule.policy), adapted.parameters[0])

    def step_scales(self, num_steps: int, wanted: Sequence[float] = ()) -> tuple[float, ...]:
        """Factors on the training step size of each gradient step outside of training.

        Args:
            num_steps: Number of steps.
            wanted: Factors of the first steps; the last one holds for all later steps. By default those of
                `metarl.inner.rule.evaluation_scales`, and 1 for supervised tasks.

        Raises:
            UserError: If a factor is not positive, if there are more of them than steps, or if the agent takes no
                gradient steps.
        """
        wanted = convert("step_scales", wanted, tuple[Positive, ...])
        if wanted and (self.rule.remembers or not self.rule.adapted):
            raise UserError(f"step_scales would do nothing: {self.config.algo} takes no gradient steps.")
        if len(wanted) > num_steps:
            raise UserError(f"step_scales has {len(wanted)} factors for {num_steps} steps: leave out the last ones.")
        supervised = isinstance(self.family, SupervisedFamily)
        return evaluation_scales(num_steps, self.settings.inner.num_inner_steps, wanted or (1.0,) * supervised)

    def _checked_mode(self, mode: Any) -> int:
        """The mode as an int; raises UserError if the family has no such mode."""
        whole: int = convert("mode", mode, Annotated[int, Range(UNKNOWN_MODE, self.family.num_modes - 1)])
        return whole

    def check_same_examples(self, family: Family) -> None:
        """Raises UserError unless the examples of another family have the shapes that the agent was trained with."""
        own = self.family
        if not (isinstance(own, SupervisedFamily) and isinstance(family, SupervisedFamily)):
            raise UserError(f"this agent was trained on {own.name}, and {family.name} is no family of the same kind.")
        wanted, shapes = ((f.num_inputs, f.num_outputs, f.classes) for f in (own, family))
        if shapes != wanted:
            raise UserError(
                f"{family.name} has {shapes[0]} inputs and {shapes[1]} outputs; this agent was trained on {own.name} "
                f"with {wanted[0]} and {wanted[1]}."
            )

    def check_fits(self, observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any]) -> None:
        """Raises UserError unless an environment with these spaces fits the agent."""
        family = require_environments(self.family, "adapting in an environment")
        size = flat_space(observation_space, "the environment's observations").shape[0]
        wanted_size = self.rule.policy.observation_size
        if size != wanted_size:
            hint = ""
            if self.settings.algorithm.sees_task:
                hint = (
                    " It observes its task too: wrap an environment in metarl.envs.oracle.TaskObservation; another "
                    "family needs tasks of the same shape."
                )
            raise UserError(
                f"the environment's observations have {size} numbers; this agent was trained on {self.config.env} with "
                f"{wanted_size}.{hint}"
            )
        if not same_form(observation_space, family.single_observation_space):
            raise UserError(
                f"the environment's observations are {observation_space}; this agent was trained on {self.config.env} "
                f"with {family.single_observation_space}. Other parts, shapes or types of pixels mean other numbers."
            )
        wanted = family.action_space
        same = action_space.shape == wanted.shape and choices(action_space) == choices(wanted)
        if type(action_space) is not type(wanted) or not same:
            raise UserError(f"the environment's actions are {action_space}; this agent was trained with {wanted}.")


def _numbers(name: str, value: Any, columns: int | None) -> np.ndarray:
    """Rows as float32 [row, column], or without ``columns`` [row].

    Raises:
        UserError: If there is no row, or the value has another shape or holds anything but finite numbers.
    """
    try:
        numbers = np.asarray(value, np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{name} must be an array of numbers, got {shown(value)}.") from error
    wanted = () if columns is None else (columns,)
    if numbers.ndim != 1 + len(wanted) or numbers.shape[1:] != wanted or not len(numbers):
        raise UserError(f"{name} must have shape ({', '.join(['examples', *map(str, wanted)])}), got {numbers.shape}.")
    if not np.isfinite(numbers).all():
        raise UserError(f"{name} must be finite numbers.")
    return numbers


class _OneEnvironment(EpisodeBatch):
    """A single environment as a batch of one episode; the caller has already set its task."""

    def __init__(self, env: gymnasium.Env[Any, Any], space: gymnasium.Space[Any], horizon: int) -> None:
        super().__init__(1, flat_space(space, "the environment's observations").shape[0])
        self._env, self._space, self._horizon = env, space, horizon
        self._task: str | None = None  # What the environment tells of it.

    def reset(
        self, tasks: np.ndarray, seeds: Sequence[int], observations: np.ndarray, slots: np.ndarray | None = None
    ) -> None:
        self._steps = 0
        observation, info = begin(self._env, None, None)
        if "task" in info:
            self._require_same(info["task"])
        with np.errstate(over="ignore"):  # What does not fit becomes infinite, and the door refuses it.
            observations[0] = flatten(self._space, observation, "an observation")

    def step(
        self,
        actions: np.ndarray,
        observations: np.ndarray,
        rewards: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
    ) -> None:
        self._steps += 1
        observation, reward, terminated[0], cut_off, _ = take_step(self._env, actions[0])
        with np.errstate(over="ignore"):
            observations[0] = flatten(self._space, observation, "an observation")
            rewards[0] = reward
        truncated[0] = cut_off or self._steps >= self._horizon

    def _require_same(self, task: Any) -> None:
        """Raises UserError if the environment tells of another task than before."""
        with suppress(TypeError):  # An object of its own, which has no text.
            text = one_line(task)
            if self._task not in (None, text):
                raise UserError(
                    f"the environment has changed its task, from {self._task} to {text}, and an agent adapts to one: "
                    "the environment must keep its task at a reset without a seed, which metarl.sb3.TaskEnv and "
                    "wrappers that pass a seed do not."
                )
            self._task = text

    def close(self) -> None:
        """Does nothing: the caller closes the environment."""


def load(run_dir: str | Path, checkpoint: Checkpoint = "last", trust: Trust = False) -> Agent:
    """Loads a trained agent.

    A run's folder holds data. It may name a task family, a rule, a meta-optimiser or a policy body from outside metarl;
    these are imported only if you trust them. Those that this process has imported or registered already are trusted.

    Args:
        run_dir: The run's folder, or ``reference:NAME`` for an agent that comes with the package.
        checkpoint: ``last``, or ``best`` on the validation tasks.
        trust: True to import whatever the run names, or the names ("package.module:name") that may be imported.

    Raises:
        UserError: If the folder holds no run, the checkpoint is missing, damaged or from another run, or the run names
            code that is not trusted.
    """
    return load_with_iteration(run_dir, checkpoint, trust)[0]


def require_same_data(config: Config, family: Family) -> None:
    """Raises UserError if a run was trained on other data than its family holds now (`metarl.envs.Family.data`)."""
    path = RunFolder(config.folder).config
    before = read_values(path).get("metarl", {}).get("data", "") if path.is_file() else ""
    if before and before != (now := family.data):
        raise UserError(
            f"the data of {family.name} have changed since {config.folder} was trained: {before} then, {now} now. "
            "What was trained on could now be in the tests; restore the data, or train a new run."
        )


def load_with_iteration(run_dir: str | Path, checkpoint: Checkpoint, trust: Trust) -> tuple[Agent, int]:
    """Loads a trained agent as `load` does, and says after which iteration its checkpoint was written."""
    which = convert("checkpoint", checkpoint, Checkpoint)
    config = load_config(run_folder(convert("run_dir", run_dir, Path)), trust)
    state = load_checkpoint(config, which)
    return Agent(config, state.learner.meta), state.iteration
