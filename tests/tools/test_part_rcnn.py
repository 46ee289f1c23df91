"""The command on a synthetic set of birds: what it prints, writes and refuses; what its file holds."""

import json

import jax
import numpy as np
import pytest
from PIL import Image, ImageDraw

from imgcls_jax.config.files import read_config
from imgcls_jax.data import transforms
from imgcls_jax.data.sources.cub200 import MEMBERS
from imgcls_jax.inference.part_rcnn import stored
from imgcls_jax.inference.trained import embedding, load
from imgcls_jax.models import simpleconv3
from imgcls_jax.tools import part_rcnn, results
from imgcls_jax.train.run import run
from imgcls_jax.weights import pretrained

PARTS = sorted({*MEMBERS["head"], *MEMBERS["body"]})
COLORS = ((230, 40, 40), (40, 60, 230))  # of the head: the class


def bird(rng, label, hidden_head):
    """Returns an image, its box (x, y, width, height) and its points: a gray body with a colored head."""
    image = Image.new("RGB", (96, 72), tuple(rng.integers(90, 120, 3).tolist()))
    draw, left = ImageDraw.Draw(image), bool(rng.integers(2))
    x, y = rng.integers(8, 28), rng.integers(14, 24)
    body, head = (
        (x + 8, y, x + 48, y + 28),
        (x, y - 8, x + 16, y + 8) if left else (x + 40, y - 8, x + 56, y + 8),
    )
    draw.ellipse(body, fill=(200, 200, 200))
    if not hidden_head:
        draw.ellipse(head, fill=COLORS[label])
    points = {}
    for name, (x1, y1, x2, y2) in [(n, body) for n in MEMBERS["body"]] + [(n, head) for n in MEMBERS["head"]]:
        points[name] = (rng.uniform(x1, x2), rng.uniform(y1, y2), 1)
    points["belly"], points["back"] = (*body[2:], 1), (*body[:2], 1)
    points["beak"], points["nape"] = (*head[:2], 1), (*head[2:], 1)
    points |= dict.fromkeys(MEMBERS["head"], (0, 0, 0)) if hidden_head else {}
    box = (min(body[0], head[0]), min(body[1], head[1]), max(body[2], head[2]), max(body[3], head[3]))
    return image, (box[0], box[1], box[2] - box[0], box[3] - box[1]), points


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    """A folder in CUB's layout: 12 training and 8 test images of two classes; one of each shows no head."""
    root, rng = tmp_path_factory.mktemp("birds"), np.random.default_rng(0)
    lines = {
        name: [] for name in ("images", "image_class_labels", "train_test_split", "bounding_boxes", "locs")
    }
    (root / "parts").mkdir()
    for number in range(1, 21):
        label, train = number % 2, number <= 12
        image, box, points = bird(rng, label, number in (12, 20))
        path = f"{label + 1:03d}.Bird/{number}.png"
        (root / "images" / path).parent.mkdir(parents=True, exist_ok=True)
        image.save(root / "images" / path)
        lines["images"].append(f"{number} {path}")
        lines["image_class_labels"].append(f"{number} {label + 1}")
        lines["train_test_split"].append(f"{number} {int(train)}")
        lines["bounding_boxes"].append(f"{number} {' '.join(map(str, box))}")
        lines["locs"] += [
            f"{number} {part} {points[name][0]:.1f} {points[name][1]:.1f} {points[name][2]}"
            for part, name in enumerate(PARTS, start=1)
        ]
    lines["parts/parts"] = [f"{part} {name}" for part, name in enumerate(PARTS, start=1)]
    lines["parts/part_locs"] = lines.pop("locs")
    lines["classes"] = ["1 001.Bird", "2 002.Bird"]
    for name, text in lines.items():
        (root / f"{name}.txt").write_text("\n".join(text) + "\n")
    return root


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """The words that name a small network with drawn weights."""
    backbone = simpleconv3.build()
    variables = backbone.init(jax.random.key(0), np.zeros((1, 48, 48, 3), np.float32), train=False)
    file = tmp_path_factory.mktemp("weights") / "drawn.safetensors"
    names = pretrained.export_names({"backbone": variables["params"]}, variables["batch_stats"])
    pretrained.write_safetensors(file, names)
    return [
        "--config=configs/cub_transfer.py",
        "--config.model.name=simpleconv3",
        "--config.model.variant=simpleconv3",
        f"--config.model.pretrained={file}",
        "--config.data.eval_transforms=decode | resize(48) | normalize(0.5, 0.5)",
    ]


@pytest.fixture(scope="module")
def fitted(birds, network, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "parts"
    words = ["fit", str(birds), str(output), *network, "--proposals", "grid", "--neighbours", "4"]
    assert part_rcnn.main(words) == 0
    return output


def test_what_fit_measures(fitted, tmp_path, capsys):
    result = json.loads((fitted / "result.json").read_text())
    metrics = result["metrics"]
    assert list(metrics) == list(part_rcnn.ROWS)
    assert metrics["oracle"]["accuracy"] >= 7 / 8  # one shows no head, and nothing else tells the classes
    assert metrics["oracle"]["root_found"] == metrics["oracle"]["head_found"] == 1
    assert metrics["given_mg"]["head_found"] >= 5 / 7 and "head_found" not in metrics["found_root"]
    assert result["config"]["part_rcnn"]["proposals"] == "grid"
    words = ["--metric", "given_mg/accuracy", "--method", "m", "--protocol", "p", "--command", "c"]
    assert results.main(["add", str(tmp_path / "kept.json"), str(fitted), *words]) == 0
    kept = json.loads((tmp_path / "kept.json").read_text())
    assert kept["runs"][0]["value"] == metrics["given_mg"]["accuracy"]


def test_the_file_holds_all_that_prediction_needs(fitted, birds, tmp_path, capsys):
    model = stored.read(fitted)
    assert model.trunks[0] is model.trunks[1] is model.trunks[2]
    assert (
        stored.digest(stored.to_arrays(model))
        == json.loads((fitted / "result.json").read_text())["state_digest"]
    )
    photo = next((birds / "images" / "002.Bird").glob("1*.png"))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    for choice in ("box", "mg", "np"):
        picture = tmp_path / f"{choice}.png"
        words = ["predict", str(fitted), str(photo), str(broken), "--choice", choice, "--format", "json"]
        assert part_rcnn.main([*words, "--top_k", "2", "--picture", str(picture)]) == 1
        found = capsys.readouterr()
        good, bad = json.loads(found.out)
        assert {one["class"] for one in good["predictions"]} == {"001.Bird", "002.Bird"}
        assert good["predictions"][0]["margin"] >= good["predictions"][1]["margin"]
        x1, y1, x2, y2 = good["regions"]["root"]
        assert 0 <= x1 < x2 <= 96 and 0 <= y1 < y2 <= 72
        assert "broken.png" in bad["path"] and "cannot be decoded" in bad["error"]
        assert Image.open(picture).size[0] > 100
    assert part_rcnn.main(["predict", str(fitted), str(photo)]) == 0
    assert "root" in capsys.readouterr().out


@pytest.mark.slow
def test_networks_of_their_own(birds, tmp_path, capsys):
    """The head's network is trained on heads; body and root share that of whole birds."""
    for region, side in (("box", 16), ("head", 24)):
        line = f"decode | resize({side}) | normalize(0.5, 0.5)"
        fields = {
            "data.source": "cub200",
            "data.root": birds,
            "data.region": region,
            "data.train_transforms": line,
            "data.eval_transforms": line,
            "evals.val.split": "test",
            "train.total_epochs": 1.0,
            "train.batch_size": 8,
        }
        words = [f"--config.{name}={value}" for name, value in fields.items()]
        run(read_config(["--config=configs/mouth_simpleconv3.py", *words]), tmp_path / region)
    assert "left out: 1 without a visible head" in capsys.readouterr().out
    words = ["--workdir", tmp_path / "box", "--head_workdir", tmp_path / "head", "--proposals", "grid"]
    assert part_rcnn.main(list(map(str, ["fit", birds, tmp_path / "parts", *words]))) == 0
    root, head, body = stored.read(tmp_path / "parts").trunks
    assert root is body and (root.size, head.size) == (16, 24)
    networks = json.loads((tmp_path / "parts" / "result.json").read_text())["config"]["part_rcnn"]["networks"]
    assert networks[0]["weights"] == networks[2]["weights"] != networks[1]["weights"]
    files = sorted((birds / "images" / "001.Bird").glob("*.png"))[:3]
    theirs = load(tmp_path / "box").outputs_of_files(files, embedding, batch_size=8)
    crops = [transforms.apply(transforms.parse(root.line)[0], f.read_bytes(), None) for f in files]
    for ours, found in zip(root.embeddings(crops), theirs, strict=True):
        np.testing.assert_allclose(ours, found.output, atol=1e-5)


def test_a_damaged_file_is_told(fitted, birds, tmp_path, capsys):
    arrays = stored.to_arrays(stored.read(fitted))
    changes = {
        "absent": lambda content: None,
        "cut": lambda content: content[: len(content) // 2],
        "text": lambda content: b"no archive",
    }
    for name, change in changes.items():
        folder = tmp_path / name
        folder.mkdir()
        content = change((fitted / stored.FILE).read_bytes())
        if content is not None:
            (folder / stored.FILE).write_bytes(content)
        assert part_rcnn.main(["predict", str(folder), str(birds)]) == 2
        assert stored.FILE in capsys.readouterr().err
    for key, value in {
        "places": arrays["places"][:3],
        "classifier/bias": np.full(2, np.nan, np.float32),
        "class_names": np.array(["a", "b", "c"]),
        "settings": np.array("{}"),
        "neighbours": np.array([{"a": 1}], dtype=object),  # a pickle: never loaded
    }.items():
        np.savez(tmp_path / stored.FILE, **(arrays | {key: value}))
        with pytest.raises(ValueError, match="is no Part R-CNN of this program"):
            stored.read(tmp_path)


def test_arrays_that_do_not_fit_the_networks_are_told(fitted, birds, tmp_path, capsys):
    """What would fail deep inside of a prediction is one line at the start."""
    arrays = stored.to_arrays(stored.read(fitted))
    settings = json.loads(str(arrays["settings"]))
    kernel = next(name for name in arrays if name.startswith("trunk/0/") and name.endswith("kernel"))
    covariance = "prior/head/covariances"
    changes = {
        "neighbours": arrays["neighbours"][:, :-1],
        "classifier/weight": arrays["classifier/weight"][:, :-1],
        "detector/head/weight": arrays["detector/head/weight"][..., :-1],
        "detector/body/weight": arrays["detector/body/weight"][:0, :0],
        "detector/root/bias": np.array("1.0"),
        "prior/head/weights": -arrays["prior/head/weights"],
        "prior/body/means": arrays["prior/body/means"][:, :3],
        covariance: -arrays[covariance],
        "places": np.full_like(arrays["places"], np.nan),
        kernel: arrays[kernel][..., :-1],
        "settings": np.array(json.dumps(settings | {"options": settings["options"] | {"neighbours": 2.5}})),
    }
    for key, value in changes.items():
        np.savez(tmp_path / stored.FILE, **(arrays | {key: value}))
        assert part_rcnn.main(["predict", str(tmp_path), str(birds)]) == 2, key
        (line,) = capsys.readouterr().err.splitlines()
        assert "is no Part R-CNN of this program" in line, key
    np.savez(tmp_path / stored.FILE, **{name: a for name, a in arrays.items() if name != kernel})
    assert part_rcnn.main(["predict", str(tmp_path), str(birds)]) == 2
    assert "is no Part R-CNN of this program" in capsys.readouterr().err


def test_mistakes(fitted, birds, network, tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "bounding_boxes.txt").touch()

    def told(*words):
        assert part_rcnn.main(list(map(str, words))) == 2
        return capsys.readouterr().err

    assert "choose another output" in told("fit", birds, tmp_path, *network)
    assert "CUB_200_2011" in told("fit", tmp_path, tmp_path / "new", *network)
    assert "--config.model.pretrained=FILE" in told(
        "fit", birds, tmp_path / "new", *network, "--config.model.pretrained="
    )
    assert "beside --workdir" in told("fit", birds, tmp_path / "new", *network, "--head_workdir", fitted)
    assert "square RGB" in told(
        "fit", birds, tmp_path / "new", *network, "--config.data.eval_transforms=decode | resize(48, 64)"
    )
    assert "alpha" in told("fit", birds, tmp_path / "new", *network, "--alpha", "-1")
    assert not (tmp_path / "new").exists()
