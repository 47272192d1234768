"""Few-shot classification: a task is a choice of classes, each of them a folder of images."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from metarl.common.arrays import IntArray
from metarl.common.errors import UserError, nearest
from metarl.common.files import reason
from metarl.envs.family import SPLITS
from metarl.envs.parameters import flag, positive_whole, whole_between
from metarl.envs.supervised import Examples, SupervisedFamily

if TYPE_CHECKING:
    import PIL.Image

_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
_MOST_NAMED = 5  # classes in a message
_SHARES = {"validation": 0.16, "test": 0.2}

Pixels = NDArray[np.uint8]


class FewShotFamily(SupervisedFamily):
    """Classification of images into N classes that were never seen before, from K examples of each.

    Every folder below ``folder`` that directly holds images is a class; its name is its path from there, such as
    ``Greek/character01``. Links to folders outside count, too, but a folder is one class however many paths lead to it.
    A task is N different classes, and the label of an image is its class's place in the task. Shots and queries are
    images of each class, all of them different.

    An input is an image, resized to ``size`` x ``size`` pixels: [channels * size * size] from 0 to 1, row by row,
    channel after channel. What is transparent is white. The images of a class are read when it is first drawn, and stay
    in memory, a byte a number.

    Args:
        folder: Folder of the data set; needed as soon as tasks are drawn.
        ways: N, the number of classes in a task.
        size: Side of the images, in pixels.
        channels: 1 for grey images, 3 for colours (red, green, blue).
        split_file: JSON file with the names of the classes of each split: {"train": [...], "validation": [...],
            "test": [...]}; a folder of classes stands for all of them. Without it, 16 % of the classes are for
            validation and 20 % for tests, by chance.
        split_seed: Seed of that choice; idle with ``split_file``.
        rotations: Whether the images of a class, turned by 90, 180 and 270 degrees, are three further classes.

    Raises:
        UserError: If an argument is impossible; later, when tasks are drawn, if the folder is missing or holds no
            classes, a split has fewer than ``ways`` of them, or an image cannot be read.

    Source: Vinyals et al. 2016, section 4.1 (rotations: 4.1.1); Finn et al. 2017, section 5.2 and, for the defaults,
    appendix A.1 (Omniglot, 5 ways; the queries are miniImageNet's). Shares as of the 100 classes of Ravi & Larochelle
    2017.
    """

    classes = True
    test_queries = None
    defaults: Mapping[str, Any] = {
        "meta_optimiser": "adam",
        "policy_body": "metarl.policies.convolution:conv4",
        "shots": 1,
        "queries": 15,
        "inner_lr": 0.4,
        "meta_batch_size": 32,
        "iterations": 60_000,
        "log_every": 100,
        "validate_every": 1_000,
        "checkpoint_every": 1_000,
        "threads": 1,
    }

    def __init__(
        self,
        folder: str = "",
        ways: int = 5,
        size: int = 28,
        channels: int = 1,
        split_file: str = "",
        split_seed: int = 0,
        rotations: bool = False,
    ) -> None:
        self._ways, self._size = whole_between(2, 2**15)("ways", ways), positive_whole("size", size)
        if channels not in (1, 3):
            raise UserError(f"channels must be 1 (grey) or 3 (colours), got {channels!r}.")
        self._split_seed = whole_between(0, 2**31)("split_seed", split_seed)
        self._turns = 4 if flag("rotations", rotations) else 1
        self._folder, self._split_file, self._channels = str(folder), str(split_file), int(channels)
        self.num_outputs, self.num_inputs = self._ways, self._channels * self._size**2
        self._pixels: dict[int, Pixels] = {}

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Channels, height and width of an image."""
        return (self._channels, self._size, self._size)

    @cached_property
    def task_space(self) -> spaces.MultiDiscrete:  # type: ignore[override]
        """Numbers of the classes, [ways]; with rotations, class c turned k times by 90 degrees has the number 4 c + k.

        Raises:
            UserError: If the folder holds no classes, or too few for a split.
        """
        assert self._splits  # Tells if there are too few classes for a split.
        return spaces.MultiDiscrete(np.full(self._ways, self._turns * len(self._names)))

    @property
    def data(self) -> str:
        """How many classes there are, and a digest of what decides which of them are for tests.

        These are their names, and the splits of a ``split_file``.
        """
        names = self._names
        decides = names
        if self._split_file:
            decides = [f"{split}/{name}" for split in SPLITS for name in self.split_classes(split)]
        digest = hashlib.sha256("\n".join(decides).encode(errors="surrogateescape")).hexdigest()
        return f"{len(names)} classes, {digest[:12]}"

    def split_classes(self, split: str) -> list[str]:
        """Names of the classes that tasks of a split consist of, in alphabetical order.

        Args:
            split: "train", "validation" or "test".
        """
        return [self._names[number] for number in self._splits[split]]

    def draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> IntArray:
        numbers = self._turns * self._splits[split][:, None] + np.arange(self._turns)
        return np.stack([rng.choice(numbers.ravel(), self._ways, replace=False) for _ in range(n)])

    def check_task(self, task: Any) -> None:
        super().check_task(task)
        if len(set(task)) < len(task):
            raise UserError(f"{task} is no task of {self.name}: its classes must differ.")

    def is_held_out(self, task: Any) -> bool:
        """Whether all classes of a task are those of the test split."""
        return bool(np.isin(np.asarray(task) // self._turns, self._splits["test"]).all())

    def describe_task(self, task: Any) -> str:
        names = self._names
        turned = [divmod(int(number), self._turns) for number in task]
        return ", ".join(names[number] + (f" turned by {90 * turns}°" if turns else "") for number, turns in turned)

    def draw(self, task: Any, n: int, rng: np.random.Generator) -> tuple[NDArray[Any], IntArray]:
        """Draws n different images of each class, class by class: [ways * n, input], and their labels [ways * n].

        Raises:
            UserError: If a class holds fewer than n images, or one of them cannot be read.
        """
        images = np.concatenate([self._drawn(int(number), n, rng) for number in task])
        return images.reshape(len(images), -1).astype(np.float32) / 255, np.repeat(np.arange(self._ways), n)

    def draw_sets(self, task: Any, shots: int, queries: int, rng: np.random.Generator) -> tuple[Examples, Examples]:
        n = shots + queries
        examples = self.checked(*self.draw(task, n, rng), self._ways * n)
        is_support = np.tile(np.arange(n) < shots, self._ways)
        support, query = (Examples(*(part[rows] for part in examples)) for rows in (is_support, ~is_support))
        return support, query

    def require_examples(self, n: int) -> None:
        """Refuses more images of a class than some class of a split holds.

        Raises:
            UserError: If one holds fewer than n.
        """
        names = [name for split in SPLITS for name in self.split_classes(split) if self._sizes[name] < n]
        if names:
            shown = ", ".join(names[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")
            raise UserError(
                f"{len(names)} of the classes of {self._folder} hold fewer than the {n} images that shots and queries "
                f"need: {shown}. Take fewer of them, or leave these classes out by a split_file."
            )

    def _drawn(self, number: int, n: int, rng: np.random.Generator) -> Pixels:
        """N different images of one class, [image, channel, row, column]."""
        base, turns = divmod(number, self._turns)
        if base not in self._pixels:
            self._pixels[base] = self._read(base)
        pixels = self._pixels[base]
        if len(pixels) < n:
            raise UserError(
                f"class {self._names[base]} of {self._folder} holds {len(pixels)} images, and shots and "
                f"queries need {n}: take fewer of them, or leave the class out by a split_file."
            )
        # Copied, because a turned image is a view with another order in memory.
        return np.ascontiguousarray(np.rot90(pixels[rng.permutation(len(pixels))[:n]], turns, axes=(2, 3)))

    def _read(self, base: int) -> Pixels:
        """All images of a class, [image, channel, row, column]."""
        from PIL import Image, ImageOps

        mode = "L" if self._channels == 1 else "RGB"
        folder = Path(self._folder, self._names[base])
        pixels = []
        for path in _images(folder, os.listdir(folder)):
            try:
                with Image.open(path) as image:
                    image.load()
                    with suppress(Exception):  # A broken note on the camera says nothing; the picture is whole.
                        ImageOps.exif_transpose(image, in_place=True)
                    # Converted first: an image of one bit or of a palette cannot be resized smoothly.
                    converted = _on_white(image).convert(mode)
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                raise UserError(f"cannot read the image {path}: {error}.") from error
            resized = np.asarray(converted.resize((self._size, self._size), Image.Resampling.LANCZOS))
            pixels.append(resized.reshape(self._size, self._size, self._channels).transpose(2, 0, 1))
        return np.stack(pixels)

    @cached_property
    def _names(self) -> list[str]:
        """Names of all classes, in alphabetical order."""
        return sorted(self._sizes)

    @cached_property
    def _sizes(self) -> dict[str, int]:
        """How many images each class holds, by its name."""
        if not self._folder:
            raise UserError(
                f"{self.name} needs a folder of images: add --env-kwargs folder PATH (in Python, "
                "env_kwargs={'folder': PATH})."
            )
        if not Path(self._folder).is_dir():
            raise UserError(f"folder must be a folder of images, and there is no folder {self._folder!r}.")
        sizes = {
            Path(parent).relative_to(self._folder).as_posix(): len(images)
            for parent, files in _folders(self._folder)
            if parent != self._folder and (images := _images(Path(parent), files))
        }
        if not sizes:
            raise UserError(f"there are no classes in {self._folder}: a class is a folder in it that holds images.")
        return sizes

    @cached_property
    def _splits(self) -> dict[str, IntArray]:
        """Numbers of the classes of each split."""
        splits = self._chosen_splits(self._names) if self._split_file else self._random_splits(len(self._names))
        for split, numbers in splits.items():
            if self._turns * len(numbers) < self._ways:
                raise UserError(
                    f"the {split} split of {self._folder} has {self._turns * len(numbers)} classes, and a task needs "
                    f"{self._ways}: lower ways, or choose the classes of each split with split_file."
                )
        return splits

    def _random_splits(self, num_classes: int) -> dict[str, IntArray]:
        order = np.random.default_rng(self._split_seed).permutation(num_classes)
        validation, test = (round(share * num_classes) for share in _SHARES.values())
        parts = order[validation + test :], order[:validation], order[validation : validation + test]
        return {split: np.sort(part) for split, part in zip(SPLITS, parts, strict=True)}

    def _chosen_splits(self, names: Sequence[str]) -> dict[str, IntArray]:
        try:
            chosen = json.loads(Path(self._split_file).read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"cannot read {self._split_file}: {reason(error)}.") from error
        except ValueError as error:
            raise UserError(f"{self._split_file} is not JSON: {error}.") from error
        if not isinstance(chosen, dict) or not all(isinstance(chosen.get(split), list) for split in SPLITS):
            example = '{"train": [...], "validation": [...], "test": [...]}'
            raise UserError(f"{self._split_file} must be JSON such as {example}.")
        split_of = dict[int, str]()
        for split in SPLITS:
            for name in chosen[split]:
                members = [number for number, known in enumerate(names) if f"{known}/".startswith(f"{name}/")]
                if not members:
                    raise UserError(
                        f"{self._split_file} names the class {name!r}, which {self._folder} does not hold."
                        f"{nearest(str(name), names)}"
                    )
                for number in members:
                    if number in split_of:
                        both = f"{split_of[number]}, {split}"
                        raise UserError(f"{self._split_file} names the class {names[number]!r} twice: {both}.")
                    split_of[number] = split
        return {split: np.array([n for n in sorted(split_of) if split_of[n] == split], int) for split in SPLITS}


def _folders(root: str) -> Iterator[tuple[str, list[str]]]:
    """Each folder from ``root`` on, and the names in it that are no folders.

    Links are followed after all real paths. Each folder is entered once, whichever paths lead to it: as two classes it
    could be in training and in the tests.
    """
    # A link to a folder that the data set lies in would add what is beside the data set.
    entered = {str(parent) for parent in Path(root).resolve().parents}
    starts = deque([root])
    while starts:
        for parent, folders, files in os.walk(starts.popleft()):
            resolved = os.path.realpath(parent)
            if resolved in entered:
                folders.clear()
                continue
            entered.add(resolved)
            yield parent, files
            folders.sort()  # Of several links to one folder, the alphabetically first names it on every machine.
            paths = (os.path.join(parent, name) for name in folders)
            starts.extend(filter(os.path.islink, paths))


def _on_white(image: PIL.Image.Image) -> PIL.Image.Image:
    """Puts an image on a white background and scales numbers of 16 bits to 8; Pillow's ``convert`` does neither.

    Raises:
        ValueError: If nothing says which of the image's numbers is white.
    """
    from PIL import Image

    # Older versions of Pillow read the 16 bits of a PNG as "I".
    if image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PNG"):
        numbers = np.asarray(image)
        white = numbers == image.info.get("transparency", -1)
        return Image.fromarray(np.where(white, 255, np.rint(numbers / 257)).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"nothing says which number is white in Pillow's mode {image.mode}; save it with 8 or 16 bits")
    if "transparency" in image.info or "A" in image.getbands():
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image


def _images(folder: Path, names: Sequence[str]) -> list[Path]:
    """Paths of the images among the files of a folder, in alphabetical order."""
    return [folder / name for name in sorted(names) if name.lower().endswith(_ENDINGS) and not name.startswith(".")]
