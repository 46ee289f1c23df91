"""The test sets of ImageNet's classes: each official layout in miniature, and what is refused."""

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgcls_jax.data.shifted_imagenet import (
    CORRUPTIONS,
    FOLDERS,
    OBJECTNET_FILES,
    SPLITS,
    SYNSETS,
    objectnet_classes,
)
from imgcls_jax.data.source import class_counts, require_source
from imgcls_jax.data.sources import imagenet

TENCH, GOLDFISH, CLOCK, DIGITAL, MUG = "n01440764", "n01443537", "n02708093", "n03196217", "n03063599"
SHARED = Path(__file__).parents[3] / "shared" / "data" / "imagenet_samples" / "classes.txt"


def image(seed=0, size=(4, 4), kind="JPEG"):
    stream = io.BytesIO()
    Image.new("RGB", size, (seed % 256, 7, 9)).save(stream, kind)
    return stream.getvalue()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def opened(split, root):
    source = imagenet.make(split, root=root)
    require_source(source, "imagenet.py")
    assert source.class_names == SYNSETS and source.rule
    assert pickle.loads(pickle.dumps(source))[0].keys() == source[0].keys()
    return source


def found(source):
    """{path: its synsets}"""
    if source.labels.ndim == 1:
        return {path: SYNSETS[at] for path, at in zip(source.paths, source.labels, strict=True)}
    return {
        path: [SYNSETS[k] for k in np.flatnonzero(row)]
        for path, row in zip(source.paths, source.labels, strict=True)
    }


def test_the_synsets():
    assert len(set(SYNSETS)) == 1000 and list(SYNSETS) == sorted(SYNSETS)
    assert (SYNSETS[0], SYNSETS[1], SYNSETS[999]) == (TENCH, GOLDFISH, "n15075141")
    if not SHARED.exists():
        pytest.skip("the list of ../shared/data is absent")
    assert [line.split()[0] for line in SHARED.read_text().splitlines()] == list(SYNSETS)


@pytest.mark.parametrize(
    ("split", "folder"),
    [
        ("imagenet-a", "imagenet-a"),
        ("imagenet-r", "ImageNet-R"),
        ("imagenet-sketch", "sketch"),
        ("imagenet-sketch", "imagenet-sketch"),
    ],
)
def test_folders_of_synsets(tmp_path, split, folder):
    for name in (MUG, GOLDFISH):
        write(tmp_path / folder / name / "0.jpg", image())
    write(tmp_path / folder / "README.txt", "words")
    source = opened(split, tmp_path)
    assert found(source) == {f"{GOLDFISH}/0.jpg": GOLDFISH, f"{MUG}/0.jpg": MUG}
    assert sum(source.left_out.values()) == 1 and sum(map(bool, class_counts(source))) == 2
    write(tmp_path / folder / "n99999999" / "0.jpg", image())
    with pytest.raises(ValueError, match="class folders of .* are synsets .*; got 'n99999999'"):
        imagenet.make(split, root=tmp_path)


def test_the_folders_of_imagenet_v2_are_numbers(tmp_path):
    """As names "10" and "100" stand before "2"; as classes they do not."""
    folder = tmp_path / "imagenetv2-matched-frequency-format-val"
    for number in (0, 2, 10, 100, 999):
        write(folder / str(number) / "a.jpeg", image())
    source = opened("imagenetv2-matched-frequency", tmp_path)
    assert dict(zip(source.paths, source.labels.tolist(), strict=True)) == {
        f"{number}/a.jpeg": number for number in (0, 2, 10, 100, 999)
    }
    for name in ("1000", "-1", TENCH):
        other = write(folder / name / "a.jpeg", image())
        with pytest.raises(ValueError, match=f"are numbers from 0 to 999; got '{name}'"):
            imagenet.make("imagenetv2-matched-frequency", root=tmp_path)
        other.unlink(), other.parent.rmdir()
    with pytest.raises(FileNotFoundError, match="imagenetv2-top-images-format-val or imagenetv2-top-images"):
        imagenet.make("imagenetv2-top-images", root=tmp_path)


def test_imagenet_c(tmp_path):
    for corruption in ("noise/shot_noise", "fog"):  # unpacked into its group's folder, or without one
        for severity in range(1, 6):
            for name in (MUG, TENCH):
                write(tmp_path / "ImageNet-C" / corruption / str(severity) / name / "v.JPEG", image(severity))
    source = opened("imagenet-c", tmp_path)
    assert len(source) == 20 and "2 of 15 corruptions" in source.rule
    for index, path in enumerate(source.paths):
        element = source[index]
        *group, corruption, severity, name, _ = path.split("/")
        assert group == (["noise"] if corruption == "shot_noise" else [])
        assert CORRUPTIONS[element["corruption"]] == corruption and element["severity"] == int(severity)
        assert SYNSETS[element["label"]] == name and element["image"] == image(int(severity))
        assert element["corruption"].dtype == element["severity"].dtype == np.int32
    gone = tmp_path / "ImageNet-C" / "fog" / "3"
    gone.rename(gone.parent / "old")
    with pytest.raises(FileNotFoundError, match="fog/3 is missing: unpack"):
        imagenet.make("imagenet-c", root=tmp_path)


def write_objectnet(root, **changes):
    """Clocks are two classes; mugs one; a tablecloth is none. The lines are in an order of their own."""
    lines = [f"thing {number}" for number in range(1000)]
    line_of = {str(label): (label * 7 + 3) % 1000 for label in range(1000)}
    names = {CLOCK: "analog clock", DIGITAL: "digital clock", MUG: "coffee mug"}
    for synset, described in names.items():
        lines[line_of[str(SYNSETS.index(synset))]] = described
    contents = {
        OBJECTNET_FILES[0]: {"alarm_clock": "Alarm clock", "mug": "Mug", "tablecloth": "Tablecloth"},
        OBJECTNET_FILES[1]: {"Alarm clock": "analog clock; digital clock", "Mug": "coffee mug"},
        OBJECTNET_FILES[2]: line_of,
    }
    for name, content in contents.items():
        write(root / "mappings" / name, json.dumps(content))
    write(root / "mappings" / OBJECTNET_FILES[3], "\n".join(lines) + "\n")
    for name in ("alarm_clock", "mug", "tablecloth"):
        write(root / "images" / name / "1.png", framed())
    return root


def framed():
    """A red frame of two pixels around a picture that is dark, but for one pixel in its corner."""
    pixels = np.zeros((10, 12, 3), np.uint8)
    pixels[..., 0] = 255
    pixels[2:-2, 2:-2] = 20
    pixels[2, 2] = (1, 2, 3)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def test_objectnet(tmp_path):
    write_objectnet(tmp_path / "objectnet-1.0")
    source = opened("objectnet", tmp_path)
    assert found(source) == {"alarm_clock/1.png": sorted([CLOCK, DIGITAL]), "mug/1.png": [MUG]}
    assert source.left_out["of objects that ImageNet has no class for"] == 1
    picture = source[0]["image"]
    assert picture.shape == (6, 8, 3) and picture.dtype == np.uint8 and picture.max() == 20
    assert picture[0, 0].tolist() == [1, 2, 3]


def test_objectnets_own_files_are_checked(tmp_path):
    root = write_objectnet(tmp_path / "objectnet-1.0")
    mappings = root / "mappings"
    assert objectnet_classes(mappings)["mug"] == [SYNSETS.index(MUG)]
    for number, content, error in (
        (1, {"Mug": "tea mug"}, "imagenet_to_label_2012_v2 has no line 'tea mug'"),
        (1, {"Mug": 3}, "expected an object of texts"),
        (0, [1], "expected an object of texts"),
        (2, {"0": 1}, "expected a line of imagenet_to_label_2012_v2, from 0, for each label"),
        (2, {str(label): 1000 for label in range(1000)}, "expected a line of"),
    ):
        file = mappings / OBJECTNET_FILES[number]
        kept = file.read_text()
        write(file, json.dumps(content))
        with pytest.raises(ValueError, match=error):
            objectnet_classes(mappings)
        write(file, kept)
    (mappings / OBJECTNET_FILES[3]).unlink()
    with pytest.raises(FileNotFoundError, match="imagenet_to_label_2012_v2 is missing; it comes with"):
        imagenet.make("objectnet", root=tmp_path)


def write_validation(root, labels):
    """Three images in folders of their old class, and real.json."""
    for number, name in ((1, MUG), (2, TENCH), (3, GOLDFISH)):
        write(root / "val" / name / f"ILSVRC2012_val_{number:08d}.JPEG", image(number))
    write(root / "real.json", json.dumps(labels))


def test_reassessed_labels(tmp_path):
    write_validation(tmp_path, [[504, 550], [], [0]])
    source = opened("imagenet-real", tmp_path)
    assert found(source) == {
        f"{GOLDFISH}/ILSVRC2012_val_00000003.JPEG": [TENCH],
        f"{MUG}/ILSVRC2012_val_00000001.JPEG": [SYNSETS[504], SYNSETS[550]],
    }
    assert source.left_out == {"without a reassessed label": 1}
    assert source[0]["image"] == image(3) and source[0]["label"].nonzero()[0].tolist() == [0]
    assert "00000003" in source.describe(0)
    for labels, error in (
        ([[1], [2]], "expected ILSVRC2012_val_<number> with a number up to 2"),
        ([[1000], [], []], "expected a list of labels, 0 to 999"),
        ({"a": 1}, "expected a list of labels"),
        ([[], [], []], "has no label for any of the 3 images"),
    ):
        write_validation(tmp_path, labels)
        with pytest.raises(ValueError, match=error):
            imagenet.make("imagenet-real", root=tmp_path)
    (tmp_path / "real.json").unlink()
    with pytest.raises(FileNotFoundError, match="real.json is missing: download it from"):
        imagenet.make("imagenet-real", root=tmp_path)


def test_what_is_absent_says_where_it_comes_from(tmp_path):
    for split in FOLDERS:
        with pytest.raises(FileNotFoundError, match=f"holds no folder .*: download {split} from https://"):
            imagenet.make(split, root=tmp_path)
    with pytest.raises(ValueError, match="the split of imagenet must be one of 'train', 'val', 'imagenet-a'"):
        imagenet.make("imagenet-b", root=tmp_path)
    assert len(SPLITS) == 9
