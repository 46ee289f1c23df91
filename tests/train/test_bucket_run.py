"""A run whose workdir lies in an object store: the state, the files, and the commands of one on a disk."""

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from imgcls_jax.config import files
from imgcls_jax.inference import trained
from imgcls_jax.runtime.buckets import as_path
from imgcls_jax.tools import (
    demo,
    ensemble,
    export,
    index,
    predict,
    replay,
    report,
    results,
    retrieve,
    serve,
    visualise,
)
from imgcls_jax.train.known_data import Named
from imgcls_jax.train.run import run

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
OVERRIDES = {
    "model.name": "mlp",
    "model.variant": "mlp",
    "train.total_steps": "12",
    "train.eval_every_steps": "6",
    "train.log_every_steps": "1",
    "train.checkpoint_every_steps": "4",
}


def config(**changed):
    named = files.find(str(ROOT / "configs" / "digits_simpleconv3.py"), OVERRIDES | changed)
    return files.load(named)[0]


@pytest.fixture(scope="session")
def on_disk(tmp_path_factory):
    """Returns the result of a run on a disk, and its workdir."""
    workdir = tmp_path_factory.mktemp("run")
    return run(config(), workdir), workdir


@pytest.fixture(scope="module")
def workdir(store):
    return f"{store.address}/runs/a"


@pytest.fixture(scope="module")
def finished(workdir):
    """Returns the result of a run in the store."""
    return run(config(), workdir)


def test_it_ends_in_the_state_of_a_run_on_a_disk(finished, on_disk, store):
    result, workdir = on_disk
    assert finished["state_digest"] == result["state_digest"]
    assert finished["metrics"] == result["metrics"]
    there = {name.split("/")[2] for name in store.objects if name.startswith("runs/a/")}
    assert there | {"lock"} == {path.name for path in workdir.iterdir()}
    lines = [json.loads(line) for line in store.objects["runs/a/metrics.jsonl"][1].splitlines()]
    steps = [line["step"] for line in lines]
    assert steps == sorted(steps) and set(steps) == set(range(1, 13))
    kept = {name.split("/")[3] for name in store.objects if name.startswith("runs/a/checkpoints/")}
    assert kept == {path.name for path in (workdir / "checkpoints").iterdir()}


def test_nothing_is_written_beside_it(finished):
    assert not list(Path.cwd().glob("?s:*"))


def test_a_finished_run_is_known(finished, workdir, capsys):
    run(config(), workdir)
    assert "holds a finished run of this configuration" in capsys.readouterr().out


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of two classes."""
    folder = tmp_path_factory.mktemp("images")
    for name in ("a", "b"):
        (folder / name).mkdir()
        Image.new("L", (8, 8), ord(name)).save(folder / name / "one.png")
    return folder


def test_prediction_and_evaluation_read_it(finished, workdir, images):
    assert predict.main([str(images), f"--workdir={workdir}"]) == 0
    measured = trained.evaluate(workdir, data=Named(None, True))
    assert measured["test"] == finished["metrics"]["test"]
    assert (as_path(workdir) / "eval_12.json").exists()


def taught_by(teacher):
    model = "{'name': 'mlp', 'variant': 'mlp'}"
    own = {"objective.name": "distillation", "objective.teacher": teacher}
    return own | ({"objective.teacher_model": model} if teacher.endswith("exported") else {})


def test_the_tools_read_it(finished, workdir, store, images, tmp_path, capsys):
    image, another = str(images / "a" / "one.png"), f"{store.address}/runs/another"
    assert index.main([str(images / "a"), f"--workdir={workdir}"]) == 0
    assert index.main([str(images / "b"), f"--workdir={workdir}", "--add"]) == 0
    capsys.readouterr()
    assert retrieve.main([image, f"--workdir={workdir}", "--format=json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["neighbours"][0]["path"] == image and len(found["neighbours"]) == 2
    add = ["add", str(tmp_path / "a.json"), workdir, "--metric=test/accuracy"]
    assert results.main([*add, "--method=m", "--protocol=p", "--command=c"]) == 0
    run(config(**{"train.resume_from": f"{workdir}@8", "train.seed": "1"}), another)
    assert ensemble.main([workdir, another]) == 0
    assert report.main([workdir, another]) == 0
    assert f"{workdir}/report.html: " in capsys.readouterr().out
    store.put("runs/a/nonfinite_6.json", b'{"step": 6, "on_nonfinite": "skip", "loss": 1}')
    assert replay.main([f"--workdir={workdir}", "nonfinite_6.json"]) == 1
    assert "all of the step is finite" in capsys.readouterr().out
    assert visualise.main(["augmentation", f"--workdir={workdir}", f"--output={tmp_path / 'a.png'}"]) == 0
    assert workdir in demo.trial_of(demo.parse_arguments([f"--workdir={workdir}"]))[1]
    run(config(**{"model.pretrained": workdir}), tmp_path / "pretrained")
    assert f"pretrained weights from {workdir}: backbone of step 12" in capsys.readouterr().out
    run(config(**taught_by(f"{workdir}@8")), tmp_path / "taught")
    assert workdir in (tmp_path / "taught" / "teacher.json").read_text()


def test_an_export_is_read_where_it_was_copied(finished, workdir, store, images, tmp_path, capsys):
    exported, asked = f"{store.address}/exported", [str(images), "--format=json"]
    assert export.main([str(tmp_path), f"--workdir={workdir}", "--platforms=cpu"]) == 0
    for path in tmp_path.iterdir():
        store.put(f"exported/{path.name}", path.read_bytes())
    capsys.readouterr()
    assert predict.main([*asked, f"--exported={tmp_path}"]) == 0
    here = capsys.readouterr().out
    assert predict.main([*asked, f"--exported={exported}"]) == 0
    assert capsys.readouterr().out == here and len(json.loads(here)) == 2
    assert serve.main([f"--exported={store.address}/none"]) == 2
    assert f"error: {store.address}/none/export.json is absent" in capsys.readouterr().err
    for changed in ({"model.pretrained": exported}, taught_by(exported)):
        with pytest.raises(ValueError, match="/weights.safetensors: weights are read on this machine alone"):
            run(config(**changed), tmp_path / "run")


def start(store, workdir):
    options = [f"--config.{name}={value}" for name, value in OVERRIDES.items()]
    command = [sys.executable, "-u", "-m", "imgcls_jax.main", "--config=configs/digits_simpleconv3.py"]
    return subprocess.Popen(
        [*command, f"--workdir={workdir}", *options],
        cwd=ROOT,
        env=os.environ | store.environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def read_to(process, beginning):
    return next((line for line in process.stdout if line.startswith(beginning)), "")


def test_killed_in_mid_run_it_ends_in_the_same_state(finished, store):
    workdir = f"{store.address}/runs/killed"
    process = start(store, workdir)
    assert read_to(process, "step 11/")
    process.kill()
    process.wait()
    assert "runs/killed/lock" in store.objects and "runs/killed/result.json" not in store.objects
    output, _ = start(store, workdir).communicate(timeout=300)
    assert "resumed from the checkpoint of step" in output, output
    result = json.loads(store.objects["runs/killed/result.json"][1])
    assert result["state_digest"] == finished["state_digest"]
    steps = [json.loads(line)["step"] for line in store.objects["runs/killed/metrics.jsonl"][1].splitlines()]
    assert steps == sorted(steps) and set(steps) == set(range(1, 13))


def test_a_bucket_that_vanishes_ends_the_run_with_a_line(store):
    process = start(store, f"{store.address}/runs/vanished")
    try:
        assert read_to(process, "step 9/")
        store.bucket = "another"
        output, _ = process.communicate(timeout=400)
    finally:
        store.bucket = "bucket-one"
    assert process.returncode and "\nerror: " in f"\n{output}"
    assert str(ROOT / "imgcls_jax") not in output, output  # no traceback but the libraries' own
    assert "runs/vanished/checkpoints/4/commit_success.txt" in store.objects


@pytest.mark.parametrize("fault", ["503", "slow"])
def test_a_store_that_stumbles_delays_a_run(fault, on_disk, store):
    number = itertools.count()

    def stumble(method, path):
        if fault == "503":
            return 503 if next(number) % 12 == 11 else None
        time.sleep(0.1)

    store.fault = stumble
    try:
        output, _ = start(store, f"{store.address}/runs/{fault}").communicate(timeout=400)
    finally:
        store.fault = lambda method, path: None
    result = json.loads(store.objects[f"runs/{fault}/result.json"][1])
    assert result["state_digest"] == on_disk[0]["state_digest"], output
