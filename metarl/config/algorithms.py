"""What ``--algo`` names: one row for each algorithm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from metarl.common.errors import UserError, nearest


@dataclass(frozen=True)
class Algorithm:
    """What ``--algo`` names.

    Attributes:
        title: What plots and tables call it.
        rule: Where the adaptation rule's factory is; called with (policy, inner).
        attenuated: Whether Learn-to-Forget belongs to it.
        training: How its meta-parameters are found: the meta-step, Stable-Baselines3's PPO on all tasks at once, or not
            at all.
        sees_task: Whether the policy observes its task.
        settings: Names of the settings that are for this algorithm and not for all.
    """

    title: str
    rule: str
    attenuated: bool = False
    training: Literal["meta", "ppo", "none"] = "meta"
    sees_task: bool = False
    settings: tuple[str, ...] = ()


ALGORITHMS: dict[str, Algorithm] = {
    "maml": Algorithm("MAML", "metarl.agents.maml:MAML"),
    "fomaml": Algorithm("first-order MAML", "metarl.agents.maml:fomaml"),
    "l2f": Algorithm("L2F", "metarl.agents.maml:MAML", attenuated=True),
    "anil": Algorithm("ANIL", "metarl.agents.anil:anil", settings=("adapted_layers",)),
    "meta-sgd": Algorithm("Meta-SGD", "metarl.agents.meta_sgd:MetaSGD"),
    "mamlpp": Algorithm("MAML++", "metarl.agents.mamlpp:MAMLpp", settings=("mamlpp",)),
    "mumomaml": Algorithm("MuMoMAML", "metarl.agents.mumomaml:MuMoMAML", settings=("mumomaml",)),
    "multi-maml": Algorithm("Multi-MAML", "metarl.agents.multi_maml:MultiMAML"),
    "context": Algorithm("context vector", "metarl.agents.context:ContextAdaptation", settings=("context_size",)),
    "random": Algorithm("random initialisation", "metarl.agents.maml:MAML", training="none"),
    "pretrain": Algorithm("pretrained (PPO)", "metarl.agents.maml:MAML", training="ppo"),
    "oracle": Algorithm("oracle (PPO)", "metarl.agents.anil:frozen", training="ppo", sees_task=True),
    "standstill": Algorithm("standing still", "metarl.agents.standstill:Standstill", training="none"),
}


def get_algorithm(name: str) -> Algorithm:
    """The algorithm called ``name``.

    Raises:
        UserError: If there is none; names the nearest ones.
    """
    if name not in ALGORITHMS:
        raise UserError(
            f"unknown algorithm {name!r}.{nearest(name, ALGORITHMS)} There are: {', '.join(sorted(ALGORITHMS))}."
        )
    return ALGORITHMS[name]


def run_title(config: Mapping[str, Any]) -> str:
    """What plots and tables call a run: its algorithm, and L2F if that is on top of it.

    Args:
        config: The run's settings, as in its config.json.
    """
    name, attenuated = config["algo"], bool(config.get("attenuate"))
    algorithm = ALGORITHMS.get(name)
    if algorithm is None:
        return str(name)
    if attenuated and not algorithm.attenuated:
        own = [other.title for other in ALGORITHMS.values() if other.attenuated and other.rule == algorithm.rule]
        return own[0] if own else f"{algorithm.title} + L2F"
    return algorithm.title


OWN_SETTINGS = {
    "adapted_layers": "algo anil",
    "context_size": "algo context",
    "mamlpp": "algo mamlpp",
    "mumomaml": "algo mumomaml",
    "l2f": "algo l2f, or attenuate with another one",
    "meta_optimiser": "an algorithm with a meta-step, and not a baseline",
    "promp": "meta_optimiser promp",
    "trpo": "meta_optimiser trpo",
}
"""Settings that are not for every algorithm, and what they are for."""


def idle_settings(config: Mapping[str, Any]) -> list[str]:
    """Those of `OWN_SETTINGS` that do nothing with a run's algorithm.

    Args:
        config: The run's settings, as in its config.json; ``algo`` is an entry of `ALGORITHMS`.
    """
    algorithm = ALGORITHMS[config["algo"]]
    in_use = set(algorithm.settings)
    if algorithm.attenuated or config.get("attenuate"):
        in_use.add("l2f")
    if algorithm.training == "meta":
        in_use |= {"meta_optimiser", config.get("meta_optimiser", "trpo")}
    return [name for name in OWN_SETTINGS if name not in in_use]
