import json
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats
from test_plot import NAVIGATION_TASKS, make_real_run, make_run

from metarl import UserError, compare
from metarl.commands.compare import main
from metarl.common.statistics import holm
from metarl.config.algorithms import ALGORITHMS
from metarl.reports.comparison_figure import draw_comparison, draw_differences
from metarl.reports.tables import comparison_table

# Added to MAML's return by algorithm and seed, after one step.
GAINS = {"l2f": [1.0, 2.0, 1.5, 3.0, 2.5], "anil": [-1.0, 1.0, 0.5, -0.5, 0.25]}


def make_line(folder, algo, seeds, gain=(0.0,) * 20, **settings):
    """Runs of one algorithm; a task's return after a step is its own, the seed's and the gain's part added up."""
    folders = []
    for seed in seeds:
        returns = [[-40.0, -20.0 + 3 * task - 5 * seed + gain[seed], -10.0 + task] for task in range(3)]
        folders.append(make_run(folder / f"{algo}-{seed}", algo=algo, seed=seed, returns=returns, **settings))
    return folders


@pytest.fixture
def five(tmp_path):
    """Five seeds of MAML, L2F and ANIL."""
    share = {"evaluated": {"share_made_worse": [0.0, 0.0, 0.0]}}
    lines = [make_line(tmp_path, algo, range(5), gain, **share) for algo, gain in GAINS.items()]
    return [*lines[0], *lines[1], *make_line(tmp_path, "maml", range(5), **share)]


def pair(comparison, label):
    return next(pair for pair in comparison.pairs if pair.label == label)


def test_differences_are_paired_by_seed(five):
    comparison = compare(five)
    assert comparison.reference == "MAML"  # Whatever the order of the runs.
    assert [line.label for line in comparison.lines] == ["L2F", "ANIL", "MAML"]
    for algo, label in (("l2f", "L2F"), ("anil", "ANIL")):
        difference = pair(comparison, label)
        np.testing.assert_allclose(difference.per_seed[:, 1], GAINS[algo])
        test = stats.ttest_1samp(GAINS[algo], 0.0)
        low, high = test.confidence_interval()
        assert difference.mean[1] == pytest.approx(np.mean(GAINS[algo]))
        assert difference.interval[1] == pytest.approx((high - low) / 2)
        assert difference.p_values[1] == pytest.approx(test.pvalue)
    # Unpaired, the seeds' own spread of 5 a seed would hide the gain.
    assert comparison.lines[0].interval[1] > 5 * pair(comparison, "L2F").interval[1]


def test_seeds_of_a_line_that_were_evaluated_with_different_amounts_of_data_are_refused(tmp_path):
    runs = [make_run(tmp_path / str(seed), seed=seed, evaluated={"rollouts": 20 + seed}) for seed in range(2)]
    with pytest.raises(UserError, match="seeds of MAML were evaluated with different amounts of data"):
        compare(runs)
    # Of different lines, they may: an agent with memory reads one episode where MAML reads twenty.
    memory = make_run(tmp_path / "memory", algo="rl2", evaluated={"rollouts": 10})
    assert [line.label for line in compare([runs[0], memory]).lines] == ["MAML", "RL^2"]


def test_seeds_of_a_line_that_were_evaluated_with_different_step_sizes_are_refused(tmp_path):
    runs = [
        make_run(tmp_path / str(seed), seed=seed, evaluated={"step_scales": [1.0, scale]})
        for seed, scale in enumerate((0.5, 1.0))
    ]
    with pytest.raises(UserError, match=r"different step_scales, 1 0\.5 and 1 1: .* \(--step-scales\)"):
        compare(runs)
    # Only steps that are shown count, and lines may differ.
    short = make_run(tmp_path / "short", algo="anil", returns=[[-40.0, -20.0]] * 3)
    assert compare([*runs, short]).lines[0].seeds == (0, 1)
    assert (
        len(compare([runs[0], make_run(tmp_path / "l2f", algo="l2f", evaluated={"step_scales": [1.0, 1.0]})]).lines)
        == 2
    )


def test_captions_count_the_seeds_that_are_drawn(tmp_path):
    """Differences are of common seeds, and tasks of all seeds of a line."""
    share = {"evaluated": {"share_made_worse": [0.0, 0.0, 0.0]}}
    comparison = compare([*make_line(tmp_path, "maml", [0], **share), *make_line(tmp_path, "l2f", range(3), **share)])
    differences, both = (
        " ".join(draw(comparison).get_supxlabel().split()) for draw in (draw_differences, draw_comparison)
    )
    assert " · 1 seed · last checkpoint" in differences
    assert " · above 1 seed, below 1 or 3 seeds · last checkpoint" in both


def test_a_dot_is_worse_where_the_title_counts_it(tmp_path):
    """A drop within rounding counts as none in both."""
    share = {"evaluated": {"share_made_worse": [0.0, 0.0]}}
    run = make_run(tmp_path / "maml", returns=[[-40.0, -40.00000001], [-40.0, -50.0], [-40.0, -30.0]], **share)
    (panel,) = [ax for part in draw_comparison(compare([run])).subfigs for ax in part.axes]
    assert panel.get_title(loc="left") == "MAML\n33% worse"
    assert [line.get_ydata().tolist() for line in panel.lines if line.get_color() == "#D55E00"] == [[-50.0]]


def test_returns_of_different_problems_are_not_compared(tmp_path):
    runs = [make_run(tmp_path / str(horizon), horizon=horizon) for horizon in (100, 50)]
    with pytest.raises(UserError, match=r"horizon 100\) and .*horizon 50\) are of different problems"):
        compare(runs)
    squared = make_run(tmp_path / "squared", horizon=100, env_kwargs={"squared_distance": True})
    with pytest.raises(UserError, match=r"env_kwargs unset, .* \(env_kwargs \{'squared_distance': True\}"):
        compare([runs[0], squared])


def test_a_comparison_says_what_adaptation_had_read(tmp_path):
    read, steps = {"maml": [0, 20, 40], "rl2": [0, 1, 2]}, {"maml": {}, "rl2": {"step_name": "episode"}}
    runs = [
        make_run(tmp_path / algo, algo=algo, evaluated={"adaptation_episodes": read[algo], **steps[algo]})
        for algo in read
    ]
    unknown = make_run(tmp_path / "anil", algo="anil")
    lines = compare([*runs, unknown]).lines
    assert [None if line.data is None else line.data.tolist() for line in lines] == [[0, 20, 40], [0, 1, 2], None]
    table = comparison_table(compare([*runs, unknown]))
    assert "return after 0, 1, ... gradient steps or episodes (" in table
    rows = table.split("\n\n")[2].splitlines()
    assert [row.split()[-1] for row in rows[1:]] == ["episodes", "20", "1", "-"]


def test_a_reference_agent_can_be_the_line_to_compare_with():
    names = [f"reference:headroom-cheetah-dir-{algo}-seed0" for algo in ("maml", "anil")]
    assert compare(names, reference=names[1]).reference == "ANIL"


def test_the_primary_comparison_alone_is_adjusted_and_for_all_its_lines(five):
    comparison = compare(five)
    raw = [pair.p_values[1] for pair in comparison.pairs]
    np.testing.assert_allclose([pair.adjusted for pair in comparison.pairs], holm(raw))
    assert pair(comparison, "L2F").adjusted == pytest.approx(2 * raw[0])


def test_lines_below_five_seeds_have_no_interval_and_no_p_value_and_do_not_count_as_comparisons(tmp_path, five):
    comparison = compare([*five, *make_line(tmp_path, "mumomaml", range(4))])
    few = pair(comparison, "MuMoMAML")
    assert few.interval is few.p_values is few.adjusted is None
    assert comparison.lines[-1].interval is None
    assert pair(comparison, "L2F").adjusted == pytest.approx(2 * pair(comparison, "L2F").p_values[1])
    table = comparison_table(comparison)
    (row,) = [line for line in table.splitlines() if line.startswith("MuMoMAML") and "+0.00 +0.00" in line]
    assert row.split()[1:4] == ["0.50", "-", "-"]


def test_only_common_seeds_are_paired(tmp_path):
    runs = [*make_line(tmp_path, "maml", [0, 2, 3]), *make_line(tmp_path, "l2f", [2, 0, 7], [1, 0, 4, 0, 0, 0, 0, 9])]
    (difference,) = compare(runs).pairs
    assert difference.seeds == (0, 2)
    np.testing.assert_allclose(difference.per_seed[:, 1], [1, 4])


def test_intervals_of_point_values_appear_with_ten_seeds(tmp_path):
    gain = np.linspace(-1, 3, 10)
    comparison = compare([*make_line(tmp_path, "maml", range(10)), *make_line(tmp_path, "l2f", range(10), gain)])
    low, high = comparison.lines[1].interquartile_interval
    assert low[1] < comparison.lines[1].interquartile_mean[1] < high[1]
    low, high = comparison.pairs[0].improvement_interval
    assert 0 < low[1] < comparison.pairs[0].improvement[1] < high[1] <= 1
    assert "[" in comparison_table(comparison)


def test_share_of_the_gap_is_measured_between_standing_still_and_the_oracle(tmp_path):
    oracle = [make_run(tmp_path / "oracle", algo="oracle", returns=[[-2.0] * 3] * 3)]
    comparison = compare([*make_line(tmp_path, "maml", [0]), *oracle])
    # MAML: mean -17 after one step; standing still -38 (make_run), the oracle -2.
    np.testing.assert_allclose(comparison.lines[0].gap_closed[1], (38 - 17) / 36)
    np.testing.assert_allclose(comparison.lines[1].gap_closed, 1.0)
    assert compare(make_line(tmp_path / "more", "maml", [0])).lines[0].gap_closed is None


def test_an_oracle_that_is_worse_than_standing_still_closes_no_gap(tmp_path):
    """The worst line would close most of it."""
    oracle = make_run(tmp_path / "oracle", algo="oracle", returns=[[-54.0] * 3] * 3)
    comparison = compare([make_run(tmp_path / "maml"), oracle])
    assert [line.gap_closed for line in comparison.lines] == [None, None]


def test_a_large_difference_from_lines_near_zero_is_drawn(tmp_path):
    """Returns have no natural zero: that two of three lines are near it says nothing of what is far."""
    runs = [make_run(tmp_path / "maml", returns=[[-14.0, 400.0, 410.0]] * 3)]
    runs += [make_run(tmp_path / algo, algo=algo, returns=[[-1.0, -1.0, -1.0]] * 3) for algo in ("random", "anil")]
    figure = draw_comparison(compare(runs))
    assert figure.subfigs[0].axes[0].get_xlim()[0] < -401
    assert "arrow" not in figure.get_supxlabel()


def test_a_task_that_diverges_is_marked_and_counts_as_worse(tmp_path):
    evaluated = {"measure": "error", "share_made_worse": [0.0, 0.0, 0.0]}
    returns = [[3.0, 1.0, 0.5], [3.0, 1.0, 0.5], [3.0, 2485.0, float("nan")]]
    run = make_run(tmp_path / "maml", env="sinusoid", returns=returns, evaluated=evaluated)
    for step in (1, 2):
        figure = draw_comparison(compare([run], step=step))
        (panel,) = [ax for part in figure.subfigs for ax in part.axes]
        marked = [line for line in panel.lines if "arrow" in str(line.get_marker())]
        assert [(len(line.get_xdata()), line.get_color()) for line in marked] == [(1, "#D55E00")]
        assert panel.get_title(loc="left") == "MAML\n33% worse"
        assert "arrow at the edge" in " ".join(figure.get_supxlabel().split())


def test_a_smaller_error_is_better(tmp_path):
    def run(algo, error):
        folder = make_run(tmp_path / algo, algo=algo, returns=[[1.0, error]] * 3, evaluated={"measure": "error"})
        content = json.loads((folder / "evaluation.json").read_text())
        (folder / "evaluation.json").write_text(json.dumps({**content, "share_made_worse": [0.0, 0.0]}))
        return folder

    comparison = compare([run("maml", 2.0), run("l2f", 0.5)])
    assert [line.made_worse[1] for line in comparison.lines] == [1.0, 0.0]
    assert comparison.pairs[0].improvement[1] == 1.0


@pytest.mark.parametrize("algo", [name for name, row in ALGORITHMS.items() if not row.adapts])
def test_what_never_adapts_makes_no_task_worse_even_if_its_evaluation_does_not_say_so(tmp_path, algo):
    runs = [make_run(tmp_path / name, algo=name) for name in ("maml", algo)]
    for run in runs:
        content = json.loads((run / "evaluation.json").read_text())
        (run / "evaluation.json").write_text(json.dumps({**content, "share_made_worse": [0.0, 0.5, 0.5]}))
    maml, other = compare(runs).lines
    assert maml.made_worse is not None
    assert other.made_worse is None


def test_the_reference_may_be_chosen(five):
    comparison = compare(five, reference=five[5])
    assert comparison.reference == "ANIL"
    np.testing.assert_allclose(pair(comparison, "MAML").per_seed[:, 1], -np.array(GAINS["anil"]))


@pytest.mark.parametrize(
    ("settings", "reference"),
    [
        ([{"algo": "anil"}, {"inner_lr": 0.05}], "MAML (inner lr 0.05)"),
        ([{"algo": "anil"}, {"inner_lr": 0.05}, {"inner_lr": 0.1}], "MAML"),
        ([{"algo": "anil"}, {"inner_lr": 0.05}, {"inner_lr": 0.02}], "ANIL"),
        ([{"algo": "anil"}, {"algo": "maml", "attenuate": True}], "ANIL"),  # That is L2F.
    ],
)
def test_the_usual_reference_is_maml_whatever_its_settings(tmp_path, settings, reference):
    runs = [make_real_run(tmp_path / str(number), **{"algo": "maml", **one}) for number, one in enumerate(settings)]
    assert compare(runs).reference == reference


def test_the_figure_shows_differences_and_tasks(five):
    comparison = compare(five)
    figure = draw_comparison(comparison)
    differences, *scatters = [ax for part in figure.subfigs for ax in part.axes]
    assert [label.get_text() for label in differences.get_yticklabels()] == ["L2F", "ANIL"]
    dots = [line for line in differences.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(dots[0].get_xdata(), GAINS["l2f"])
    assert figure.subfigs[0].get_supxlabel() == "return after 1 gradient step, less MAML's\n(right is better)"
    assert len(scatters) == 3
    before, after = np.concatenate([line.get_xydata() for line in scatters[2].lines[1:]]).T
    np.testing.assert_allclose(before, -40.0)
    every = [-20.0 + 3 * task - 5 * seed for task in range(3) for seed in range(5)]
    np.testing.assert_allclose(sorted(after), sorted(every))


def test_a_panel_has_a_dot_for_each_task_that_its_title_counts(tmp_path):
    """A task of which one seed gets worse and the other better is half worse, whatever its mean."""
    share = {"evaluated": {"share_made_worse": [0.0, 0.0]}}
    runs = [
        make_run(tmp_path / f"{seed}", seed=seed, returns=[[-40.0, after]] * 3, **share)
        for seed, after in enumerate((-50.0, -10.0))
    ]
    (panel,) = [ax for part in draw_comparison(compare(runs)).subfigs for ax in part.axes]
    assert panel.get_title(loc="left") == "MAML\n50% worse"
    assert [len(dots.get_xdata()) for dots in panel.lines[1:]] == [3, 3]


def test_texts_of_the_figure_are_whole_and_within_it(tmp_path):
    """Labels of lines may be long, and differ in their last word alone."""
    share = {"evaluated": {"share_made_worse": [0.0, 0.0, 0.0]}}
    long = {"algo": "maml", "rollouts_per_task": 12, "activation": "tanh", **share}
    values = [0.05, 0.06, 0.07]
    runs = [make_real_run(tmp_path / str(number), inner_lr=value, **long) for number, value in enumerate(values)]
    comparison = compare([make_real_run(tmp_path / "anil", algo="anil", **share), *runs], reference=runs[0])
    figure = draw_comparison(comparison)
    figure.draw_without_rendering()
    differences, *panels = [ax for part in figure.subfigs for ax in part.axes]
    labels = [label.get_text().replace("\n", " ") for label in differences.get_yticklabels()]
    assert labels == [pair.label for pair in comparison.pairs]
    assert comparison.reference in figure.subfigs[0].get_supxlabel().replace("\n", " ")
    drawn = figure.get_tightbbox()
    assert drawn.x0 >= 0
    assert drawn.x1 <= figure.get_figwidth()
    titles = [ax._left_title.get_window_extent() for ax in panels]
    assert not any(one.overlaps(other) for one, other in pairwise(titles))


def test_differences_after_each_step_have_a_panel_for_each_line(five):
    figure = draw_differences(compare(five))
    panels = [ax for ax in figure.axes if ax.get_visible()]
    assert [ax.get_title(loc="left") for ax in panels] == ["L2F", "ANIL"]
    dots = [line for line in panels[0].lines if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in dots] == [1, 2]
    np.testing.assert_allclose(dots[0].get_ydata(), GAINS["l2f"])
    means = [line.get_ydata()[0] for line in panels[0].lines if line.get_marker() == "D"]
    np.testing.assert_allclose(means, [np.mean(GAINS["l2f"]), 0.0], atol=1e-9)
    assert len(panels[0].containers) == 2  # Intervals of five seeds.
    texts = [text for text in figure.findobj(lambda part: hasattr(part, "get_fontsize")) if text.get_text()]
    assert min(text.get_fontsize() for text in texts) >= 6
    assert figure.get_figwidth() == 3.5
    assert "arrow" not in figure.get_supxlabel()


@pytest.fixture
def diverging(tmp_path):
    """MAML, and an L2F that diverges in the second step."""
    returns = [[-40.0, -20.0, -1e30], [-40.0, -20.0, -10.0], [-40.0, -20.0, -10.0]]
    return [make_run(tmp_path / "maml"), make_run(tmp_path / "l2f", algo="l2f", returns=returns)]


@pytest.mark.parametrize("value", [-1e30, float("nan")])
@pytest.mark.parametrize(("algo", "arrows"), [("l2f", ("down", "left")), ("maml", ("up", "right"))])
def test_what_diverges_is_marked_on_its_side(tmp_path, algo, arrows, value):
    """The difference is as large if the reference diverges, and there is none if a seed has no number."""
    returns = [[-40.0, -20.0, value], [-40.0, -20.0, -10.0], [-40.0, -20.0, -10.0]]
    other = {"maml": "l2f", "l2f": "maml"}[algo]
    runs = [make_run(tmp_path / algo, algo=algo, returns=returns), make_run(tmp_path / other, algo=other)]
    comparison = compare(runs, step=2)
    (panel, *_) = draw_differences(comparison).axes
    (row, *_) = [ax for part in draw_comparison(comparison).subfigs for ax in part.axes]
    for ax, arrow, limits in zip((panel, row), arrows, (panel.get_ylim(), row.get_xlim()), strict=True):
        assert [line.get_marker() for line in ax.lines if "arrow" in str(line.get_marker())] == [rf"$\{arrow}arrow$"]
        assert max(np.abs(limits)) < 100


def test_a_difference_that_diverges_stretches_no_axis(diverging):
    (panel, *_) = draw_differences(compare(diverging)).axes
    assert panel.get_ylim()[0] > -100
    assert [line.get_xdata()[0] for line in panel.lines if "arrow" in str(line.get_marker())] == [2]
    differences, *scatters = [ax for part in draw_comparison(compare(diverging, step=2)).subfigs for ax in part.axes]
    assert differences.get_xlim()[0] > -1000
    assert len([line for line in differences.lines if "arrow" in str(line.get_marker())]) == 1
    assert all(ax.get_ylim()[0] > -1000 for ax in scatters)


def test_numbers_that_diverge_are_short_in_the_table(diverging):
    table = comparison_table(compare(diverging))
    assert "-3.3e+29" in table
    assert max(map(len, table.split())) < 20


def test_the_command_prints_and_draws(tmp_path, five, capsys):
    picture = tmp_path / "comparison.png"
    assert main([*map(str, five), "--output", str(picture)]) == 0
    printed = capsys.readouterr().out
    assert comparison_table(compare(five)) in printed
    assert "not adjusted for the number of comparisons" in printed
    assert picture.stat().st_size > 5000


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"tasks": [[0.0, 0.0], *NAVIGATION_TASKS[1:]]}, "were evaluated on different tasks: evaluate them again"),
        ({"env": "navigation-b"}, "one family at a time, got runs on navigation and navigation-b"),
        ({"seed": 8}, "are of lines without a common seed to pair them by"),
    ],
)
def test_runs_that_do_not_fit_are_refused(tmp_path, change, problem):
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", algo="l2f", **change)]
    with pytest.raises(UserError, match=problem):
        compare(runs)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"step": 3}, "step must be at most 2"),
        ({"step": -1}, "step must be at least 0"),
        ({"reference": "elsewhere"}, "the reference 'elsewhere' is not among the runs"),
        ({"output": "picture.gif"}, "must end in .png, .svg, .pdf"),
        ({"checkpoint": "best"}, "was not evaluated yet: run `python -m metarl.evaluate"),
    ],
)
def test_what_cannot_be_compared_is_said(five, options, problem):
    with pytest.raises(UserError, match=problem):
        compare(five, **options)


def test_what_has_diverged_is_the_worst_of_the_interquartile_mean(tmp_path):
    per_task = [[0.3, np.nan], [0.3, 0.2], [0.3, 0.4], [0.3, 0.6]]
    accurate = {"measure": "accuracy", "shots": 1}
    lines = [
        make_run(
            tmp_path / algo, algo=algo, env="few-shot", tasks=[[0], [1], [2], [3]], returns=per_task, evaluated=accurate
        )
        for algo in ("maml", "fomaml")
    ]
    np.testing.assert_allclose(compare(lines).lines[0].interquartile_mean, [0.3, 0.3])  # Of 0.2 and 0.4.
