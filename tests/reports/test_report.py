import html
import json
import re
import shlex
import shutil
import subprocess

import pytest
from tiny_runs import ROOT, tiny

import metarl
from metarl.commands.evaluate import main as evaluate_main
from metarl.commands.report import main
from metarl.common.errors import UserError
from metarl.reports.wording import number_text, provenance_text
from metarl.runs.training import train
from metarl.store.runs import read_run

RESULTS = ROOT / "benchmarks/results"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two evaluated runs with different step sizes, the second in a folder with a name that is no HTML."""
    folder = tmp_path_factory.mktemp("runs")
    made = [
        train(tiny(folder / "one")).path,
        train(tiny(folder / "<b>&two", inner_lr=0.25)).path,
    ]
    for path in made:
        metarl.evaluate(path, metarl.EvaluationConfig(tasks=2, rollouts=2, gradient_steps=1))
    return made


def written(runs, folder, **options):
    return metarl.report(runs, folder / "report.html", **options).read_text()


def words(page):
    return html.unescape(re.sub(r"<[^>]+>", " ", page))


def test_a_report_needs_nothing_but_itself(runs, tmp_path):
    page = written(runs, tmp_path)
    addresses = re.findall(r'(?:src|href)="(.{5})', page) + re.findall(r"url\((.{5})", page)
    assert {address[0] if address[0] == "#" else address for address in addresses} == {"#", "data:"}
    assert "<script" not in page
    assert "@import" not in page


def test_a_report_shows_returns_settings_and_commands(runs, tmp_path):
    shown = words(written(runs, tmp_path))
    for path in runs:
        result = metarl.evaluate(path, metarl.EvaluationConfig(tasks=2, rollouts=2, gradient_steps=1))
        assert all(number_text(mean, 2) in shown.split() for mean in result.mean)
        quoted = shlex.quote(str(path))
        assert f"python -m metarl.train --config config.json --run-dir {quoted}" in shown
        measured = f"python -m metarl.evaluate {quoted} --tasks 2 --rollouts 2 --gradient-steps 1"
        assert f"{measured} --seed 10000\n" in shown
    assert re.search(r"inner_lr\s+0\.1\s+0\.25", shown)
    assert "MAML (inner lr 0.25)" in shown
    assert "<b>&two" in shown  # as text


def test_headings_say_what_is_true_of_the_runs(runs, tmp_path):
    two, one = written(runs, tmp_path), written(runs[:1], tmp_path)
    assert "<h1>MAML on navigation</h1>" in two  # The settings stand below.
    assert "Settings in which the runs differ" in two
    assert "Settings" not in words(one)
    assert "held-out" not in "".join(re.findall("<h2.*", two))  # The figure's note says it of each family.


def test_the_command_of_an_evaluation_names_its_checkpoint(runs, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(runs[0], copy)
    of_best = json.loads((copy / "evaluation.json").read_text()) | {"checkpoint": "best"}
    (copy / "evaluation-best.json").write_text(json.dumps(of_best))
    shown = words(written([copy], tmp_path, checkpoint="best"))
    assert "--seed 10000 --checkpoint best\n" in shown


def test_the_command_of_an_evaluation_names_its_other_options(runs, tmp_path):
    """An evaluation on another family, of some layers, and with step sizes of its own; its tasks are drawn too."""
    copy = tmp_path / "run"
    shutil.copytree(runs[0], copy)
    wanted = metarl.EvaluationConfig(
        tasks=2, rollouts=2, gradient_steps=2, env="navigation-b", step_scales=(1.0, 0.25), adapted_layers=("bias1",)
    )
    result = metarl.evaluate(copy, wanted)
    (copy / "evaluation.json").write_text(json.dumps(result.to_json()))
    shown = words(written([copy], tmp_path))
    options = "--env navigation-b --step-scales 1.0 0.25 --adapted-layers bias1\n"
    assert f"--tasks 2 --rollouts 2 --gradient-steps 2 --seed 10000 {options}" in shown
    assert "navigation-b (trained on navigation)" in shown


@pytest.mark.parametrize("tasks", [None, [[0.1, 0.2], [0.3, -0.4]]])
def test_the_commands_make_the_evaluation_again(runs, tmp_path, monkeypatch, tasks):
    """They need the page alone, whether the evaluation's tasks were drawn or came from a file."""
    monkeypatch.chdir(tmp_path)
    copy, given = tmp_path / "run", tmp_path / "given.json"
    shutil.copytree(runs[0], copy)
    given.write_text(json.dumps({"tasks": tasks}))
    drawn = {"tasks": 3} if tasks is None else {"task_file": given}
    before = metarl.evaluate(copy, metarl.EvaluationConfig(rollouts=2, gradient_steps=1, seed=7, **drawn))
    page = written([copy], tmp_path)
    given.unlink()
    (copy / "evaluation.json").unlink()
    files = re.findall(r'<summary>(\w+\.json)</summary><pre tabindex="0">([^<]+)</pre>', page)
    assert [name for name, _ in files] == (["config.json"] if tasks is None else ["config.json", "tasks.json"])
    for name, content in files:
        (tmp_path / name).write_text(html.unescape(content))
    (command,) = re.findall(r"python -m metarl\.evaluate (.+)", words(page))
    assert evaluate_main(shlex.split(command)) == 0
    again = read_run(copy).evaluated()
    assert again.tasks.tolist() == before.tasks.tolist()
    assert again.returns.tolist() == before.returns.tolist()


def test_the_commands_of_a_reference_agent_write_into_one_folder(tmp_path):
    name = metarl.reference_names()[0]
    shown = words(written([f"reference:{name}"], tmp_path))
    assert f"--run-dir runs/reference/{name}\n" in shown
    assert f"metarl.evaluate runs/reference/{name} " in shown


def test_supervised_runs_have_curves_too_and_commands_that_they_take(tmp_path):
    page = written([RESULTS / "sinusoid-l2f/maml-seed0"], tmp_path)
    assert 'id="training"' in page
    assert 'alt="Learning curves on sinusoid-l2f"' in page
    assert "--shots 5 --queries 100 --gradient-steps 10" in words(page)


def test_seeds_that_were_evaluated_for_different_steps_are_refused(runs, tmp_path):
    other = train(tiny(tmp_path / "other", seed=1)).path
    metarl.evaluate(other, metarl.EvaluationConfig(tasks=2, rollouts=2, gradient_steps=2))
    with pytest.raises(UserError, match="seeds of MAML were evaluated for 1 and 2 gradient steps"):
        metarl.report([runs[0], other], tmp_path / "report.html")


def test_sections_have_links_that_lead_to_them(runs, tmp_path):
    page = written(runs, tmp_path)
    targets = re.findall(r'href="#([^"]+)"', page)
    assert {"runs", "adaptation", "comparison", "training", "phases", "settings", "again"} <= set(targets)
    assert all(f'id="{target}"' in page for target in targets)
    assert all("alt=" in image for image in re.findall(r"<img[^>]*>", page))


def test_lines_are_compared_or_it_says_why_not(runs, tmp_path):
    shown = words(written(runs, tmp_path))
    assert "difference from MAML on the same seeds and tasks" in shown
    other = tmp_path / "other"
    shutil.copytree(runs[1], other)
    metarl.evaluate(other, metarl.EvaluationConfig(tasks=3, rollouts=2, gradient_steps=1))
    assert "were evaluated on different tasks" in words(written([runs[0], other], tmp_path))


def test_what_was_not_evaluated_is_named(tmp_path):
    path = train(tiny(tmp_path / "run")).path
    page = written([path], tmp_path)
    assert f"Not evaluated, and therefore not below: {path}" in words(page)
    assert 'id="adaptation"' not in page
    assert 'id="training"' in page


def test_what_one_seed_lacks_is_named_and_the_others_are_shown(tmp_path):
    """A report shows what there is of each seed."""
    evaluated, plain, without = (train(tiny(tmp_path / name, seed=n)).path for n, name in enumerate("abc"))
    for path in (evaluated, without):
        metarl.evaluate(path, metarl.EvaluationConfig(tasks=2, rollouts=2, gradient_steps=1))
    (without / "progress.csv").unlink()
    page = written([evaluated, plain, without], tmp_path)
    assert f"Not evaluated, and therefore not below: {plain}." in words(page)
    assert f"without learning curves: {without}." in words(page)
    assert re.search(r'<td>MAML</td><td class="number">2</td>', page)
    assert 'id="training"' in page


def test_all_commits_of_a_run_are_named(runs, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(runs[0], copy)
    config = json.loads((copy / "config.json").read_text())
    config["metarl"]["commit"] = "1" * 12
    config["resumed_with"] = [{**config["metarl"], "commit": commit * 12} for commit in "121"]
    (copy / "config.json").write_text(json.dumps(config))
    assert f"{'1' * 12}, then {'2' * 12}" in words(written([copy], tmp_path))
    assert provenance_text([read_run(copy)]).endswith(f"commit {'1' * 9}, {'2' * 9}")


def test_recordings_in_a_run_are_shown(runs, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(runs[0], copy)
    (copy / "task.gif").write_bytes(b"GIF89a")
    assert 'src="data:image/gif;base64,R0lGODlh"' in written([copy], tmp_path)
    (copy / "task.mp4").write_bytes(b"film")
    page = written([copy], tmp_path)
    assert 'src="data:video/mp4;base64,ZmlsbQ=="' in page
    assert "data:image/gif" not in page  # It shows the same.


def test_recordings_of_a_reference_agent_are_found_where_they_are_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = metarl.reference_names()[0]
    folder = tmp_path / "runs/reference" / name / "recording"
    folder.mkdir(parents=True)
    (folder / "task0.gif").write_bytes(b"GIF89a")
    assert 'src="data:image/gif;base64,R0lGODlh"' in written([f"reference:{name}"], tmp_path)


def test_intervals_begin_with_five_seeds(tmp_path):
    three = [RESULTS / f"navigation/maml-seed{seed}" for seed in range(3)]
    five = [RESULTS / f"sinusoid-l2f/maml-seed{seed}" for seed in range(5)]
    cells = re.compile(r'<td class="number">-?[\d.]+ ± ')
    assert not cells.search(written(three, tmp_path))
    assert cells.search(written(five, tmp_path))


def test_a_report_can_only_be_a_page_that_can_be_written(runs, tmp_path):
    with pytest.raises(UserError, match=r"report's name must end in \.html"):
        metarl.report(runs, tmp_path / "report.pdf")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        metarl.report(runs, tmp_path / "file/report.html")


def test_the_command_names_the_report(runs, tmp_path, capsys):
    assert main([str(runs[0]), "--output", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/page.html\n"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs the browser Chromium")
def test_a_browser_shows_every_figure(runs, tmp_path):
    page = metarl.report(runs, tmp_path / "report.html")
    # The test's own script; a page without a script would not say whether its images could be read.
    counting = (
        "<script>addEventListener('load', () => { document.title = [...document.images].map(i => i.naturalWidth > 0) })"
    )
    page.write_text(page.read_text().replace("</body>", f"{counting}</script></body>"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    shown = subprocess.run(["chromium", *options, page.as_uri()], capture_output=True, text=True, check=True).stdout
    assert "<title>true,true,true</title>" in shown
