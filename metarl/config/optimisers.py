"""What ``--meta-optimiser`` names: one row for each meta-optimiser."""

from __future__ import annotations

from dataclasses import dataclass

from metarl.config.settings import ProMPConfig, TRPOConfig


@dataclass(frozen=True)
class MetaOptimiser:
    """What ``--meta-optimiser`` names.

    Attributes:
        title: What plots and tables call it.
        step: Where its class is, a `metarl.outer.optimiser.Optimiser`; made with an instance of ``settings``.
        settings: Its own settings.
    """

    title: str
    step: str
    settings: type


META_OPTIMISERS: dict[str, MetaOptimiser] = {
    "trpo": MetaOptimiser("TRPO", "metarl.outer.trpo:TRPO", TRPOConfig),
    "promp": MetaOptimiser("ProMP", "metarl.outer.promp:ProMP", ProMPConfig),
}
