"""data.on_device: all images in the memory of each device, and the same run as without."""

from pathlib import Path

import jax
import numpy as np
import pytest

from imgcls_jax.config.files import find, load
from imgcls_jax.config.resolve import resolve
from imgcls_jax.data.datasets import IMAGES
from imgcls_jax.runtime.stop import Interrupted
from imgcls_jax.train.compiled import step_and_inputs
from imgcls_jax.train.run import run
from imgcls_jax.train.setup import Setup
from tests.train.test_loop import digits_config, folder_config, folder_of_images, stop_after

ROOT = Path(__file__).parents[2]
MOVING = "alternating_flip | pad_and_crop(1) | normalize(0.5, 0.5)"


def config_of(on_device, transforms=MOVING, **train):
    config = digits_config(**{"total_steps": 4} | train)
    config["data"] |= {"on_device": on_device, "train_transforms": transforms}
    return config


def digest(config, workdir):
    return run(config, workdir)["state_digest"]


@pytest.mark.parametrize("parallel", ["replicated", "per_replica"])
def test_the_run_is_the_same(tmp_path, parallel):
    found = [
        digest(config_of(on_device, parallel=parallel), tmp_path / str(on_device))
        for on_device in (False, True)
    ]
    assert found[0] == found[1]
    assert digest(config_of(True, "normalize(0.5, 0.5)", parallel=parallel), tmp_path / "other") != found[0]


def test_a_batch_holds_no_image(tmp_path):
    setup = Setup(resolve(config_of(True)))
    _, _, batch = step_and_inputs(setup, setup.phases[0])
    assert set(batch) == {"label", "index", "epoch", IMAGES}
    assert batch[IMAGES].shape == (1438, 8, 8, 1) and batch[IMAGES].sharding.is_fully_replicated
    rows = setup.data.train_batches(64, 0, images=False)[3]
    expected = setup.data.train_batches(64, 0)[3]
    np.testing.assert_array_equal(rows["label"], expected["label"])
    found = setup.data.augment(jax.random.key(0), rows | setup.beside_rows(setup.phases[0]))
    np.testing.assert_allclose(
        found["image"], setup.data.augment(jax.random.key(0), expected)["image"], rtol=1e-5
    )


def test_two_streams_and_views(tmp_path):
    def config(on_device):
        config = load(find(str(ROOT / "configs" / "digits_fixmatch.py:test"), {}))[0]
        config["data"]["on_device"] = on_device
        config["model"] = {"name": "mlp", "hidden": [16]}
        view, line = "upsample(24) | normalize(0.5, 0.5)", "upsample(24) | flip | normalize(0.5, 0.5)"
        config["data"]["view_transforms"] = [view, line]
        return config

    assert digest(config(False), tmp_path / "host") == digest(config(True), tmp_path / "device")


def test_a_folder_read_once_and_resumed(tmp_path, monkeypatch):
    folder_of_images(tmp_path / "images", size=12)
    line = "decode | resize(8) | normalize(0.5, 0.5)"
    config = folder_config(tmp_path / "images", train_transforms=line, eval_transforms=line)
    whole = digest(config, tmp_path / "host")
    config["data"]["on_device"] = True
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_after(patch, 3)
        run(config, tmp_path / "device")
    assert digest(config, tmp_path / "device") == whole
    config["data"]["on_device"] = False  # it changes no number: a run may go on without it
    assert digest(config, tmp_path / "device") == whole


def test_what_draws_on_the_host_is_refused(tmp_path):
    folder_of_images(tmp_path / "images")
    config = folder_config(tmp_path / "images", on_device=True)
    config["data"]["train_transforms"] = "decode | random_resized_crop(16) | normalize(0.5, 0.5)"
    with pytest.raises(ValueError, match="on_device keeps each image once, and random_resized_crop of train"):
        run(config, tmp_path / "run")
    with pytest.raises(ValueError, match="on_bad_example"):
        resolve(config | {"data": config["data"] | {"on_bad_example": "skip"}}).settings(10)
