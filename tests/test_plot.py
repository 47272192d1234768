import csv
import json

import numpy as np
import pytest

from metarl.errors import UserError
from metarl.plot import main
from metarl.plotting import draw_env_steps, draw_gradient_steps, group_runs, plot_runs, read_run

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
        writer.writerow(["iteration", "env_steps", "pre_adaptation_return", "post_adaptation_return", "line_search"])
        writer.writerows([[1, 1000, -40, -20 + seed, "accepted"], [2, 2000, -41, "", "rejected"]])
        writer.writerow([3, 3000, -42, -10 + seed, "accepted"])
    evaluation = {"checkpoint": "last", "seed": 5, "tasks": tasks, **(evaluated or {})}
    evaluation["returns"] = returns or [[-40.0, -20.0 + seed, -10.0]] * len(tasks)
    evaluation["references"] = {"standstill": -38.0, "random_initialisation": [-80.0, -60.0, -50.0]}
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    return folder


def bold(ax):
    """The lines that stand for a group's mean."""
    return [line for line in ax.lines if line.get_marker() in "os^D" and line.get_linestyle() == "-"]


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
    assert "4 seeds, no interval" in four.get_legend_handles_labels()[1][0]
    assert "5 seeds, 95 % interval" in five.get_legend_handles_labels()[1][0]


def test_variants_are_told_apart_by_what_differs_and_by_nothing_else(tmp_path):
    folders = [
        make_run(tmp_path / "maml", inner={"lr": 0.1, "l2f": {"initial_gamma": 0.5}}),
        make_run(tmp_path / "l2f0", algo="l2f", seed=0, device="cpu", inner={"lr": 0.1, "l2f": {"initial_gamma": 0.5}}),
        make_run(
            tmp_path / "l2f1", algo="l2f", seed=1, device="cuda", inner={"lr": 0.1, "l2f": {"initial_gamma": 0.5}}
        ),
        make_run(tmp_path / "high", algo="l2f", inner={"lr": 0.1, "l2f": {"initial_gamma": 0.95}}),
    ]
    groups = group_runs([read_run(folder) for folder in folders])
    assert [group.label for group in groups] == ["MAML", "L2F (initial gamma 0.5)", "L2F (initial gamma 0.95)"]
    assert [len(group.runs) for group in groups] == [1, 2, 1]


def test_a_folder_given_twice_counts_once(tmp_path):
    run = read_run(make_run(tmp_path / "a"))
    (group,) = group_runs([run, run])
    assert len(group.runs) == 1


def test_two_tasks_are_drawn_apart(tmp_path):
    returns = [[1.0, 5.0], [-1.0, 7.0], [1.0, 9.0]]
    folder = make_run(tmp_path / "a", env="cheetah-dir", tasks=[[1.0], [-1.0], [1.0]], returns=returns)
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


def test_env_steps_curve_shows_what_was_measured(tmp_path):
    folders = [make_run(tmp_path / str(seed), seed=seed) for seed in range(2)]
    ax = draw_env_steps(group_runs([read_run(folder) for folder in folders])).axes[0]
    means = {line.get_linestyle(): line for line in ax.lines if line.get_linewidth() > 1 and len(line.get_xdata())}
    np.testing.assert_allclose(means["-"].get_xdata(), [1000, 3000])  # the empty cell is left out, not invented
    np.testing.assert_allclose(means["-"].get_ydata(), [-19.5, -9.5])
    np.testing.assert_allclose(means["--"].get_ydata(), [-40, -41, -42])


def test_seeds_of_different_length_are_averaged_as_far_as_all_go(tmp_path):
    first, second = (make_run(tmp_path / str(seed), seed=seed) for seed in range(2))
    text = (second / "progress.csv").read_text().splitlines()
    (second / "progress.csv").write_text("\n".join(text[:2]) + "\n")
    ax = draw_env_steps(group_runs([read_run(first), read_run(second)])).axes[0]
    means = [line for line in ax.lines if line.get_linewidth() > 1 and len(line.get_xdata())]
    assert {len(line.get_xdata()) for line in means} == {1}


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
    return ["a"], "cannot read '"


def incomplete_evaluation(folder):
    (make_run(folder / "a") / "evaluation.json").write_text('{"tasks": [[1.0]]}')
    return ["a"], "holds no table 'returns': run `python -m metarl.evaluate"


def different_families(folder):
    make_run(folder / "a")
    make_run(folder / "b", env="cheetah-dir")
    return ["a", "b"], "runs of different families cannot share a figure: cheetah-dir, navigation"


def same_seed(folder):
    make_run(folder / "a")
    make_run(folder / "b")
    return ["a", "b"], "have the same settings and the same seed: give one of them"


def different_steps(folder):
    make_run(folder / "a")
    make_run(folder / "b", seed=1, returns=[[0.0, 1.0]] * 3)
    return ["a", "b"], "were evaluated for 1 and 2 gradient steps: evaluate them again with the same --gradient-steps"


@pytest.mark.parametrize(
    "prepare",
    [
        not_evaluated,
        missing,
        not_a_run,
        foreign_config,
        broken_json,
        incomplete_evaluation,
        different_families,
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


def test_run_without_progress_has_no_env_steps_to_show(tmp_path):
    folder = make_run(tmp_path / "a")
    (folder / "progress.csv").unlink()
    with pytest.raises(UserError, match="holds no 'env_steps': nothing to draw against env-steps"):
        plot_runs([folder], tmp_path / "a.png", x="env-steps")


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
