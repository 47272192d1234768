"""The experiments behind the learning results: what is trained, how it is evaluated, what has been published.

`benchmarks.reproduce` trains and compares them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
RUNS = Path("runs/reproduce")


@dataclass(frozen=True)
class Published:
    """A published figure.

    Attributes:
        variant: The variant that it is held against.
        after: Mean return, or error, after so many steps of adaptation.
        source: Where it is printed, and under which conditions if they differ from ours.
        spread: What is printed behind the mean as +-, by the number of steps.
    """

    variant: str
    after: dict[int, float]
    source: str
    spread: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """Variants of training on one family.

    Attributes:
        env: The task family.
        variants: Command-line options of each variant; the others are compared with the first.
        evaluation: Command-line options of the evaluation; None to compare learning curves alone.
        analysis: Command-line options of an analysis; None for none.
        seeds: Training seeds.
        other_seeds: Training seeds of the variants that have other ones.
        agents_of: The experiment whose agents are evaluated, with the same options of training; empty to train its own.
        note: A note for readers of the results.
        published: Figures that the results are held against.
    """

    env: str
    variants: dict[str, str]
    evaluation: str | None
    seeds: tuple[int, ...] = (0, 1, 2)
    note: str = ""
    analysis: str | None = None
    published: tuple[Published, ...] = ()
    other_seeds: dict[str, tuple[int, ...]] = field(default_factory=dict)
    agents_of: str = ""

    def seeds_of(self, variant: str) -> tuple[int, ...]:
        """Training seeds of a variant."""
        return self.other_seeds.get(variant, self.seeds)

    def runs(self) -> Iterator[tuple[str, int]]:
        """Variant and seed of each run, the first seed of all variants first."""
        seeds = sorted({seed for variant in self.variants for seed in self.seeds_of(variant)})
        return ((variant, seed) for seed in seeds for variant in self.variants if seed in self.seeds_of(variant))

    def train_options(self, variant: str, seed: int | str) -> list[str]:
        """Options of ``python -m metarl.train`` for a run."""
        return ["--env", self.env, *self.variants[variant].split(), "--seed", str(seed)]

    def command(self, variant: str) -> str:
        """The command that trains a variant, with SEED in place of a seed."""
        return " ".join(["python -m metarl.train", *self.train_options(variant, "SEED")])


def run_name(variant: str, seed: int) -> str:
    """Name of a run's folder."""
    return f"{variant}-seed{seed}"


# A quarter of the usual data and few iterations: enough to see which settings learn at all.
_SHORT = "--meta-batch-size 20 --rollouts-per-task 10 --validate-every 0"
_ORIGINAL = "--activation relu --output-gain 1 --initial-std 1 --action-scale 1"
_NEAR_ZERO = "--activation tanh --output-gain 0.1 --initial-std 0.5 --action-scale 1"
_SEARCH = (
    "A search, not a comparison: algorithm, length and amount of data differ between rows, and there is one seed. "
    "It says which settings start to learn at all."
)

# About 800 episodes per iteration, all phases together. MAML++ has four phases in the first 30 iterations and three
# afterwards; MuMoMAML has one more episode per task.
_ALGORITHMS = {
    "maml": "--algo maml",
    "fomaml": "--algo fomaml",
    "promp": "--algo maml --meta-optimiser promp",
    "l2f": "--algo l2f",
    "anil": "--algo anil",
    "anil-attenuated": "--algo anil --attenuate",
    "meta-sgd": "--algo meta-sgd",
    "mamlpp": "--algo mamlpp --num-inner-steps 2 --rollouts-per-task 12",
    "mumomaml": "--algo mumomaml",
    "context": "--algo context",
    "random": "--algo random",
    "pretrain": "--algo pretrain",
    "oracle": "--algo oracle",
    "standstill": "--algo standstill",
}

_FIVE = (0, 1, 2, 3, 4)
_FIVE_SEEDS = dict.fromkeys(("maml", "l2f", "anil", "mumomaml", "context"), _FIVE)

# Learn-to-Forget in reinforcement learning (docs/l2f.md). A fresh attenuation has a third phase of episodes, so that 67
# iterations cost the environment steps of 100.
_FRESH = "--l2f.attenuation-rollouts fresh --iterations 67"
_NORMALISED = "--l2f.normalise-embedding"
_MOMENTS = f"--l2f.embedding moments {_NORMALISED}"
# Nothing holds the policy that collects the reused episodes near the one that they are reused for.
_FREE = "--l2f.reuse-kl 0"
_L2F_NAVIGATION = {
    "maml-0.1": "--algo maml",
    "maml-0.01": "--algo maml --inner-lr 0.01",
    "maml-0.03": "--algo maml --inner-lr 0.03",
    "maml-0.3": "--algo maml --inner-lr 0.3",
    "constants": "--algo l2f --l2f.conditioning constant",
    **{
        f"l2f-{gradient}-{embedding}-{rollouts}": " ".join(
            ["--algo l2f --l2f.embedding-gradient", gradient, *normalise, *fresh]
        )
        for gradient in ("stop", "through")
        for embedding, normalise in (("raw", []), ("normalised", [_NORMALISED]))
        for rollouts, fresh in (("reuse", [_FREE]), ("fresh", [_FRESH]))
    },
    "moments-reuse": f"--algo l2f {_MOMENTS} {_FREE}",
    "moments-fresh": f"--algo l2f {_MOMENTS} {_FRESH}",
    "moments": f"--algo l2f {_MOMENTS}",
    # The penalty alone, which the trust region does not know.
    **{
        f"{name}-kl-{weight}": f"--algo l2f{embedding} --l2f.reuse-kl {weight} --l2f.start-kl 0"
        for name, embedding in (("l2f-stop-raw-reuse", ""), ("moments-reuse", f" {_MOMENTS}"))
        for weight in ("0.01", "0.1")
    },
    "l2f-stop-raw-reuse-both-kl-1": "--algo l2f --l2f.start-kl 1 --l2f.reuse-kl 1",
}
_TWO_BATCHES = "Step 1 of a variant with fresh rollouts has seen two batches of episodes, as step 2 of MAML has."
_START_KL = "--algo l2f --l2f.initial-gamma 0.5 --l2f.start-kl"


def _at_equal_steps(*names: str) -> dict[str, str]:
    """Variants of `_L2F_NAVIGATION`; those without iterations of their own have 100."""
    options = {name: _L2F_NAVIGATION[name] for name in names}
    return {
        name: f"{option} --validate-every 0" + ("" if "--iterations" in option else " --iterations 100")
        for name, option in options.items()
    }


def _conflict(env: str, options: str, iterations: int, rollouts: int) -> Experiment:
    """MAML and L2F on a family whose tasks pull apart, with the conflict of MAML's meta-gradients."""
    variants = {
        name: f"--algo {algo}{options} --validate-every 0 --iterations {iterations}"
        for name, algo in (("maml", "maml"), ("l2f", f"l2f {_FREE}"))
    }
    return Experiment(
        env,
        variants,
        f"--tasks 40 --rollouts {rollouts}",
        seeds=(0,),
        analysis="",
        note="Whether forgetting pays where tasks pull the initialisation apart; one seed.",
    )


def _headroom(env: str, iterations: int, evaluation: str, analysis: str) -> Experiment:
    """What attenuation by hand gains on an initialisation that was trained without it."""
    variants = {algo: f"--algo {algo} --validate-every 0 --iterations {iterations}" for algo in ("maml", "anil")}
    note = "What the best gamma of each task gains at test time, on an initialisation trained without attenuation."
    return Experiment(env, variants, evaluation, seeds=(0,), analysis=f"--gamma-sweep {analysis}", note=note)


def _memory(
    env: str,
    iterations: int,
    episodes: int,
    evaluation: str = "",
    seeds: tuple[int, ...] = (0, 1, 2),
    algo: str = "rl2",
    options: str = "",
) -> Experiment:
    """An agent with memory; the evaluation goes on for two episodes more than a trial of training has."""
    return Experiment(
        env,
        {algo: f"--algo {algo} --iterations {iterations} --validate-every 0 {options}".strip()},
        f"{evaluation or '--tasks 100'} --rollouts 10 --gradient-steps {episodes + 1}",
        seeds=seeds,
        note="Column 0 is the first episode in a new task, column 1 the second, and so on.",
    )


def _sinusoids(shots: int, steps: int, algorithms: tuple[str, ...], seeds: tuple[int, ...]) -> Experiment:
    """L2F's sinusoids, with a number of points and of inner steps in training."""
    return Experiment(
        "sinusoid-l2f",
        {name: f"--algo {name} --shots {shots} --num-inner-steps {steps}" for name in algorithms},
        "--tasks 1000 --gradient-steps 10",
        seeds=seeds,
        note=f"Regression of sinusoids from {shots} points, as in L2F's table 7; inner steps in training: {steps}.",
        published=_SINUSOIDS[shots],
    )


def _shifted_sinusoids() -> Experiment:
    """L2F's sinusoids whose held-out tasks lie outside of the ranges of training."""
    usual = _sinusoids(5, 5, ("maml", "l2f"), _FIVE)
    return replace(
        usual,
        variants={name: f"{options} --env-kwargs shifted True" for name, options in usual.variants.items()},
        note="Regression of sinusoids from 5 points, held-out tasks beyond the ranges of training (L2F, section 4.2).",
        published=(),
    )


def _kinds(number: int, seeds: tuple[int, ...] = _FIVE) -> Experiment:
    """MuMoMAML's functions of several kinds, drawn and learned as in the authors' release."""
    options = {"maml": "", "multi-maml": "", "mumomaml": _MUMOMAML_EMBEDDING}
    return Experiment(
        f"regression-{number}",
        {
            name: f"--algo {name}{option} {_FUNCTIONS} --env-kwargs released True --num-inner-steps 5 --inner-lr 0.001"
            for name, option in options.items()
        },
        "--tasks 1000 --gradient-steps 10",
        seeds=seeds,
        note="Functions of several kinds from 5 points, as in MuMoMAML's table 1; the noise's variance is 0.09. "
        "Sinusoids, inner steps and their size are those of the authors' release.",
        published=_KINDS.get(number, ()),
    )


def _out_of_distribution(env: str) -> Experiment:
    """The agents of algorithms-navigation on another family; an oracle of that one observes another task."""
    return Experiment(
        "navigation",
        {name: options for name, options in _ALGORITHMS.items() if name not in ("random", "oracle", "standstill")},
        f"--env {env} --tasks 200 --rollouts 40",
        other_seeds=_FIVE_SEEDS,
        agents_of="algorithms-navigation",
        note=f"Out of distribution: agents that were trained on navigation, evaluated on {env}.",
    )


def _meta_world(task: str, algo: str, iterations: int) -> Experiment:
    """An algorithm on an environment of Meta-World, for 40 to 60 minutes of a core; `push-v3` steps half as fast."""
    evaluation = {"maml": "--rollouts 10 --gradient-steps 1", "rl2": "--rollouts 3 --gradient-steps 10"}[algo]
    return Experiment(
        "metaworld-ml1",
        {algo: f"--env-kwargs task {task} --algo {algo} --best-by success --iterations {iterations}"},
        f"--tasks 50 {evaluation}",
        seeds=(0,),
        note="Needs the package metaworld: pip install '.[metaworld]'.",
    )


# What a step towards the goal is worth comes with all later steps.
_FAR_SIGHTED = "--discount 0.99 --gae-lambda 0.95"
_SURVIVE_BONUS = "Returns hold the survive bonus, 200 for a whole episode; evaluation.json has the return without it."
_RELEASE = "result files of the release of Finn et al. 2017"
_NAVIGATION_MAML = Published(
    "maml",
    {0: -40.41, 1: -11.68, 2: -3.33, 3: -3.23},
    f"{_RELEASE}, 40 tasks, 40 episodes a step",
    {0: 4.0, 1: 2.2, 2: 0.6, 3: 0.6},
)
_NAVIGATION_CONTEXT = Published(
    "context", {0: -42.42, 1: -13.90, 2: -5.17, 3: -3.18}, "Finn et al. 2017, of the context vector"
)
_NAVIGATION_ORACLE = Published("oracle", {0: -2.29}, _RELEASE, {0: 0.14})
_NAVIGATION_L2F = tuple(
    Published(
        variant,
        dict(zip((1, 2, 3), returns, strict=True)),
        "Baik et al. 2020 (L2F), table K (b): best of 500 iterations; by its text the squared distance is the reward",
    )
    for variant, returns in (("maml-0.01", (-32.626, -25.746, -20.734)), ("l2f", (-24.230, -19.598, -16.517)))
)
_RLLAB_MAML = Published(
    "maml",
    {0: -50.69, 1: 293.19, 2: 313.48, 3: 315.65},
    f"{_RELEASE}, after 32 M environment steps, 20 episodes a step",
    {0: 5.7, 1: 17.0, 2: 16.0, 3: 14.0},
)
_RLLAB_CONTEXT = Published(
    "context", {0: -40.49, 1: -44.08, 2: -38.27, 3: -42.50}, "Finn et al. 2017, of the context vector"
)
_ANIL = "Raghu et al. 2020 (ANIL), table 2, best of 500 iterations, ± standard deviation over 3 seeds"
_MAML_VELOCITY = Published(
    "maml",
    {0: -129.53, 1: -78.57, 2: -66.62, 3: -60.78},
    f"{_RELEASE}, original timing, after 76 M environment steps",
    {0: 17.0, 1: 9.9, 2: 8.9, 3: 8.6},
)
_CHEETAH_VELOCITY = (
    Published("maml", {1: -139.0}, _ANIL, {1: 18.9}),
    Published("anil", {1: -120.9}, _ANIL, {1: 6.3}),
)
_NAVIGATION_ANIL = (
    Published("maml", {1: -20.3}, _ANIL, {1: 3.2}),
    Published("anil", {1: -20.1}, _ANIL, {1: 2.3}),
)
_OTHER_ANT = "50 control steps a second, smaller costs and another bonus, so not comparable"
_ANT_DIRECTION = Published(
    "maml",
    {0: 8.66, 1: 499.15, 2: 500.68, 3: 499.11},
    f"{_RELEASE}, after 368 M environment steps, 40 episodes a step; {_OTHER_ANT}",
    {1: 32.0},
)
_ANT_VELOCITY = Published(
    "maml",
    {0: 30.58, 1: 96.74, 2: 100.06, 3: 101.41},
    f"{_RELEASE}, after 120 M environment steps; {_OTHER_ANT}",
)
_CHEETAH_DIRECTION = (
    Published("maml", {1: 170.4}, _ANIL, {1: 21.0}),
    Published("anil", {1: 363.2}, _ANIL, {1: 14.8}),
)
_MAML_SINUSOID = "Finn et al. 2017, table 2"


def _l2f_table(maml: tuple[float, ...], l2f: tuple[float, ...]) -> tuple[Published, ...]:
    """Errors after 1, 2 and 5 steps."""
    rows = (("maml", maml), ("l2f", l2f))
    return tuple(
        Published(name, dict(zip((1, 2, 5), errors, strict=True)), "Baik et al. 2020 (L2F), table 7")
        for name, errors in rows
    )


_SINUSOIDS = {
    5: (
        *_l2f_table((1.2247, 1.0268, 0.8995), (1.0537, 0.8426, 0.7096)),
        Published("mamlpp", {1: 1.2028, 2: 0.9268, 5: 0.7547}, "Baik et al. 2020 (L2F), table K"),
    ),
    10: _l2f_table((0.9884, 0.6192, 0.4072), (0.8069, 0.5317, 0.3696)),
    20: _l2f_table((0.6144, 0.3346, 0.1817), (0.5475, 0.2805, 0.1629)),
}
_FUNCTIONS = "--hidden-sizes 100 100 100 --shots 5 --queries 10 --meta-batch-size 25 --iterations 70000"
_MUMOMAML_EMBEDDING = " --mumomaml.embedding-size 40"
_MUMOMAML = "Vuorio et al. 2019 (MuMoMAML), table 1, which does not print the number of steps; figure 2 has five"
_KINDS = {
    number: tuple(Published(name, {5: error}, _MUMOMAML) for name, error in errors.items())
    for number, errors in (
        (2, {"maml": 1.0852, "multi-maml": 0.4330, "mumomaml": 0.3125}),
        (3, {"maml": 1.1633, "multi-maml": 0.7791, "mumomaml": 0.4048}),
    )
}
_MODES = ((2, 0), (2, 2), (2, 4), (4, 2), (4, 4), (6, 2), (6, 4))

EXPERIMENTS = {
    "l2f-navigation": Experiment(
        "navigation",
        _at_equal_steps(*_L2F_NAVIGATION),
        "--task-file benchmarks/task_lists/navigation.json --rollouts 40",
        seeds=(0,),
        note="L2F's variants at equal environment steps, beside MAML's inner steps and learned constants; one seed.",
    ),
    "l2f-navigation-best": Experiment(
        "navigation",
        _at_equal_steps(
            "maml-0.1",
            "moments",
            "moments-reuse-kl-0.1",
            "moments-fresh",
            "l2f-through-normalised-fresh",
            "l2f-stop-normalised-fresh",
            "l2f-stop-raw-fresh",
        ),
        "--task-file benchmarks/task_lists/navigation.json --rollouts 40",
        note=f"The best variants of L2F, beside MAML. {_TWO_BATCHES}",
    ),
    "l2f-navigation-bimodal": Experiment(
        "navigation-bimodal",
        _at_equal_steps("maml-0.1", "moments", "moments-reuse-kl-0.1", "moments-fresh", "l2f-through-normalised-fresh"),
        "--task-file benchmarks/task_lists/navigation-bimodal.json --rollouts 40",
        seeds=_FIVE,
        note=f"The best variants of L2F, beside MAML. {_TWO_BATCHES}",
    ),
    "l2f-navigation-bimodal-shorter-steps": Experiment(
        "navigation-bimodal",
        _at_equal_steps("maml-0.1", "moments", "moments-reuse-kl-0.1", "moments-fresh"),
        "--task-file benchmarks/task_lists/navigation-bimodal.json --rollouts 40 --step-scales 1 0.5 0.25 0.125",
        seeds=_FIVE,
        agents_of="l2f-navigation-bimodal",
        note=f"The same agents, adapted by steps of 1, 1/2, 1/4 and 1/8. {_TWO_BATCHES}",
    ),
    "l2f-cheetah-dir-rllab": Experiment(
        "cheetah-dir-rllab",
        {
            name: f"{options} --iterations 50 --validate-every 0"
            for name, options in (
                ("maml", "--algo maml"),
                ("l2f-start-kl-0", f"{_START_KL} 0 {_FREE}"),
                ("l2f-start-kl-1", f"{_START_KL} 1 {_FREE}"),
                ("l2f", "--algo l2f --l2f.initial-gamma 0.5"),
                ("l2f-reuse-kl-0.1", f"{_START_KL} 0 --l2f.reuse-kl 0.1"),
                ("l2f-start-kl-1-reuse-kl-1", f"{_START_KL} 1 --l2f.reuse-kl 1"),
            )
        },
        "--tasks 40 --rollouts 40",
        seeds=(0, 1),
        note="L2F from the published start, gamma 0.5; the unattenuated policy in the trust region, or held near.",
    ),
    "headroom-navigation": _headroom(
        "navigation",
        100,
        "--task-file benchmarks/task_lists/navigation.json --rollouts 40",
        "--oracle-return -0.49",
    ),
    "headroom-navigation-bimodal": _headroom(
        "navigation-bimodal",
        100,
        "--task-file benchmarks/task_lists/navigation-bimodal.json --rollouts 40",
        "--oracle-return -3.87",
    ),
    # There are two tasks; others are repeats.
    "headroom-cheetah-dir": _headroom("cheetah-dir", 50, "--tasks 40 --rollouts 20", "--tasks 10"),
    **{
        f"conflict-modes-{modes}-distance-{distance}": _conflict(
            "navigation-modes", f" --env-kwargs goal_modes {modes} goal_distance {distance}", 60, 40
        )
        for modes, distance in _MODES
    },
    "conflict-cheetah-vel-signed": _conflict("cheetah-vel-signed", "", 50, 20),
    "memory-navigation": _memory("navigation", 168, 3, "--task-file benchmarks/task_lists/navigation.json"),
    "memory-navigation-bimodal": _memory(
        "navigation-bimodal", 278, 3, "--task-file benchmarks/task_lists/navigation-bimodal.json"
    ),
    "memory-cheetah-dir": _memory("cheetah-dir", 100, 2, "--tasks 40"),
    "memory-cheetah-vel": _memory("cheetah-vel", 200, 2),
    "memory-cheetah-vel-varibad": _memory("cheetah-vel", 125, 2, algo="varibad"),
    "memory-cheetah-vel-pearl": _memory("cheetah-vel", 160, 3, algo="pearl"),
    "memory-ant-dir": _memory("ant-dir", 250, 2, "--tasks 40", seeds=(0,)),
    "memory-ant-dir-varibad": _memory("ant-dir", 200, 2, "--tasks 40", seeds=(0,), algo="varibad"),
    "memory-ant-goal": _memory("ant-goal", 400, 2, seeds=(0,), options=_FAR_SIGHTED),
    "memory-ant-goal-varibad": _memory(
        "ant-goal", 400, 2, seeds=(0,), algo="varibad", options=f"--varibad.decoder task {_FAR_SIGHTED}"
    ),
    "memory-bandit": _memory("bandit", 400, 1, "--tasks 1000"),
    "memory-tabular-mdp": _memory("tabular-mdp", 250, 10, "--tasks 400", seeds=(0,)),
    "cheetah-vel": Experiment(
        "cheetah-vel",
        {
            name: f"--algo {options} --iterations 70 --validate-every 0"
            for name, options in (
                ("maml", "maml"),
                ("anil", "anil"),
                ("l2f", "l2f"),
                ("l2f-moments", f"l2f {_MOMENTS}"),
                ("l2f-start-kl-0", "l2f --l2f.start-kl 0"),
                ("l2f-moments-start-kl-0", f"l2f {_MOMENTS} --l2f.start-kl 0"),
                ("l2f-reuse-kl-0", f"l2f {_FREE}"),
            )
        },
        "--tasks 100 --rollouts 20",
        published=(_MAML_VELOCITY, *_CHEETAH_VELOCITY),
    ),
    "cheetah-vel-rllab": Experiment(
        "cheetah-vel-rllab",
        {"maml": "--algo maml --iterations 100 --validate-every 0"},
        "--tasks 40 --rollouts 20",
        seeds=(0, 1),
        published=(_MAML_VELOCITY,),
    ),
    "cheetah-dir-algorithms": Experiment(
        "cheetah-dir",
        {
            algo: f"--algo {algo} --iterations 50 --validate-every 0"
            for algo in ("maml", "anil", "l2f", "mumomaml", "context")
        },
        "--tasks 40 --rollouts 20",
        seeds=_FIVE,
        published=_CHEETAH_DIRECTION,
    ),
    **{
        env: Experiment(
            env,
            {algo: f"--algo {algo} --iterations 62 --validate-every 0" for algo in algorithms},
            "--tasks 40 --rollouts 20",
            seeds=seeds,
            note=note,
            published=published,
        )
        for env, algorithms, seeds, note, published in (
            ("ant-dir", ("maml", "l2f"), (0, 1, 2), _SURVIVE_BONUS, (_ANT_DIRECTION,)),
            ("ant-vel", ("maml",), (0,), _SURVIVE_BONUS, (_ANT_VELOCITY,)),
            ("ant-goal", ("maml",), (0,), "", ()),
        )
    },
    "navigation-preset": Experiment(
        "navigation",
        {
            **{
                f"maml-{step}": f"--preset l2f-navigation --algo maml --inner-lr {step} --iterations 100"
                for step in ("0.01", "0.03", "0.1", "0.3")
            },
            "l2f": "--preset l2f-navigation --iterations 100",
            "l2f-reuse-kl-0.1": "--preset l2f-navigation --l2f.reuse-kl 0.1 --iterations 100",
            "l2f-fresh": "--preset l2f-navigation --l2f.attenuation-rollouts fresh --iterations 100",
        },
        "--task-file benchmarks/task_lists/navigation.json --rollouts 20",
        other_seeds={"l2f-reuse-kl-0.1": (0,), "l2f-fresh": (0,)},
        note="L2F's own setting of navigation: inner step 0.01, actions up to 0.2, but the plain distance as reward; "
        "beside it MAML at several steps, and L2F with this package's penalty or with fresh episodes.",
        published=_NAVIGATION_L2F,
    ),
    "navigation-preset-long": Experiment(
        "navigation",
        {
            "maml-0.1": "--preset l2f-navigation --algo maml --inner-lr 0.1 --iterations 500 --validate-every 0",
            "maml-0.01": "--preset l2f-navigation --algo maml --inner-lr 0.01 --iterations 500 --validate-every 0",
            "l2f": "--preset l2f-navigation --iterations 500 --validate-every 0",
        },
        "--task-file benchmarks/task_lists/navigation.json --rollouts 20",
        seeds=(0,),
        note="L2F's own setting of navigation, but the plain distance as reward, at the published iterations: one "
        "seed, the last model.",
        published=_NAVIGATION_L2F,
    ),
    "algorithms-navigation": Experiment(
        "navigation",
        _ALGORITHMS,
        "--task-file benchmarks/task_lists/navigation.json --rollouts 40",
        other_seeds=_FIVE_SEEDS,
        published=(_NAVIGATION_MAML, *_NAVIGATION_ANIL, _NAVIGATION_CONTEXT, _NAVIGATION_ORACLE),
    ),
    **{f"algorithms-navigation-{family}": _out_of_distribution(f"navigation-{family}") for family in "bcd"},
    "algorithms-navigation-bimodal": Experiment(
        "navigation-bimodal",
        {**_ALGORITHMS, "multi-maml": "--algo multi-maml"},
        "--task-file benchmarks/task_lists/navigation-bimodal.json --rollouts 40",
        other_seeds=_FIVE_SEEDS,
    ),
    "mumomaml-step-size": Experiment(
        "navigation-bimodal",
        {"0.1": "--algo mumomaml", "0.01": "--algo mumomaml --inner-lr 0.01"},
        "--task-file benchmarks/task_lists/navigation-bimodal.json --rollouts 40",
        seeds=(0,),
        note="What modulation alone does before the first gradient step, at the usual inner step size and the paper's.",
    ),
    "sinusoid-l2f": _sinusoids(5, 2, ("maml", "l2f", "mamlpp"), _FIVE),
    "sinusoid-l2f-1-step": _sinusoids(5, 1, ("maml", "l2f"), (0, 1, 2)),
    "sinusoid-l2f-5-steps": _sinusoids(5, 5, ("maml", "l2f", "mamlpp"), _FIVE),
    "sinusoid-l2f-shifted": _shifted_sinusoids(),
    "sinusoid-l2f-10-shot": _sinusoids(10, 5, ("maml", "l2f"), _FIVE),
    "sinusoid-l2f-20-shot": _sinusoids(20, 5, ("maml", "l2f"), _FIVE),
    "sinusoid": Experiment(
        "sinusoid",
        {
            name: f"--algo {options} --shots 10 --iterations 70000 --meta-batch-size 25"
            for name, options in (
                ("maml", "maml"),
                ("maml-0.001", "maml --inner-lr 0.001"),
                ("pretrain", "pretrain"),
            )
        },
        "--shots 5 --tasks 1000 --gradient-steps 10",
        seeds=_FIVE,
        note="Sinusoids as in MAML's table 2: trained on 10 points with one inner step, tested on 5. The paper's inner "
        "step is 0.01, that of the released code's command 0.001.",
        published=(
            Published("maml", {1: 0.67, 5: 0.38, 10: 0.35}, _MAML_SINUSOID),
            Published("pretrain", {1: 2.41, 5: 2.23, 10: 2.19}, _MAML_SINUSOID),
        ),
    ),
    "regression-2": _kinds(2),
    "regression-2-text": Experiment(
        "regression-2",
        {"mumomaml": f"--algo mumomaml {_FUNCTIONS}{_MUMOMAML_EMBEDDING}"},
        "--tasks 1000 --gradient-steps 10",
        seeds=(0,),
        note="As regression-2, but with the sinusoids of the paper's text, of any frequency, and one inner step of "
        "0.01. The published error is about the least possible there (`python -m benchmarks.references regression`).",
    ),
    "regression-3": _kinds(3),
    "regression-5": _kinds(5, seeds=(0, 1)),
    "navigation": Experiment(
        "navigation",
        {
            "maml": "--algo maml",
            "l2f": "--algo l2f",
            "l2f-fresh-normalised": "--algo l2f --l2f.attenuation-rollouts fresh --l2f.normalise-embedding",
        },
        "--task-file benchmarks/task_lists/navigation.json --rollouts 40",
        published=(_NAVIGATION_MAML,),
    ),
    "navigation-long": Experiment(
        "navigation",
        {"maml": "--algo maml --iterations 500 --validate-every 0"},
        "--task-file benchmarks/task_lists/navigation.json --rollouts 40",
        seeds=(0,),
        note="Whether later gradient steps gain from longer training; one seed.",
        published=(_NAVIGATION_MAML,),
    ),
    "navigation-curvature": Experiment(
        "navigation",
        {
            "exact": "--algo maml --trpo.fisher-fraction 1 --trpo.hessian-fraction 1",
            "default": "--algo maml",
        },
        None,
        seeds=_FIVE,
        note="Exact curvature and its default approximation; `python -m benchmarks.curvature` compares the curves.",
    ),
    "cheetah-dir-rllab": Experiment(
        "cheetah-dir-rllab",
        {"maml": "--algo maml --iterations 50", "l2f": "--algo l2f --iterations 50"},
        "--tasks 40 --rollouts 40",
        published=(_RLLAB_MAML,),
    ),
    "cheetah-dir-rllab-32m": Experiment(
        "cheetah-dir-rllab",
        {
            "maml": "--algo maml --iterations 100 --validate-every 0",
            "l2f": "--algo l2f --iterations 100 --validate-every 0",
            "maml-preset": "--preset maml-cheetah-dir --iterations 100 --validate-every 0",
            "context": "--algo context --iterations 100 --validate-every 0",
        },
        "--tasks 40 --rollouts 20",
        other_seeds={"context": (0, 1)},
        note="The original timing at 32 million steps, as published; maml-preset has the published settings.",
        published=(_RLLAB_MAML, _RLLAB_CONTEXT),
    ),
    "cheetah-dir": Experiment(
        "cheetah-dir",
        {"l2f": "--algo l2f"},
        "--tasks 40 --rollouts 20",
        seeds=(0,),
        published=_CHEETAH_DIRECTION,
    ),
    "cheetah-dir-settings": Experiment(
        "cheetah-dir",
        {
            "original": f"--algo l2f --iterations 25 {_SHORT} {_ORIGINAL} --discount 0.99",
            "near-zero-start": f"--algo l2f --iterations 24 {_SHORT} {_NEAR_ZERO} --discount 0.99",
            "discount-0.95": f"--algo maml --iterations 15 {_SHORT} {_ORIGINAL} --discount 0.95",
            "near-zero-start-discount-0.95": f"--algo maml --iterations 15 {_SHORT} {_NEAR_ZERO} --discount 0.95",
            "the-same-horizon-100": f"--algo maml --iterations 15 {_SHORT} {_NEAR_ZERO} --discount 0.95 --horizon 100",
            "the-same-relu": f"--algo maml --iterations 15 {_SHORT} {_NEAR_ZERO} --discount 0.95 --activation relu",
            "chosen": f"--algo maml --iterations 15 {_SHORT}",
        },
        None,
        seeds=(0,),
        note=_SEARCH,
    ),
    "cheetah-dir-discount": Experiment(
        "cheetah-dir",
        {
            f"discount-{discount}": f"--algo maml --iterations 25 {_SHORT} --discount {discount}"
            for discount in (0.95, 0.99)
        },
        None,
        note="The discount alone: 0.95 looks one second ahead, 0.99 five. A quarter of the usual amount of data.",
    ),
    "cheetah-dir-rllab-settings": Experiment(
        "cheetah-dir-rllab",
        {
            "original": f"--algo maml --iterations 50 {_ORIGINAL}",
            "original-l2f": f"--algo l2f --iterations 12 {_ORIGINAL}",
            "original-l2f-gamma-0.95": f"--algo l2f --iterations 33 {_ORIGINAL} --l2f.initial-gamma 0.95",
            "chosen-l2f-gamma-0.5": "--algo l2f --iterations 29 --l2f.initial-gamma 0.5",
            "original-quarter": f"--algo maml --iterations 16 {_SHORT} {_ORIGINAL}",
            "output-gain-0.1-quarter": f"--algo maml --iterations 16 {_SHORT} {_ORIGINAL} --output-gain 0.1",
            "half-scale-quarter": f"--algo maml --iterations 16 {_SHORT} --initial-std 1 --action-scale 0.5",
            "chosen-quarter": f"--algo maml --iterations 16 {_SHORT}",
        },
        None,
        seeds=(0,),
        note=_SEARCH,
    ),
    "meta-world-reach": _meta_world("reach-v3", "maml", 40),
    "meta-world-reach-rl2": _meta_world("reach-v3", "rl2", 26),
    "meta-world-push": _meta_world("push-v3", "maml", 20),
    "meta-world-push-rl2": _meta_world("push-v3", "rl2", 26),
}
