"""The input as a pure function of the step: order, resume, processes, workers, padding, bad images."""

import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgcls_jax.data import host_operations, transforms
from imgcls_jax.data.pipeline import MAX_BAD_IN_A_ROW, EvalBatches, Labeled, TrainBatches
from imgcls_jax.data.read_ahead import iterate
from imgcls_jax.data.source import Arrays
from imgcls_jax.data.sources.image_folder import ImageFolder

ROOT = Path(__file__).parents[2]
RANDOM_OPS = transforms.parse("random_resized_crop(6)")[0]


def arrays(n=50):
    images = np.random.default_rng(0).integers(0, 256, (n, 8, 8, 3)).astype(np.uint8)
    return Arrays(images, np.arange(n) % 5, [str(k) for k in range(5)], "toy")


def train(ops=RANDOM_OPS, n=50, **options):
    return TrainBatches(arrays(n), ops, **({"batch_size": 8, "seed": 3} | options))


def same(one, other):
    assert one.keys() == other.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], other[key])


def test_each_epoch_visits_other_examples_at_most_once_in_another_order():
    batches = train(ops=())
    assert batches.steps_per_epoch == 6
    epochs = [np.concatenate([batches[6 * e + b]["index"] for b in range(6)]) for e in range(3)]
    for indices in epochs:
        assert len(set(indices)) == 48
    assert not np.array_equal(epochs[0], epochs[1]) and set(epochs[0]) != set(epochs[1])
    batch = batches[2]
    np.testing.assert_array_equal(batch["image"], arrays().images[batch["index"]])
    np.testing.assert_array_equal(batch["label"], batch["index"] % 5)
    assert batch["image"].dtype == np.uint8 and batch["label"].dtype == np.int32


PINNED_INDEX = [10, 39, 12, 13, 45, 11, 43, 8]
PINNED_PIXELS = {"cykooz-resizer": "425c7662725cc873", "Pillow": "6cac29d6117a3bc2"}  # one gray level apart


@pytest.mark.parametrize("resizer", PINNED_PIXELS)
def test_order_and_crops_are_pinned(resizer, monkeypatch):
    """Another value here breaks the resume of every run that is under way: the pipeline's draws, or the
    pixels made of them, have changed."""
    if resizer == "Pillow":
        monkeypatch.setattr(host_operations, "resizer", None)
    elif host_operations.resizer is None:
        pytest.skip("cykooz-resizer is not installed")
    batch = train()[7]
    np.testing.assert_array_equal(batch["index"], PINNED_INDEX)
    assert hashlib.sha256(batch["image"].tobytes()).hexdigest()[:16] == PINNED_PIXELS[resizer]


def test_augmentation_differs_by_epoch_and_position_and_follows_the_seed():
    order = np.zeros(50, np.int64)
    batches = train(order=order)
    images = batches[0]["image"]
    assert len({image.tobytes() for image in images}) == 8
    assert not np.array_equal(images, batches[6]["image"])
    same(batches[3], train(order=order)[3])
    assert not np.array_equal(images, train(order=order, seed=4)[0]["image"])


@pytest.mark.parametrize("num_shards", [2, 4])
def test_processes_read_slices_of_the_same_global_batch(num_shards):
    whole = train()[9]
    parts = [train(shard=(i, num_shards))[9] for i in range(num_shards)]
    for key in ("image", "label", "index"):
        np.testing.assert_array_equal(np.concatenate([part[key] for part in parts]), whole[key])


@pytest.mark.parametrize(
    "reading", [{"num_threads": 1}, {"num_threads": 3}, {"num_workers": 1}, {"num_workers": 3}]
)
def test_threads_and_workers_change_nothing(reading):
    batches = train()
    with iterate(batches, 4, 15, **reading) as iterator:
        read = list(iterator)
    assert len(read) == 11
    for step, batch in enumerate(read, start=4):
        same(batch, batches[step])


def test_a_script_without_a_guard_is_told_so_by_its_workers(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing\n"
        "from imgcls_jax.data.worker_processes import refuse_in_worker\n"
        "refuse_in_worker()\n"
        "worker = multiprocessing.get_context('spawn').Process(target=print)\n"
        "worker.start()\n"
        "worker.join()\n"
        "print(worker.exitcode)\n"
    )
    done = run_python(script)
    assert done.stdout == "1\n"
    assert done.stderr.startswith("error: a worker process") and done.stderr.count("\n") == 1


ASKS = "from imgcls_jax.data.worker_processes import require_guard\n"
GUARD = "if __name__ == '__main__':\n    "


@pytest.mark.parametrize(
    "code, line",
    [
        (f"{ASKS}require_guard()\n", 2),
        (f"{ASKS}def main():\n    require_guard()\n\nif True:\n    main()\n", 6),
        (f"{ASKS}{GUARD}print('a')\nrequire_guard()\n", 4),
        (f"{ASKS}{GUARD}require_guard()\n", None),
        (f"{ASKS}def main():\n    require_guard()\n\n{GUARD}raise SystemExit(main())\n", None),
        (f"{ASKS}if __name__ != '__main__':\n    raise SystemExit\nrequire_guard()\n", None),
        (f"{ASKS}import threading\nthreading.Thread(target=require_guard).start()\n", None),
    ],
)
def test_a_script_without_a_guard_is_refused_before_it_starts_workers(tmp_path, code, line):
    script = tmp_path / "script.py"
    script.write_text(code)
    done = run_python(script)
    assert done.returncode == (line is not None)
    if line:
        assert done.stderr.startswith(f"error: {script}, line {line}: ") and done.stderr.count("\n") == 1
    else:
        assert done.stderr == ""


def test_scripts_that_are_no_file():
    done = run_python("-c", f"{ASKS}require_guard()")
    assert (done.returncode, done.stderr) == (0, "")
    done = run_python("-", input=f"{ASKS}require_guard()")
    assert done.returncode == 1 and "is none: save it as a file" in done.stderr
    assert done.stderr.count("\n") == 1


def run_python(*arguments, **options):
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )


@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches_cut_out_of_an_array_are_the_same_read_by_iterate(num_workers):
    batches, threads = train(ops=()), threading.active_count()
    with iterate(batches, 4, 15, num_workers=num_workers) as iterator:
        first = next(iterator)
        assert num_workers or threading.active_count() == threads  # to hand them over would cost more
        read = [first, *iterator]
    assert len(read) == 11
    for step, batch in enumerate(read, start=4):
        same(batch, batches[step])


def test_batches_are_never_reused_buffers():
    with iterate(train(ops=()), 0, 4) as iterator:
        first = next(iterator)
        copy = first["image"].copy()
        first_again = first["image"]
        for batch in iterator:
            batch["image"][:] = 0
        np.testing.assert_array_equal(first_again, copy)


@pytest.mark.parametrize("batch_size", [1, 7, 16, 64])
@pytest.mark.parametrize("ops", [(), transforms.parse("resize(6)")[0]])
def test_evaluation_meets_every_example_once(batch_size, ops):
    batches = EvalBatches(arrays(), ops, batch_size=batch_size)
    read = [batches[i] for i in range(len(batches))]
    assert {batch["image"].shape[0] for batch in read} == {batch_size}
    np.testing.assert_array_equal(np.concatenate([b["index"][b["mask"]] for b in read]), np.arange(50))
    np.testing.assert_array_equal(np.concatenate([b["label"][b["mask"]] for b in read]), np.arange(50) % 5)


def test_evaluation_slices_join_to_the_whole():
    whole = EvalBatches(arrays(), (), batch_size=16)
    parts = [EvalBatches(arrays(), (), batch_size=16, shard=(i, 4)) for i in range(4)]
    for number in range(len(whole)):
        for key in ("image", "mask", "index"):
            joined = np.concatenate([part[number][key] for part in parts])
            np.testing.assert_array_equal(joined, whole[number][key])


def folder(tmp_path, bad=()):
    for split in ("train", "val"):
        for i in range(9):
            path = tmp_path / split / "abc"[i % 3] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            if i in bad:
                path.write_bytes(b"garbage")
            else:
                Image.fromarray(np.full((10, 10, 3), 20 * i, np.uint8)).save(path)
    return tmp_path


def test_a_bad_image_raises_with_its_path_and_the_way_out(tmp_path):
    ops = transforms.parse("decode | resize(6)")[0]
    source = ImageFolder("train", root=folder(tmp_path, bad={4}))
    with pytest.raises(ValueError, match=r"b/4\.png: .*data\.on_bad_example='skip'"):
        [TrainBatches(source, ops, batch_size=9, seed=0)[0]]
    with (
        pytest.raises(ValueError, match=r"b/4\.png"),
        iterate(EvalBatches(source, ops, batch_size=9), 0, 1) as read,
    ):
        next(read)
    (tmp_path / "train" / "a" / "0.png").unlink()
    with pytest.raises(ValueError, match=r"a/0\.png"):
        source_index = [source.describe(i) for i in range(9)].index(source.describe(0))
        EvalBatches(source, ops, batch_size=1)[source_index]


def test_skipped_images_give_their_place_to_the_next_of_the_order(tmp_path):
    ops = transforms.parse("decode | resize(6)")[0]
    source = ImageFolder("train", root=folder(tmp_path, bad={4, 5}))
    bad = {i for i in range(9) if source.describe(i).endswith(("4.png", "5.png"))}
    batches = TrainBatches(source, ops, batch_size=9, seed=0, on_bad_example="skip")
    batch = batches[0]
    order = batches.order_of(0).tolist()
    assert set(batch["bad_examples"].tolist()) == bad
    for position, index in enumerate(batch["index"].tolist()):
        wanted = next(i for i in order[position:] + order if i not in bad)
        assert index == wanted
    same(batch, TrainBatches(source, ops, batch_size=9, seed=0, on_bad_example="skip")[0])
    evaluation = EvalBatches(source, ops, batch_size=6, on_bad_example="skip")
    seen = np.concatenate([evaluation[i]["index"][evaluation[i]["mask"]] for i in range(2)])
    assert set(seen.tolist()) == set(range(9)) - bad and len(seen) == 7


def test_a_split_of_bad_images_alone_ends(tmp_path):
    ops = transforms.parse("decode | resize(6)")[0]
    source = ImageFolder("train", root=folder(tmp_path, bad=set(range(9))))
    with pytest.raises(ValueError, match=f"{MAX_BAD_IN_A_ROW} examples in a row"):
        TrainBatches(source, ops, batch_size=2, seed=0, on_bad_example="skip")[0]
    with pytest.raises(ValueError, match="cannot be read"):
        EvalBatches(source, ops, batch_size=2, on_bad_example="skip")[0]


def test_images_of_different_sizes_ask_for_a_resize(tmp_path):
    root = folder(tmp_path)
    Image.new("RGB", (14, 10)).save(root / "train" / "a" / "0.png")
    with pytest.raises(ValueError, match="differ in size.*resize"):
        TrainBatches(ImageFolder("train", root=root), transforms.parse("decode")[0], batch_size=9, seed=0)[0]


def test_sizes_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="less than one batch of 64"):
        train(batch_size=64)
    with pytest.raises(ValueError, match="does not divide over 3 processes"):
        train(shard=(0, 3))
    with pytest.raises(ValueError, match="on_bad_example"):
        train(on_bad_example="ignore")


WORKERS = """
import numpy as np
from imgcls_jax.data.pipeline import TrainBatches
from imgcls_jax.data.read_ahead import iterate
from imgcls_jax.data.source import Arrays

def read(last):
    source = Arrays(np.zeros((64, 64, 64, 3), np.uint8), np.zeros(64, np.int32), ["a"], "zeros")
    batches = TrainBatches(source, (), batch_size=8, seed=0)
    with iterate(batches, 0, 12, num_workers=2) as iterator:
        for number, batch in enumerate(iterator):
            assert type(batch["image"]) is np.ndarray
            if number == last:
                return batch

if __name__ == "__main__":
    kept = read(LAST)
"""


@pytest.mark.parametrize("last", [3, 11, 99], ids=["left early", "to the last", "to the end"])
def test_workers_leave_no_shared_memory_behind(tmp_path, last):
    (tmp_path / "reading.py").write_text(WORKERS.replace("LAST", str(last)))
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, tmp_path / "reading.py"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("apart", [True, False])
def test_labeled_examples_may_stay_out_of_the_other_stream(apart):
    known = np.array([3, 8, 21])
    batches = train(ops=(), labeled=Labeled(known, 2, apart))
    assert batches.steps_per_epoch == (5 if apart else 6)
    epochs = [np.concatenate([batches[step]["index"] for step in range(60)]) for _ in range(2)]
    seen = set(epochs[0].tolist())
    assert seen == set(range(50)) - (set(known.tolist()) if apart else set())
    assert set(batches[4]["labeled"]["index"].tolist()) <= set(known.tolist())
    if apart:
        with pytest.raises(ValueError, match="48 examples without a label, less than one batch of 49"):
            train(ops=(), batch_size=49, labeled=Labeled(known[:2], 1, apart))


# ---- repeated augmentation


def test_an_image_comes_so_many_times_in_a_batch_augmented_anew():
    batches = train(repeats=4)
    assert batches.steps_per_epoch == train().steps_per_epoch == 6  # an epoch is as long as without
    epochs = [[batches[6 * e + b] for b in range(6)] for e in range(2)]
    for epoch in epochs:
        indices = np.stack([batch["index"].reshape(2, 4) for batch in epoch])  # two images, four times each
        assert (indices == indices[..., :1]).all() and len(np.unique(indices)) == 12
    assert set(epochs[0][0]["index"]) != set(epochs[1][0]["index"])
    images = epochs[0][0]["image"][:4].reshape(4, -1)
    assert len(np.unique(images, axis=0)) == 4
    same(batches[9], train(repeats=4)[9])  # a function of the step


def test_repeats_are_the_same_for_any_number_of_processes():
    whole = train(repeats=4)[3]
    parts = [train(repeats=4, shard=(process, 4))[3] for process in range(4)]
    for key in ("image", "index", "label"):
        np.testing.assert_array_equal(np.concatenate([part[key] for part in parts]), whole[key])


def test_repeats_leave_out_what_is_labeled_elsewhere_and_divide_a_batch():
    labeled = Labeled(np.arange(10), 4, apart=True)
    batches = train(repeats=2, labeled=labeled)
    assert all(batches[step]["index"].min() >= 10 for step in range(5))
    with pytest.raises(ValueError, match="a multiple of data.augmentation_repeats, 3"):
        train(repeats=3)
