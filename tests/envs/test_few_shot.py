"""Few-shot classification: classes, splits and sets of images."""

import itertools
import json
import pickle

import numpy as np
import PIL
import pytest
from images import write_class, write_patterns
from packaging.version import Version
from PIL import Image

from metarl import UserError, check_task_family, get_family
from metarl.envs.family import SPLITS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("patterns")
    write_patterns(folder)
    return folder


def make(folder, **arguments):
    return get_family("few-shot", **{"folder": str(folder), "ways": 3, "size": 8, **arguments})


def tasks_of(family, split="train", n=200):
    return family.sample_tasks(n, np.random.default_rng(0), split)


def drawn(family, task, shots=2, queries=3, seed=0):
    return family.draw_sets(task, shots, queries, np.random.default_rng(seed))


def test_family_passes_the_check(folder):
    check_task_family(make(folder, rotations=True))


def test_classes_are_the_folders_that_hold_images(folder):
    names = [make(folder).split_classes(split) for split in SPLITS]
    assert sorted(itertools.chain(*names)) == sorted(f"{'ab'[i % 2]}/{i:02}" for i in range(20))
    assert [len(part) for part in names] == [13, 3, 4]  # 64, 16 and 20 %.


def test_hidden_files_and_folders_without_images_are_no_classes(tmp_path):
    write_patterns(tmp_path, num_classes=15)
    for name in ("__MACOSX/._1.png", "notes/readme.txt", "in_the_root.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("no image")
    family = make(tmp_path, ways=2)
    assert sum(len(family.split_classes(split)) for split in SPLITS) == 15


def names_of(family):
    return sorted(itertools.chain(*map(family.split_classes, SPLITS)))


def test_links_to_folders_outside_are_classes(tmp_path):
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    inside = write_patterns(data, num_classes=15)
    write_patterns(elsewhere, num_classes=2)
    (data / "linked").symlink_to(elsewhere)
    (data / "above").symlink_to(tmp_path)
    (elsewhere / "circle").symlink_to(tmp_path)
    (elsewhere / "back").symlink_to(data)
    write_patterns(tmp_path / "beside", num_classes=2)
    family = make(data, ways=2)
    names = names_of(family)
    assert names == [*inside, "linked/a/00", "linked/b/01"]
    linked = np.array([names.index(name) for name in ("linked/a/00", "a/00")])
    assert drawn(family, linked)[0].inputs.shape == (4, 64)


def test_links_inside_a_data_set_change_neither_its_classes_nor_their_split(tmp_path):
    names = write_patterns(tmp_path / "images", num_classes=30)
    before = make(tmp_path)
    splits = [before.split_classes(split) for split in SPLITS]
    # Links whose names come before and after "images", one deep inside, and one that leads in a circle.
    links = {"current": "images", "z": "images/a", "images/a/copy": "images/b/01", "images/b/up": "."}
    for link, target in links.items():
        (tmp_path / link).symlink_to(tmp_path / target)
    after = make(tmp_path)
    assert names_of(after) == [f"images/{name}" for name in names]
    assert [after.split_classes(split) for split in SPLITS] == splits


def test_a_folder_outside_with_several_links_is_one_class(tmp_path):
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    inside = write_patterns(data, num_classes=15)
    write_patterns(elsewhere, num_classes=2)
    for link in ("two", "one", "a/three"):
        (data / link).symlink_to(elsewhere)
    (data / "just_one").symlink_to(elsewhere / "b/01")
    assert names_of(make(data, ways=2)) == [*inside, "just_one", "one/a/00"]


@pytest.mark.parametrize("rotations", [False, True])
def test_tasks_of_a_split_have_its_classes_only(folder, rotations):
    family, turns = make(folder, rotations=rotations), 4 if rotations else 1
    seen = {}
    for split in SPLITS:
        tasks = tasks_of(family, split)
        assert all(len(set(task)) == 3 for task in tasks)
        seen[split] = {int(number) // turns for number in tasks.ravel()}
        named = {part.partition(" ")[0] for task in tasks for part in family.describe_task(task).split(", ")}
        assert named == set(family.split_classes(split))
        # Far more draws than classes, so every rotation of each is drawn.
        assert len(np.unique(tasks)) == turns * len(named)
    assert len(seen["train"] | seen["validation"] | seen["test"]) == sum(map(len, seen.values())) == 20


def test_split_seed_chooses_other_classes(folder):
    assert make(folder).split_classes("test") == make(folder).split_classes("test")
    assert make(folder).split_classes("test") != make(folder, split_seed=1).split_classes("test")


def test_split_file_names_the_classes(folder, tmp_path):
    split = {"train": ["a/00", "a/02"], "validation": ["b/01", "b/03"], "test": ["b/19", "b/05"]}
    (tmp_path / "split.json").write_text(json.dumps(split))
    family = make(folder, ways=2, split_file=str(tmp_path / "split.json"))
    assert {name: family.split_classes(name) for name in SPLITS} == {name: sorted(part) for name, part in split.items()}
    # An edited file moves classes from training to tests, so the data are others.
    before, split["train"], split["test"] = family.data, split["test"], split["train"]
    (tmp_path / "split.json").write_text(json.dumps(split))
    assert make(folder, ways=2, split_file=str(tmp_path / "split.json")).data != before


def test_split_file_may_name_folders_of_classes(folder, tmp_path):
    (tmp_path / "split.json").write_text('{"train": ["a"], "validation": ["b/01", "b/03"], "test": ["b/05", "b/07"]}')
    family = make(folder, ways=2, split_file=str(tmp_path / "split.json"))
    assert family.split_classes("train") == [f"a/{i:02}" for i in range(0, 20, 2)]
    assert family.split_classes("test") == ["b/05", "b/07"]


def test_sets_are_balanced_and_disjoint(folder):
    family = make(folder)
    task = tasks_of(family)[0]
    support, query = drawn(family, task)
    assert support.inputs.shape == (6, 64)
    assert query.inputs.shape == (9, 64)
    assert support.targets.tolist() == [0, 0, 1, 1, 2, 2]
    assert np.bincount(query.targets).tolist() == [3, 3, 3]
    rows = np.concatenate([support.inputs, query.inputs])
    assert len(np.unique(rows, axis=0)) == 15
    assert rows.min() >= 0
    assert 0.5 < rows.max() <= 1


def test_labels_follow_the_order_of_the_task_and_change_from_task_to_task(folder):
    family = make(folder)
    tasks = tasks_of(family)
    support, _ = drawn(family, tasks[0])
    turned, _ = drawn(family, np.roll(tasks[0], 1))
    means = [
        [examples.inputs[examples.targets == label].mean(0) for label in range(3)] for examples in (support, turned)
    ]
    for label in range(3):
        distances = [np.abs(means[0][label] - other).mean() for other in means[1]]
        assert int(np.argmin(distances)) == (label + 1) % 3
    number = tasks[0][0]
    assert len({int(np.argmax(task == number)) for task in tasks if number in task}) == 3


def test_inputs_are_the_pixels_channel_by_channel(tmp_path):
    colours = np.zeros((4, 4, 3), np.uint8)
    colours[..., 0], colours[1, 2] = 255, (0, 51, 102)
    for name in map(str, range(15)):
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.fromarray(colours).save(tmp_path / name / f"{number}.png")
    family = make(tmp_path, ways=2, size=4, channels=3)
    support, _ = drawn(family, tasks_of(family)[0], 1, 1)
    np.testing.assert_allclose(support.inputs[0].reshape(3, 4, 4), colours.transpose(2, 0, 1) / 255, rtol=1e-6)
    grey = make(tmp_path, ways=2, size=8)
    assert (grey.num_inputs, drawn(grey, tasks_of(grey)[0], 1, 1)[0].inputs.shape) == (64, (2, 64))


def test_cameras_pictures_stand_as_they_were_taken(tmp_path):
    upright = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # "Turn me by 90 degrees, clockwise."
    for name in map(str, range(15)):
        (tmp_path / name).mkdir()
        Image.fromarray(upright).save(tmp_path / name / "0.png")
        Image.fromarray(np.rot90(upright).copy()).save(tmp_path / name / "1.png", exif=exif)
    family = make(tmp_path, ways=2, size=4, channels=3)
    for examples in drawn(family, tasks_of(family)[0], 1, 1):
        np.testing.assert_allclose(255 * examples.inputs[0].reshape(3, 4, 4), upright.transpose(2, 0, 1), atol=1e-3)


GREY = np.arange(16, dtype=np.uint8).reshape(4, 4) * 17
CLEAR = np.eye(4, dtype=bool)
COLOUR = np.stack([GREY, GREY.T, 255 - GREY], axis=-1)
OPAQUE = np.full((4, 4), 255, np.uint8)
WHITE = np.uint8(255)


def palette(image):
    return Image.fromarray(image).quantize(16)


def with_key(image, key):
    image.info["transparency"] = key
    return image


def inputs_of(folder, image, ending="png", channels=1):
    """An image's numbers as the family reads them, [row, column], or [row, column, channel] of colours."""
    for name in map(str, range(15)):
        (folder / name).mkdir()
        for number in range(2):
            image.save(folder / name / f"{number}.{ending}", **image.info)
    family = make(folder, ways=2, size=4, channels=channels)
    rows = drawn(family, tasks_of(family)[0], 1, 1)[0].inputs[0] * 255
    return rows.reshape(channels, 4, 4).transpose(1, 2, 0).squeeze()


INDICES = np.asarray(palette(COLOUR))[..., None]
# Images, their endings, and the numbers that they stand for.
PICTURES = {
    "L": (Image.fromarray(GREY), "png", GREY),
    "1": (Image.fromarray(CLEAR), "png", 255 * CLEAR),
    "P": (palette(COLOUR), "png", np.asarray(palette(COLOUR).convert("L"))),
    "RGB": (Image.fromarray(COLOUR), "png", np.asarray(Image.fromarray(COLOUR).convert("L"))),
    "RGB, colours": (Image.fromarray(COLOUR), "png", COLOUR),
    "CMYK": (Image.fromarray(COLOUR).convert("CMYK"), "tif", COLOUR),
    "RGBA, opaque": (Image.fromarray(np.dstack([COLOUR, OPAQUE])), "png", COLOUR),
    "I;16, PNG": (Image.fromarray(257 * GREY.astype(np.uint16)), "png", GREY),
    "I;16, TIFF": (Image.fromarray(257 * GREY.astype(np.uint16)), "tif", GREY),
    "I;16, a clear number": (
        with_key(Image.fromarray(257 * GREY.astype(np.uint16)), 0),
        "png",
        np.where(GREY == 0, WHITE, GREY),
    ),
    "LA": (Image.fromarray(np.dstack([GREY, OPAQUE * ~CLEAR])), "png", np.where(CLEAR, WHITE, GREY)),
    "LA, half": (Image.fromarray(np.dstack([0 * GREY, OPAQUE // 5])), "png", 0 * GREY + 204),
    "RGBA": (Image.fromarray(np.dstack([COLOUR, OPAQUE * ~CLEAR])), "png", np.where(CLEAR[..., None], WHITE, COLOUR)),
    "L, a clear number": (with_key(Image.fromarray(GREY), 17), "png", np.where(GREY == 17, WHITE, GREY)),
    "RGB, a clear colour": (
        with_key(Image.fromarray(COLOUR), tuple(COLOUR[0, 1].tolist())),
        "png",
        np.where((COLOUR[0, 1] == COLOUR).all(-1, keepdims=True), WHITE, COLOUR),
    ),
    "P, a clear colour": (
        with_key(palette(COLOUR), 3),
        "gif",
        np.where(INDICES == 3, WHITE, palette(COLOUR).convert("RGB")),
    ),
}


@pytest.mark.parametrize(("image", "ending", "expected"), PICTURES.values(), ids=PICTURES)
def test_pictures_of_every_mode_keep_their_numbers(tmp_path, image, ending, expected):
    if image.mode == "I;16" and image.info and Version(PIL.__version__) < Version("11"):
        pytest.skip("Pillow 10 cannot write it")
    read = inputs_of(tmp_path, image, ending, 1 if expected.ndim == 2 else 3)
    np.testing.assert_allclose(read, expected, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pictures_whose_white_is_unknown_are_refused(tmp_path, dtype):
    with pytest.raises(
        UserError, match=r"cannot read the image .*\.tif: nothing says which number is white in Pillow's"
    ):
        inputs_of(tmp_path, Image.fromarray(GREY.astype(dtype)), "tif")


def test_rotations_turn_the_images_of_a_class(tmp_path):
    image = np.arange(16).reshape(4, 4)
    for name in map(str, range(15)):
        write_class(tmp_path / name, [image, image])
    family = make(tmp_path, ways=4, size=4, rotations=True)
    support, _ = drawn(family, np.array([8, 9, 10, 11]), 1, 1)
    for turns in range(4):
        np.testing.assert_allclose(support.inputs[turns].reshape(4, 4) * 255, np.rot90(image, turns), atol=1e-4)
    assert (
        family.describe_task(np.array([8, 9, 10, 11])) == "10, 10 turned by 90°, 10 turned by 180°, 10 turned by 270°"
    )


def test_a_class_is_read_when_it_is_first_drawn_and_then_kept(tmp_path):
    write_patterns(tmp_path, num_classes=15)
    family = make(tmp_path, ways=2)
    first, second = (
        tasks_of(family)[0],
        next(task for task in tasks_of(family) if not set(task) & set(tasks_of(family)[0])),
    )
    before = drawn(family, first)
    for path in tmp_path.rglob("*.png"):
        path.write_text("damaged")
    np.testing.assert_array_equal(drawn(family, first)[0].inputs, before[0].inputs)
    np.testing.assert_array_equal(drawn(pickle.loads(pickle.dumps(family)), first)[0].inputs, before[0].inputs)
    with pytest.raises(UserError, match=r"cannot read the image .*000\.png"):
        drawn(family, second)


def test_too_few_images_name_the_class(folder):
    family = make(folder)
    task = tasks_of(family)[0]
    name = family.describe_task(task).partition(",")[0]
    with pytest.raises(
        UserError, match=f"class {name} of .* holds 12 images, and shots and queries need 13: take fewer"
    ):
        drawn(family, task, 3, 10)


def test_classes_with_too_few_images_are_named_before_training(tmp_path):
    write_patterns(tmp_path)
    for name in ("a/00", "b/01"):
        (tmp_path / name / "000.png").unlink()
    family = make(tmp_path)
    family.require_examples(11)
    with pytest.raises(UserError) as error:
        family.require_examples(12)
    assert "2 of the classes of" in str(error.value)
    assert "hold fewer than the 12 images that shots and queries need: " in str(error.value)
    assert {"a/00", "b/01"} == set(str(error.value).partition("need: ")[2].partition(".")[0].split(", "))
    names = [name for name in family.split_classes("train") if name not in ("a/00", "b/01")]
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"train": names[:4], "validation": names[4:7], "test": names[7:10]}))
    make(tmp_path, split_file=str(split)).require_examples(12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 2}, r"channels must be 1 \(grey\) or 3 \(colours\), got 2"),
        ({"ways": 1}, "ways must be a whole number from 2"),
        ({"size": "large"}, "size must be a positive whole number"),
        ({"rotations": "yes"}, "rotations must be True or False"),
        ({"split_seed": -1}, "split_seed must be a whole number"),
    ],
)
def test_impossible_arguments_are_refused(folder, arguments, message):
    with pytest.raises(UserError, match=message):
        make(**{"folder": folder, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"folder": ""},
            r"needs a folder of images: add --env-kwargs folder PATH \(in Python, env_kwargs=\{'folder': PATH\}\)",
        ),
        ({"folder": "/no/such"}, "there is no folder '/no/such'"),
        ({"ways": 5}, "the validation split of .* has 3 classes, and a task needs 5: lower ways, or choose"),
        ({"split_file": "/no/such.json"}, "cannot read /no/such.json"),
    ],
)
def test_what_the_folder_lacks_is_told_when_tasks_are_drawn(folder, arguments, message):
    family = make(**{"folder": folder, **arguments})
    with pytest.raises(UserError, match=message):
        tasks_of(family)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "is not JSON"),
        ('{"train": []}', r'must be JSON such as {"train": \[...\], "validation": \[...\], "test": \[...\]}'),
        (
            '{"train": ["a/0"], "validation": [], "test": []}',
            "names the class 'a/0', which .* does not hold. Did you mean",
        ),
        ('{"train": ["a/00"], "validation": [], "test": ["a/00"]}', "names the class 'a/00' twice: train, test"),
    ],
)
def test_wrong_split_files_are_refused(folder, tmp_path, content, message):
    (tmp_path / "split.json").write_text(content)
    with pytest.raises(UserError, match=message):
        tasks_of(make(folder, split_file=str(tmp_path / "split.json")))


def test_a_folder_without_classes_is_refused(tmp_path):
    write_class(tmp_path / "images", [np.zeros((2, 2))])
    with pytest.raises(UserError, match=r"there are no classes in .*: a class is a folder in it that holds images"):
        tasks_of(make(tmp_path / "images"))


def test_a_task_has_different_classes_of_the_family(folder):
    family = make(folder)
    family.check_task(np.array([0, 1, 19]))
    for task, message in (([0, 1, 1], "its classes must differ"), ([0, 1, 20], "is no task of few-shot")):
        with pytest.raises(UserError, match=message):
            family.check_task(np.array(task))
