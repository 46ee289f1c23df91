"""The commands as a user types them: training, overrides, evaluation, prediction."""

import csv
import html
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from imgcls_jax.data.sources.digits import Digits
from imgcls_jax.inference.trained import evaluate
from imgcls_jax.tools import convert, export, index, predict, report, retrieve

ROOT = Path(__file__).parents[1]
CONFIG = "--config=configs/digits_simpleconv3.py:test"


def command(module, *arguments):
    return subprocess.run(
        [sys.executable, "-m", f"imgcls_jax.{module}", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    done = command("main", CONFIG, f"--workdir={path}", "--config.optimizer.learning_rate=0.03")
    assert done.returncode == 0, done.stderr
    assert not any(ord(letter) < 32 for letter in done.stdout if letter != "\n")
    assert (
        "GFLOP" in done.stdout
        and "backbone/conv1/kernel" in done.stdout
        and "finished: 44 steps" in done.stdout
    )
    return path


def test_result_holds_what_reproduces_the_run(workdir):
    result = json.loads((workdir / "result.json").read_text())
    assert result["steps"] == 44 and result["config"]["optimizer"]["learning_rate"] == 0.03
    assert result["metrics"]["test"]["accuracy"] > 0.5 and len(result["state_digest"]) == 64
    assert result["examples_per_second"] > 0 and result["wall_seconds"] > 0
    assert {"jax", "flax", "optax", "python"} <= set(result["versions"]) and result["device"][
        "platform"
    ] == "cpu"
    assert list((workdir / "tensorboard").glob("events*"))


def test_evaluation_of_a_workdir(workdir):
    done = command("main", "--mode=eval", f"--workdir={workdir}", "--split=test")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    trained = json.loads((workdir / "result.json").read_text())["metrics"]["test"]
    assert shown["step"] == 44 and shown["test"]["accuracy"] == trained["accuracy"]
    assert shown["test"]["loss"] == pytest.approx(trained["loss"], rel=1e-5)
    assert json.loads((workdir / "eval_44_test.json").read_text()) == shown
    blurred = evaluate(workdir, transforms="upsample(4) | upsample(24) | normalize(0.5, 0.5)")
    assert blurred["test"]["num_examples"] == 359 and blurred["test"]["loss"] > 1.2 * trained["loss"]
    same = evaluate(workdir, transforms="upsample(24) | normalize(0.5, 0.5)")
    assert same["test"]["loss"] == pytest.approx(trained["loss"], rel=1e-5)
    assert not (workdir / "eval_44.json").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--config.optimizer.learning_rat=0.1"], "did you mean 'learning_rate'"),
        (["--config.train.parralel=sharded"], "did you mean 'parallel'"),
        (["--config.trian.seed=1"], "did you mean 'train'"),
        (["--config.train.batch_size=many"], "batch_size"),
        (["--config.train.batch_size=5000"], "less than one batch"),
        (["--mode=eval"], "leave out --config"),
        (["--split=test"], "--split is of --mode eval"),
        (["--checkpoint=best"], "--checkpoint is of --mode eval"),
        (["--coordinator=localhost:1"], "--coordinator is of several processes: give --distributed"),
        (["--wrokdir=x"], "did you mean '--workdir'"),
        (["extra"], "what is 'extra'"),
    ],
)
def test_a_users_mistake_is_one_line(arguments, message, tmp_path):
    done = command("main", CONFIG, f"--workdir={tmp_path / 'new'}", *arguments)
    assert done.returncode != 0 and message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "new").exists()


def test_help_lists_every_flag_and_waits_for_no_jax():
    line = [sys.executable, "-X", "importtime", "-m", "imgcls_jax.main", "--help"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60)
    listed = set(re.findall(r"^  --(\w+)", done.stdout, re.MULTILINE))
    assert {"config", "workdir", "mode", "checkpoint", "distributed"} <= listed
    assert not re.search(r"\| +jax$", done.stderr, re.MULTILINE)


def test_a_missing_or_broken_config_is_one_line(tmp_path):
    done = command("main", "--config=configs/no_such.py", f"--workdir={tmp_path}")
    assert done.returncode != 0 and "no_such.py" in done.stderr and "Traceback" not in done.stderr
    done = command("main", "--config=configs/digits_simpleconv3.py:tset", f"--workdir={tmp_path}")
    assert done.returncode != 0 and "'tset'" in done.stderr and "Traceback" not in done.stderr
    done = command("main", f"--workdir={tmp_path}")
    assert done.returncode != 0 and "--config is missing" in done.stderr


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """The first ten test digits as PNG files, one broken file among them."""
    folder = tmp_path_factory.mktemp("pictures")
    source = Digits("test")
    for i in range(10):
        Image.fromarray(source[i]["image"][:, :, 0]).resize((32, 32), Image.Resampling.NEAREST).save(
            folder / f"{i}.png"
        )
    (folder / "broken.png").write_bytes(b"nothing")
    return folder


def test_prediction_of_a_folder(workdir, pictures, capsys):
    assert predict.main(["--workdir", str(workdir), "--format", "json", "--top_k", "3", str(pictures)]) == 1
    out, err = capsys.readouterr()
    results = {Path(result["path"]).name: result for result in json.loads(out)}
    assert len(results) == 11 and "error" in results["broken.png"] and "broken.png" in err
    source = Digits("test")
    hits = 0
    for i in range(10):
        predictions = results[f"{i}.png"]["predictions"]
        probabilities = [p["probability"] for p in predictions]
        assert len(predictions) == 3 and probabilities == sorted(probabilities, reverse=True)
        hits += predictions[0]["class"] == source.class_names[source[i]["label"]]
    assert hits >= 7


def test_predictions_do_not_depend_on_their_neighbours(workdir, pictures, capsys):
    good = [str(pictures / f"{i}.png") for i in range(3)]
    outputs = []
    for batch_size in (2, 16):
        assert (
            predict.main(
                ["--workdir", str(workdir), "--format", "csv", "--batch_size", str(batch_size), *good]
            )
            == 0
        )
        outputs.append(list(csv.DictReader(io.StringIO(capsys.readouterr().out))))
    for one, other in zip(*outputs, strict=True):
        assert one["class"] == other["class"]
        np.testing.assert_allclose(float(one["probability"]), float(other["probability"]), atol=2e-6)


def test_prediction_formats_and_exit_codes(workdir, pictures, tmp_path, capsys):
    assert predict.main(["--workdir", str(workdir), str(pictures / "1.png")]) == 0
    line = capsys.readouterr().out.strip()
    assert line.startswith(str(pictures / "1.png")) and len(line.splitlines()) == 1
    assert predict.main(["--workdir", str(workdir), str(pictures / "broken.png"), "absent.png"]) == 2
    assert "absent.png: No such file" in capsys.readouterr().err
    assert predict.main(["--workdir", str(workdir), str(tmp_path)]) == 2
    assert "no image files" in capsys.readouterr().err
    assert predict.main(["--workdir", str(tmp_path), str(pictures)]) == 2
    assert "is not the workdir of a run" in capsys.readouterr().err


def test_no_class_for_an_image_that_is_not_sure(workdir, pictures, capsys):
    image = str(pictures / "1.png")
    command = ["--workdir", str(workdir), image]
    assert predict.main([*command, "--format", "json"]) == 0
    (sure,) = json.loads(capsys.readouterr().out)[0]["predictions"]
    assert predict.main([*command, "--format", "json", "--unknown_below", str(sure["probability"])]) == 0
    assert json.loads(capsys.readouterr().out)[0]["predictions"] == [sure]
    assert predict.main([*command, "--unknown_below", "1.1"]) == 0
    assert capsys.readouterr().out.split() == [image, "unknown"]
    assert predict.main([*command, "--unknown_below", "1.1", "--format", "csv"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [f"{image},,,,"]


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """Training digits as PNG files, ten of each of 0 to 7, a folder a class; of 8 and 9 in another place."""
    folder = tmp_path_factory.mktemp("known")
    source = Digits("train")
    for label in range(10):
        own = folder / ("all" if label < 8 else "new") / f"class {label}"
        own.mkdir(parents=True)
        for i in np.flatnonzero(source.labels == label)[:10]:
            image = Image.fromarray(source[i]["image"][:, :, 0])
            image.resize((32, 32), Image.Resampling.NEAREST).save(own / f"{i}.png")
    return folder


def answers_of(workdir, pictures, capsys, *options):
    capsys.readouterr()
    status = retrieve.main(["--workdir", str(workdir), "--format", "json", *options, str(pictures)])
    out, err = capsys.readouterr()
    return status, {Path(answer["path"]).name: answer for answer in json.loads(out)}, err


def test_retrieval_and_a_new_class_without_training(workdir, pictures, known, capsys):
    assert retrieve.main(["--workdir", str(workdir), str(pictures)]) == 2
    assert "make it by imgcls_jax.tools.index" in capsys.readouterr().err
    assert index.main(["--workdir", str(workdir), str(known / "all")]) == 0
    assert "80 images of 8 classes" in capsys.readouterr().out
    labels = Digits("test").labels
    status, before, err = answers_of(workdir, pictures, capsys, "--k", "5")
    assert status == 1 and "error" in before["broken.png"] and "broken.png" in err
    cosines = [neighbour["similarity"] for neighbour in before["0.png"]["neighbours"]]
    assert len(cosines) == 5 and cosines == sorted(cosines, reverse=True) and cosines[0] <= 1.0001
    for label in (8, 9):  # a folder that is a class itself, twice: nothing is stored twice
        added = ["--workdir", str(workdir), "--add", str(known / "new" / f"class {label}")]
        assert index.main(added) == index.main(added) == 0
    assert "100 images of 10 classes" in capsys.readouterr().out
    _, after, _ = answers_of(workdir, pictures, capsys, "--k", "5")
    hits = [after[f"{i}.png"]["class"] == f"class {labels[i]}" for i in range(10)]
    assert sum(hits) >= 7
    threshold = after["0.png"]["neighbours"][0]["similarity"]
    _, cut, _ = answers_of(workdir, pictures, capsys, "--k", "5", "--unknown_below", str(threshold))
    for name in (f"{i}.png" for i in range(10)):
        nearest = cut[name]["neighbours"][0]["similarity"]
        assert cut[name]["class"] == (after[name]["class"] if nearest >= threshold else None)
    _, itself, _ = answers_of(workdir, known / "new" / "class 9", capsys, "--k", "1")
    for name, answer in itself.items():
        assert Path(answer["neighbours"][0]["path"]).name == name and answer["class"] == "class 9"


def test_mistakes_with_an_index(workdir, pictures, known, tmp_path, capsys):
    assert index.main(["--workdir", str(workdir), str(tmp_path / "absent")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert index.main(["--workdir", str(workdir), str(tmp_path)]) == 2
    assert "no readable image" in capsys.readouterr().err
    assert index.main(["--workdir", str(workdir), str(known / "all")]) == 0
    stored = dict(np.load(workdir / "index.npz"))
    np.savez(workdir / "index.npz", **stored | {"step": 7})
    assert retrieve.main(["--workdir", str(workdir), str(pictures)]) == 2
    assert "embeddings of step 7, the network in use is of step 44" in capsys.readouterr().err
    np.savez(workdir / "index.npz", **stored | {"path": np.array([{}], object)})
    assert retrieve.main(["--workdir", str(workdir), str(pictures)]) == 2
    assert "is no index of this program" in capsys.readouterr().err
    (workdir / "index.npz").write_bytes(b"nothing")
    assert retrieve.main(["--workdir", str(workdir), str(pictures)]) == 2
    assert "is no index of this program" in capsys.readouterr().err


@pytest.fixture(scope="module")
def exported(workdir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "network"
    assert export.main(["--workdir", str(workdir), str(folder)]) == 0
    return folder


def test_an_exported_network_predicts_the_same(workdir, exported, pictures, capsys):
    good = [str(pictures / f"{i}.png") for i in range(10)]
    outputs = []
    for network in (["--workdir", str(workdir)], ["--exported", str(exported)]):
        for batch_size in ("4", "16"):
            options = ["--format", "json", "--top_k", "10", "--batch_size", batch_size]
            capsys.readouterr()
            assert predict.main([*network, *options, *good]) == 0
            outputs.append(json.loads(capsys.readouterr().out))
    for other in outputs[1:]:
        for one, same in zip(outputs[0], other, strict=True):
            probability = [{p["class"]: p["probability"] for p in row["predictions"]} for row in (one, same)]
            for name, value in probability[0].items():
                np.testing.assert_allclose(probability[1][name], value, atol=2e-6)


def test_exported_weights_and_description(exported):
    description = json.loads((exported / "export.json").read_text())
    assert description["class_names"] == [str(k) for k in range(10)] and description["step"] == 44
    assert description["platforms"] == ["cpu", "cuda", "tpu"]
    weights = load_file(exported / "weights.safetensors")
    assert {"head/classifier/kernel", "backbone/bn1/scale", "batch_stats/bn1/mean"} <= set(weights)


def test_another_run_begins_with_exported_weights(exported, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(exported.parent))
    options = (f"--config.model.pretrained=~/{exported.name}", "--config.train.total_epochs=0.0")
    done = command("main", CONFIG, f"--workdir={tmp_path / 'w'}", *options)
    assert done.returncode == 0 and "weights.safetensors: 24 arrays loaded" in done.stdout
    argv = [str(exported / "weights.safetensors"), str(tmp_path / "t.safetensors"), "--to", "torch"]
    argv += ["--family", "simpleconv3", "--variant", "simpleconv3", "--image_size", "24", "--channels", "1"]
    assert convert.main(argv) == 0
    kernel = load_file(tmp_path / "t.safetensors")["conv1.weight"]
    own = load_file(exported / "weights.safetensors")["backbone/conv1/kernel"]
    np.testing.assert_array_equal(kernel, own.transpose(3, 2, 0, 1))


def predicted_without(absent, exported, picture):
    """Predicts from an export in a process where packages are not installed."""
    script = (
        "import sys\n"
        "class No:\n"
        "    def find_spec(self, name, *rest):\n"
        f"        if name.split('.')[0] in {absent}:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, No())\n"
        "from imgcls_jax.tools import predict\n"
        f"sys.exit(predict.main(['--exported', {str(exported)!r}, {str(picture)!r}]))\n"
    )
    arguments = [sys.executable, "-c", script]
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=240)


def test_prediction_from_an_export_needs_no_training_packages(exported, pictures):
    absent = ("flax", "optax", "orbax", "grain", "sklearn", "clu", "safetensors")
    done = predicted_without(absent, exported, pictures / "3.png")
    assert done.returncode == 0, done.stderr


def test_an_export_says_which_package_reads_it(exported, pictures):
    done = predicted_without(("flatbuffers",), exported, pictures / "3.png")
    assert done.returncode == 2
    assert done.stderr.endswith("the package flatbuffers, which is missing: pip install flatbuffers\n")
    assert "damaged" not in done.stderr


def test_mistakes_with_an_export(exported, pictures, tmp_path, capsys):
    picture = str(pictures / "1.png")
    assert predict.main(["--exported", str(tmp_path), picture]) == 2
    assert "is not a folder of tools.export" in capsys.readouterr().err
    for name in ("export.json", "model.stablehlo"):
        damaged = tmp_path / name.split(".")[0]
        shutil.copytree(exported, damaged)
        (damaged / name).write_bytes(b"nothing")
        assert predict.main(["--exported", str(damaged), picture]) == 2
        assert "is damaged or of another program" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        export.main(["--workdir", "w", "--platforms", "abacus", "out"])


@pytest.fixture(scope="module")
def page(workdir, tmp_path_factory):
    """The report of the run beside a copy of it under another name whose config tells another rate."""
    folder = tmp_path_factory.mktemp("report")
    other = shutil.copytree(workdir, folder / "other <run>")
    result = json.loads((other / "result.json").read_text())
    result["config"]["optimizer"]["learning_rate"] = 0.5
    (other / "result.json").write_text(json.dumps(result))
    assert report.main([str(workdir), str(other), "--output", str(folder / "report.html")]) == 0
    return folder / "report.html"


def test_the_report_shows_both_runs(page, workdir):
    content = page.read_text()
    assert "other &lt;run&gt;" in content and "other <run>" not in content
    assert content.count("Wrong with most confidence") == content.count("Calibration") == 2
    differing = content.split("<tr class=differs>")
    assert len(differing) == 2 and differing[1].startswith("<td>optimizer.learning_rate</td>")
    assert "McNemar" in content and "Risk over coverage" in content
    accuracy = json.loads((workdir / "result.json").read_text())["metrics"]["test"]["accuracy"]
    assert f'data-value="{accuracy!r}"' in content
    assert not re.search(r"(?:src|href)=.(?!data:)", content)


def test_a_report_without_data(workdir, tmp_path, capsys):
    output = tmp_path / "r.html"
    assert report.main([str(workdir), "--no_data", "--output", str(output)]) == 0
    content = output.read_text()
    assert "left out on request" in content and "Class by class" in content and "<figure" not in content
    assert report.main([str(tmp_path)]) == 2
    assert "is not the workdir of a run" in capsys.readouterr().err


@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")
@pytest.mark.parametrize("width", [1180, 375])
def test_the_report_in_a_browser(page, tmp_path, width):
    """It renders, sorts by a click, fits its window and says nothing on the console."""
    probe = """<script>
      const table = document.querySelector("table.sorts"), head = table.tHead.rows[0].cells;
      const recall = [...head].find((cell) => cell.textContent === "recall");
      const value = (row) => Number(row.cells[recall.cellIndex].dataset.value);
      const read = () => [...table.tBodies[0].rows].map(value);
      recall.click(); const up = read(); recall.click(); const down = read();
      document.body.style.width = "WIDTHpx";  // the window itself cannot be made as narrow as a phone
      document.body.dataset.found = JSON.stringify({up, down, wide: document.body.scrollWidth,
        pictures: [...document.images].every((image) => image.naturalWidth > 0)});
    </script></body>"""
    copy = tmp_path / "page.html"
    copy.write_text(page.read_text().replace("</body>", probe.replace("WIDTH", str(width))))
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--window-size=1300,900",
    ]
    command = ["chromium", *flags, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", copy.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr
    found = json.loads(html.unescape(re.search('data-found="([^"]*)"', done.stdout)[1]))
    assert found["up"] == sorted(found["up"]) and found["down"] == sorted(found["up"], reverse=True)
    assert found["wide"] == width and found["pictures"]
