"""Examples kept in memory: the same batches to the bit, and never more bytes than allowed."""

import dataclasses
import threading
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from imgcls_jax.config.resolve import resolve_data
from imgcls_jax.data import transforms
from imgcls_jax.data.cache import ENTRY_BYTES, Cached, ExampleCache
from imgcls_jax.data.datasets import DataSide
from imgcls_jax.data.read_ahead import iterate
from imgcls_jax.data.source import Arrays
from imgcls_jax.data.sources.image_folder import ImageFolder
from imgcls_jax.data.subsets import subset

TRAIN = "decode | resize(20) | random_resized_crop(12) | flip"
EVAL = "decode | resize(12)"
RESIZED = (
    20 * 20 * 3 + 4 + ENTRY_BYTES
)  # an image as the first operations of TRAIN leave it, its label, its entry


@pytest.fixture
def root(tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 6)):
        for number in range(count):
            path = tmp_path / split / "abc"[number % 3] / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save(path)
    return tmp_path


def side(root, cache_bytes, **fields):
    section = dict(source="image_folder", root=str(root), train_transforms=TRAIN, eval_transforms=EVAL)
    return DataSide(resolve_data(section | {"cache_gib": cache_bytes / 2**30} | fields))


def same(one, other):
    assert one.keys() == other.keys()
    for key in one:
        for values in zip(one[key], other[key], strict=True):
            np.testing.assert_array_equal(*values)


def counted(source):
    """Returns a list to which every index that is read of a source is added."""
    read, element = [], type(source).__getitem__

    class Counted(type(source)):
        def __getitem__(self, index):
            read.append(index)
            return element(self, index)

    source.__class__ = Counted
    return read


@pytest.mark.parametrize("kept", [0, 1, 10, 1000])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"view_transforms": ("decode | random_resized_crop(8)", "decode | resize(9) | flip")},
        {"view_transforms": (TRAIN, "flip")},
        {"train_transforms": "decode(15) | random_crop(9)"},
        {"train_transforms": "decode | gray | resize(9)"},
        {"labels_per_class": 2, "labeled_batch_size": 4},
        {"known_classes": 2},
    ],
)
def test_batches_are_the_same_to_the_bit(root, kept, fields):
    plain, cached = side(root, 0, **fields), side(root, kept * RESIZED, **fields)
    for step in (0, 5, 6, 1, 0):
        same(plain.train_batches(8, 3)[step], cached.train_batches(8, 3)[step])
    for _ in range(2):
        batches = [own.eval_batches("val", 4, own.training.class_names) for own in (plain, cached)]
        same(batches[0][1], batches[1][1])


def test_a_second_epoch_reads_only_what_did_not_fit(root):
    data = side(root, 10 * RESIZED)
    read = counted(data.source("train"))
    batches = data.train_batches(8, 0)
    for step in range(3):
        batches[step]
    assert sorted(read) == list(range(24))
    read.clear()
    for step in range(3, 6):
        batches[step]
    assert len(read) == 14 and len(set(read)) == 14
    assert len(data._cache) == 10 and data._cache.used == data._cache.limit


def test_a_repeated_example_is_kept_once(root):
    source = ImageFolder("train", root=root)
    read, cache = counted(source), ExampleCache(2**20)
    ops = transforms.parse(EVAL)[0]
    twice = Cached(subset(subset(source, [3, 4, 5]), [1, 1, 2]), ops, cache)
    images = [twice[number]["image"] for number in range(3)]
    assert read == [4, 5] and len(cache) == 2 and images[0] is images[1]
    assert Cached(source, transforms.parse(EVAL)[0], cache)[5]["image"] is images[2]
    assert twice.describe(2) == source.describe(5) and len(twice) == 3


def test_the_bound_holds_whatever_the_threads(root):
    cache = ExampleCache(7 * RESIZED + RESIZED // 2)
    ops = transforms.parse("decode | resize(20)")[0]
    cached = Cached(ImageFolder("train", root=root), ops, cache)
    threads = [
        threading.Thread(target=lambda: [cached[index] for index in range(24)], daemon=True) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(cache) == 7 and cache.used == 7 * RESIZED <= cache.limit


def test_the_bound_is_of_real_memory():
    images = np.zeros((300, 64, 64, 3), np.uint8)
    source = Arrays(images, np.zeros(300, np.int64), ["one"], "zeros")
    cache = ExampleCache(2**20)
    cached = Cached(source, transforms.parse("resize(48)")[0], cache)
    cached[299]
    tracemalloc.start()
    for index in range(299):
        cached[index]
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 100 < len(cache) < 150 and 0.8 * cache.used < held <= cache.limit


def test_threads_that_read_ahead_share_it(root):
    plain, cached = side(root, 0).train_batches(8, 0), side(root, 2**20).train_batches(8, 0)
    with iterate(cached, 2, 20, num_threads=4) as batches:
        for step, batch in enumerate(batches, start=2):
            same(batch, plain[step])


def test_a_bad_image_is_not_kept_and_is_named_each_time(root):
    (root / "train" / "a" / "0.jpg").write_bytes(b"no image")
    raising, skipping = side(root, 2**20), side(root, 2**20, on_bad_example="skip")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"a/0\.jpg: image cannot be decoded"):
            [raising.train_batches(8, 0)[step] for step in range(3)]
    for step in range(6):
        same(
            skipping.train_batches(8, 0)[step], side(root, 0, on_bad_example="skip").train_batches(8, 0)[step]
        )


@pytest.mark.parametrize("gib", [-1.0, float("inf"), float("nan")])
def test_sizes_that_cannot_be_are_refused(root, gib):
    with pytest.raises(ValueError, match=r"config\.data\.cache_gib is a number of GiB, at least 0; got"):
        side(root, 0, cache_gib=gib)


def test_worker_processes_are_refused(root):
    with pytest.raises(ValueError, match=r"config\.data\.cache_gib .*num_workers=0; got 2 workers"):
        side(root, 2**20, num_workers=2)


def test_operations_are_compared_by_what_they_do():
    (one,), (other,) = transforms.parse("resize(3)")[0], transforms.parse("resize(3, 3)")[0]
    assert one == other and hash(one) == hash(other)
    assert one != dataclasses.replace(one, arguments=(("height", 3), ("width", 4)))
