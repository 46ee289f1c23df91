"""Training from Parquet files, tar shards and packed shards is, to the bit, training from the folder."""

import io
import json
import shutil
import tarfile

import pytest

from imgcls_jax.config.modules import find_function
from imgcls_jax.data import packed, transforms
from imgcls_jax.data.contents import contents
from imgcls_jax.data.pipeline import TrainBatches
from imgcls_jax.data.read_ahead import iterate
from imgcls_jax.data.source import read_regular
from imgcls_jax.data.sources.image_folder import ImageFolder
from imgcls_jax.data.sources.webdataset import WebDataset
from imgcls_jax.runtime.stop import Interrupted
from imgcls_jax.tools import dataset
from imgcls_jax.train.run import run
from tests.train.test_loop import folder_config, folder_of_images, stop_after

KINDS = ("parquet", "webdataset", "array_record")


def write_parquet(source, folder, split):
    import pyarrow as pa
    import pyarrow.parquet as pq

    labels = {"names": list(source.class_names), "_type": "ClassLabel"}
    told = json.dumps({"info": {"features": {"image": {"_type": "Image"}, "label": labels}}})
    for number, rows in enumerate((range(7), range(7, len(source)))):
        images = [{"bytes": source[row]["image"], "path": source.paths[row]} for row in rows]
        table = pa.table({"image": images, "label": [int(source.labels[row]) for row in rows]})
        table = table.replace_schema_metadata({"huggingface": told})
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, folder / f"{split}-{number:05d}-of-00002.parquet", row_group_size=3)


def write_shards(source, folder, split):
    folder.mkdir(parents=True, exist_ok=True)
    for number, rows in enumerate((range(7), range(7, len(source)))):
        with tarfile.open(folder / f"{split}-{number:06d}.tar", "w") as archive:
            for row in rows:
                label = source.class_names[source.labels[row]].encode()
                for suffix, content in ((".png", source[row]["image"]), (".cls", label)):
                    member = tarfile.TarInfo(f"{row:04d}{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))


def write_packed(source, folder, split):
    packed.pack(source, folder, split, shard_bytes=4000, indices=range(len(source)))


WRITERS = dict(zip(KINDS, (write_parquet, write_shards, write_packed), strict=True))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The same images in a folder, and in each kind of container."""
    root = tmp_path_factory.mktemp("data")
    folder_of_images(root / "image_folder", 12)
    for kind, write in WRITERS.items():
        for split in ("train", "val"):
            write(ImageFolder(split, root=root / "image_folder"), root / kind, split)
    return root


@pytest.fixture(scope="module")
def of_folder(data, tmp_path_factory):
    return run(folder_config(data / "image_folder"), tmp_path_factory.mktemp("run"))


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_resumes_to_the_bit(kind, num_workers, data, of_folder, tmp_path, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Interrupted):
            run(folder_config(data / kind, source=kind, num_workers=num_workers), tmp_path / "run")
    resumed = run(folder_config(data / kind, source=kind, num_threads=3), tmp_path / "run")
    assert "are trained on, too" not in caplog.text
    assert resumed["resumed_from_step"] == 2
    assert resumed["state_digest"] == of_folder["state_digest"]
    assert resumed["metrics"]["val"] == of_folder["metrics"]["val"]


class InTurn:
    """Sources that take turns, so that one set of workers reads all."""

    def __init__(self, *sources):
        self.sources = sources
        self.class_names = sources[0].class_names

    def __len__(self):
        return len(self.sources) * len(self.sources[0])

    def __getitem__(self, index):
        return self.sources[index % len(self.sources)][index // len(self.sources)]


@pytest.mark.parametrize("reading", [{"num_threads": 4}, {"num_workers": 2}])
def test_threads_and_workers_change_nothing(reading, data):
    folder = ImageFolder("train", root=data / "image_folder")
    sources = [find_function("data.sources", kind, "make")("train", root=data / kind) for kind in KINDS]
    ops = transforms.parse("decode | random_resized_crop(6)")[0]
    batches, of_folder = (
        TrainBatches(source, ops, batch_size=9, seed=1)
        for source in (InTurn(*sources), InTurn(*[folder] * len(KINDS)))
    )
    with iterate(batches, 3, 19, **reading) as iterator:
        for step, batch in enumerate(iterator, 3):
            wanted = of_folder[step]
            assert batch.keys() == wanted.keys()
            assert all(batch[key].tobytes() == wanted[key].tobytes() for key in wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_changed_data_are_refused(kind, data, tmp_path, monkeypatch):
    root = shutil.copytree(data / kind, tmp_path / "data")
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Interrupted):
            run(folder_config(root, source=kind), tmp_path / "run")
    shutil.rmtree(root)
    source = ImageFolder("train", root=data / "image_folder")
    fewer, labels = source.paths[:-1], source.labels[:-1]
    source.paths, source.labels = fewer, labels
    WRITERS[kind](source, root, "train")
    WRITERS[kind](ImageFolder("val", root=data / "image_folder"), root, "val")
    with pytest.raises(ValueError, match="split 'train': 1 image gone"):
        run(folder_config(root, source=kind), tmp_path / "run")


def test_the_digest_of_packed_data_is_that_of_their_source(data):
    first = ImageFolder("train", root=data / "image_folder")
    made = packed.read_description(data / "array_record/train.json")
    assert made.digest == contents(first).digest and len(made.shards) > 2


@pytest.mark.parametrize("kind", KINDS)
def test_bad_images_are_named(kind, data, tmp_path, capsys):
    source = ImageFolder("train", root=shutil.copytree(data / "image_folder", tmp_path / "images"))
    (source.root / source.paths[8]).write_bytes(read_regular(source.root / source.paths[8])[:50])
    WRITERS[kind](source, tmp_path / kind, "train")
    WRITERS[kind](ImageFolder("val", root=tmp_path / "images"), tmp_path / kind, "val")
    name = {
        "parquet": "train-00001-of-00002.parquet/1",
        "webdataset": "train-000001.tar/0008.png",
        "array_record": f": {source.paths[8]}",
    }[kind]
    with pytest.raises(ValueError, match=f"{name}: image cannot be decoded .50 bytes.*on_bad_example"):
        run(folder_config(tmp_path / kind, source=kind), tmp_path / "run")
    arguments = ["check", str(tmp_path / kind), "--source", kind, "--split", "train", "--split", "val"]
    capsys.readouterr()
    assert dataset.main([*arguments, "--format", "json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert list(report["unreadable"]) == [name.removeprefix(": ")]
    assert report["counts"] == {"train": {"dark": 11, "light": 12}, "val": {"dark": 12, "light": 12}}
    assert len(report["leaks"]) == 0


def test_check_names_a_source_that_is_not_there(tmp_path, capsys):
    assert dataset.main(["check", str(tmp_path), "--source", "parkay"]) == 2
    assert "has no file parkay.py" in capsys.readouterr().err
    assert dataset.main(["check", str(tmp_path), "--source", "webdataset"]) == 2
    assert f"{tmp_path} holds no .tar file; each .tar holds" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError):
        WebDataset("train", root=tmp_path / "none")
