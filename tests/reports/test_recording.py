"""Recordings: which episodes they hold, films and figures of them, and where nothing can be drawn."""

import dataclasses
import itertools
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from PIL import Image, ImageSequence
from tiny_runs import tiny

import metarl
from examples.control_family import ControlFamily
from metarl import RecordingConfig, UserError
from metarl.common.streams import Purpose, stream
from metarl.config.config import Config
from metarl.reports import recording
from metarl.reports.episodes import HEIGHT, Camera, Episode, adaptation, drawing_env
from metarl.reports.film import Film, can_write_mp4
from metarl.reports.trajectories import draw_trajectories
from metarl.runs.adapted import AdaptedMemory
from metarl.runs.build import build
from metarl.runs.trained_agent import Agent
from metarl.runs.training import train

SMALL = RecordingConfig(steps=1, goals=2)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on navigation, with large steps so that adaptation shows."""
    return train(tiny(tmp_path_factory.mktemp("runs") / "run", inner_lr=1.0)).path


def untrained(folder, **settings):
    config = tiny(folder, **settings)
    return Agent(config, build(config.resolve())[1].initial(np.random.default_rng(0)))


def episode(title="before adaptation", length=5, stride=1, shade=0, width=HEIGHT):
    pictures = [np.full((HEIGHT, width, 3), shade + n, np.uint8) for n in range(-(-length // stride) + 1)]
    return Episode(title, np.arange(1.0, length + 1), np.zeros((length + 1, 2)), pictures, stride)


def test_recordings_of_other_checkpoints_and_seeds_do_not_replace_one_another(run, folder, monkeypatch):
    monkeypatch.setattr(recording, "can_write_mp4", lambda: False)
    config = RecordingConfig(steps=0, goals=1, output=folder / "here")
    files = [metarl.record(run, dataclasses.replace(config, **other)) for other in ({}, {"seed": 7})]
    names = [[path.name for path in of_one] for of_one in files]
    assert names == [["task0.gif", "trajectories.png"], ["task0-seed7.gif", "trajectories-seed7.png"]]


def test_the_files_of_a_recording(run, folder, capsys, monkeypatch):
    monkeypatch.setattr(recording, "can_write_mp4", lambda: False)
    files = metarl.record(run, RecordingConfig(task=3, steps=1, goals=2, output=folder / "here"))
    assert files == [folder / "here" / "task3.gif", folder / "here" / "trajectories3.png"]
    with Image.open(files[0]) as gif:
        assert gif.n_frames == 21  # The start and 20 steps.
        assert gif.width > 2 * HEIGHT
        assert gif.info["loop"] == 0
        assert gif.info["duration"] == 50
    with Image.open(files[1]) as figure:
        assert figure.width > figure.height
    command = "install it from a clone of metarl: pip install '.[video]'."
    assert f"no MP4: its encoder is not installed; {command}" in capsys.readouterr().err


def test_by_default_the_files_are_in_the_run_folder(run):
    assert {path.parent for path in metarl.record(run, SMALL)} == {run / "recording"}


def test_an_mp4_holds_every_picture_and_the_last_one_for_two_seconds(folder):
    video = pytest.importorskip("imageio.v2")
    if not can_write_mp4():
        pytest.skip("needs imageio-ffmpeg")
    Film("MAML", [episode(shade=100)], rate=10).write_mp4(folder / "film.mp4")
    with video.get_reader(folder / "film.mp4") as reader:
        assert reader.count_frames() == 6 + 20
        assert abs(int(reader.get_data(3)[150, 150, 0]) - 103) < 8


def test_each_episode_is_of_the_policy_after_so_many_steps(run):
    agent = metarl.load(run)
    task = np.array([0.3, -0.2])
    env = agent.family.make_env()
    episodes = adaptation(agent, env, task, steps=2, seed=5)
    assert [episode.title for episode in episodes] == [
        "before adaptation",
        "after 1 gradient step",
        "after 2 gradient steps",
    ]
    for number, lived in enumerate(episodes):
        env.reset(seed=5, options={"task": task})
        policy, rng = agent.adapt(env, num_steps=number, seed=5), stream(5, Purpose.TEST_ROLLOUTS)
        observation, _ = env.reset(seed=5, options={"task": task})
        for reward, expected in zip(lived.rewards, lived.observations, strict=False):
            np.testing.assert_array_equal(observation, expected)
            observation, now, *_ = env.step(policy.predict(observation, deterministic=False, rng=rng))
            assert now == reward
    assert len(lived.rewards) == 20
    assert not np.array_equal(episodes[0].observations, episodes[1].observations)


def test_the_shorter_recording_is_a_part_of_the_longer_one(run):
    agent = metarl.load(run)
    short, long = (adaptation(agent, agent.family.make_env(), np.array([0.1, 0.4]), steps, 5) for steps in (1, 2))
    for one, other in zip(short, long, strict=False):
        np.testing.assert_array_equal(one.observations, other.observations)


def test_episodes_of_an_agent_with_memory_follow_one_another(folder, monkeypatch):
    agent = untrained(folder / "run", algo="rl2", horizon=6)
    finished, finish = [], AdaptedMemory.finish
    monkeypatch.setattr(AdaptedMemory, "finish", lambda self, reward: (finished.append(reward), finish(self, reward)))
    env = agent.family.make_env()
    episodes = adaptation(agent, env, np.array([0.3, 0.3]), steps=2, seed=1)
    assert [episode.title for episode in episodes] == ["episode 1", "episode 2", "episode 3"]
    assert finished == [episode.rewards[-1] for episode in episodes]
    assert not np.array_equal(episodes[0].observations, episodes[1].observations)


def test_an_agent_with_memory_shows_a_trial_of_training_by_default(folder, monkeypatch):
    shown = []
    monkeypatch.setattr(recording, "adaptation", lambda *arguments: shown.append(arguments[3]) or [episode()])
    agent = untrained(folder / "run", algo="rl2", horizon=4, num_inner_steps=5)
    monkeypatch.setattr(recording, "load_with_iteration", lambda *arguments: (agent, 0))
    metarl.record("run")
    assert set(shown) == {5}


def test_step_and_return_stand_under_each_picture(monkeypatch):
    written = []
    monkeypatch.setattr("metarl.reports.film._centred", lambda draw, text, *place: written.append(text))
    film = Film("MAML on navigation", [episode("one", 5, 2), episode("two", 2)], rate=10)
    assert len(film) == 4
    film.picture(1)
    assert written == ["MAML on navigation", "one", "step 2   return 3.0", "two", "step 1   return 1.0"]
    written.clear()
    film.picture(3)
    assert [text for text in written if "step" in text] == ["step 5   return 15.0", "step 2   return 3.0"]


def test_an_episode_that_has_ended_shows_its_last_picture():
    picture = np.asarray(Film("", [episode(length=5), episode(length=2, shade=100)], rate=10).picture(5))
    middle = picture.shape[0] // 2
    assert picture[middle, 100].tolist() == [5] * 3
    assert picture[middle, -100].tolist() == [102] * 3


def test_more_than_four_episodes_take_several_rows():
    one, five = (Film("", [episode()] * number, 10).picture(0).size for number in (1, 5))
    assert five[0] > 3 * one[0]
    assert five[1] > 1.8 * one[1]
    assert all(side % 2 == 0 for side in (*one, *five))


def test_a_long_caption_stays_within_the_film():
    image = np.asarray(Film("a task of many words " * 3, [episode(shade=200)], 10).picture(0))
    dark = np.flatnonzero((image[8:32] < 100).all(-1).any(0))
    assert dark[0] > 0
    assert dark[-1] < image.shape[1] - 1


@pytest.mark.parametrize(
    ("fps", "horizon", "stride", "rate"), [(20, 100, 1, 20), (100, 200, 4, 25), (20, 2000, 4, 5), (None, 100, 1, 30)]
)
def test_films_keep_the_pace_and_have_few_pictures(fps, horizon, stride, rate):
    camera = Camera.on(SimpleNamespace(metadata={"render_fps": fps}), "family", horizon)
    assert (camera.stride, camera.rate) == (stride, rate)


def test_a_gif_takes_as_long_as_the_film(folder):
    film = Film("", [episode(length=79)], rate=80 / 3)  # 37.5 ms a picture, and a GIF counts hundredths of a second.
    film.write_gif(folder / "film.gif")
    with Image.open(folder / "film.gif") as gif:
        milliseconds = sum(frame.info["duration"] for frame in ImageSequence.Iterator(gif))
    assert milliseconds == pytest.approx(79 * 37.5 + 2000, abs=10)


class _Drawn(gymnasium.Wrapper):
    """Draws without pygame."""

    def __init__(self, env):
        super().__init__(env)
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 20}

    def render(self):
        return np.zeros((8, 8, 3), np.uint8)


def test_a_task_is_filmed_in_the_kind_of_environment_that_it_needs(folder, monkeypatch):
    agent = untrained(folder / "run", env="examples.control_family:ControlFamily", horizon=3)
    monkeypatch.setattr(recording, "load_with_iteration", lambda *arguments: (agent, 0))
    tasks = agent.family.sample_tasks(40, stream(10_000, Purpose.TEST_TASKS), "test")
    numbers = {agent.family.kind(task): number for number, task in enumerate(tasks)}
    kinds, make_env = [], ControlFamily.make_env

    def made(self, render_mode=None, kind=None):
        kinds.append(kind)
        return _Drawn(make_env(self, None, kind))

    monkeypatch.setattr(ControlFamily, "make_env", made)
    for kind in ControlFamily.kinds:
        kinds.clear()
        (gif,) = metarl.record("run", RecordingConfig(task=numbers[kind], steps=0))[:1]
        assert set(kinds) == {kind}
        assert gif.exists()


def test_a_family_whose_make_env_takes_no_render_mode_is_told_so(folder, monkeypatch):
    agent = untrained(folder / "run")
    make_env = type(agent.family).make_env
    monkeypatch.setattr(type(agent.family), "make_env", lambda self: make_env(self))
    monkeypatch.setattr(recording, "load_with_iteration", lambda *arguments: (agent, 0))
    with pytest.raises(UserError, match="navigation cannot be filmed: its make_env takes no render_mode; give it this"):
        metarl.record("run")


def test_pictures_are_taken_at_the_start_at_every_stride_and_at_the_end(run):
    agent = metarl.load(run)
    env = drawing_env(agent.family, np.array([0.4, 0.4]))
    camera = Camera(env, "navigation", 8, 1)
    (lived,) = adaptation(agent, env, np.array([0.4, 0.4]), 0, 5, camera)
    assert len(lived.pictures) == 4  # After 0, 8, 16 and 20 steps.
    assert [lived.steps_until(n) for n in range(4)] == [0, 8, 16, 20]
    assert lived.pictures[0].shape == (HEIGHT, HEIGHT, 3)
    assert not np.array_equal(lived.pictures[0], lived.pictures[3])


def test_trajectories_are_the_positions_and_the_star_is_the_goal(run):
    agent = metarl.load(run)
    tasks = [np.array([0.3, -0.2]), np.array([-0.4, 0.1])]
    goals = [adaptation(agent, agent.family.make_env(), task, 1, 5) for task in tasks]
    figure = draw_trajectories("MAML on navigation, seed 0, iteration 2 (last)", tasks, goals)
    assert len(figure.axes) == 2
    caption = figure.get_supxlabel().replace("\n", " ")
    assert (
        caption == "MAML on navigation, seed 0, iteration 2 (last) · returns above a panel in the order of the legend"
    )
    assert [(panel.get_xlabel(), panel.get_ylabel()) for panel in figure.axes] == [("x", "y"), ("x", "")]
    for panel, task, episodes in zip(figure.axes, tasks, goals, strict=True):
        before, after, start, goal = panel.lines
        for line, lived in zip((before, after), episodes, strict=True):
            np.testing.assert_array_equal(line.get_xydata(), lived.observations)
        assert start.get_xydata().tolist() == [[0, 0]]
        assert goal.get_xydata().tolist() == [task.tolist()]
        low, high = panel.get_xlim()
        assert low < min(0, task[0]) < max(0, task[0]) < high
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["before adaptation", "after 1 gradient step", "start", "goal"]


@pytest.mark.parametrize(("goals", "episodes"), [(1, 8), (4, 4), (6, 3)])
def test_texts_of_trajectories_keep_apart(goals, episodes):
    of_goal = [episode(f"episode {number + 1}", 40) for number in range(episodes)]
    figure = draw_trajectories("RL^2 on navigation, seed 0", [np.array([0.3, 0.2])] * goals, [of_goal] * goals)
    figure.draw_without_rendering()
    (caption,) = (text for text in figure.texts if text.get_text() == figure.get_supxlabel())
    apart = [caption, figure.legends[0], *(text for ax in figure.axes for text in (ax.title, ax.xaxis.label))]
    boxes = [part.get_window_extent() for part in apart]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert figure.get_tightbbox().x1 <= figure.get_figwidth()


def test_the_oracle_is_recorded_too(folder, monkeypatch):
    oracle = untrained(folder / "run", algo="oracle")
    monkeypatch.setattr(recording, "load_with_iteration", lambda *arguments: (oracle, 0))
    assert [path.name for path in metarl.record("run", SMALL)][-1] == "trajectories.png"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"env": "bandit"},
            "bandit cannot be filmed: its environments do not draw pictures (render mode 'rgb_array').",
        ),
        ({"env": "sinusoid"}, "sinusoid is a supervised family without environments, and a recording needs one with"),
    ],
)
def test_families_that_cannot_be_drawn_are_named(settings, message, monkeypatch):
    config = Config(algo="maml", **settings)
    agent = Agent(config, build(config.resolve())[1].initial(np.random.default_rng(0)))
    monkeypatch.setattr(recording, "load_with_iteration", lambda *arguments: (agent, 0))
    with pytest.raises(UserError) as error:
        metarl.record("run")
    assert message in str(error.value)


class _Blind(gymnasium.Env):
    """An environment whose drawing fails as MuJoCo's does without EGL."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)

    def render(self):
        raise AttributeError("'NoneType' object has no attribute\n'eglQueryString'")


def test_a_machine_without_a_renderer_is_told_in_one_sentence_what_to_install():
    camera = Camera(_Blind(mujoco_renderer=None), "ant-dir", 1, 1)
    with pytest.raises(UserError) as error:
        camera.picture()
    assert str(error.value) == (
        "an environment of ant-dir cannot be drawn here (AttributeError: 'NoneType' object has no attribute "
        "'eglQueryString'). Without a display, MuJoCo draws with EGL or OSMesa: install one of them (libegl1, "
        "libosmesa6), and set MUJOCO_GL=egl or MUJOCO_GL=osmesa."
    )
    with pytest.raises(UserError) as error:
        Camera(_Blind(), "mine", 1, 1).picture()
    assert "MuJoCo" not in str(error.value)


def test_half_cheetah_is_filmed_without_a_display_or_the_reason_is_told(folder, monkeypatch):
    agent = untrained(folder / "run", env="cheetah-dir", horizon=2)
    monkeypatch.setattr(recording, "load_with_iteration", lambda *arguments: (agent, 0))
    try:
        gif, *_ = metarl.record("run", RecordingConfig(steps=0))
    except UserError as error:
        assert "MuJoCo draws with EGL or OSMesa" in str(error)  # noqa: PT017 (a machine may have neither)
        return
    with Image.open(gif) as film:
        assert film.n_frames == 3
        assert len(film.convert("RGB").getcolors(100_000)) > 50


def test_a_folder_that_cannot_be_written_is_refused_first(run, folder, monkeypatch):
    (folder / "file").write_text("")
    monkeypatch.setattr(recording, "drawing_env", None)
    with pytest.raises(UserError, match=r"cannot write .*task0\.gif: .*; choose another output \(--output\)"):
        metarl.record(run, RecordingConfig(output=folder / "file" / "here"))
