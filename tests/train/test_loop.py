"""The loop in one process: resume with epoch plans, refusal of a foreign workdir, non-finite losses, bad
images."""

import dataclasses
import importlib.util
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from imgcls_jax.config import compare
from imgcls_jax.config.resolve import resolve
from imgcls_jax.config.written import plain
from imgcls_jax.contracts.objective import EpochPlan
from imgcls_jax.inference import trained
from imgcls_jax.runtime.stop import Interrupted
from imgcls_jax.train import build, loop
from imgcls_jax.train.initial import initial_state
from imgcls_jax.train.run import run
from imgcls_jax.train.setup import Setup

ROOT = Path(__file__).parents[2]


def digits_config(**train):
    """Returns a run of seconds of a network that is traced quickly, with dropout."""
    spec = importlib.util.spec_from_file_location("digits", ROOT / "configs" / "digits_simpleconv3.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = plain(module.get_config("test"))
    config["data"] |= {"train_transforms": "normalize(0.5, 0.5)", "eval_transforms": "normalize(0.5, 0.5)"}
    for key in ("total_epochs", "eval_every_epochs"):
        del config["train"][key]
    config["model"] = {"name": "mlp", "hidden": [512, 128], "dropout": 0.1}
    config["train"] |= {"total_steps": 8, "log_every_steps": 4, "batch_size": 64} | train
    return config


def folder_of_images(root, per_class=12, size=20):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for k, name in enumerate(("dark", "light")):
            (root / split / name).mkdir(parents=True)
            for i in range(per_class):
                pixels = rng.integers(100 * k, 100 * k + 120, (size, size + i % 3, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")


def folder_config(root, **data):
    config = digits_config(batch_size=8, total_steps=6)
    config["data"] = {
        "source": "image_folder",
        "root": str(root),
        "train_transforms": "decode | random_resized_crop(16) | normalize(0.5, 0.5)",
        "eval_transforms": "decode | resize(16) | normalize(0.5, 0.5)",
    } | data
    config["evals"] = {"val": {"evaluator": "classification", "split": "val"}}
    return config


def stop_after(monkeypatch, steps):
    """Makes the next run behave as if SIGTERM had come during a step."""
    after_step = loop.Loop._after_step

    def interrupted(self):
        if self.step == steps:
            self.stop.signal = "SIGTERM"
        after_step(self)

    monkeypatch.setattr(loop.Loop, "_after_step", interrupted)


def planning(make):
    """Wraps make_objective: epochs are planned from the params, with a fresh head and an order that repeats
    examples."""

    def wrapped(config, task, backbone):
        objective = make(config, task, backbone)

        def plan_epoch(params, objective_state, epoch, embed, rng):
            embedding = embed("embedding")
            assert embedding.shape == (task.num_examples, 128) and embedding.dtype == np.float32
            order = np.argsort(embedding[:, 0], kind="stable")
            order[: task.num_examples // 2] = order[task.num_examples // 2 : task.num_examples // 2 * 2]
            head = jax.tree.map(lambda leaf: 0.1 * jax.random.normal(rng, leaf.shape), params["head"])
            return EpochPlan(
                params | {"head": head}, objective_state, order.astype(np.int64), reset=("head",)
            )

        return dataclasses.replace(objective, plan_epoch=plan_epoch)

    return wrapped


@pytest.mark.parametrize("stop", [22, pytest.param(30, marks=pytest.mark.slow)])
def test_a_planned_epoch_resumes_to_the_bit(stop, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "make_objective", planning(build.make_objective))
    config = digits_config(total_steps=50)
    whole = run(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(patch, stop)
        with pytest.raises(Interrupted, match=f"stopped by SIGTERM after step {stop} of 50"):
            run(config, tmp_path / "stopped")
    resumed = run(config, tmp_path / "stopped")
    assert resumed["resumed_from_step"] == stop
    assert resumed["state_digest"] == whole["state_digest"]


def test_repeats_do_not_go_with_an_order_of_the_objectives_own(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "make_objective", planning(build.make_objective))
    config = digits_config()
    config["data"]["augmentation_repeats"] = 2
    with pytest.raises(ValueError, match="orders an epoch itself: leave out data.augmentation_repeats"):
        run(config, tmp_path)


def test_a_finished_run_is_left_alone(tmp_path, capsys):
    config = digits_config()
    first = run(config, tmp_path)
    written = (tmp_path / "result.json").stat().st_mtime_ns
    assert run(config, tmp_path)["state_digest"] == first["state_digest"]
    shown = capsys.readouterr().out
    assert "finished run" in shown
    numbers = r"accuracy [\d.]+  loss [\d.]+  learning_rate [\d.]+  [\d,]+ examples/s"
    line = rf"step 4/8  epoch 0\.18  {numbers}  0:00:\d\d left"
    assert re.search(line, shown)
    assert (tmp_path / "result.json").stat().st_mtime_ns == written
    assert set(first["metrics"]["test"]) >= {"loss", "accuracy", "top5_accuracy", "per_class_accuracy"}
    assert first["metrics"]["test"]["num_examples"] == 359
    assert (
        first["config_digest"] == compare.digest(first["config"])
        and first["versions"]["jax"] == jax.__version__
    )


def test_another_configuration_in_the_workdir_is_refused(tmp_path):
    config = digits_config()
    run(config, tmp_path)
    config["optimizer"]["learning_rate"] = 0.2
    config["objective"]["label_smoothing"] = 0.1
    with pytest.raises(ValueError, match="learning_rate: 0.05 in the workdir, 0.2 now") as refused:
        run(config, tmp_path)
    assert "objective.label_smoothing: 0.0 in the workdir, 0.1 now" in str(refused.value)
    free = digits_config(log_every_steps=1)
    assert run(free, tmp_path)["steps"] == 8


def test_batches_and_devices_change_no_evaluation(tmp_path):
    """359 examples by batches of 8, 100 and 128, on eight devices: the same figures, every example counted
    once."""
    run(digits_config(), tmp_path)
    results = []
    for batch_size in (8, 100, 128):
        config = json.loads((tmp_path / "config.json").read_text())
        config["resolved"]["train"]["eval_batch_size"] = batch_size
        (tmp_path / "config.json").write_text(json.dumps(config))
        results.append(trained.evaluate(tmp_path)["test"])
    for other in results[1:]:
        assert results[0]["num_examples"] == other["num_examples"] == 359
        assert results[0]["per_class_accuracy"] == other["per_class_accuracy"]
        np.testing.assert_allclose(results[0]["loss"], other["loss"], rtol=1e-5)
    assert trained.evaluate(tmp_path, split="train")["test"]["num_examples"] == 1797 - 359


def test_a_nonfinite_loss_stops_with_step_and_leaf(tmp_path):
    config = digits_config()
    config["optimizer"] |= {
        "learning_rate": 1e30,
        "schedule": "constant",
        "warmup_epochs": 0.0,
        "weight_decay": 0.0,
    }
    with pytest.raises(
        FloatingPointError, match=r"the loss of step \d is not finite; .* is params/backbone/"
    ):
        run(config, tmp_path)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_bad_images_are_named_or_skipped_and_counted(num_workers, tmp_path, caplog):
    root = tmp_path / "images"
    folder_of_images(root)
    (root / "train" / "light" / "3.png").write_bytes(b"no image at all")
    (root / "val" / "dark" / "5.png").write_bytes((root / "val" / "dark" / "5.png").read_bytes()[:90])
    with pytest.raises(ValueError, match=r"light/3\.png.*on_bad_example='skip'"):
        run(folder_config(root, num_workers=num_workers), tmp_path / "raise")
    config = folder_config(root, num_workers=num_workers, on_bad_example="skip")
    result = run(config, tmp_path / "skip")
    assert result["bad_examples"] == 2
    assert result["metrics"]["val"]["num_examples"] == 23
    evaluated = trained.evaluate(tmp_path / "skip")
    assert evaluated["bad_examples"] == 1 and evaluated["val"]["num_examples"] == 23
    assert caplog.text.count("dark/5.png") == 2  # of the training, then of this
    assert "top5_accuracy" not in result["metrics"]["val"]


def test_accumulation_equals_one_batch_where_nothing_couples_the_examples():
    import optax

    from imgcls_jax.train.step import make_init, make_train_step

    def loss(params, objective_state, batch, rng, step):
        value = jnp.mean((batch["image"] @ params["w"] - batch["label"]) ** 2)
        return value, (objective_state, {"loss": value})

    from imgcls_jax.contracts.objective import Objective

    objective = Objective(
        ("image", "label"), lambda rng, batch: ({"w": jnp.ones(5)}, {}), loss, lambda p, c, b: {}
    )
    rng = np.random.default_rng(0)
    batch = {"image": np.float32(rng.normal(size=(16, 5))), "label": np.float32(rng.normal(size=16))}
    tx = optax.adam(0.1)
    state = make_init(objective, tx, batch)(jax.random.key(0))
    outcomes = [
        jax.jit(make_train_step(objective, tx, lambda rng, b: b, num_microbatches=parts))(state, batch)
        for parts in (1, 4)
    ]
    np.testing.assert_allclose(outcomes[0][0].params["w"], outcomes[1][0].params["w"], rtol=1e-6)
    np.testing.assert_allclose(outcomes[0][1]["loss"], outcomes[1][1]["loss"], rtol=1e-6)


@pytest.mark.parametrize(
    "section, field, value, message",
    [
        ("model", "widht", 3, "config.model.*widht"),
        (
            "objective",
            "label_smoothin",
            0.1,
            "config.objective.label_smoothin: no such field; did you mean 'label_smoothing'",
        ),
        ("train", "batchsize", 3, "config.train.batchsize: no such field; did you mean 'batch_size'"),
        ("optimizer", "momentun", 0.9, "optimizer.momentun: no such field; did you mean 'momentum'"),
        ("optimizer", "name", "sdg", "optimizer.name is the name"),
        ("optimizer", "schedule", "cosin", "optimizer.schedule is one of"),
        (
            "data",
            "source",
            "digit",
            "config.data.source: imgcls_jax/data/sources/ has no file digit.py; did you mean .digits.",
        ),
        ("data", "on_bad_example", "drop", "data.on_bad_example is one of"),
        ("data", "eval_transforms", "flip | normalize(0.5, 0.5)", "random operations"),
        ("data", "train_split", "tran", "tran"),
        ("data", "eval_transforms", "upsample(24) | normalize(0.5, 0.5)", r"images of shape \(24, 24, 1\)"),
        ("model", "name", "simpleconv4", "imgcls_jax/models/ has no file simpleconv4.py"),
        ("model", "name", "base", "has no file base.py"),
        ("objective", "name", "base", "has no file base.py"),
        ("train", "batch_size", 60, "multiple of their number, 8; got 60; the nearest is 56 or 64"),
        ("train", "batch_size", 4096, "less than one batch"),
        ("train", "total_epochs", 3.0, "are one duration"),
        ("train", "best_metric", "val/acc", "none of the evaluations' metrics"),
    ],
)
def test_mistakes_in_a_configuration_are_named(section, field, value, message, tmp_path):
    config = digits_config(total_steps=1)
    config[section][field] = value
    with pytest.raises(ValueError, match=message):
        run(config, tmp_path)


def test_pretrained_takes_the_backbone_of_a_workdir(tmp_path):
    config = digits_config() | {"model": {"name": "simpleconv3"}}
    run(config, tmp_path)
    source = trained.load(tmp_path)
    config["model"]["pretrained"] = str(tmp_path)
    config["objective"]["ema_decay"] = 0.9
    state = initial_state(Setup(resolve(config)))
    same = jax.tree.map(lambda a, b: bool(jnp.all(a == b)), state.params, source.params)
    assert all(jax.tree.leaves(same["backbone"])) and not all(jax.tree.leaves(same["head"]))
    jax.tree.map(
        np.testing.assert_array_equal,
        state.objective_state["batch_stats"],
        source.objective_state["batch_stats"],
    )
    jax.tree.map(np.testing.assert_array_equal, state.objective_state["ema"], state.params)
    config["model"]["hidden"] = [256, 128]
    with pytest.raises(
        ValueError, match=r"holds another backbone: .*fc1/bias: saved \(512,\), wanted \(256,\)"
    ):
        initial_state(Setup(resolve(config)))
    config["model"]["pretrained"] = str(tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="weights.pth"):
        initial_state(Setup(resolve(config)))


def test_a_run_of_several_epochs_compiles_its_step_once(tmp_path):
    compiled = []

    def note(event, duration, **details):
        if event.endswith("backend_compile_duration"):
            compiled.append(details.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        result = run(digits_config(total_steps=48, eval_every_steps=20), tmp_path / "run")
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert result["steps"] == 48  # two epochs of 22 steps, and a part
    assert sum("train_step" in str(name) for name in compiled) == 1, compiled
    assert sum("sums" in str(name) for name in compiled) == 1, compiled


def test_no_step_compiles_anything(tmp_path):
    counts = [
        run(digits_config(total_steps=steps, eval_every_steps=4, log_every_steps=2), tmp_path / str(number))[
            "compilations"
        ]
        for number, steps in enumerate((4, 4, 24))
    ]
    assert 0 < counts[1] == counts[2] <= counts[0]  # the first compiles what the process then has
