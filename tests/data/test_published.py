"""The published data sets of imgcls_jax.data.sources: each layout in miniature, and what is refused."""

import csv
import gzip
import io
import json
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from imgcls_jax.data import tar_files
from imgcls_jax.data.source import class_counts, require_source
from imgcls_jax.data.sources import imagenet
from imgcls_jax.data.sources.celeba import Celeba
from imgcls_jax.data.sources.coco import Coco
from imgcls_jax.data.sources.dogs_vs_cats import DogsVsCats
from imgcls_jax.data.sources.fgvc_aircraft import FgvcAircraft
from imgcls_jax.data.sources.inaturalist import INaturalist
from imgcls_jax.data.sources.stanford_cars import StanfordCars
from imgcls_jax.data.sources.stanford_dogs import StanfordDogs
from imgcls_jax.data.sources.voc import CLASS_NAMES, Voc
from imgcls_jax.data.sources.webvision import WebVision


def image(seed: int = 0) -> bytes:
    """A JPEG file that differs from that of any other seed."""
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (seed % 256, 7, 9)).save(stream, "JPEG")
    return stream.getvalue()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_images(root, *names):
    for seed, name in enumerate(names):
        write(root / name, image(seed))
    return root


def named(source) -> dict:
    """{path: the name of its class, or of its labels}, once the source keeps the protocol and pickles."""
    require_source(source, "its file")
    copy = pickle.loads(pickle.dumps(source))
    assert copy[len(source) - 1]["image"] == source[len(source) - 1]["image"][:] and copy.rule
    if source.labels.ndim == 1:
        return {path: source.class_names[at] for path, at in zip(source.paths, source.labels, strict=True)}
    names = np.array(source.class_names)
    return {path: names[row > 0].tolist() for path, row in zip(source.paths, source.labels, strict=True)}


# ---- VOC


def write_voc(root, year=2012, split="train"):
    """Three images: a dog; a cat and a person that is hard to recognize; nothing."""
    folder = root / f"VOCdevkit/VOC{year}"
    ids = ["2008_000002", "2008_000003", "2008_000007"]
    write_images(folder / "JPEGImages", *(f"{name}.jpg" for name in ids))
    write(folder / f"ImageSets/Main/{split}.txt", "".join(f"{name}\n" for name in ids))
    flags = {"dog": (1, -1, -1), "cat": (-1, 1, -1), "person": (-1, 0, -1)}
    for name in CLASS_NAMES:
        rows = zip(ids, flags.get(name, (-1, -1, -1)), strict=True)
        write(
            folder / f"ImageSets/Main/{name}_{split}.txt", "".join(f"{own} {flag:2d}\n" for own, flag in rows)
        )
    return folder


def test_voc(tmp_path):
    folder = write_voc(tmp_path)
    source = Voc("train", root=tmp_path)
    person, cat = CLASS_NAMES.index("person"), CLASS_NAMES.index("cat")
    assert named(source) == {"2008_000002.jpg": ["dog"], "2008_000003.jpg": ["cat"], "2008_000007.jpg": []}
    assert len(CLASS_NAMES) == 20 and list(CLASS_NAMES) == sorted(CLASS_NAMES)
    assert source[1]["ignore"].nonzero()[0].tolist() == [person] and not source[0]["ignore"].any()
    assert source[1]["ignore"].dtype == np.int32 and class_counts(source)[cat] == 1
    for root in (tmp_path / "VOCdevkit", folder):
        assert len(Voc("train", root=root)) == 3
    positive, negative = (Voc("train", root=tmp_path, difficult=own) for own in ("positive", "negative"))
    assert named(positive)["2008_000003.jpg"] == ["cat", "person"] and "ignore" not in positive[1]
    assert named(negative)["2008_000003.jpg"] == ["cat"] and "ignore" not in negative[1]


def test_voc_refuses(tmp_path):
    folder = write_voc(tmp_path)
    with pytest.raises(
        FileNotFoundError, match="holds ImageSets/Main/test.txt.*PASCAL VOC.*download voc --root"
    ):
        Voc("test", root=tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"nor VOCdevkit/VOC2007, VOC2007, .* in it holds ImageSets/Main/train.txt"
    ):
        Voc("train", root=tmp_path, year=2007)
    with pytest.raises(ValueError, match="VOC2012 is not of 2007: set config.data.year"):
        Voc("train", root=folder, year=2007)
    with pytest.raises(ValueError, match="config.data.difficult must be one of .*; got 'maybe'"):
        Voc("train", root=tmp_path, difficult="maybe")
    dogs = folder / "ImageSets/Main/dog_train.txt"
    write(dogs, "2008_000002 1\n2008_000003 -1\n")
    with pytest.raises(ValueError, match="dog_train.txt lacks the image '2008_000007'"):
        Voc("train", root=tmp_path)
    write(dogs, "2008_000002 1\n2008_000003 2\n2008_000007 -1\n")
    with pytest.raises(ValueError, match="dog_train.txt: the image '2008_000003' has 2; expected 1, -1 or 0"):
        Voc("train", root=tmp_path)
    dogs.unlink()
    with pytest.raises(FileNotFoundError, match="dog_train.txt is missing: of this split no labels"):
        Voc("train", root=tmp_path)


# ---- COCO


def coco_json(**changes):
    """Ids with gaps, in no order; an image without an object, one with two of a kind and a crowd."""
    content = {
        "images": [
            {"id": 9, "file_name": "a.jpg"},
            {"id": 4, "file_name": "b.jpg"},
            {"id": 7, "file_name": "c.jpg"},
        ],
        "categories": [
            {"id": 90, "name": "toothbrush"},
            {"id": 1, "name": "person"},
            {"id": 13, "name": "stop sign"},
        ],
        "annotations": [
            {"image_id": 7, "category_id": 90, "iscrowd": 0},
            {"image_id": 9, "category_id": 13, "iscrowd": 0},
            {"image_id": 7, "category_id": 90, "iscrowd": 0},
            {"image_id": 7, "category_id": 1, "iscrowd": 1},
        ],
    }
    return json.dumps(content | changes)


def test_coco(tmp_path):
    write_images(tmp_path / "val2014", "a.jpg", "b.jpg", "c.jpg")
    write(tmp_path / "annotations/instances_val2014.json", coco_json())
    source = Coco("val", root=tmp_path, year=2014)
    assert source.class_names == ("person", "stop sign", "toothbrush")
    assert named(source) == {"a.jpg": ["stop sign"], "b.jpg": [], "c.jpg": ["person", "toothbrush"]}
    assert source.describe(0) == str(tmp_path / "val2014/a.jpg") and source[2]["image"] == image(2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "instances_val2017.json is no JSON"),
        ("[" * 10**5, "is no JSON"),
        ("[]", "expected an object with a list 'images'"),
        (coco_json(images=[]), "there is no image 7 or no category 90"),
        (coco_json(images=[], annotations=[]), "lists 0 images and 3 categories"),
        (
            coco_json(images=[{"id": "9", "file_name": "a.jpg"}]),
            r"images\[0\]: expected an object with id \(int\)",
        ),
        (coco_json(images=[{"id": 9, "file_name": "../a.jpg"}]), "must be relative to root"),
        (
            coco_json(annotations=[{"image_id": 9, "category_id": 2}]),
            r"annotations\[0\]: there is no .*category 2",
        ),
    ],
)
def test_coco_refuses(tmp_path, content, message):
    write(tmp_path / "annotations/instances_val2017.json", content)
    with pytest.raises(ValueError, match=message):
        Coco("val", root=tmp_path)
    with pytest.raises(
        FileNotFoundError, match="instances_train2017.json is missing. COCO.*dataset download coco"
    ):
        Coco("train", root=tmp_path)


# ---- CelebA

ATTRIBUTES = "3\nBald Smiling \n000001.jpg -1  1\n000002.jpg  1 -1\n000003.jpg  1  1\n"
PARTITION = "000001.jpg 0\n000002.jpg 1\n000003.jpg 0\n"


@pytest.mark.parametrize(("lists", "splits", "images"), [("", "", ""), ("Anno/", "Eval/", "Img/")])
def test_celeba(tmp_path, lists, splits, images):
    root = tmp_path / "celeba"
    write_images(root / f"{images}img_align_celeba", "000001.jpg", "000002.jpg", "000003.jpg")
    write(root / f"{lists}list_attr_celeba.txt", ATTRIBUTES)
    write(root / f"{splits}list_eval_partition.txt", PARTITION)
    for place in (root, tmp_path):
        source = Celeba("train", root=place)
        assert named(source) == {"000001.jpg": ["Smiling"], "000003.jpg": ["Bald", "Smiling"]}
        assert source[1]["image"] == image(2) and named(Celeba("val", root=place)) == {"000002.jpg": ["Bald"]}
    with pytest.raises(ValueError, match="lists no image of test"):
        Celeba("test", root=root)


@pytest.mark.parametrize(
    ("attributes", "partition", "message"),
    [
        (
            ATTRIBUTES.replace(" 1 -1", " 1 0"),
            PARTITION,
            "celeba.txt, line 4: expected an image, once, and 2 times",
        ),
        (ATTRIBUTES + "000001.jpg 1 1\n", PARTITION, "celeba.txt, line 6: expected an image, once"),
        (ATTRIBUTES, PARTITION + "000009.jpg 0\n", "only one of the lists has the image '000009.jpg'"),
        ("0\n", "", "celeba.txt, line 2: expected the names"),
    ],
)
def test_celeba_refuses(tmp_path, attributes, partition, message):
    write(tmp_path / "list_attr_celeba.txt", attributes)
    write(tmp_path / "list_eval_partition.txt", partition)
    with pytest.raises(ValueError, match=message):
        Celeba("train", root=tmp_path)
    with pytest.raises(FileNotFoundError, match="CelebA, 202,599 faces.*by hand"):
        Celeba("train", root=tmp_path / "elsewhere")


# ---- lists of MATLAB


def cells(*values):
    """A cell array, as MATLAB has it: a column."""
    column = np.empty((len(values), 1), object)
    column[:, 0] = values
    return column


def structures(**fields):
    """An array of structures, as MATLAB has it: a row."""
    rows = np.empty((1, len(next(iter(fields.values())))), [(name, object) for name in fields])
    for name, values in fields.items():
        rows[name][0, :] = values
    return rows


def write_dogs(root, **changes):
    lists = {
        "train": (("n02-Chihuahua/n02_1.jpg", "n05-spaniel/n05_1.jpg"), (1, 2)),
        "test": (("n05-spaniel/n05_2.jpg",), (2,)),
    } | changes
    for split, (files, labels) in lists.items():
        names = {"file_list": cells(*files), "labels": np.array([labels], np.uint8).T}
        (root / "lists").mkdir(parents=True, exist_ok=True)
        savemat(root / "lists" / f"{split}_list.mat", names)
        write_images(root / "Images", *files)


def test_stanford_dogs(tmp_path):
    write_dogs(tmp_path)
    train, test = (StanfordDogs(split, root=tmp_path) for split in ("train", "test"))
    assert train.class_names == test.class_names == ("n02-Chihuahua", "n05-spaniel")
    assert named(train) == {
        "n02-Chihuahua/n02_1.jpg": "n02-Chihuahua",
        "n05-spaniel/n05_1.jpg": "n05-spaniel",
    }
    assert named(test) == {"n05-spaniel/n05_2.jpg": "n05-spaniel"}  # a list of one is a list, too
    for name in ("train_list.mat", "test_list.mat"):
        (tmp_path / "lists" / name).rename(tmp_path / name)
    assert len(StanfordDogs("train", root=tmp_path)) == 2
    write_dogs(tmp_path / "other", test=(("n02-Chihuahua/n02_2.jpg",), (2,)))
    with pytest.raises(
        ValueError, match="test_list.mat: the label 2 means the folders n05-spaniel and n02-Chihuahua"
    ):
        StanfordDogs("train", root=tmp_path / "other")
    write(tmp_path / "test_list.mat", b"no list")
    with pytest.raises(ValueError, match="test_list.mat cannot be read as a .mat file"):
        StanfordDogs("train", root=tmp_path)
    with pytest.raises(FileNotFoundError, match="holds train_list.mat. Stanford Dogs.*lists.tar"):
        StanfordDogs("test", root=tmp_path / "nowhere")


def test_stanford_cars(tmp_path):
    (tmp_path / "devkit").mkdir()
    savemat(tmp_path / "devkit/cars_meta.mat", {"class_names": cells("Audi TT 2011", "BMW M3 2012").T})
    rows = dict(fname=["00001.jpg", "00002.jpg"], bbox_x1=[1, 2])
    savemat(
        tmp_path / "devkit/cars_train_annos.mat", {"annotations": structures(**{"class": [2, 1]}, **rows)}
    )
    savemat(tmp_path / "devkit/cars_test_annos.mat", {"annotations": structures(**rows)})
    write_images(tmp_path, "cars_train/00001.jpg", "cars_train/00002.jpg", "cars_test/00001.jpg")
    assert named(StanfordCars("train", root=tmp_path)) == {
        "00001.jpg": "BMW M3 2012",
        "00002.jpg": "Audi TT 2011",
    }
    with pytest.raises(FileNotFoundError, match="cars_test_annos_withlabels.mat. Stanford Cars"):
        StanfordCars("test", root=tmp_path)
    labelled = {"annotations": structures(fname=["00001.jpg"], **{"class": [1]})}
    savemat(tmp_path / "cars_test_annos_withlabels.mat", labelled)
    assert named(StanfordCars("test", root=tmp_path)) == {"00001.jpg": "Audi TT 2011"}
    savemat(tmp_path / "cars_test_annos_withlabels.mat", {"annotations": structures(**rows)})
    with pytest.raises(ValueError, match=r"annotations has no field 'class'; it has \['fname', 'bbox_x1'\]"):
        StanfordCars("test", root=tmp_path)
    labelled["annotations"]["class"][0, 0] = 3
    savemat(tmp_path / "cars_test_annos_withlabels.mat", labelled)
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.1; example 0 has 2"):
        StanfordCars("test", root=tmp_path)


# ---- lists of text


def test_fgvc_aircraft(tmp_path):
    data = tmp_path / "fgvc-aircraft-2013b/data"
    write(data / "variants.txt", "707-320\nA300B4\nF/A-18\n")
    write(data / "families.txt", "A300\nBoeing 707\n")
    write(data / "images_variant_train.txt", "1025794 707-320\n0034309 F/A-18\n")
    write(data / "images_family_train.txt", "1025794 Boeing 707\n0034309 A300\n")
    write_images(data / "images", "0034309.jpg", "1025794.jpg")
    for root in (tmp_path, data.parent, data):
        assert named(FgvcAircraft("train", root=root)) == {"1025794.jpg": "707-320", "0034309.jpg": "F/A-18"}
    assert FgvcAircraft("train", root=tmp_path).class_names[1] == "A300B4"  # which no image of the split has
    families = FgvcAircraft("train", root=tmp_path, label="family")
    assert named(families) == {"1025794.jpg": "Boeing 707", "0034309.jpg": "A300"}
    with pytest.raises(FileNotFoundError, match="holds images_variant_test.txt. FGVC-Aircraft"):
        FgvcAircraft("test", root=tmp_path)
    write(data / "images_variant_train.txt", "1025794 737\n")
    with pytest.raises(ValueError, match="the image 1025794 is a '737', which variants.txt lacks"):
        FgvcAircraft("train", root=tmp_path)


def test_webvision(tmp_path):
    write(tmp_path / "info/synsets.txt", "n01440764 tench, Tinca tinca\nn01443537 goldfish\n")
    write(tmp_path / "info/train_filelist_google.txt", "google/q0001/a b.jpg 0\ngoogle/q0003/c.jpg 1\n")
    write(tmp_path / "info/train_filelist_flickr.txt", "flickr/q0002/d.jpg 0\n")
    write(tmp_path / "info/val_filelist.txt", "val000001.jpg 1\n")
    write_images(
        tmp_path,
        "google/q0001/a b.jpg",
        "google/q0003/c.jpg",
        "flickr/q0002/d.jpg",
        "val_images_256/val000001.jpg",
    )
    tench, goldfish = "n01440764 tench, Tinca tinca", "n01443537 goldfish"
    google = {"google/q0001/a b.jpg": tench, "google/q0003/c.jpg": goldfish}
    assert named(WebVision("train", root=tmp_path)) == google | {"flickr/q0002/d.jpg": tench}
    assert named(WebVision("train", root=tmp_path, site="google")) == google
    assert named(WebVision("val", root=tmp_path)) == {"val000001.jpg": goldfish}
    write(tmp_path / "info/val_filelist.txt", "val000001.jpg 2\n")
    with pytest.raises(ValueError, match=r"val_filelist.txt: labels must lie in 0\.\.1"):
        WebVision("val", root=tmp_path)
    with pytest.raises(FileNotFoundError, match="info/synsets.txt. WebVision 1.0"):
        WebVision("val", root=tmp_path / "info")


def test_dogs_vs_cats(tmp_path):
    write_images(tmp_path, *(f"train/{name}.{number}.jpg" for name in ("dog", "cat") for number in range(10)))
    write_images(tmp_path, "test1/1.jpg", "train/readme.jpg")
    train, val = (DogsVsCats(split, root=tmp_path) for split in ("train", "val"))
    assert train.class_names == ("cat", "dog") and np.bincount(train.labels).tolist() == [8, 8]
    assert all(path.startswith(name) for path, name in (named(train) | named(val)).items())
    assert len({*train.paths, *val.paths}) == 20 and train.left_out["of other names"] == 1
    assert len(DogsVsCats("val", root=tmp_path / "train", test_fraction=0.5)) == 10
    with pytest.raises(ValueError, match="test1 holds no cat.0.jpg.*kaggle.com/c/dogs-vs-cats"):
        DogsVsCats("train", root=tmp_path / "test1")


# ---- iNaturalist


def inat_json(*files):
    annotations = [{"id": 0, "image_id": 10 + at, "category_id": own} for at, (_, own) in enumerate(files)]
    return json.dumps({
        "images": [{"id": 10 + at, "file_name": name} for at, (name, _) in enumerate(files)],
        "categories": [
            {"id": 1, "name": "x2", "supercategory": "Aves", "genus": "x8"},
            {"id": 0, "name": "x1", "supercategory": "Plantae", "genus": "x9"},
            {"id": 2, "name": "x1", "supercategory": "Plantae", "genus": "x9"},
        ],
        "annotations": annotations,
    })  # fmt: skip


def test_inaturalist_2018(tmp_path):
    folder = "train_val2018"
    write(
        tmp_path / "train2018.json",
        inat_json((f"{folder}/Aves/1/a.jpg", 1), (f"{folder}/Plantae/2/b.jpg", 2)),
    )
    write(tmp_path / "val2018.json", inat_json((f"{folder}/Plantae/0/c.jpg", 0)))
    write_images(tmp_path / folder, "Aves/1/a.jpg", "Plantae/2/b.jpg", "Plantae/0/c.jpg")
    train, val = (INaturalist(split, root=tmp_path, year=2018) for split in ("train", "val"))
    assert train.class_names == val.class_names == ("0 x1", "x2", "2 x1")  # by id; a name of two has its id
    assert named(train) == {f"{folder}/Aves/1/a.jpg": "x2", f"{folder}/Plantae/2/b.jpg": "2 x1"}
    assert named(val) == {f"{folder}/Plantae/0/c.jpg": "0 x1"}
    groups = INaturalist("train", root=tmp_path, year=2018, label="supercategory")
    assert groups.class_names == ("Aves", "Plantae") and groups.labels.tolist() == [0, 1]
    published = [
        {"id": at, "name": name, "supercategory": "Aves"} for at, name in enumerate(("Rosa", "Parus", "Acer"))
    ]
    write(tmp_path / "categories.json", json.dumps(published))
    assert INaturalist("val", root=tmp_path, year=2018).class_names == ("Rosa", "Parus", "Acer")
    with pytest.raises(
        ValueError, match=r"the categories have no 'genus'; they have \['name', 'species', 'super"
    ):
        INaturalist("val", root=tmp_path, year=2018, label="genus")
    with pytest.raises(FileNotFoundError, match="holds train2017.json. iNaturalist"):
        INaturalist("train", root=tmp_path, year=2017)
    with pytest.raises(
        ValueError, match="config.data.year must be one of '2017', '2018', '2021'; got '2019'"
    ):
        INaturalist("train", root=tmp_path, year=2019)
    write(
        tmp_path / "val2018.json",
        inat_json(("a.jpg", 0), ("b.jpg", 1)).replace('"image_id": 11', '"image_id": 10'),
    )
    with pytest.raises(ValueError, match="expected one annotation an image, got 2 for 2"):
        INaturalist("val", root=tmp_path, year=2018)


def test_inaturalist_2021(tmp_path):
    moth = "00001_Animalia_Arthropoda_Insecta_Lepidoptera_Saturniidae_Actias_luna"
    worm = "00000_Animalia_Annelida_Clitellata_Haplotaxida_Lumbricidae_Lumbricus_terrestris"
    write_images(
        tmp_path, f"train/{moth}/a.jpg", f"train/{worm}/b.jpg", f"val/{moth}/c.jpg", f"val/{worm}/d.jpg"
    )
    train, val = (INaturalist(split, root=tmp_path) for split in ("train", "val"))
    assert train.class_names == val.class_names == (worm, moth)
    assert named(train) == {f"{worm}/b.jpg": worm, f"{moth}/a.jpg": moth}
    kingdoms = INaturalist("val", root=tmp_path, label="kingdom")
    assert kingdoms.class_names == ("Animalia",) and kingdoms.labels.tolist() == [0, 0]
    assert named(INaturalist("val", root=tmp_path, label="genus"))[f"{moth}/c.jpg"] == "Actias"
    with pytest.raises(FileNotFoundError, match="train_mini is missing. iNaturalist"):
        INaturalist("train_mini", root=tmp_path)
    write_images(tmp_path, "train/Aves/a.jpg")
    with pytest.raises(
        ValueError, match="train/Aves: expected a folder <number>_<kingdom>.*for 2017 and 2018 set"
    ):
        INaturalist("train", root=tmp_path)


# ---- ImageNet

TENCH, GOLDFISH, CROW = "n01440764", "n01443537", "n01444339"


def packed(members):
    """Returns a tar archive of {name: content}."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def write_devkit(folder, truth="3\n1\n"):
    """Its ids are in no order of the synsets, and one is a group of classes."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    synsets = structures(
        ILSVRC2012_ID=[1, 2, 3, 4], WNID=[CROW, TENCH, GOLDFISH, "n00001740"], num_children=[0, 0, 0, 3]
    )
    savemat(folder / imagenet.META, {"synsets": synsets.T})
    write(folder / imagenet.TRUTH, truth)


VAL = {f"ILSVRC2012_val_0000000{number}.JPEG": image(number) for number in (1, 2)}
VAL_TRUTH = dict(zip(VAL, (GOLDFISH, CROW), strict=True))


def test_imagenet_folders(tmp_path):
    write_images(tmp_path, f"train/{TENCH}/{TENCH}_7.JPEG", f"train/{CROW}/{CROW}_9.JPEG")
    assert named(imagenet.make("train", root=tmp_path)) == {
        f"{TENCH}/{TENCH}_7.JPEG": TENCH,
        f"{CROW}/{CROW}_9.JPEG": CROW,
    }
    with pytest.raises(
        FileNotFoundError, match="holds neither val/ with images nor ILSVRC2012_img_val.tar. ImageNet"
    ):
        imagenet.make("val", root=tmp_path)
    for name, content in VAL.items():
        write(tmp_path / "val" / name, content)
    with pytest.raises(FileNotFoundError, match="no ground truth of the validation images"):
        imagenet.make("val", root=tmp_path)
    write_devkit(tmp_path / imagenet.DEVKIT)
    val = imagenet.make("val", root=tmp_path)
    assert named(val) == VAL_TRUTH and val.class_names == (TENCH, GOLDFISH, CROW)
    for truth, message in (
        ("3\n", "no ILSVRC2012_val_<number> that"),
        ("3\n4\n", "line 2: expected an ILSVRC2012_ID"),
    ):
        write_devkit(tmp_path / imagenet.DEVKIT, truth)
        with pytest.raises(ValueError, match=message):
            imagenet.make("val", root=tmp_path)
    write_images(tmp_path, "train/dog/a.jpg")
    with pytest.raises(ValueError, match="'dog' is no synset"):
        imagenet.make("train", root=tmp_path)


def test_imagenet_as_kaggle_packs_it(tmp_path):
    inside = tmp_path / "ILSVRC/Data/CLS-LOC"
    write_images(inside, f"train/{TENCH}/{TENCH}_7.JPEG")
    for name, content in VAL.items():
        write(inside / "val" / name, content)
    with open(tmp_path / imagenet.SOLUTION, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("ImageId", "PredictionString"))
        for name, synset in reversed(VAL_TRUTH.items()):
            rows.writerow((name.removesuffix(".JPEG"), f"{synset} 1 2 3 4 {synset} 5 6 7 8 "))
    assert named(imagenet.make("val", root=tmp_path)) == VAL_TRUTH
    assert len(imagenet.make("train", root=tmp_path)) == 1


def test_imagenet_archives_are_read_in_place(tmp_path, monkeypatch):
    inner = {
        f"{CROW}.tar": packed({f"{CROW}_9.JPEG": image(9), f"._{CROW}_9.JPEG": b"no"}),
        f"{TENCH}.tar": packed({f"{TENCH}_7.JPEG": image(7), f"{TENCH}_8.JPEG": image(8)}),
    }
    write(tmp_path / "ILSVRC2012_img_train.tar", packed(inner))
    train = imagenet.make("train", root=tmp_path)
    assert named(train) == {
        f"{CROW}.tar/{CROW}_9.JPEG": CROW,
        f"{TENCH}.tar/{TENCH}_7.JPEG": TENCH,
        f"{TENCH}.tar/{TENCH}_8.JPEG": TENCH,
    }
    assert [train[index]["image"] for index in (2, 0, 1)] == [image(8), image(9), image(7)]

    write(tmp_path / "ILSVRC2012_img_val.tar", packed(dict(reversed(VAL.items()))))
    write_devkit(tmp_path / "devkit" / imagenet.DEVKIT)
    with tarfile.open(tmp_path / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "devkit" / imagenet.DEVKIT, imagenet.DEVKIT)
    val = imagenet.make("val", root=tmp_path)
    assert named(val) == VAL_TRUTH and [val[at]["image"] for at in (0, 1)] == [image(1), image(2)]

    monkeypatch.setattr(tar_files, "_make_index", None)  # the index is read, not made again
    assert named(imagenet.make("train", root=tmp_path)) == named(train)
    monkeypatch.undo()
    write(tmp_path / "ILSVRC2012_img_val.tar", packed(VAL | {"ILSVRC2012_val_00000003.JPEG": image(3)}))
    with pytest.raises(
        ValueError, match="ILSVRC2012_val_00000003.JPEG' is no"
    ):  # another archive, another index
        imagenet.make("val", root=tmp_path)


def test_a_devkit_that_claims_memory(tmp_path):
    member = tarfile.TarInfo("x")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 2**30
    path = write(tmp_path / "devkit.tar.gz", gzip.compress(member.tobuf() + bytes(2**21)))
    with pytest.raises(ValueError, match=f"{path} cannot be read: a header claims 1,073,741,824 bytes"):
        tar_files.read_packed(path, "x", 2**20)
    write(path, gzip.compress(packed({"a": b"1", "big": bytes(2**21)})))
    assert tar_files.read_packed(path, "a", 2**20) == b"1"
    for name, message in (("big", "its big is too large"), ("none", "it holds no none")):
        with pytest.raises(ValueError, match=f"{path} cannot be read: {message}; download it again"):
            tar_files.read_packed(path, name, 2**20)


def test_a_tar_that_is_damaged(tmp_path):
    whole = write(tmp_path / "a.tar", packed({"b.jpg": image(1) * 9})).read_bytes()
    kept = tmp_path / "a.tar.index.npz"
    first = tar_files.index_of(tmp_path / "a.tar")
    for content in (b"", b"nothing", kept.read_bytes()[:-9]):
        write(kept, content)
        assert list(tar_files.index_of(tmp_path / "a.tar").offsets) == list(first.offsets)
    identity = tar_files.identity_of(tmp_path / "a.tar")
    np.savez(
        kept, names=np.frombuffer(b"b.jpg", np.uint8), offsets=[10**9], sizes=first.sizes, archive=identity
    )
    assert list(tar_files.index_of(tmp_path / "a.tar").offsets) == list(
        first.offsets
    )  # not the one beyond the end
    for content, message in (
        (whole[:2000], "a.tar: the member 'b.jpg' of a.tar goes beyond its end; download it again"),
        (b"x" * 2000, "a.tar: no uncompressed tar archive, or damaged"),
        (packed({"a.txt": b""}), "a.tar holds no image"),
        (packed({"a.jpg": image(1), "b.jpg": image(1)})[:1636], "a.tar: a.tar is cut short or damaged"),
        (
            packed({"a.tar": packed({"b.jpg": image(1) * 9})[:2000]}),
            "a.tar: the member 'b.jpg' of a.tar goes beyond",
        ),
    ):
        write(tmp_path / "a.tar", content)
        with pytest.raises(ValueError, match=message):
            tar_files.index_of(tmp_path / "a.tar")
