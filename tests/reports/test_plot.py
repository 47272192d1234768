import csv
import json
from functools import partial

import numpy as np
import pytest
from tiny_runs import ROOT

from metarl import ALGORITHMS, L2FConfig, ProMPConfig, compare, report
from metarl.commands.plot import main
from metarl.common.errors import UserError
from metarl.config.config import Config
from metarl.reports.curves import draw_adaptation, draw_apart, draw_gradient_steps, draw_training, plot_runs
from metarl.reports.labels import differences, group_runs
from metarl.reports.styles import COLOURS, MARKERS
from metarl.store.runs import read_run

NAVIGATION_TASKS = [[0.1, 0.2], [0.3, -0.4], [-0.5, 0.0]]


def make_run(
    folder, *, algo="maml", seed=0, env="navigation", tasks=NAVIGATION_TASKS, returns=None, evaluated=None, **settings
):
    """Writes a run folder as training and evaluation leave it; ``returns`` is [task][step]."""
    folder.mkdir(parents=True)
    config = {"env": env, "algo": algo, "seed": seed, "run_dir": str(folder), **settings}
    config["metarl"] = {"version": "0.1.0", "commit": "0123456789abcdef"}
    (folder / "config.json").write_text(json.dumps(config))
    with (folder / "progress.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["iteration", "env_steps", "pre_adaptation_return", "post_adaptation_return", "outcome"])
        writer.writerows([[1, 1000, -40, -20 + seed, "accepted"], [2, 2000, -41, "", "rejected"]])
        writer.writerow([3, 3000, -42, -10 + seed, "accepted"])
    returns = returns or [[-40.0, -20.0 + seed, -10.0]] * len(tasks)
    evaluation = {
        "config": config,
        "env": env,
        "checkpoint": "last",
        "seed": 5,
        "rollouts": 2,
        "step_scales": [1.0, 0.5],
        "tasks": tasks,
        "finite": False,
        "task_names": None,
        "returns": returns,
        "mean": np.mean(returns, axis=0).tolist(),
        "interval": None,
        "share_made_worse": None,
        "env_steps": 100,
        "references": {"standstill": -38.0, "random_initialisation": [-80.0, -60.0, -50.0]},
        "metarl": {},
        **(evaluated or {}),
    }
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    return folder


def metric(per_task):
    """A metric in evaluation.json; ``per_task`` is [task][step]."""
    return {"per_task": per_task, "mean": np.mean(per_task, axis=0).tolist(), "interval": None}


def test_a_metric_is_drawn_in_place_of_the_return(tmp_path):
    rates = [[0.0, 0.5, 1.0], [0.0, 0.25, 0.5], [0.0, 0.0, 0.0]]
    run = make_run(tmp_path / "run", evaluated={"metrics": {"success": metric(rates)}})
    progress = (run / "progress.csv").read_text().replace("\r\n", "\n").splitlines()
    new = ["pre_adaptation_success,post_adaptation_success", "0,0.25", "0,0.5", "0.125,0.75"]
    (run / "progress.csv").write_text("".join(f"{a},{b}\n" for a, b in zip(progress, new, strict=True)))
    ax = draw_gradient_steps(groups_of(run), "success").axes[0]
    assert ax.get_ylabel() == "success of an episode"
    assert [line.get_ydata().tolist() for line in ax.lines] == [[0, 0.25, 0.5]]  # No references.
    before, after = draw_training(groups_of(run), "iteration", "success").axes
    assert before.get_ylabel() == "success of an episode"
    assert [ax.lines[0].get_ydata().tolist() for ax in (before, after)] == [[0, 0, 0.125], [0.25, 0.5, 0.75]]
    assert main([str(run), "--y", "success", "--output", str(tmp_path / "success.svg")]) == 0


@pytest.mark.parametrize(
    ("x", "problem"),
    [
        ("gradient-step", r"the evaluation of '.*run' holds no 'success'; it holds return\."),
        ("iteration", "holds no 'pre_adaptation_success': nothing to draw against iteration"),
        ("input", r"y \(--y\) names a metric, and x='input' \(--x\) draws functions"),
    ],
)
def test_a_metric_that_was_not_measured_is_refused(tmp_path, x, problem):
    run = make_run(tmp_path / "run")
    with pytest.raises(UserError, match=problem):
        plot_runs(run, tmp_path / "picture.png", x, y="success")


def groups_of(*folders):
    return group_runs([read_run(folder) for folder in folders])


def make_real_run(folder, evaluated=None, **settings):
    """A run folder with the configuration that training would write."""
    written = {name: value for name, value in Config(**settings).to_dict().items() if name != "run_dir"}
    return make_run(folder, evaluated=evaluated, **written)


def bold(ax):
    """The lines that stand for a group's mean."""
    return [line for line in ax.lines if not line.get_label().startswith("_") and line.get_marker()]


def looks(line):
    """What tells a line apart."""
    filled = line.get_markerfacecolor() == line.get_color()
    return line.get_color(), line.get_linestyle(), line.get_marker(), filled


def legend(figure):
    (box,) = figure.legends
    return [text.get_text().replace("\n", " ") for text in box.get_texts()]


BASELINES = ("random", "pretrain", "oracle", "standstill")
EVERYTHING = {
    "maml": {"algo": "maml"},
    "fomaml": {"algo": "fomaml"},
    "promp": {"algo": "maml", "meta_optimiser": "promp"},
    "l2f": {"algo": "l2f"},
    "anil": {"algo": "anil"},
    "anil-attenuated": {"algo": "anil", "attenuate": True},
    "meta-sgd": {"algo": "meta-sgd"},
    "mamlpp": {"algo": "mamlpp"},
    "mumomaml": {"algo": "mumomaml"},
    "multi-maml": {"algo": "multi-maml"},
    "context": {"algo": "context"},
    "cavia": {"algo": "cavia"},
    "rl2": {"algo": "rl2"},
    "varibad": {"algo": "varibad"},
    "pearl": {"algo": "pearl", "sac": {"updates": 2}},
    "random": {"algo": "random"},
    "pretrain": {"algo": "pretrain"},
    "oracle": {"algo": "oracle"},
    "standstill": {"algo": "standstill"},
}


def test_mean_line_averages_tasks_and_then_seeds(tmp_path):
    make_run(tmp_path / "a", seed=0, returns=[[-4.0, 0.0], [-2.0, 0.0], [0.0, 0.0]])
    make_run(tmp_path / "b", seed=1, returns=[[-8.0, 2.0], [-8.0, 2.0], [-8.0, 5.0]])
    (ax,) = draw_gradient_steps(group_runs([read_run(tmp_path / name) for name in "ab"])).axes
    (mean,) = bold(ax)
    np.testing.assert_allclose(mean.get_ydata(), [-5.0, 1.5])
    assert [round(tick) for tick in ax.get_xticks()] == [0, 1]


def test_every_seed_is_drawn_and_the_interval_waits_for_five(tmp_path):
    folders = [make_run(tmp_path / str(seed), seed=seed) for seed in range(5)]
    four = draw_gradient_steps(group_runs([read_run(folder) for folder in folders[:4]])).axes[0]
    five = draw_gradient_steps(group_runs([read_run(folder) for folder in folders])).axes[0]
    assert (len(four.lines), len(five.lines)) == (4 + 1 + 2, 5 + 1 + 2)  # seeds, mean, two references
    assert (len(four.collections), len(five.collections)) == (0, 1)
    assert four.figure.legends[0].get_title().get_text() == "4 seeds, no interval"
    assert five.figure.legends[0].get_title().get_text() == "5 seeds, 95 % interval"


def test_lines_of_different_numbers_of_seeds_say_so_one_by_one(tmp_path):
    folders = [make_run(tmp_path / f"{algo}{seed}", algo=algo, seed=seed) for algo, seed in (("maml", 0), ("anil", 0))]
    folders.append(make_run(tmp_path / "anil1", algo="anil", seed=1))
    figure = draw_gradient_steps(groups_of(*folders))
    assert figure.legends[0].get_title().get_text() == ""
    assert legend(figure)[:2] == ["MAML 1 seed, no interval", "ANIL 2 seeds, no interval"]
    folders = [
        make_run(tmp_path / f"b{seed}", env="navigation-b", algo="anil", seed=seed) for seed in range(5)
    ] + folders
    figure = draw_gradient_steps(groups_of(*folders))
    assert legend(figure)[0] == "ANIL 2 or 5 seeds, 95 % interval from 5 on"


@pytest.mark.parametrize(
    ("settings", "labels"),
    [
        ([{"algo": "maml"}, {"algo": "l2f"}, {"algo": "maml", "attenuate": True, "seed": 1}], ["MAML", "L2F"]),
        ([{"algo": "anil"}, {"algo": "anil", "attenuate": True}], ["ANIL", "ANIL + L2F"]),
        (
            [{"algo": "l2f"}, {"algo": "l2f", "l2f": {"scope": "filter"}}, {"algo": "maml", "inner_lr": 0.05}],
            ["L2F", "L2F (l2f scope filter)", "MAML (inner lr 0.05)"],
        ),
        (
            [
                {"algo": "maml"},
                {"algo": "maml", "meta_optimiser": "promp"},
                {"algo": "maml", "meta_optimiser": "promp", "promp": {"lr": 0.01}},
            ],
            ["MAML", "MAML (meta optimiser promp)", "MAML (meta optimiser promp, promp lr 0.01)"],
        ),
        (
            [{"algo": "anil", "adapted_layers": ("weight3", "log_std")}, {"algo": "anil"}],
            ["ANIL (adapted layers weight3 log_std)", "ANIL"],
        ),
        ([{"algo": "maml", "hidden_sizes": (64, 32)}, {"algo": "maml"}], ["MAML (hidden sizes 64x32)", "MAML"]),
        ([{"algo": "maml", "env_kwargs": {"goal_bound": 2.0}}, {"algo": "maml"}], ["MAML (goal bound 2)", "MAML"]),
        # Neither is the default, and most have 0.2.
        (
            [{"algo": "maml", "inner_lr": lr, "discount": discount} for lr, discount in ((0.2, 0.9), (0.2, 0.8))]
            + [{"algo": "maml", "inner_lr": 0.3, "discount": 0.99}],
            ["MAML (discount 0.9)", "MAML (discount 0.8)", "MAML (inner lr 0.3)"],
        ),
        # All lines of one algorithm have the same, and those of the other another one.
        (
            [{"algo": "l2f", "discount": 0.9, "inner_lr": lr} for lr in (0.1, 0.2)] + [{"algo": "maml"}],
            ["L2F (discount 0.9)", "L2F (inner lr 0.2, discount 0.9)", "MAML"],
        ),
        ([{"algo": "l2f", "discount": 0.9}, {"algo": "maml", "discount": 0.9}], ["L2F", "MAML"]),
        # An agent with memory has defaults of its own, and takes no gradient steps.
        ([{"algo": "rl2"}, {"algo": "maml", "inner_lr": 0.2}], ["RL^2", "MAML"]),
        # With a bare name, either would seem to be the default.
        ([{"algo": "maml", "inner_lr": lr} for lr in (0.2, 0.3)], ["MAML (inner lr 0.2)", "MAML (inner lr 0.3)"]),
    ],
)
def test_line_is_named_by_what_sets_it_apart_from_its_kind(tmp_path, settings, labels):
    parts = {"l2f": L2FConfig, "promp": ProMPConfig}
    for index, each in enumerate(settings):
        each = {name: parts[name](**value) if name in parts else value for name, value in each.items()}
        make_real_run(tmp_path / str(index), **each)
    groups = groups_of(*(tmp_path / str(index) for index in range(len(settings))))
    assert [group.label for group in groups] == labels
    assert sum(len(group.runs) for group in groups) == len(settings)


def without_settings(folder, *names):
    """Makes a run one of before some settings existed; a name may be that of a component and a part."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for name in names:
        *component, part = name.split(".")
        del (config[component[0]] if component else config)[part]
    path.write_text(json.dumps(config))
    return folder


def test_a_run_of_before_a_setting_existed_is_a_seed_of_the_line_that_does_the_same(tmp_path):
    old = without_settings(make_real_run(tmp_path / "old", algo="maml"), "normalise_observations", "init_from")
    new = make_real_run(tmp_path / "new", algo="maml", seed=1)
    other = make_real_run(tmp_path / "other", algo="maml", normalise_observations=True)
    groups = groups_of(old, new, other)
    assert [group.label for group in groups] == ["MAML", "MAML (normalise observations on)"]
    assert [len(group.runs) for group in groups] == [2, 1]


@pytest.mark.parametrize(
    ("env", "settings", "former", "setting", "words"),
    [
        ("sinusoid", {"algo": "maml"}, {"adam": {"max_gradient_norm": None}}, "adam.max_gradient_norm", "none"),
        (
            "navigation",
            {"algo": "l2f"},
            {"l2f": {"embedding_gradient": "through"}},
            "l2f.embedding_gradient",
            "through",
        ),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_a_run_of_before_a_setting_existed_that_did_something_else_is_a_line_of_its_own(
    tmp_path, env, settings, former, setting, words, known
):
    old = without_settings(make_real_run(tmp_path / "old", env=env, **settings), setting)
    same = make_real_run(tmp_path / "same", env=env, seed=1, **settings, **former)
    new = make_real_run(tmp_path / "new", env=env, **settings)
    if not known:  # A family whose defaults are not known.
        for folder in (old, same, new):
            path = folder / "config.json"
            path.write_text(path.read_text().replace(f'"env": "{env}"', '"env": "not_there:Family"'))
    groups = groups_of(old, same, new)
    assert [len(group.runs) for group in groups] == [2, 1]
    title = settings["algo"].upper()
    assert groups[0].label == f"{title} ({setting.replace('.', ' ').replace('_', ' ')} {words})"
    assert known == (groups[1].label == title)


def test_rules_of_ones_own_with_the_same_class_name_are_lines_of_their_own(tmp_path):
    for seed, algo in enumerate(("one.module:Rule", "another.module:Rule")):
        make_run(tmp_path / str(seed), algo=algo, seed=seed)
    labels = [group.label for group in groups_of(tmp_path / "0", tmp_path / "1")]
    assert labels == ["Rule (algo one.module:Rule)", "Rule (algo another.module:Rule)"]


def test_rules_of_ones_own_with_the_same_class_name_are_told_apart_where_they_can_be_imported(tmp_path, monkeypatch):
    algos = [f"{name}_rules_of_a_test:ProximalMAML" for name in ("one", "other")]
    for algo in algos:
        (tmp_path / f"{algo.partition(':')[0]}.py").write_text("from examples.proximal_rule import ProximalMAML\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(ROOT)
    folders = [make_real_run(tmp_path / str(seed), algo=algo, seed=seed) for seed, algo in enumerate(algos)]
    groups = group_runs([read_run(folder, trust=algos) for folder in folders])
    assert [group.label for group in groups] == [f"ProximalMAML (algo {algo})" for algo in algos]
    beside = [read_run(folders[0], trust=algos), read_run(make_real_run(tmp_path / "maml"))]
    assert [group.label for group in group_runs(beside)] == ["ProximalMAML", "MAML"]


def test_layers_that_an_algorithm_chooses_by_itself_are_no_difference(tmp_path):
    groups = groups_of(*(make_real_run(tmp_path / algo, algo=algo) for algo in ("maml", "anil")))
    assert differences(groups) == {"algorithm": ["MAML", "ANIL"]}


@pytest.mark.parametrize(
    ("algo", "choices", "labels"),
    [
        ("maml", [{}, {"hidden_sizes": ()}], ["MAML", "MAML (hidden sizes none)"]),
        ("rl2", [{}, {"hidden_sizes": (8,)}], ["RL^2", "RL^2 (hidden sizes 8)"]),
        (
            "varibad",
            [{}, {"varibad": {"decoder_sizes": ()}}],
            ["VariBAD", "VariBAD (varibad decoder sizes none)"],
        ),
    ],
)
def test_a_network_without_hidden_layers_is_a_line_of_its_own(algo, choices, labels, tmp_path):
    folders = [make_real_run(tmp_path / str(n), algo=algo, **choice) for n, choice in enumerate(choices)]
    assert [group.label for group in groups_of(*folders)] == labels
    assert len(compare(folders).lines) == 2


def test_seeds_that_start_from_runs_of_their_own_seed_are_one_line(tmp_path):
    starts = [f"runs/start-seed{seed}" for seed in range(3)] + ["runs/other-seed0"]
    for number, start in enumerate(starts):
        make_run(tmp_path / str(number), seed=number % 3, init_from=start)
    groups = groups_of(*(tmp_path / str(number) for number in range(4)))
    assert [len(group.runs) for group in groups] == [3, 1]


def test_what_other_algorithms_would_use_and_bookkeeping_make_no_lines(tmp_path):
    common = {"algo": "maml", "meta_optimiser": "trpo", "trpo": {"max_kl": 0.01}}
    folders = [
        make_run(
            tmp_path / "a", seed=0, **common, l2f={"scope": "layer"}, promp={"lr": 0.1}, profile=False, device="cpu"
        ),
        make_run(tmp_path / "b", seed=1, **common, l2f=None, promp=None, mamlpp=None, profile=True, device="cuda"),
        make_run(tmp_path / "c", seed=2, **common, context_size=3, adapted_layers=[], keep_checkpoints=True),
        make_run(
            tmp_path / "d", seed=3, **common, resumed_with=[{"version": "0.1.0"}], processes=4, envs_per_process=9
        ),
    ]
    assert [group.label for group in groups_of(*folders)] == ["MAML"]
    folders.append(make_run(tmp_path / "e", **{**common, "trpo": {"max_kl": 0.1}}))
    assert [group.label for group in groups_of(*folders)] == ["MAML", "MAML (trpo max kl 0.1)"]


def test_family_that_is_not_at_hand_has_names_by_majority(tmp_path):
    make = [
        make_run(tmp_path / str(lr), env="not_there:Family", inner_lr=lr, clip=0.1 + lr // 1) for lr in (0.1, 0.2, 2.0)
    ]
    labels = [group.label for group in groups_of(*make)]
    assert labels == ["MAML (inner lr 0.1)", "MAML (inner lr 0.2)", "MAML (inner lr 2, clip 2.1)"]


def test_names_of_lines_need_no_environment(tmp_path, monkeypatch):
    chosen = ({"discount": 0.95}, {"discount": 0.9}, {"action_scale": 1.0})
    runs = [{"algo": "l2f", "env": "cheetah-dir", **settings} for settings in chosen]
    folders = [make_real_run(tmp_path / str(index), **settings) for index, settings in enumerate(runs)]
    monkeypatch.setattr("metarl.envs.native.NativeFamily.make_env", lambda *_: pytest.fail("an environment was made"))
    assert [group.label for group in groups_of(*folders)] == ["L2F", "L2F (discount 0.9)", "L2F (action scale 1)"]


@pytest.mark.parametrize(
    ("names", "label"),
    [
        ((None, "gradient step"), "gradient steps on the task"),
        (("posterior update",) * 2, "posterior updates on the task"),
        ((None, "episode"), "gradient steps or episodes on the task"),
    ],
)
def test_axis_counts_what_the_rules_call_a_step(tmp_path, names, label):
    evaluated = [{} if name is None else {"step_name": name} for name in names]
    folders = [make_run(tmp_path / str(i), seed=i, evaluated=each) for i, each in enumerate(evaluated)]
    assert draw_gradient_steps(groups_of(*folders)).axes[0].get_xlabel() == label


def test_each_family_has_panels_and_a_scale_of_its_own_and_lines_look_the_same_in_all(tmp_path):
    directions, evaluated = [[-1.0], [1.0]], {"task_names": ["backward", "forward"], "finite": True}
    folders = [make_run(tmp_path / f"n{seed}", seed=seed) for seed in (0, 1)]
    folders += [make_run(tmp_path / "other", algo="l2f")]
    cheetah = {"env": "cheetah-dir", "tasks": directions, "evaluated": evaluated, "returns": [[0.0, 300.0]] * 2}
    folders += [make_run(tmp_path / name, algo=algo, **cheetah) for name, algo in (("cl", "l2f"), ("ca", "anil"))]
    figure = draw_gradient_steps(groups_of(*folders))
    point, backward, forward = figure.axes
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["navigation", "cheetah-dir, backward", "cheetah-dir, forward"]
    assert backward.get_ylim() == forward.get_ylim()
    assert point.get_ylim()[1] < 0 < 300 < backward.get_ylim()[1]
    assert [line.get_label() for line in bold(point)] == ["MAML", "L2F"]
    assert [line.get_label() for line in bold(forward)] == ["L2F", "ANIL"]
    assert looks(bold(point)[1]) == looks(bold(forward)[0])
    assert legend(figure)[:2] == ["MAML 2 seeds, no interval", "L2F 1 seed, no interval"]
    assert "ANIL 1 seed, no interval" in legend(figure)
    assert "not the same for all runs" not in figure.get_supxlabel()
    assert len(draw_training(groups_of(*folders), "env-steps").axes) == 4


def test_every_algorithm_is_among_those_that_look_different():
    assert {settings["algo"] for settings in EVERYTHING.values()} == set(ALGORITHMS)
    trained = [algorithm for algorithm in ALGORITHMS.values() if algorithm.training == "meta"]
    assert len(trained) <= min(len(set(COLOURS)), len(set(MARKERS)))


@pytest.mark.parametrize("draw", [draw_gradient_steps, partial(draw_training, x="env-steps")])
def test_all_algorithms_look_different_and_names_stay_bare(tmp_path, draw):
    for name, settings in EVERYTHING.items():
        make_real_run(tmp_path / name, env="navigation-bimodal", **settings)
    figure = draw(groups_of(*(tmp_path / name for name in EVERYTHING)))
    for ax in figure.axes:
        lines = bold(ax)
        assert len(lines) == len(EVERYTHING)
        assert len({looks(line) for line in lines}) == len(EVERYTHING)
        # Without their markers too, but for the baselines' dashes, and without any colour.
        trained = {looks(line)[:2] for name, line in zip(EVERYTHING, lines, strict=True) if name not in BASELINES}
        assert len(trained) == len(EVERYTHING) - len(BASELINES)
        assert len({line.get_marker() for line in lines}) >= 13
    assert [name for name in legend(figure) if "(" in name] == [
        "MAML (meta optimiser promp)", "pretrained (TRPO)", "oracle (TRPO)",
    ]  # fmt: skip
    assert figure.get_figheight() < 5


def test_algorithm_looks_the_same_in_every_figure(tmp_path):
    for name, settings in EVERYTHING.items():
        make_real_run(tmp_path / name, env="navigation-bimodal", **settings)
    together = bold(draw_gradient_steps(groups_of(*(tmp_path / name for name in EVERYTHING))).axes[0])
    for name, line in zip(EVERYTHING, together, strict=True):
        (alone,) = bold(draw_gradient_steps(groups_of(tmp_path / name)).axes[0])
        # Alone, a run with ProMP is no variant.
        assert (looks(alone) == looks(line)) == (name != "promp")


@pytest.mark.parametrize("algo", ["l2f", "anil", "random"])
def test_variants_of_an_algorithm_look_different(tmp_path, algo):
    folders = [make_run(tmp_path / str(size), algo=algo, inner_lr=0.1 * size) for size in range(1, 13)]
    folders.append(make_run(tmp_path / "on top", algo="anil", attenuate=True))
    lines = bold(draw_gradient_steps(groups_of(*folders)).axes[0])
    assert len({looks(line) for line in lines}) == len(lines) == 13


def test_line_with_the_bare_name_looks_as_if_it_were_alone(tmp_path):
    default, variant = (
        make_real_run(tmp_path / "b", algo="maml"),
        make_real_run(tmp_path / "a", algo="maml", inner_lr=0.2),
    )
    (alone,) = bold(draw_gradient_steps(groups_of(default)).axes[0])
    second, first = bold(draw_gradient_steps(groups_of(variant, default)).axes[0])
    assert first.get_label() == "MAML"
    assert looks(first) == looks(alone) != looks(second)


def test_lines_stand_around_their_gradient_step(tmp_path):
    folders = [make_run(tmp_path / str(size), inner_lr=0.1 * size) for size in range(1, 16)]
    for count in (1, 2, 15):
        lines = bold(draw_gradient_steps(groups_of(*folders[:count])).axes[0])
        places = np.array([line.get_xdata() for line in lines]) - np.arange(3)
        np.testing.assert_allclose(places.mean(axis=0), 0, atol=1e-12)
        assert abs(places).max() <= 0.15 + 1e-12
        assert len(np.unique(places[:, 0].round(6))) == count


def test_reference_that_is_a_run_is_not_drawn_twice(tmp_path):
    maml = make_run(tmp_path / "maml")
    random = make_run(tmp_path / "random", algo="random")
    still = make_run(tmp_path / "still", algo="standstill")
    assert legend(draw_gradient_steps(groups_of(maml))) == ["MAML", "random initialisation", "standing still"]
    assert legend(draw_gradient_steps(groups_of(maml, still))) == ["MAML", "standing still", "random initialisation"]
    assert legend(draw_gradient_steps(groups_of(maml, random, still))) == [
        "MAML", "random initialisation", "standing still",
    ]  # fmt: skip


def test_a_reference_that_takes_steps_has_a_line_for_each_kind_of_step(tmp_path):
    """A random network of neurons after gradient steps is another agent than a random memory after episodes."""
    memory = {"references": {"standstill": -38.0, "random_initialisation": [-70.0, -71.0]}, "step_name": "episode"}
    episodes = make_run(tmp_path / "rl2", algo="rl2", returns=[[-40.0, -20.0]] * 3, evaluated=memory)
    figure = draw_gradient_steps(groups_of(make_run(tmp_path / "maml"), episodes))
    lines = {line.get_label().replace("\n", " "): line for line in figure.axes[0].lines}
    one, other = (lines[f"random initialisation ({kind})"] for kind in ("gradient steps", "episodes"))
    assert one.get_ydata().tolist() == [-80, -60, -50]
    assert other.get_ydata().tolist() == [-70, -71]
    assert one.get_color() != other.get_color()
    assert "standing still" in lines


@pytest.mark.parametrize("iterations", [1, 3])
def test_iterations_are_whole(tmp_path, iterations):
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", algo="l2f")]
    for run in runs:
        header, *rows = (run / "progress.csv").read_text().splitlines()
        (run / "progress.csv").write_text("\n".join([header, *rows[:iterations], ""]))
    groups = groups_of(*runs)
    for figure in (draw_training(groups, "iteration"), draw_apart(groups, "iteration")):
        figure.draw_without_rendering()
        assert all(tick % 1 == 0 for ax in figure.axes if ax.get_visible() for tick in ax.get_xticks())


def test_a_folder_given_twice_counts_once(tmp_path):
    run = read_run(make_run(tmp_path / "a"))
    (group,) = group_runs([run, run])
    assert len(group.runs) == 1


def test_two_tasks_are_drawn_apart(tmp_path):
    returns = [[1.0, 5.0], [-1.0, 7.0], [1.0, 9.0]]
    two = {"env": "cheetah-dir", "tasks": [[1.0], [-1.0], [1.0]], "returns": returns}
    (together,) = draw_gradient_steps(groups_of(make_run(tmp_path / "drawn", **two))).axes  # Of tasks without end.
    np.testing.assert_allclose(bold(together)[0].get_ydata(), [1 / 3, 7.0])
    folder = make_run(tmp_path / "a", **two, evaluated={"finite": True})
    backward, forward = draw_gradient_steps(group_runs([read_run(folder)])).axes
    np.testing.assert_allclose(bold(backward)[0].get_ydata(), [-1.0, 7.0])
    np.testing.assert_allclose(bold(forward)[0].get_ydata(), [1.0, 7.0])


def test_tasks_of_a_finite_family_have_names_and_are_not_called_held_out(tmp_path):
    tasks, names = [[1.0], [-1.0], [-1.0], [1.0]], ["forward", "backward", "backward", "forward"]
    evaluated = {"finite": True, "task_names": names}
    first = make_run(tmp_path / "a", env="cheetah-dir", tasks=tasks, evaluated=evaluated)
    evaluated = {"finite": True, "task_names": names[::-1]}
    other = make_run(tmp_path / "b", env="cheetah-dir", seed=1, tasks=tasks[::-1], evaluated=evaluated)
    figure = draw_gradient_steps(group_runs([read_run(first), read_run(other)]))
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["cheetah-dir, backward", "cheetah-dir, forward"]
    caption = figure.get_supxlabel().replace("\n", " ")
    assert "seeds 0-1 · 2 tasks (none held out), 2 repeats each · last checkpoint" in caption


def test_the_best_checkpoint_is_drawn_on_request(tmp_path, capsys):
    folder = make_run(tmp_path / "a", evaluated={"checkpoint": "best"})
    (folder / "evaluation.json").rename(folder / "evaluation-best.json")
    command = [str(folder), "--output", str(tmp_path / "a.png")]
    assert main([*command, "--checkpoint", "best"]) == 0
    assert " · best checkpoint · " in draw_gradient_steps(group_runs([read_run(folder, "best")])).get_supxlabel()
    assert main(command) == 2
    (folder / "evaluation-best.json").unlink()
    assert main([*command, "--checkpoint", "best"]) == 2
    message = f"the best checkpoint of run '{folder}' was not evaluated yet: run `python -m metarl.evaluate {folder} "
    assert message + "--checkpoint best` first" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("commit", "shown"),
    [
        ("0123456789ab", ", commit 012345678"),
        ("0123456789ab-dirty", ", commit 012345678-dirty"),
        ("not a checkout", ""),
        ("unknown", ""),
    ],
)
def test_caption_tells_a_changed_checkout_and_invents_no_commit(tmp_path, commit, shown):
    folder = make_run(tmp_path / "a")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "metarl": {"version": "0.1.0", "commit": commit}}))
    caption = draw_gradient_steps(group_runs([read_run(folder)])).get_supxlabel().replace("\n", " ")
    assert caption.endswith(f"metarl 0.1.0{shown}")


@pytest.mark.parametrize(
    ("algos", "titles"),
    [
        (("rl2",), ["first episode of a trial", "last episode of a trial"]),
        (
            ("rl2", "maml"),
            [
                "before adaptation\n(with memory: first episode of a trial)",
                "after adaptation\n(with memory: last episode of a trial)",
            ],
        ),
    ],
)
def test_training_of_agents_with_memory_is_told_by_episodes(tmp_path, algos, titles):
    folders = [make_run(tmp_path / algo, algo=algo) for algo in algos]
    axes = draw_training(groups_of(*folders), "env-steps").axes
    assert [ax.get_title(loc="left") for ax in axes] == [f"navigation, {title}" for title in titles]


def test_seeds_of_an_agent_with_memory_need_equally_many_episodes(tmp_path):
    evaluated = {"step_name": "episode"}
    folders = [
        make_run(tmp_path / str(seed), algo="rl2", seed=seed, returns=[[0.0] * (2 + seed)] * 3, evaluated=evaluated)
        for seed in range(2)
    ]
    with pytest.raises(UserError, match="were evaluated for 1 and 2 episodes: evaluate them again"):
        draw_gradient_steps(groups_of(*folders))


def test_env_steps_curve_shows_what_was_measured(tmp_path):
    folders = [make_run(tmp_path / str(seed), seed=seed) for seed in range(2)]
    before, after = draw_training(groups_of(*folders), "env-steps").axes
    assert [ax.get_title(loc="left") for ax in (before, after)] == [
        "navigation, before adaptation", "navigation, after adaptation",
    ]  # fmt: skip
    (mean,) = bold(after)
    np.testing.assert_allclose(mean.get_xdata(), [1000, 3000])  # the empty cell is left out, not invented
    np.testing.assert_allclose(mean.get_ydata(), [-19.5, -9.5])
    np.testing.assert_allclose(bold(before)[0].get_ydata(), [-40, -41, -42])


def read_by_adaptation(size, per_step=10.0):
    """What an evaluation says of adaptation that reads ``size`` episodes in each of two steps."""
    episodes = [0.0, 1.0 * size, 2.0 * size]
    return {"rollouts": size, "adaptation_episodes": episodes, "adaptation_steps": [per_step * n for n in episodes]}


def make_swept_run(folder, sizes=(1, 5), **settings):
    """A run with a sweep; the returns after both steps are the number of episodes a step, plus the seed."""
    make_run(folder, evaluated=read_by_adaptation(2), **settings)
    content, seed = json.loads((folder / "evaluation.json").read_text()), settings.get("seed", 0)
    of_size = {n: [[-40.0, n + seed, n + seed]] * len(content["tasks"]) for n in sizes}
    parts = [{**content, **read_by_adaptation(n), "returns": returns} for n, returns in of_size.items()]
    (folder / "evaluation-sweep.json").write_text(json.dumps({"evaluations": parts}))
    return folder


def measured(ax):
    """Points of the lines with markers, without the legend's: lists of (x, y)."""
    return [
        list(zip(line.get_xdata(), line.get_ydata(), strict=True))
        for line in ax.lines
        if len(line.get_xdata()) and line.get_marker() not in ("", "None")
    ]


@pytest.mark.parametrize(("x", "factor"), [("adaptation-episodes", 1), ("adaptation-steps", 10)])
def test_return_is_drawn_against_what_adaptation_had_read(tmp_path, x, factor):
    maml = [make_run(tmp_path / f"m{n}", seed=n, evaluated=read_by_adaptation(20)) for n in (0, 1)]
    other = make_run(tmp_path / "o", algo="anil", evaluated=read_by_adaptation(1))
    figure = draw_adaptation(groups_of(*maml, other), x)
    (ax,) = figure.axes
    assert measured(ax) == [
        [(0, -40), (20 * factor, -19.5), (40 * factor, -10)],
        [(0, -40), (1 * factor, -20), (2 * factor, -10)],
    ]
    assert legend(figure) == ["MAML 2 seeds, no interval", "ANIL 1 seed, no interval", "standing still"]
    assert ax.get_xlabel() == f"{'episodes' if factor == 1 else 'environment steps'} of adaptation to the task"
    assert ax.get_xscale() == "symlog"
    assert ax.get_xticks().tolist() == [tick * factor for tick in (0, 1, 2, 5, 10, 20)]
    # One episode is as far from none as can be told apart: no tick stands on another.
    places = ax.transData.transform([(tick, 0) for tick in ax.get_xticks()])[:, 0]
    assert (np.diff(places) > 20).all()


def test_every_panel_begins_shortly_before_none_and_ends_after_the_last_point(tmp_path):
    point = make_swept_run(tmp_path / "p")
    tasks, evaluated = [[-1.0], [1.0]], {"task_names": ["backward", "forward"], "finite": True}
    cheetah = make_run(tmp_path / "c", env="cheetah-dir", tasks=tasks, evaluated=evaluated | read_by_adaptation(20))
    figure = draw_adaptation(groups_of(point, cheetah), "adaptation-episodes")
    assert [ax.get_xlim() for ax in figure.axes] == [(-0.25, 12), (-5, 48), (-5, 48)]
    # Sizes come last in the legend, after the references of all panels.
    assert legend(figure)[-3:] == ["1 episode a step", "5 episodes a step", "20 episodes a step"]


def test_axis_over_many_decades_has_a_tick_for_each(tmp_path):
    evaluated = read_by_adaptation(1000, per_step=0.5)
    evaluated["adaptation_episodes"][1] = 1.0
    (ax,) = draw_adaptation(groups_of(make_run(tmp_path / "a", evaluated=evaluated)), "adaptation-episodes").axes
    assert ax.get_xticks().tolist() == [0, 1, 10, 100, 1000]


def test_without_steps_the_only_point_is_at_none(tmp_path):
    evaluated = {"adaptation_episodes": [0.0], "adaptation_steps": [0.0]}
    folder = make_run(tmp_path / "a", returns=[[-3.0]] * 3, evaluated=evaluated)
    (ax,) = draw_adaptation(groups_of(folder), "adaptation-episodes").axes
    assert measured(ax) == [[(0, -3)]]
    plot_runs([folder], tmp_path / "a.png", x="adaptation-steps")


def test_a_sweep_has_a_line_for_each_number_of_episodes_and_markers_say_which(tmp_path):
    maml = [make_swept_run(tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    memory = make_run(tmp_path / "memory", algo="anil", evaluated=read_by_adaptation(1))
    figure = draw_adaptation(groups_of(*maml, memory), "adaptation-episodes")
    (ax,) = figure.axes
    one, five, other = measured(ax)
    assert one == [(0, -40), (1, 1.5), (2, 1.5)]
    assert five == [(0, -40), (5, 5.5), (10, 5.5)]
    assert other == [(0, -40), (1, -20), (2, -10)]
    lines = [line for line in ax.lines if len(line.get_xdata()) == 3]
    assert [line.get_marker() for line in lines] == ["o", "s", "o"]
    assert len({line.get_color() for line in lines}) == 3
    assert legend(figure) == [
        "MAML 2 seeds, no interval", "ANIL 1 seed, no interval", "standing still",
        "1 episode a step", "5 episodes a step",
    ]  # fmt: skip
    # Elsewhere the sweep does not count.
    assert len(bold(draw_gradient_steps(groups_of(*maml)).axes[0])) == 1


def test_the_lines_of_a_sweep_have_intervals_from_five_seeds_on(tmp_path):
    folders = [make_swept_run(tmp_path / str(seed), seed=seed) for seed in range(5)]
    figure = draw_adaptation(groups_of(*folders), "adaptation-episodes")
    (ax,) = figure.axes
    assert figure.legends[0].get_title().get_text() == "5 seeds, 95 % interval"
    bands = [band.get_paths()[0].vertices for band in ax.collections]
    half_width = 2.776 * np.std(range(5), ddof=1) / np.sqrt(5)  # The t interval of seeds 0 to 4.
    at_the_end = [band[band[:, 0] == x, 1] for band, x in zip(bands, (2, 10), strict=True)]
    for of_size, mean in zip(at_the_end, (1 + 2, 5 + 2), strict=True):
        assert (of_size.min(), of_size.max()) == pytest.approx((mean - half_width, mean + half_width), rel=1e-3)
    assert len(measured(ax)) == 2  # No single seeds.


def test_tasks_of_different_sizes_share_a_panel(tmp_path):
    finite, tasks = {"finite": True, **read_by_adaptation(1)}, [[0.0, 1.0], [1.0, 0.0]]
    two = make_run(tmp_path / "two", env="bandit", env_kwargs={"num_arms": 2}, tasks=tasks, evaluated=finite)
    three = make_run(tmp_path / "three", env="bandit", env_kwargs={"num_arms": 3}, tasks=NAVIGATION_TASKS)
    wider = json.loads((three / "evaluation.json").read_text())
    wider |= {"tasks": [[*task, 0.0] for task in NAVIGATION_TASKS], **finite}
    (three / "evaluation.json").write_text(json.dumps(wider))
    groups = groups_of(two, three)
    for figure in (draw_gradient_steps(groups), draw_adaptation(groups, "adaptation-episodes")):
        (ax,) = figure.axes
        assert ax.get_title(loc="left") == "bandit"
        assert {"MAML (num arms 2)", "MAML (num arms 3)"} <= {line.get_label() for line in ax.lines}


def test_supervised_runs_are_drawn_against_examples(tmp_path):
    evaluated = {"measure": "error", "shots": 10, "adaptation_episodes": [0.0, 10.0, 10.0]}
    folder = make_run(tmp_path / "a", env="sinusoid", evaluated=evaluated)
    (ax,) = draw_adaptation(groups_of(folder), "adaptation-episodes").axes
    assert ax.get_xlabel() == "examples of adaptation to the task"
    with pytest.raises(UserError, match="has examples, no environment steps: draw against adaptation-episodes"):
        plot_runs([folder], tmp_path / "a.png", x="adaptation-steps")


def test_an_evaluation_that_does_not_say_what_adaptation_read_is_refused(tmp_path):
    folder = make_run(tmp_path / "a")
    message = f"of an older version and does not say .*: run `python -m metarl.evaluate {folder}` again"
    with pytest.raises(UserError, match=message):
        plot_runs([folder], tmp_path / "a.png", x="adaptation-episodes")


def test_an_older_evaluation_of_an_agent_with_memory_has_read_an_episode_at_each_step(tmp_path):
    folder = make_run(tmp_path / "a", algo="rl2", evaluated={"step_name": "episode"})
    (ax,) = draw_adaptation(groups_of(folder), "adaptation-episodes").axes
    assert [x for x, _ in measured(ax)[0]] == [0, 1, 2]
    with pytest.raises(UserError, match="of an older version"):
        plot_runs([folder], tmp_path / "a.png", x="adaptation-steps")


@pytest.mark.parametrize("x", ["gradient-step", "adaptation-episodes", "adaptation-steps"])
def test_seeds_that_were_evaluated_for_different_numbers_of_steps_are_refused(x, tmp_path):
    one = {"adaptation_episodes": [0.0, 2.0], "adaptation_steps": [0.0, 20.0], "rollouts": 2, "step_scales": [1.0]}
    short = make_run(tmp_path / "a", returns=[[-3.0, -2.0]] * 3, evaluated=one, seed=1)
    with pytest.raises(UserError, match="seeds of MAML were evaluated for 1 and 2 gradient steps: evaluate"):
        plot_runs([make_run(tmp_path / "b", evaluated=read_by_adaptation(2)), short], tmp_path / "a.png", x=x)


@pytest.mark.parametrize("x", ["gradient-step", "adaptation-episodes"])
def test_seeds_that_were_evaluated_with_different_step_sizes_are_refused(x, tmp_path):
    scales = [[1.0, 0.5], [1.0, 1.0]]
    runs = [
        make_run(tmp_path / str(seed), seed=seed, evaluated={**read_by_adaptation(2), "step_scales": of_seed})
        for seed, of_seed in enumerate(scales)
    ]
    problem = r"seeds of MAML were evaluated with different step_scales, 1 0\.5 and 1 1: .* \(--step-scales\)"
    with pytest.raises(UserError, match=problem):
        plot_runs(runs, tmp_path / "a.png", x=x)


@pytest.mark.parametrize("changed", [{"shots": 5}, {"rollouts": 7}])
def test_seeds_that_were_evaluated_with_different_examples_are_refused(changed, tmp_path):
    evaluated = {"measure": "error", "shots": 10, "adaptation_episodes": [0.0, 10.0, 10.0]}
    runs = [
        make_run(
            tmp_path / str(seed), env="sinusoid", seed=seed, evaluated={**evaluated, **changed} if seed else evaluated
        )
        for seed in range(2)
    ]
    problem = r"different numbers of examples: .* the same shots \(--shots\) and queries \(--queries\)"
    with pytest.raises(UserError, match=problem):
        plot_runs(runs, tmp_path / "a.png", x="adaptation-episodes")


def test_seeds_of_different_sweeps_are_refused(tmp_path):
    folders = [make_swept_run(tmp_path / "a"), make_swept_run(tmp_path / "b", sizes=(1, 2), seed=1)]
    with pytest.raises(UserError, match="seeds of MAML were evaluated with different numbers of episodes"):
        plot_runs(folders, tmp_path / "a.png", x="adaptation-episodes")


@pytest.mark.parametrize("content", ["{}", '{"evaluations": []}', '{"evaluations": [{"tasks": 3}]}'])
def test_a_sweep_that_is_none_is_refused(tmp_path, content):
    folder = make_swept_run(tmp_path / "a")
    (folder / "evaluation-sweep.json").write_text(content)
    message = "evaluation-sweep.json' is no evaluation: it has no .*; run `python .* --rollouts-sweep ...` again"
    with pytest.raises(UserError, match=message):
        plot_runs([folder], tmp_path / "a.png", x="adaptation-episodes")


def test_cpu_seconds_are_drawn_where_they_were_measured(tmp_path):
    folder = make_run(tmp_path / "a")
    message = rf"no run holds 'cpu_seconds' in its progress\.csv, so there is nothing to draw .*: '{folder}'; draw"
    with pytest.raises(UserError, match=message):
        plot_runs([folder], tmp_path / "a.png", x="cpu-seconds")
    header, *rows = (folder / "progress.csv").read_text().splitlines()
    # The run was resumed by a version that measures them.
    cells = [f"{header},cpu_seconds", *(f"{row},{cell}" for row, cell in zip(rows, ("", "1.5", "3.0"), strict=True))]
    (folder / "progress.csv").write_text("\n".join(cells) + "\n")
    before, after = draw_training(groups_of(folder), "cpu-seconds").axes
    np.testing.assert_allclose(bold(before)[0].get_xydata(), [[1.5, -41], [3, -42]])
    np.testing.assert_allclose(bold(after)[0].get_xydata(), [[3, -10]])
    assert before.get_xlabel() == "CPU-seconds of meta-training"


def test_runs_without_cpu_seconds_are_left_out_with_a_notice_and_the_others_drawn(tmp_path, capsys):
    old, new = make_run(tmp_path / "old"), make_run(tmp_path / "new", algo="rl2")
    rows = (new / "progress.csv").read_text().splitlines()
    cells = ("cpu_seconds", "1", "2", "3")
    (new / "progress.csv").write_text("".join(f"{row},{cell}\n" for row, cell in zip(rows, cells, strict=True)))
    assert main([str(old), str(new), "--x", "cpu-seconds", "--output", str(tmp_path / "a.png")]) == 0
    assert f"progress.csv holds no 'cpu_seconds' (cpu-seconds were not measured): '{old}'" in capsys.readouterr().err


def test_a_trial_of_one_episode_is_drawn_once(tmp_path):
    folder = make_run(tmp_path / "a", algo="rl2")
    progress = "iteration,env_steps,pre_adaptation_return,post_adaptation_return\n1,100,5.0,5.0\n2,200,6.0,6.0\n"
    (folder / "progress.csv").write_text(progress)
    (ax,) = draw_training(groups_of(folder), "env-steps").axes
    assert ax.get_title(loc="left") == "navigation, only episode of a trial"
    np.testing.assert_allclose(bold(ax)[0].get_ydata(), [5, 6])


def arrows(ax):
    """Places of the arrows at the edge of a panel."""
    return [tuple(line.get_xydata()[0]) for line in ax.lines if "arrow" in str(line.get_marker())]


@pytest.mark.parametrize(
    ("measure", "usual", "diverging"),
    [
        ("return", [-40.0, -20.0, -10.0], [-40.0, -1e6, float("nan")]),
        ("return", [-40.0, -20.0, -10.0], [-40.0, float("nan"), float("nan")]),
        ("error", [3.0, 1.0, 0.5], [3.0, 1.0, 1e31]),
    ],
)
def test_a_line_that_diverges_leaves_the_axis_which_is_marked(tmp_path, measure, usual, diverging):
    evaluated = {"measure": measure, "references": {"standstill": None, "random_initialisation": usual}}
    rows = [None if np.isnan(value) else value for value in diverging]
    folders = [
        make_run(tmp_path / "maml", returns=[usual] * 3, evaluated=evaluated),
        make_run(tmp_path / "l2f", algo="l2f", evaluated={**evaluated, "returns": [rows] * 3, "mean": rows}),
    ]
    groups = groups_of(*folders)
    (ax,) = draw_gradient_steps(groups).axes
    apart = draw_apart(groups, "gradient-step").axes
    for panel, lines in ((ax, 1), (apart[0], 1), (apart[1], 2)):
        low, high = sorted(map(abs, panel.get_ylim()))
        assert high < 10 * max(map(abs, usual))
        assert low <= min(map(abs, usual))
        assert len(arrows(panel)) == lines  # In its own panel, also of the pale line below it.
    step = 1 if measure == "return" else 2
    assert round(arrows(ax)[0][0]) == step
    assert "arrow at the edge: the line leaves the axis" in " ".join(ax.figure.get_supxlabel().split())
    assert ax.get_yscale() == ("log" if measure == "error" else "linear")


def test_no_line_leaves_the_axis_without_divergence(tmp_path):
    """A poor start, a dip and a rise from nearly nothing are all shown."""
    curves = {"maml": [-1000.0, -1.0, -1.0], "l2f": [-1.0, -60.0, -1.0], "anil": [-2.0, 100.0, 300.0]}
    folders = [make_run(tmp_path / algo, algo=algo, returns=[curve] * 3) for algo, curve in curves.items()]
    (ax,) = draw_gradient_steps(groups_of(*folders)).axes
    assert not arrows(ax)
    assert ax.get_ylim()[0] < -1000
    assert ax.get_ylim()[1] > 300


def test_references_that_differ_between_lines_are_named_and_not_drawn(tmp_path):
    """A mean over them would be the reference of no line. Seeds of one line have one, their mean."""
    near, far = ({"standstill": value, "random_initialisation": [-80.0, -60.0, -50.0]} for value in (-37.0, -90.0))
    same = [make_run(tmp_path / "a"), make_run(tmp_path / "b", algo="anil", evaluated={"references": near})]
    other = make_run(tmp_path / "c", algo="l2f", evaluated={"references": far})
    (ax,) = draw_gradient_steps(groups_of(*same)).axes
    assert [line.get_ydata()[0] for line in ax.lines if "standing" in line.get_label()] == [-37.5]
    figure = draw_gradient_steps(groups_of(*same, other))
    assert [len(line.get_ydata()) for line in figure.axes[0].lines if "standing" in line.get_label()] == [0]
    assert "standing still (not the same for all lines, so not drawn)" in legend(figure)
    seeds = make_run(tmp_path / "d"), make_run(tmp_path / "e", seed=1, evaluated={"references": far})
    (ax,) = draw_gradient_steps(groups_of(*seeds)).axes
    assert [line.get_ydata()[0] for line in ax.lines if "standing" in line.get_label()] == [-64.0]
    assert [len(line.get_ydata()) for line in figure.axes[0].lines if "random" in line.get_label()] == [3]


@pytest.mark.parametrize("diverging", [-1e21, float("nan")])
def test_references_that_differ_are_not_drawn_beside_a_line_that_diverges(tmp_path, diverging):
    """What the axis shows says how much they may differ, not what leaves it."""
    far = {"standstill": -90.0, "random_initialisation": [-80.0, -60.0, -50.0]}
    returns = [[-40.0, diverging, diverging]] * 3
    runs = [
        make_run(tmp_path / "a"),
        make_run(tmp_path / "b", algo="anil", returns=returns),
        make_run(tmp_path / "c", algo="l2f", evaluated={"references": far}),
    ]
    figure = draw_gradient_steps(groups_of(*runs))
    assert "standing still (not the same for all lines, so not drawn)" in legend(figure)
    assert "random initialisation" in legend(figure)


def test_the_axis_and_the_caption_name_the_family_of_the_evaluation(tmp_path):
    """Agents of one family that were evaluated on another; their training keeps its own."""
    evaluated = {"env": "navigation-b", **read_by_adaptation(2)}
    runs = [make_run(tmp_path / algo, algo=algo, evaluated=evaluated) for algo in ("maml", "anil")]
    groups, name = groups_of(*runs), "navigation-b (trained on navigation)"
    for draw in (draw_gradient_steps, partial(draw_adaptation, x="adaptation-episodes")):
        (ax,) = draw(groups).axes
        assert ax.get_title(loc="left") == name
    apart = draw_apart(groups, "gradient-step").axes[0]
    assert apart.get_ylabel().split() == [*name.split(), "return", "of", "an", "episode"]
    assert compare(runs).env == name
    training = draw_training(groups, "iteration").axes
    assert [ax.get_title(loc="left").partition(",")[0] for ax in training] == ["navigation"] * 2
    other = make_run(tmp_path / "l2f", algo="l2f", evaluated=read_by_adaptation(2))
    figure = draw_gradient_steps(groups_of(*runs, other))
    assert [ax.get_title(loc="left") for ax in figure.axes] == [name, "navigation"]
    with pytest.raises(
        UserError, match=r"one family at a time, got runs on navigation-b \(trained .*\) and navigation"
    ):
        compare([*runs, other])


def test_every_point_of_a_short_line_is_marked(tmp_path):
    run = make_run(tmp_path / "a")
    training, apart = draw_training(groups_of(run), "iteration"), draw_apart(groups_of(run), "gradient-step")
    marked = [
        line.get_markevery() for ax in (*training.axes, *apart.axes) for line in ax.lines if line.get_marker() == "o"
    ]
    assert marked == [None] * 3
    rows = "".join(f"{i},{1000 * i},-40,-20\n" for i in range(1, 31))
    (run / "progress.csv").write_text(f"iteration,env_steps,pre_adaptation_return,post_adaptation_return\n{rows}")
    assert bold(draw_training(groups_of(run), "iteration").axes[0])[0].get_markevery() is not None


def test_training_is_drawn_where_the_validation_has_no_number(tmp_path):
    run = make_run(tmp_path / "a", env="sinusoid", evaluated={"measure": "error"})
    head = "iteration,pre_adaptation_error,post_adaptation_error,validation_pre_adaptation_error"
    (run / "progress.csv").write_text(f"{head},validation_post_adaptation_error\n1,5,3,,\n2,5,2,,\n")
    figure = draw_training(groups_of(run), "iteration")
    np.testing.assert_allclose(bold(figure.axes[1])[0].get_ydata(), [3, 2])
    assert "training tasks" in figure.get_supxlabel()
    (run / "progress.csv").write_text(f"{head},validation_post_adaptation_error\n1,,,,\n")
    with pytest.raises(UserError, match="holds no number of 'pre_adaptation_error': nothing to draw"):
        draw_training(groups_of(run), "iteration")


def test_many_steps_have_few_ticks(tmp_path):
    references = {"standstill": -38.0, "random_initialisation": [-50.0] * 41}
    run = make_run(tmp_path / "a", returns=[[-40.0] * 41] * 3, evaluated={"references": references})
    (ax,) = draw_gradient_steps(groups_of(run)).axes
    assert ax.get_xticks().tolist() == list(range(0, 41, 4))


def test_apart_the_caption_says_on_which_tasks(tmp_path):
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", algo="anil", tasks=[[0.1, 0.1]])]
    caption = " ".join(draw_apart(groups_of(*runs), "gradient-step").get_supxlabel().split())
    assert "held-out task" in caption
    assert "not the same for all runs \N{MIDDLE DOT} last checkpoint" in caption


def test_a_seed_with_fewer_iterations_is_named(tmp_path, capsys):
    runs = [make_run(tmp_path / str(seed), seed=seed, evaluated={"iteration": 30 - 20 * seed}) for seed in range(2)]
    compare(runs)
    told = "seeds of MAML were trained for different numbers of iterations: seed 0 after 30, seed 1 after 10."
    assert told in capsys.readouterr().err
    plot_runs(runs, tmp_path / "a.svg")
    assert told in capsys.readouterr().err


def test_seeds_of_different_length_are_averaged_as_far_as_all_go(tmp_path):
    first, second = (make_run(tmp_path / str(seed), seed=seed) for seed in range(2))
    text = (second / "progress.csv").read_text().splitlines()
    (second / "progress.csv").write_text("\n".join(text[:2]) + "\n")
    figure = draw_training(groups_of(first, second), "env-steps")
    assert [len(bold(ax)[0].get_xdata()) for ax in figure.axes] == [1, 1]
    assert sorted(len(line.get_xdata()) for line in figure.axes[0].lines) == [1, 1, 3]  # Each seed as far as it goes.
    assert not arrows(figure.axes[0])
    figure.savefig(tmp_path / "one point.png")  # markers are placed by then


@pytest.mark.parametrize(
    ("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF"), ("PNG", b"\x89PNG")]
)
@pytest.mark.parametrize("x", ["gradient-step", "env-steps"])
def test_command_writes_the_picture_that_its_name_says(tmp_path, capsys, suffix, magic, x):
    folder = make_run(tmp_path / "run")
    output = tmp_path / "new" / f"curve.{suffix}"
    assert main([str(folder), "--output", str(output), "--x", x]) == 0
    assert output.read_bytes().startswith(magic)
    assert str(output) in capsys.readouterr().out


def test_caption_says_seeds_tasks_steps_and_commit(tmp_path):
    folders = [make_run(tmp_path / str(seed), seed=seed) for seed in (0, 1, 2)]
    output = plot_runs(folders, tmp_path / "curve.svg")
    assert output.exists()
    figure = draw_gradient_steps(group_runs([read_run(folder) for folder in folders]))
    expected = (
        "seeds 0-2 · 3 held-out tasks · last checkpoint · 3 k environment steps a run · metarl 0.1.0, commit 012345678"
    )
    assert figure.get_supxlabel().replace("\n", " ") == expected  # wrapped


def test_drawing_leaves_pyplot_alone(tmp_path):
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    plot_runs([make_run(tmp_path / "a")], tmp_path / "a.png")
    assert plt.get_fignums() == before


def not_evaluated(folder):
    make_run(folder / "a")
    (folder / "a" / "evaluation.json").unlink()
    return ["a"], "was not evaluated yet: run `python -m metarl.evaluate"


def missing(folder):
    return ["a"], "does not exist"


def not_a_run(folder):
    (folder / "a").mkdir()
    return ["a"], "is not a run folder: it has no config.json"


def foreign_config(folder):
    (folder / "a").mkdir()
    (folder / "a" / "config.json").write_text("{}")
    return ["a"], "is not a run's configuration: it needs env, algo and seed"


def broken_json(folder):
    (make_run(folder / "a") / "config.json").write_text("{")
    return ["a"], "config.json is damaged, or no JSON: Expecting property name"


def incomplete_evaluation(folder):
    (make_run(folder / "a") / "evaluation.json").write_text('{"tasks": [[1.0]]}')
    return ["a"], "evaluation.json' is no evaluation: it has no 'config'; run `python -m metarl.evaluate"


def same_seed(folder):
    make_run(folder / "a")
    make_run(folder / "b")
    return ["a", "b"], "have the same settings and the same seed: give one of them"


def different_steps(folder):
    make_run(folder / "a")
    make_run(folder / "b", seed=1, returns=[[0.0, 1.0]] * 3)
    return ["a", "b"], "were evaluated for 1 and 2 gradient steps: evaluate them again with the same gradient_steps ("


@pytest.mark.parametrize(
    "prepare",
    [
        not_evaluated,
        missing,
        not_a_run,
        foreign_config,
        broken_json,
        incomplete_evaluation,
        same_seed,
        different_steps,
    ],
)
def test_mistake_is_told_in_one_sentence(tmp_path, capsys, prepare):
    names, message = prepare(tmp_path)
    output = tmp_path / "curve.png"
    assert main([*(str(tmp_path / name) for name in names), "--output", str(output)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not output.exists()


def test_untrained_runs_are_left_out_of_env_steps_with_a_notice(tmp_path, capsys):
    trained, untrained = make_run(tmp_path / "maml"), make_run(tmp_path / "random", algo="random")
    (untrained / "progress.csv").unlink()
    command = ["--x", "env-steps", "--output", str(tmp_path / "a.png")]
    assert main([str(trained), str(untrained), *command]) == 0
    printed = capsys.readouterr()
    assert (
        f"left out, because without rows of a progress.csv there is no training to draw: '{untrained}'\n" == printed.err
    )
    assert printed.out == f"{tmp_path / 'a.png'}\n"
    assert main([str(untrained), *command]) == 2
    message = (
        f"no training to draw against env-steps: no progress.csv with rows is in '{untrained}'; give runs that were"
    )
    assert message in capsys.readouterr().err


def test_run_without_a_needed_column_is_refused(tmp_path):
    folder = make_run(tmp_path / "a")
    (folder / "progress.csv").write_text("iteration,env_steps\n1,1000\n")
    with pytest.raises(UserError, match="holds no 'pre_adaptation_return': nothing to draw against env-steps"):
        plot_runs([folder], tmp_path / "a.png", x="env-steps")


def without_adaptation(folder):
    """Leaves a run's progress without returns after adaptation, as of a baseline whose training adapts nothing."""
    rows = [line.split(",") for line in (folder / "progress.csv").read_text().splitlines()]
    (folder / "progress.csv").write_text("".join(f"{','.join([*row[:3], *row[4:]])}\n" for row in rows))
    return folder


def test_training_that_adapts_nothing_is_drawn_before_adaptation_alone(tmp_path):
    maml, ppo = make_run(tmp_path / "maml"), without_adaptation(make_run(tmp_path / "ppo", algo="pretrain"))
    figure = draw_training(groups_of(maml, ppo), "env-steps")
    assert [[line.get_label() for line in bold(ax)] for ax in figure.axes] == [["MAML", "pretrained (PPO)"], ["MAML"]]
    (before,) = draw_training(groups_of(ppo), "env-steps").axes
    assert before.get_title(loc="left") == "navigation, before adaptation"
    np.testing.assert_allclose(bold(before)[0].get_ydata(), [-40, -41, -42])
    # Older versions repeated the returns before adaptation.
    header, *rows = (ppo / "progress.csv").read_text().splitlines()
    repeated = [f"{header},post_adaptation_return", *(f"{row},{row.split(',')[2]}" for row in rows)]
    (ppo / "progress.csv").write_text("\n".join(repeated) + "\n")
    figure = draw_training(groups_of(maml, ppo), "env-steps")
    assert [[line.get_label() for line in bold(ax)] for ax in figure.axes] == [["MAML", "pretrained (PPO)"], ["MAML"]]
    titles = [ax.get_title(loc="left") for ax in draw_apart(groups_of(maml, ppo), "env-steps").axes[:2]]
    assert titles == ["MAML", "pretrained (PPO)\n(before adaptation)"]


def test_a_single_folder_is_drawn_as_it_is(tmp_path):
    folder = make_run(tmp_path / "a")
    for runs in (folder, str(folder)):
        assert plot_runs(runs, tmp_path / "a.png").exists()


@pytest.mark.parametrize("wrong", [{"x": "steps"}, {"checkpoint": "first"}])
def test_unknown_choice_is_refused(tmp_path, wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(UserError, match=f"{name} must be one of .*; got '{value}'"):
        plot_runs([make_run(tmp_path / "a")], tmp_path / "a.png", **wrong)


def test_no_run_at_all_is_refused(tmp_path):
    with pytest.raises(UserError, match="give at least one run folder"):
        plot_runs([], tmp_path / "curve.png")


def test_unknown_suffix_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(UserError, match=r"the picture's name must end in \.png, \.svg, \.pdf"):
        plot_runs([tmp_path / "nothing"], tmp_path / "curve.bmp")


def test_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        plot_runs([make_run(tmp_path / "a")], tmp_path / "file" / "curve.png")


def test_unknown_option_exits_with_code_2(capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(["run", "--outptu", "a.png"])
    assert exit_info.value.code == 2
    assert "--output" in capsys.readouterr().err


@pytest.mark.parametrize(("x", "drawn"), [("gradient-step", [-40.0, -18.0, -10.0]), ("iteration", [-18.0, -8.0])])
def test_apart_each_line_has_a_panel_in_which_the_others_are_pale(tmp_path, x, drawn):
    algorithms = ("maml", "anil", "promp", "meta-sgd", "l2f")
    settings = {"promp": {"algo": "maml", "meta_optimiser": "promp"}}
    folders = [
        make_run(tmp_path / name, **{"algo": name, "seed": 2, **settings.get(name, {})}) for name in algorithms
    ] + [make_run(tmp_path / "other", env="navigation-bimodal")]
    groups = group_runs([read_run(folder) for folder in folders])
    panels = [ax for ax in draw_apart(groups, x).axes if ax.get_visible()]
    assert [" ".join(ax.get_title(loc="left").split()) for ax in panels] == [group.label for group in groups]
    for ax, others in zip(panels, [5, 5, 5, 5, 5, 1], strict=True):
        *pale, line = ax.lines
        assert len(pale) == others
        assert line.get_color() not in {other.get_color() for other in pale}
    np.testing.assert_allclose(panels[0].lines[-1].get_ydata(), drawn)
    assert {ax.get_ylim() for ax in panels[:5]} == {panels[0].get_ylim()}


def test_apart_every_seed_of_every_panel_is_within_the_axes(tmp_path):
    folders = [make_run(tmp_path / "maml")]
    seeds = [[[value] * 3] * 3 for value in (-90.0, -50.0)]
    folders += [
        make_run(tmp_path / str(seed), algo="random", seed=seed, returns=values) for seed, values in enumerate(seeds)
    ]
    for ax in draw_apart(groups_of(*folders), "gradient-step").axes[:2]:
        assert ax.get_ylim()[0] < -90


def test_apart_letters_have_six_points_at_the_width_of_two_columns(tmp_path):
    folders = [make_run(tmp_path / algo, algo=algo) for algo in ("maml", "l2f")]
    figure = draw_apart(groups_of(*folders), "gradient-step")
    assert figure.get_figwidth() <= 7
    texts = [text for text in figure.findobj(lambda part: hasattr(part, "get_fontsize")) if text.get_text()]
    assert min(text.get_fontsize() for text in texts) >= 6
    assert "the means of the others in grey" in " ".join(figure.get_supxlabel().split())


def test_apart_training_needs_no_evaluation(tmp_path):
    folder = make_run(tmp_path / "maml")
    (folder / "evaluation.json").unlink()
    training = " ".join(draw_apart(groups_of(folder), "env-steps").get_supxlabel().split())
    assert "environment steps of meta-training, after adaptation" in training


def test_apart_is_refused_where_it_means_nothing(tmp_path):
    with pytest.raises(UserError, match=r"apart \(--apart\) is for gradient steps and for training, not for x='input'"):
        plot_runs([tmp_path], tmp_path / "curve.png", x="input", apart=True)


def test_seeds_that_logged_other_iterations_are_averaged_where_both_did(tmp_path):
    runs = [make_run(tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    head = "iteration,env_steps,pre_adaptation_return,post_adaptation_return\n"
    (runs[1] / "progress.csv").write_text(f"{head}1,1000,-40,-30\n3,3000,-40,-20\n4,4000,-40,-10\n")
    _, after = draw_training(groups_of(*runs), "iteration").axes
    assert [[1, -25], [3, -15]] in [line.get_xydata().tolist() for line in after.lines]


def test_dollars_in_a_setting_are_no_formula(tmp_path):
    """Two dollars would be one for matplotlib, and this one it could not read."""
    runs = [
        make_run(tmp_path / name, env="cartpole", env_kwargs={"text": text})
        for name, text in (("a", "$x^$"), ("b", "$y_$"), ("c", ""))
    ]
    for x in ("gradient-step", "env-steps"):
        assert plot_runs(runs, tmp_path / f"{x}.svg", x=x).exists()
    assert "report" in report(runs, tmp_path / "report.html").name
