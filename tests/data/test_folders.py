"""imgcls_jax.data.folders: which files are images, and which folders are splits or classes."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgcls_jax.data.folders import all_labeled, find_layout, named_split, split_of
from imgcls_jax.data.image_files import find_images
from imgcls_jax.data.listing import describe_left_out, list_images
from imgcls_jax.data.sources.image_folder import ImageFolder

RNG = np.random.default_rng(0)


def images(root: Path, *folders: str, count: int = 2) -> Path:
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = RNG.integers(0, 256, (4, 4, 3), np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{number}.png")
    return root


# ---- image files


def test_what_an_image_file_is(tmp_path):
    image = Image.new("RGB", (4, 4))
    for name, kind in (("a.PNG", "PNG"), ("b.jfif", "JPEG"), ("hash", "WEBP"), ("c.tiff", "TIFF")):
        image.save(tmp_path / name, kind)
    image.save(tmp_path / "d.avif", "AVIF")
    (tmp_path / "README").write_text("no image")
    (tmp_path / "e.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")  # without a suffix: to look into it would wait for ever
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic")
    for folder in (".cache", "__MACOSX"):
        (tmp_path / folder).mkdir()
        image.save(tmp_path / folder / "x.png")
    listing = list_images(tmp_path)
    assert [
        path for path in listing.paths if path != "photo.heic"
    ] == "a.PNG b.jfif c.tiff d.avif hash".split()
    assert listing.left_out["without a suffix"] == 2 and listing.left_out[".txt"] == 1
    assert listing.left_out["hidden"] == 3
    if importlib.util.find_spec("pillow_heif") is None:
        assert "1 .heic" in describe_left_out(listing.left_out)
        assert "pip install 'imgcls-jax[heif]'" in describe_left_out(listing.left_out)
    assert find_images([str(tmp_path)]) == [tmp_path / path for path in listing.paths]


def test_links_are_followed_but_not_upwards_nor_twice(tmp_path):
    images(tmp_path, "store/cat", "data/cat", "data/dog")
    (tmp_path / "data/cat/more").symlink_to(tmp_path / "store/cat")
    (tmp_path / "data/cat/again").symlink_to(tmp_path / "store/cat")
    (tmp_path / "data/cat/up").symlink_to("..")
    (tmp_path / "data/cat/self").symlink_to(".")
    listing = list_images(tmp_path / "data/cat")
    assert len(listing.paths) == 4 and listing.left_out["folders linked twice or upwards"] == 3
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in ("cat", "dog"):
        (linked / name).symlink_to(tmp_path / "data" / name)
    assert len(find_images([str(linked)])) == 6


def test_a_folder_named_twice_is_listed_once(tmp_path):
    root = images(tmp_path, "d/cat", "d/dog") / "d"
    assert len(find_images([str(root), f"{root}/../d", str(root / "cat")])) == 4
    assert len(find_images([str(root / "cat"), str(root)])) == 4


def test_a_folder_that_cannot_be_listed_is_no_empty_one(tmp_path, monkeypatch):
    root = images(tmp_path, "cat/locked")
    scandir = os.scandir

    def refusing(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(PermissionError, match="locked"):
        find_images([str(root)])
    with pytest.raises(PermissionError, match="locked"):
        list(all_labeled(root))


# ---- splits


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"), ("Training", "train"), ("TRAIN_SET", "train"), ("training-images", "train"),
        ("trainset", "train"), ("valid", "val"), ("Validation", "val"), ("dev", "val"), ("Test Set", "test"),
        ("testing", "test"), ("evaluation", "test"), ("images_train", "train"),
        ("trainer", ""), ("train_station", ""), ("cat", ""), ("images", ""), ("", ""),
    ],
)  # fmt: skip
def test_names_of_splits(name, split):
    assert split_of(name) == split


def test_a_split_is_found_by_its_own_name_first():
    assert named_split("val", ["val", "validation"], Path("d")) == "val"
    assert named_split("val", ["train", "Validation"], Path("d")) == "Validation"
    assert named_split("extra", ["train", "extra"], Path("d")) == "extra"
    assert named_split("val", ["train", "test"], Path("d")) is None
    with pytest.raises(ValueError, match=r"'val' may be any of \['valid', 'validation'\]"):
        named_split("val", ["valid", "validation"], Path("d"))


@pytest.mark.parametrize(
    ("folders", "train", "val"),
    [
        (("Training/cat", "Training/dog", "Testing/cat"), "Training", None),
        (("Train/cat", "Train/dog", "Val/cat", "Val/dog"), "Train", "Val"),
        (("train/cat", "train/dog", "validation/dog"), "train", "validation"),
        (("archive/data/Train/cat", "archive/data/Train/dog", "archive/data/valid/cat"), "Train", "valid"),
        (("train/train/cat", "train/train/dog", "val/val/cat", "val/val/dog"), "train", "val"),
        (("train/cat", "train/dog", "val/cat/a", "val/cat/b"), "train", "val"),
    ],
)
def test_splits_as_people_write_them(tmp_path, folders, train, val):
    images(tmp_path, *folders)
    source = ImageFolder("train", root=tmp_path)
    assert source.class_names == ("cat", "dog") and len(source) == 4
    assert f"/{train}" in source.rule
    if val is None:
        with pytest.raises(FileNotFoundError, match=r"val is missing; .* \['Testing', 'Training'\]"):
            ImageFolder("val", root=tmp_path)
        assert ImageFolder("test", root=tmp_path).class_names == ("cat", "dog")
    else:
        held_out = ImageFolder("val", root=tmp_path)
        assert held_out.class_names == ("cat", "dog") and f"/{val}" in held_out.rule


@pytest.mark.parametrize(
    ("source", "folders", "files"),
    [
        ("celeba", ["img_align_celeba"], ["list_attr_celeba.txt"]),
        ("celeba", ["Img/img_align_celeba"], ["Anno/list_attr_celeba.txt"]),
        ("coco", ["train2017", "val2017"], []),
        ("cub200", ["CUB_200_2011/images/001.Auk"], ["CUB_200_2011/image_class_labels.txt"]),
        ("dogs_vs_cats", ["test1"], ["train/cat.0.jpg", "train/dog.0.jpg"]),
        (
            "fgvc_aircraft",
            ["fgvc-aircraft-2013b/data/images"],
            ["fgvc-aircraft-2013b/data/images_variant_train.txt"],
        ),
        ("inaturalist", ["train_val2018/Aves/1", "train_val2018/Aves/2"], ["train2018.json"]),
        ("inaturalist", ["train_val_images/Aves/Parus", "train_val_images/Plantae/Acer"], []),
        ("inaturalist", ["Aves/Parus", "Plantae/Acer"], []),
        ("stanford_cars", ["cars_train", "cars_test"], []),
        ("stanford_dogs", ["Images/n02085620-Chihuahua"], ["lists/train_list.mat"]),
        ("voc", ["VOCdevkit/VOC2012/JPEGImages", "VOCdevkit/VOC2012/SegmentationClass"], []),
        ("webvision", ["google/q0001", "flickr/q0002"], ["info/synsets.txt"]),
        ("webvision", ["q0001", "q0002"], []),
    ],
)
def test_published_data_sets_are_no_class_folders(tmp_path, source, folders, files):
    images(tmp_path, *folders)
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(b"")
    with pytest.raises(ValueError, match=f"a published data set .*data.source = '{source}' reads it"):
        ImageFolder("train", root=tmp_path)


def test_lists_beside_one_folder(tmp_path):
    images(tmp_path, "images", count=5)
    assert ImageFolder("train", root=tmp_path).class_names == ("images",)  # without labels: one folder
    (tmp_path / "notes.txt").write_text("")
    assert len(ImageFolder("train", root=tmp_path)) == 4
    (tmp_path / "labels.csv").write_text("")
    with pytest.raises(
        ValueError, match="one folder, 'images', so one class: .* 'labels.csv', .*'label_table'"
    ):
        ImageFolder("train", root=tmp_path)
    assert [len(found.paths) for _, found in all_labeled(tmp_path)] == [5]  # `dataset check` looks at them
    images(tmp_path, "more")
    assert ImageFolder("train", root=tmp_path).class_names == ("images", "more")
    images(tmp_path, "split/val")
    (tmp_path / "split/val/ILSVRC2012_val_00000001.JPEG").write_bytes(b"")
    with pytest.raises(
        ValueError, match="holds no class folder; .*data.source = 'imagenet' reads this data set"
    ):
        ImageFolder("val", root=tmp_path / "split")


def test_folders_within_classes_are_told(tmp_path):
    images(tmp_path, "birds/crow", "birds/tit", "trees", count=5)
    source = ImageFolder("train", root=tmp_path)
    assert (
        source.class_names == ("birds", "trees")
        and "(2 folders within those of the classes count" in source.rule
    )


def test_a_folder_too_many(tmp_path):
    images(tmp_path, "archive/cat", "archive/dog", count=5)
    train, val = (ImageFolder(split, root=tmp_path) for split in ("train", "val"))
    assert train.class_names == ("cat", "dog") and (len(train), len(val)) == (8, 2)
    assert f"{tmp_path / 'archive'}, which has no split folders: all but 0.2 of each class" in train.rule
    (tmp_path / "one/cat").mkdir(parents=True)
    images(tmp_path, "one/cat", count=5)
    assert ImageFolder("train", root=tmp_path / "one").class_names == ("cat",)


def test_a_class_called_train(tmp_path):
    images(tmp_path, "bus", "car", "train", count=5)
    (tmp_path / "train/steam").mkdir()
    assert ImageFolder("train", root=tmp_path).class_names == ("bus", "car", "train")
    assert find_layout(tmp_path).splits == {}


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("bus", "car", "train/day", "train/night"), "is 'train' a split or a class.*'bus', 'car'"),
        (("bus/a", "bus/b", "train/day", "train/night"), "is 'train' a split or a class.*'bus'"),
        (("seg_train/cat", "seg_train/dog", "seg_test/cat"), "'seg_test', 'seg_train' splits"),
        (("cat/train", "cat/test", "dog/train"), "<class>/<split>/<image>"),
        (("train", "test"), "train holds no class folder; expected .*train/<class>"),
        (("train", "test", "bus"), "train holds no class folder; expected .*train/<class>"),
    ],
)
def test_what_may_be_either_is_refused(tmp_path, folders, message):
    images(tmp_path, *folders)
    with pytest.raises(ValueError, match=message):
        ImageFolder("train", root=tmp_path)


def test_other_folders_beside_splits(tmp_path):
    images(tmp_path, "train/cat", "val/cat", "pred", "holdout/cat")
    assert ImageFolder("holdout", root=tmp_path).paths == ["cat/0.png", "cat/1.png"]
    assert [name for name, _ in all_labeled(tmp_path)] == ["train", "val"]


def test_images_beside_class_folders_are_counted(tmp_path):
    images(tmp_path, "train/cat", "train", "val/cat")
    source = ImageFolder("train", root=tmp_path)
    assert len(source) == 2 and source.left_out["beside the class folders"] == 2


def test_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    images(tmp_path, "d/train/cat")
    assert len(ImageFolder("train", root="~/d")) == 2
    with pytest.raises(FileNotFoundError, match="config.data.root: '~nobody-of-this-name/d'"):
        ImageFolder("train", root="~nobody-of-this-name/d")
