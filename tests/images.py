"""Folders of images for the tests of few-shot classification."""

import json

import numpy as np
from PIL import Image


def write_patterns(folder, num_classes=20, num_images=12, side=8, nested=True):
    """A folder for each class, with noisy images of a pattern of its own; returns the names of the classes."""
    rng = np.random.default_rng(0)
    names = [f"{'ab'[i % 2]}/{i:02}" if nested else f"{i:02}" for i in range(num_classes)]
    for name in names:
        write_class(folder / name, rng.uniform(60, 196, (side, side)) + rng.uniform(-50, 50, (num_images, side, side)))
    return sorted(names)


def write_digits(folder):
    """The 10 classes of scikit-learn's digits, and a split_file; returns the arguments of the family."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for digit in range(10):
        write_class(folder / "digits" / str(digit), digits.images[digits.target == digit] * 255 / 16)
    split = folder / "split.json"
    split.write_text(json.dumps({"train": list("0123"), "validation": list("456"), "test": list("789")}))
    return {"folder": str(folder / "digits"), "split_file": str(split), "ways": 3, "size": 8}


def write_class(folder, images):
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(folder / f"{number:03}.png")
