"""A plan against the parameter sheets, known FLOPs, XLA's own memory figure and a run's checkpoint."""

import functools
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.config.resolve import resolve
from imgcls_jax.config.written import plain
from imgcls_jax.planning import step_cost
from imgcls_jax.planning.stand_in import PlannedData
from imgcls_jax.tools import plan
from imgcls_jax.train.run import run

ROOT = Path(__file__).parents[2]
DIGITS = str(ROOT / "configs" / "digits_simpleconv3.py")


def configuration(stem, arg=""):
    spec = importlib.util.spec_from_file_location(stem, ROOT / "configs" / f"{stem}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return plain(module.get_config(arg))


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


@pytest.mark.slow
def test_resnet50_at_224_has_the_parameters_and_flops_that_are_known():
    found = plan.plan(resolve(imagenet_resnet50()), (1281167, 1000), xla=False)
    (phase,) = found["phases"]
    assert found["params"] == 25_557_032
    assert phase["params_bytes"] == phase["opt_state_bytes"] - 4 == 4 * 25_557_032  # momentum, and a count
    assert phase["flops_per_image"] == pytest.approx(3 * 2 * 4.09e9, rel=0.05)  # torchvision: 4.09 GMAC
    assert phase["flops_per_step"] == 32 * phase["flops_per_image"]
    assert phase["input_bytes_per_step"] == 32 * (224 * 224 * 3 + 4)
    assert phase["all_reduce_bytes"] == phase["params_bytes"]
    assert (found["steps_per_epoch"], found["total_steps"]) == (40036, 80 * 40036)


@pytest.mark.parametrize("field", ["augmentation_repeats", "images_per_class"])
def test_batches_of_several_copies_or_classmates_have_a_stand_in(field):
    config = configuration("digits_simpleconv3")
    config["data"][field] = 4
    settings = resolve(config).settings(steps_per_epoch=22)
    batch = PlannedData(settings.data, (40, 10)).train_batches(8, 0)[0]
    assert batch["image"].shape == (8, 8, 8, 1) and batch["label"].shape == (8,)


def test_flops_of_kernels_counted_by_hand():
    def loss(images, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        strided = jax.lax.conv_general_dilated(images, kernel, (2, 2), "VALID", dimension_numbers=layout)
        return jnp.sum(strided**2)

    forward = 2 * (4 * 3 * 3 * 8) * (2 * 2 * 5)  # outputs x window
    jaxpr = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(jnp.zeros((4, 6, 6, 5)), jnp.zeros((2, 2, 5, 8)))
    assert step_cost.flops(jaxpr, platform="cpu") == 3 * forward
    repeated = jax.make_jaxpr(lambda x: jax.lax.scan(lambda c, _: (c @ x, None), x, length=7))
    assert step_cost.flops(repeated(jnp.zeros((3, 3))), platform="cpu") == 7 * 2 * 27


def test_temporaries_counted_by_hand():
    def fused(x):
        return jnp.sum(jnp.exp(x) * 2 + 1)

    def chain(x):
        return jnp.sum(((x @ x) @ x) @ x)

    x = jnp.zeros((10, 10))
    assert step_cost.temporary_bytes(jax.make_jaxpr(fused)(x), platform="cuda") == 4
    assert step_cost.temporary_bytes(jax.make_jaxpr(chain)(x), platform="cuda") == 2 * 400
    kept = jax.make_jaxpr(lambda x: jnp.tanh(x) + jnp.tanh(x) @ x)(x)
    assert step_cost.temporary_bytes(kept, platform="cuda") == 800


def test_what_is_computed_twice_counts_once():
    table = np.ones((10, 10), np.float32)  # a constant that every call brings along anew
    twice = jax.make_jaxpr(lambda x: jax.jit(lambda x: x @ table)(x) + jax.jit(lambda x: x @ table)(x))(table)
    assert step_cost.flops(twice, platform="cpu") == 2 * 10**3


def test_a_cpu_runs_what_is_ready():
    """So all factors stand before the first product; in the jaxpr's order two of them at a time do."""
    x = jnp.zeros((10, 10))
    traced = jax.make_jaxpr(lambda x: sum((x * k) @ (x + k) for k in range(2, 7)))(x)
    on = {platform: step_cost.temporary_bytes(traced, platform=platform) for platform in ("cpu", "cuda")}
    assert on == {"cpu": (10 + 1) * 400, "cuda": (4 + 2 + 1) * 400}


def test_a_reduction_on_a_cpu_reads_factors_of_full_size():
    traced = jax.make_jaxpr(lambda x: jnp.sum(x * jnp.sum(x, 1, keepdims=True)))(jnp.zeros((10, 10)))
    on = {platform: step_cost.temporary_bytes(traced, platform=platform) for platform in ("cpu", "cuda")}
    assert on == {"cpu": 40 + 400, "cuda": 40 + 4}


def test_a_weight_that_others_read_after_its_update_is_copied():
    x = jnp.zeros((10, 10))
    others = jax.make_jaxpr(lambda weight, x: (weight - x @ x, weight @ x))(x, x)
    makers = jax.make_jaxpr(lambda weight, x: (weight - (weight @ x) @ x, x @ x))(x, x)
    for traced, more in ((others, 400), (makers, 0)):
        kept = step_cost.temporary_bytes(traced, platform="cpu")
        assert step_cost.temporary_bytes(traced, platform="cpu", donated=1) == kept + more


def test_a_convolution_on_a_cpu_reads_copies_of_what_lies_otherwise():
    images, kernel = jnp.zeros((4, 10, 10, 3)), jnp.zeros((10, 10, 3, 1))

    def bytes_of(images, layout):
        convolve = functools.partial(
            jax.lax.conv_general_dilated, window_strides=(1, 1), padding="VALID", dimension_numbers=layout
        )
        return step_cost.temporary_bytes(jax.make_jaxpr(convolve)(images, kernel), platform="cpu")

    assert bytes_of(images, ("NHWC", "HWIO", "NHWC")) == 4 * 4
    assert bytes_of(images.transpose(1, 2, 3, 0), ("HWCN", "HWIO", "NHWC")) == 4 * 4 + images.nbytes


def test_constants_of_a_function_within_are_at_hand():
    table = np.ones((10, 10), np.float32)
    within = jax.jit(lambda x: (x @ table) @ table)
    traced = jax.make_jaxpr(lambda x: jax.lax.platform_dependent(x, cpu=within, default=jnp.sin))(table)
    assert step_cost.temporary_bytes(traced, platform="cpu") == 2 * 400


def test_halves_are_multiplied_as_float32_on_a_cpu():
    traced = jax.make_jaxpr(lambda x, y: jnp.sum(x @ y, dtype=jnp.float32))(
        *[jnp.zeros((10, 10), jnp.bfloat16)] * 2
    )
    on = {platform: step_cost.temporary_bytes(traced, platform=platform) for platform in ("cpu", "cuda")}
    assert on == {"cpu": 3 * 400, "cuda": 200 + 4}  # both operands copied, and the result


def test_what_devices_add_up_counted_by_hand():
    """Both products that make one gradient stay until all are added up, and then there are two of each."""

    def loss(kernel, images, views):
        return jnp.sum((images @ kernel) ** 2) + jnp.sum((views @ kernel) ** 2)

    def traced(rows):
        return jax.make_jaxpr(jax.grad(loss))(jnp.zeros((100, 100)), *[jnp.zeros((rows, 100))] * 2)

    gradient, own = 4 * 100 * 100, step_cost.temporary_bytes(traced(1), platform="cpu")
    assert 2 * gradient <= own < 2.1 * gradient
    together = step_cost.temporary_bytes(traced(1), platform="cpu", wider=traced(2))
    assert together == 4 * gradient


SMALL = (
    dict(name="simpleconv3"),
    pytest.param(dict(name="cifar_resnet", variant="resnet20"), marks=pytest.mark.slow),
)


@pytest.mark.parametrize("model", SMALL, ids=lambda model: model["name"])
def test_memory_is_near_xlas_own(model):
    config = configuration("digits_simpleconv3") | {"model": model}
    config["train"]["batch_size"] = 256
    (phase,) = plan.plan(resolve(config), None, xla=True)["phases"]
    arguments, temporaries = phase["xla_argument_bytes"], phase["xla_temporary_bytes"]
    assert phase["total_bytes"] - phase["temporary_bytes"] == pytest.approx(arguments, rel=0.01)
    assert phase["total_bytes"] == pytest.approx(arguments + temporaries, rel=0.15)


@pytest.mark.parametrize(
    "form",
    ["replicated", *(pytest.param(form, marks=pytest.mark.slow) for form in ("per_replica", "sharded"))],
)
def test_memory_of_a_network_that_a_step_passes_through_often_is_near_xlas_own(form):
    """Several passes make a gradient, and the gradients are most of what a device holds."""
    config = configuration("digits_pseudo_label", "test")
    config["train"]["parallel"] = form
    (phase,) = plan.plan(resolve(config), None, xla=True)["phases"]
    xla = phase["xla_argument_bytes"] + phase["xla_temporary_bytes"]
    assert phase["total_bytes"] == pytest.approx(xla, rel=0.1)


CONFIGURATIONS = sorted(file.stem for file in (ROOT / "configs").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("devices", (1, 2))
@pytest.mark.parametrize("stem", CONFIGURATIONS)
def test_memory_of_every_configuration_is_near_xlas_own(stem, devices):
    """Compiled as a command does it. With -s the figures are shown."""
    command = [sys.executable, "-m", "imgcls_jax.tools.plan", "--config", f"configs/{stem}.py:test"]
    command += [f"--devices={devices}", "--compile", "--format=json"]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    for stand_in in ([], ["--num_examples=5000", "--num_classes=10"]):
        done = subprocess.run(command + stand_in, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode == 0:
            break
    assert done.returncode == 0, done.stderr
    for phase in json.loads(done.stdout)["phases"]:
        xla = phase["xla_argument_bytes"] + phase["xla_temporary_bytes"]
        ratio = phase["total_bytes"] / xla
        print(f"{stem} {phase['name']} on {devices}: {ratio:.2f} of {plan.size(xla)}")
        assert ratio == pytest.approx(1, abs=0.2)


def test_checkpoint_is_what_a_run_writes(tmp_path):
    config = configuration("digits_simpleconv3", "test")
    found = plan.plan(resolve(config), None, xla=False)
    run(config, tmp_path)
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


def test_folds_are_planned(capsys):
    found = planned(
        capsys, "--config", DIGITS, "--num_examples=100", "--num_classes=10", "--config.data.folds=5"
    )
    assert (found["num_examples"], found["num_classes"]) == (80, 10)


def test_data_that_are_absent(capsys):
    config = str(ROOT / "configs" / "cub_vgg.py:test")
    assert "give --num_examples and --num_classes" in mistake(capsys, "--config", config, "--devices=8")
    found = planned(capsys, "--config", config, "--num_examples=10597", "--num_classes=200")
    assert (found["num_examples"], found["num_classes"], found["image_shape"]) == (10597, 200, [48, 48, 3])
    assert found["steps_per_epoch"] == 10597 // 16
    assert found["phases"][0]["input_bytes_per_step"] == 16 * (48 * 48 * 3 + 4)
    keeps_size = ("--num_examples=9", "--num_classes=2", "--config.data.train_transforms=decode | flip")
    assert "only the data tell" in mistake(capsys, "--config", config, "--devices=8", *keeps_size)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--config FILE.py is missing"),
        (("--config", "configs/none.py"), "configs/none.py"),
        (("--config", DIGITS, "--config.train.batch_sise=8"), "did you mean 'batch_size'"),
        (("--config", DIGITS, "--config.train.batch_size=12"), "multiple of their number, 8; got 12"),
        (("--config", DIGITS, "--frmt=json"), "frmt"),
        (("--config", DIGITS, "more"), "what is 'more'?"),
    ],
)
def test_mistakes_are_named(capsys, arguments, message):
    assert message in mistake(capsys, "--devices=8", *arguments)


@pytest.mark.parametrize(
    "flag", ["--devices=0", "--devices=5000", "--num_examples=5", "--steps_per_second=nan"]
)
def test_flags_that_make_no_sense(capsys, flag):
    with pytest.raises(SystemExit) as exit:
        plan.main(["--config", DIGITS, "--devices=8", flag])
    assert exit.value.code == 2
    assert flag.split("=")[0] in capsys.readouterr().err.splitlines()[-1]
