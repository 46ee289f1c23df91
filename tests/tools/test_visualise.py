"""`visualise` on a small trained run: every picture, what is in it, and the messages for mistakes."""

import importlib.util
import itertools
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from imgcls_jax.config.resolve import resolve
from imgcls_jax.config.written import plain
from imgcls_jax.data.datasets import DataSide
from imgcls_jax.figures import attribution, confusion, drawing, network_input
from imgcls_jax.figures import network_pictures as pictures
from imgcls_jax.figures.drawing import THUMBNAIL
from imgcls_jax.tools import index, visualise
from imgcls_jax.train.run import run as train
from imgcls_jax.train.workdir import save_configuration

ROOT = Path(__file__).parents[2]


def config_of(name, arg="test"):
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return plain(module.get_config(arg))


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A digits run of 20 steps, its index, and the folder of class folders that it indexes."""
    root = tmp_path_factory.mktemp("visualise")
    config = config_of("digits_simpleconv3")
    del config["train"]["total_epochs"], config["train"]["eval_every_epochs"]
    config["train"] |= {"total_steps": 20}
    train(config, root / "run")
    digits = load_digits()
    for number in range(24):
        path = root / "images" / str(digits.target[number]) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[number] * 15).astype(np.uint8)).save(path)
    assert index.main([str(root / "images"), "--workdir", str(root / "run")]) == 0
    return root


def draw(run, tmp_path, what, *arguments):
    output = tmp_path / "picture.png"
    status = visualise.main(
        [what, "--workdir", str(run / "run"), "--output", str(output), *map(str, arguments)]
    )
    assert status == 0
    picture = np.asarray(Image.open(output))
    margin = drawing.MARGIN // 2
    for edge in (picture[:margin], picture[-margin:], picture[:, :margin], picture[:, -margin:]):
        assert (edge == 255).all()  # nothing is clipped
    return picture


def top_of_pictures(picture, left):
    """The first row of a digit's black corner; the strokes of letters are narrower."""
    return np.flatnonzero((picture[:, left : left + 8] < 40).all((1, 2)))[0]


def image_of(run, number=3):
    return next((run / "images").rglob(f"{number}.png"))


def test_filters_are_the_first_convolutions(run, tmp_path):
    picture = draw(run, tmp_path, "filters")
    trained = visualise.load(run / "run")
    kernel = np.asarray(trained.params["backbone"]["conv1"]["kernel"])[:, :, 0]
    top = np.flatnonzero((picture == drawing.GRAY[0]).all(-1).sum(1) > 500)[0] + 3
    cell = pictures.TILE // 3
    for number in (0, 7):
        left = drawing.MARGIN + 3 + number * (pictures.TILE + 3)
        seen = picture[top + cell // 2 : top + 3 * cell : cell, left + cell // 2 : left + 3 * cell : cell, 0]
        expected = np.round(255 * drawing.stretched(kernel[:, :, number]))
        np.testing.assert_array_equal(seen, expected)


def test_pictures_of_images(run, tmp_path):
    one, other = image_of(run), image_of(run, 5)
    several = draw(run, tmp_path, "features", one)
    single = draw(run, tmp_path, "features", one, "--layer", "conv2")
    assert several.shape != single.shape
    mine = draw(run, tmp_path, "grad_cam", one, other)
    named = draw(run, tmp_path, "grad_cam", one, other, "--class", "8")
    assert mine.shape[1] == named.shape[1] and not np.array_equal(mine[: len(named)], named[: len(mine)])
    draw(run, tmp_path, "grad_cam", *[image_of(run, n) for n in range(5)], "--layer", "conv2")
    draw(run, tmp_path, "occlusion", one, other, "--patch", 6, "--stride", 4)
    draw(run, tmp_path, "deconvolution", one)
    draw(run, tmp_path, "deconvolution", one, "--layer", "conv1", "--channel", _active_channel(run, one))


def _active_channel(run, path):
    trained = visualise.load(run / "run")
    images, _ = network_input.read_images(trained, [path])
    function = pictures.tagged(trained, pictures.anything)
    return attribution.deconvolution(function, images.prepared[0], "conv1", most=1)[0].channel


def test_an_image_is_its_own_nearest_neighbour(run, tmp_path):
    picture = draw(run, tmp_path, "neighbours", image_of(run), "--k", "3")
    top = top_of_pictures(picture, drawing.MARGIN)
    side = THUMBNAIL
    query = picture[top : top + side, drawing.MARGIN : drawing.MARGIN + side]
    nearest = picture[top : top + side, drawing.MARGIN + side + drawing.GAP :][:, :side]
    np.testing.assert_array_equal(query, nearest)


def test_embeddings(run, tmp_path):
    first = draw(run, tmp_path, "embedding", run / "images", "--method", "tsne")
    again = draw(run, tmp_path, "embedding", run / "images", "--method", "tsne")
    np.testing.assert_array_equal(first, again)
    picture = draw(run, tmp_path, "embedding", "--split", "test")
    for number in range(10):
        assert (picture == drawing.color(number)).all(-1).sum() > 50


def test_what_a_run_logged_and_what_it_confuses(run, tmp_path):
    confused = draw(run, tmp_path, "confusion")
    assert (confused == confusion.RIGHT).all(-1).sum() < 10 * confusion.FIELD**2  # of 20 steps
    assert draw(run, tmp_path, "curves").shape != confused.shape


def test_augmentation_goes_through_the_pipeline_of_training(run, tmp_path, monkeypatch):
    config = config_of("digits_simclr")
    config["data"]["view_transforms"] = ["upsample(24) | affine(30.0) | normalize(0.5, 0.5)"]
    fed = []
    augment = DataSide.augment

    def watched(self, rng, batch):
        batch = augment(self, rng, batch)
        jax.debug.callback(lambda image, view: fed.append((image, view)), batch["image"], batch["views"][0])
        return batch

    monkeypatch.setattr(DataSide, "augment", watched)
    save_configuration(tmp_path, resolve(config), steps_per_epoch=10)
    output = tmp_path / "picture.png"
    options = ["--output", str(output), "--examples", "2", "--draws", "3"]
    assert visualise.main(["augmentation", "--workdir", str(tmp_path), *options]) == 0
    jax.effects_barrier()
    picture = np.asarray(Image.open(output))
    assert len(fed) == 3
    step, side = THUMBNAIL + drawing.GAP, THUMBNAIL
    lefts = [drawing.MARGIN + step * column for column in range(4)]
    top = top_of_pictures(picture, lefts[1])
    line = drawing.line_height() + 4
    tops = [top, top + step + line, top + 2 * step + line, top + 3 * step + 2 * line]
    for (row, top), (column, (image, view)) in itertools.product(enumerate(tops), enumerate(fed)):
        shown = (view if row % 2 else image)[row // 2]
        expected = np.asarray(drawing.to_image(np.clip(shown / 2 + 0.5, 0, 1), side))
        left = lefts[column + 1]
        np.testing.assert_allclose(picture[top : top + side, left : left + side], expected, atol=1)
    plain = picture[tops[0] : tops[0] + side, lefts[0] : lefts[0] + side]
    np.testing.assert_array_equal(plain, picture[tops[0] : tops[0] + side, lefts[1] : lefts[1] + side])


def test_a_configuration_and_its_overrides(tmp_path, capsys):
    config = str(ROOT / "configs" / "digits_simpleconv3.py:test")
    command = ["augmentation", "--examples", "2", "--draws", "2", "--output", str(tmp_path / "a.png")]
    line = "upsample(8) | flip | normalize(0.5, 0.5)"
    assert visualise.main([*command, "--config", config, f"--config.data.train_transforms={line}"]) == 0
    for arguments, message in (
        (["--config", config, "--config.data.train_transform=flip"], "did you mean 'train_transforms'"),
        (["--config", str(tmp_path / "absent.py")], "absent.py"),
        (["--config", config, "--phase", "phase_2"], "no phase 'phase_2'; it has none"),
        (["--config", config, "--split", "val"], "must be one of 'train', 'test'"),
        (["--config", config, "--examples", "5000"], "has 1438 examples"),
    ):
        assert visualise.main([*command, *arguments]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        visualise.main([*command, "--config", config, "--wrong=1"])
    assert "unrecognized arguments: --wrong=1" in capsys.readouterr().err


def test_mistakes(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, workdir = str(image_of(run)), ["--workdir", str(run / "run")]
    (tmp_path / "broken.png").write_bytes(b"nothing")
    for arguments, message in (
        (["filters", "--workdir", str(tmp_path)], "is not the workdir of a run"),
        (
            ["features", *workdir, "--layer", "conv9", one],
            "no layer 'conv9' that puts out a map; it has conv1, bn1",
        ),
        (["grad_cam", *workdir, "--class", "10", one], "knows no class '10'; did you mean '1'?"),
        (["grad_cam", *workdir, "broken.png"], "broken.png: image cannot be decoded"),
        (["grad_cam", *workdir, "absent.png"], "absent.png: No such file"),
        (["grad_cam", *workdir, *[one] * 49], "this picture is of 1 to 48 images"),
        (["occlusion", *workdir, one], "24x24 pixels; got 32 and 16"),
        (["deconvolution", *workdir, "--channel", "48", one], "channels 0 to 47; got 48"),
        (["features", *workdir, str(run / "images")], "this picture is of one image"),
        (["neighbours", *workdir, str(run / "run")], "this picture is of 1 to 48 images"),
        (["neighbours", *workdir, "broken.png"], "broken.png: image cannot be decoded"),
        (["embedding", *workdir], "either a folder of class folders or --split"),
        (["embedding", *workdir, "--split", "val"], "must be one of"),
        (["confusion", *workdir, "--split", "val"], "must be one of"),
        (["curves", "--workdir", str(tmp_path)], "metrics.jsonl"),
        (["filters", *workdir, "--output", "absent/a.png"], "absent/a.png"),
    ):
        assert visualise.main(arguments) == 2, arguments
        assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*_*.png"))
    assert visualise.main(["grad_cam", *workdir, one, "broken.png"]) == 1
    assert "broken.png: image cannot be decoded" in capsys.readouterr().err
    assert (tmp_path / "grad_cam.png").exists()
    with pytest.raises(SystemExit):
        visualise.main(["neighbours", *workdir, "--k", "0", one])


def test_images_are_shown_as_they_were_before_normalize():
    images = np.random.default_rng(0).uniform(size=(2, 4, 4, 3)).astype(np.float32)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
    line = f"upsample(4) | normalize({mean}, {std}) | random_erasing"
    np.testing.assert_allclose(network_input.unnormalized(line, (images - mean) / std), images, atol=1e-5)
    np.testing.assert_array_equal(network_input.unnormalized("upsample(4)", images), images)
    odd = network_input.unnormalized(
        "normalize(0.5, 0.5) | sobel", np.concatenate([images, images], -1)[..., :2]
    )
    assert odd.shape == (2, 4, 4, 1) and odd.min() == 0 and odd.max() == 1


def test_texts_keep_to_their_room():
    text = "a_very_long_name_of_a_file_that_nobody_would_like_to_read.jpg"
    assert drawing.cut(text, 10_000) == text
    assert drawing.font().getlength(drawing.cut(text, 90)) <= 90
    assert all(
        drawing.font().getlength(line) <= 120 for line in drawing.wrap(f"{text} and more words here", 120)
    )
    cell = drawing.Cell(Image.new("RGB", (50, 30)), (text, text))
    picture = np.asarray(drawing.sheet(text * 3, [[cell] * 3, [cell]], notes=text * 9, columns=(text,) * 3))
    assert (picture[:, -drawing.MARGIN :] == 255).all()
    lefts = [drawing.MARGIN + 62 * column for column in range(3)]
    gaps = np.concatenate([picture[-80:, left + 50 : left + 62] for left in lefts], axis=1)
    assert (gaps == 255).all()


def test_classes_are_told_apart():
    colors = [drawing.color(number) for number in range(20)]
    apart = [np.abs(np.subtract(a, b)).max() for a, b in itertools.combinations(colors, 2)]
    assert min(apart) >= 40 and drawing.color(20) == colors[0]
    marks = []
    for number in (0, 20, 40, 60, 80):
        page = Image.new("RGB", (40, 40), drawing.PAPER)
        drawing.marker(drawing.ImageDraw.Draw(page), 20, 20, 10, number)
        marks.append(np.asarray(page))
    assert all((a != b).any() for a, b in itertools.combinations(marks, 2))


def test_a_heat_map_gets_brighter_as_it_rises():
    colors = drawing.heat(np.linspace(0, 1, 64)[None])[0]
    assert (np.diff(colors @ (0.2126, 0.7152, 0.0722)) > 0).all()
    np.testing.assert_allclose(colors[[0, -1]], drawing.HEAT[[0, -1]] / 255)
