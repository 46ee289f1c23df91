"""A plan against the parameter sheets, known FLOPs, XLA's own memory figure and a run's checkpoint."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from imgcls_jax.tools import plan, step_cost
from imgcls_jax.train import experiment, loop

ROOT = Path(__file__).parents[2]
DIGITS = str(ROOT / "configs" / "digits_simpleconv3.py")
IMAGENET = ("--num_examples=1281167", "--num_classes=1000")


def configuration(stem, arg=""):
    spec = importlib.util.spec_from_file_location(stem, ROOT / "configs" / f"{stem}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return experiment.plain(module.get_config(arg))


def planned(capsys, *arguments):
    assert plan.main([*arguments, "--devices=8", "--format=json"]) == 0
    return json.loads(capsys.readouterr().out)


def mistake(capsys, *arguments):
    assert plan.main(arguments) == 2
    return capsys.readouterr().err


def imagenet_resnet50():
    config = configuration("cub_vgg")
    config["model"] = dict(name="resnet", variant="resnet50")
    config["objective"] = dict(name="supervised")
    return config


def test_resnet50_at_224_has_the_parameters_and_flops_that_are_known():
    found = plan.plan(imagenet_resnet50(), (1281167, 1000), xla=False)
    (phase,) = found["phases"]
    assert found["params"] == 25_557_032
    assert phase["params_bytes"] == phase["opt_state_bytes"] - 4 == 4 * 25_557_032  # momentum, and a count
    assert phase["flops_per_image"] == pytest.approx(3 * 2 * 4.09e9, rel=0.05)  # torchvision: 4.09 GMAC
    assert phase["flops_per_step"] == 32 * phase["flops_per_image"]
    assert phase["input_bytes_per_step"] == 32 * (224 * 224 * 3 + 4)
    assert phase["all_reduce_bytes"] == phase["params_bytes"]
    assert (found["steps_per_epoch"], found["total_steps"]) == (40036, 80 * 40036)


def test_flops_of_kernels_counted_by_hand():
    def gradients(images, kernel):
        def loss(kernel):
            strided = jax.lax.conv_general_dilated(
                images, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            return jnp.sum(strided**2)

        return jax.grad(loss)(kernel)

    forward = 2 * (4 * 3 * 3 * 8) * (2 * 2 * 5)  # outputs x window
    jaxpr = jax.make_jaxpr(gradients)(jnp.zeros((4, 6, 6, 5)), jnp.zeros((2, 2, 5, 8)))
    assert step_cost.flops(jaxpr, platform="cpu") == 2 * forward
    both = jax.make_jaxpr(jax.grad(lambda x, k: jnp.sum(gradients(x, k) ** 2), argnums=0))
    assert (
        step_cost.flops(both(jnp.zeros((4, 6, 6, 5)), jnp.zeros((2, 2, 5, 8))), platform="cpu") > 2 * forward
    )
    repeated = jax.make_jaxpr(lambda x: jax.lax.scan(lambda c, _: (c @ x, None), x, length=7))
    assert step_cost.flops(repeated(jnp.zeros((3, 3))), platform="cpu") == 7 * 2 * 27


def test_temporaries_counted_by_hand():
    def fused(x):
        return jnp.sum(jnp.exp(x) * 2 + 1)

    def chain(x):
        return jnp.sum(((x @ x) @ x) @ x)

    x = jnp.zeros((10, 10))
    assert step_cost.temporary_bytes(jax.make_jaxpr(fused)(x), platform="cpu") == 4
    assert step_cost.temporary_bytes(jax.make_jaxpr(chain)(x), platform="cpu") == 2 * 400
    kept = jax.make_jaxpr(lambda x: jnp.tanh(x) + jnp.tanh(x) @ x)(x)
    assert step_cost.temporary_bytes(kept, platform="cpu") >= 800


@pytest.mark.parametrize("model", ['name="simpleconv3"', 'name="cifar_resnet", variant="resnet20"'])
def test_memory_is_near_xlas_own(model, tmp_path):
    """In a process of its own: the suite's flags make XLA fuse less."""
    file = tmp_path / "config.py"
    file.write_text(Path(DIGITS).read_text(encoding="utf-8").replace('name="simpleconv3"', model))
    hidden = ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES", "JAX_COMPILATION_CACHE_DIR")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    command = [sys.executable, "-m", "imgcls_jax.tools.plan", "--config", str(file), "--devices=2"]
    done = subprocess.run(
        [*command, "--compile", "--format=json"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (phase,) = json.loads(done.stdout)["phases"]
    arguments, temporaries = phase["xla_argument_bytes"], phase["xla_temporary_bytes"]
    assert phase["total_bytes"] - phase["temporary_bytes"] == pytest.approx(arguments, rel=0.01)
    assert phase["total_bytes"] == pytest.approx(arguments + temporaries, rel=0.2)


def test_checkpoint_is_what_a_run_writes(tmp_path):
    config = configuration("digits_simpleconv3", "test")
    found = plan.plan(config, None, xla=False)
    loop.run(config, tmp_path)
    written = sum(file.stat().st_size for file in (tmp_path / "checkpoints").rglob("*") if file.is_file())
    assert found["kept_checkpoints_bytes"] == 2 * found["checkpoint_bytes"]
    assert found["kept_checkpoints_bytes"] == pytest.approx(written, rel=0.1)
    result = json.loads((tmp_path / "result.json").read_text())
    assert found["total_steps"] == result["steps"]


def test_the_table(capsys):
    assert plan.main(["--config", DIGITS, "--devices=8", "--steps_per_second=50"]) == 0
    shown = capsys.readouterr().out
    assert "880 steps of 64 images, 22 an epoch; 301,970 parameters" in shown
    assert "3,200 images/s" in shown


def test_data_that_are_absent(capsys):
    config = str(ROOT / "configs" / "imagenet_simclr.py:test")
    assert "give --num_examples and --num_classes" in mistake(capsys, "--config", config, "--devices=8")
    found = planned(capsys, "--config", config, *IMAGENET, "--config.train.batch_size=32")
    assert (found["num_examples"], found["num_classes"]) == (1281167, 1000)
    assert found["phases"][0]["input_bytes_per_step"] == 32 * 3 * 32 * 32 * 3  # an image and two views
    keeps_size = "--config.data.train_transforms=decode | flip"
    assert "only the data tell" in mistake(capsys, "--config", config, "--devices=8", *IMAGENET, keeps_size)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--config FILE.py is missing"),
        (("--config", "configs/none.py"), "configs/none.py"),
        (("--config", DIGITS, "--config.train.batch_sise=8"), 'Did you mean "batch_size"'),
        (("--config", DIGITS, "--config.train.batch_size=12"), "multiple of their number, 8; got 12"),
        (("--config", DIGITS, "--frmt=json"), "frmt"),
        (("--config", DIGITS, "more"), "what is 'more'?"),
    ],
)
def test_mistakes_are_named(capsys, arguments, message):
    assert message in mistake(capsys, "--devices=8", *arguments)


@pytest.mark.parametrize("arguments", [("--devices=0",), ("--num_examples=5",), ("--steps_per_second=nan",)])
def test_flags_that_make_no_sense(capsys, arguments):
    with pytest.raises(SystemExit) as exit:
        plan.main(["--config", DIGITS, "--devices=8", *arguments])
    assert exit.value.code == 2
    assert "must be positive" in (shown := capsys.readouterr().err) or "go together" in shown
