"""What `dataset check` finds in a folder that has one of everything, and the lists that `split` writes."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from imgcls_jax.data.sources.list_file import ListFile
from imgcls_jax.tools import dataset


def picture(seed, size=(40, 48)):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def save(image, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path):
    for number in range(6):
        save(picture(number), tmp_path / "train" / ("cat" if number < 3 else "dog") / f"{number}.png")
    for number in range(6, 8):
        save(picture(number), tmp_path / "val" / "cat" / f"{number}.png")
    return tmp_path


def test_a_clean_folder(folder, capsys):
    report = dataset.check(folder, near=2, small=32)
    assert report["counts"] == {"train": {"cat": 3, "dog": 3}, "val": {"cat": 2}}
    assert not any(value for kind, value in report.items() if kind != "counts")
    assert dataset.main(["check", str(folder)]) == 0
    assert "train: 6 images in 2 classes of 3 to 3" in capsys.readouterr().out


def test_everything_that_is_wrong(folder, capsys):
    save(picture(0), folder / "val" / "cat" / "copy.bmp")  # other bytes, the same pixels: a leak
    save(picture(4), folder / "train" / "cat" / "dog.jpg", quality=60)  # nearly the same, another class
    save(picture(9, (31, 90)), folder / "train" / "dog" / "thin.png")
    (folder / "train" / "dog" / "broken.png").write_bytes(b"nothing")
    save(Image.new("RGB", (40, 40), 1), folder / "train" / "cat" / "even.png")
    save(Image.new("RGB", (40, 40), 9), folder / "train" / "dog" / "even.png")
    assert dataset.main(["check", "--format", "json", str(folder)]) == 1
    report = json.loads(capsys.readouterr().out)
    assert list(report["unreadable"]) == ["train/dog/broken.png"]
    assert report["small"] == ["train/dog/thin.png"]
    assert report["duplicates"] == [["train/cat/0.png", "val/cat/copy.bmp"]]
    assert [set(pair) for pair in report["near_duplicates"]] == [{"train/cat/dog.jpg", "train/dog/4.png"}]
    assert report["leaks"] == report["duplicates"]
    assert report["conflicts"] == report["near_duplicates"]
    assert dataset.main(["check", str(folder)]) == 1
    assert "1 unreadable, 1 small, 1 duplicates, 1 near duplicates" in capsys.readouterr().out


def test_alike_frames_are_one_group(folder, capsys):
    base = np.asarray(picture(20), np.int16)
    rng = np.random.default_rng(0)
    for number in range(40):
        frame = np.clip(base + rng.integers(-1, 2, base.shape), 0, 255).astype(np.uint8)
        save(Image.fromarray(frame), folder / "train" / "cat" / f"frame{number:02}.png")
    report = dataset.check(folder, near=2, small=32)
    (group,) = report["near_duplicates"]
    assert len(group) == 40 and not report["duplicates"] and not report["leaks"]
    assert dataset.main(["check", str(folder)]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("near duplicates")]
    assert "and 30 more" in line
    found = [dataset.Found(str(n), "", "", (9, 9), str(n), 1 + (1 << 40) * (n % 2)) for n in range(4000)]
    assert [len(own) for own in dataset.near_duplicates(found, 2)] == [4000]


def test_the_folders_of_others(folder, capsys):
    (folder / "train").rename(folder / "Training")
    (folder / "val").rename(folder / "Testing")
    save(picture(30), folder / "Training" / "cat" / "photo.jfif", format="JPEG")
    (folder / "Training" / "cat" / "notes.txt").write_text("none")
    report = dataset.check(folder, near=2, small=32)
    assert report["counts"] == {"Training": {"cat": 4, "dog": 3}, "Testing": {"cat": 2}}
    assert report["left_out"] == {".txt": 1}
    assert dataset.main(["check", str(folder)]) == 0
    assert "left out: 1 .txt" in capsys.readouterr().out
    assert dataset.main(["split", str(folder)]) == 2
    (folder / "w").mkdir()
    shutil.move(folder / "Training", folder / "w" / "archive")
    assert dataset.split(folder / "w", fraction=0.3, seed=0) == {"train": 5, "val": 2}
    assert ListFile("train", root=folder / "w", classes="classes.txt").paths[0].startswith("archive/")


def test_hashes_differ_little_for_little_changes():
    plain = dataset.difference_hash(picture(3))
    shrunk = dataset.difference_hash(picture(3).resize((20, 24)))
    other = dataset.difference_hash(picture(5))
    assert (plain ^ shrunk).bit_count() <= 4 and (plain ^ other).bit_count() > 12


def test_lists_that_the_source_reads(folder):
    shutil.move(folder / "train", folder / "images")
    for number in range(20):
        save(picture(number), folder / "images" / "cat" / f"more {number}.png")
    root = folder / "images"
    assert dataset.split(root, fraction=0.1, seed=0) == {"train": 24, "val": 2}
    train, val = (ListFile(name, root=root, classes="classes.txt") for name in ("train", "val"))
    assert train.class_names == ("cat", "dog") and not set(train.paths) & set(val.paths)
    assert np.bincount(val.labels, minlength=2).tolist() == [2, 0]
    lists = (root / "train.txt").read_bytes()
    dataset.split(root, fraction=0.1, seed=0)
    assert (root / "train.txt").read_bytes() == lists


def test_mistakes(folder, tmp_path, capsys):
    for arguments, message in (
        (["split", str(folder)], "is split into folders already"),
        (["check", str(tmp_path / "absent")], "is not a folder"),
        (["split", "--fraction", "2", str(folder / "train")], "lies between 0 and 1"),
    ):
        assert dataset.main(arguments) == 2
        assert message in capsys.readouterr().err
    save(picture(0), folder / "train" / "alone.png")
    assert dataset.main(["check", str(folder)]) == 2
    assert "lies in no class folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert dataset.main(["check", str(tmp_path / "empty")]) == 2
