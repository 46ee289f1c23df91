"""A plan against the parameter sheets, known FLOPs, XLA's own memory figure and a run's checkpoint."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import jax
import jax.extend
import jax.numpy as jnp
import pytest

from imgcls_jax.config.resolve import resolve
from imgcls_jax.config.written import plain
from imgcls_jax.planning import compiled, targets
from imgcls_jax.planning.flops import flops
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
    found = plan.plan(resolve(imagenet_resnet50()), (1281167, 1000))
    (phase,) = found["phases"]
    assert found["params"] == 25_557_032
    assert phase["params_bytes"] == phase["opt_state_bytes"] - 4 == 4 * 25_557_032  # momentum, and a count
    assert phase["flops_per_image"] == pytest.approx(3 * 2 * 4.09e9, rel=0.05)  # torchvision: 4.09 GMAC
    assert phase["flops_per_step"] == 32 * phase["flops_per_image"]
    assert phase["input_bytes_per_step"] == 32 * (224 * 224 * 3 + 4)
    assert phase["gradient_bytes"] == phase["params_bytes"]
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
    assert flops(jaxpr, "cpu") == 3 * forward
    repeated = jax.make_jaxpr(lambda x: jax.lax.scan(lambda c, _: (c @ x, None), x, length=7))
    assert flops(repeated(jnp.zeros((3, 3))), "cpu") == 7 * 2 * 27


@pytest.mark.parametrize(("name", "products"), [("fwd", 2), ("bwd", 4)])
def test_flops_of_cudnns_attention(name, products):
    primitive = jax.extend.core.Primitive(f"dot_product_attention_{name}_wrapper")
    primitive.def_abstract_eval(lambda query, key: query)
    query, key = jnp.zeros((2, 5, 3, 8)), jnp.zeros((2, 7, 3, 8))
    jaxpr = jax.make_jaxpr(primitive.bind)(query, key)
    assert flops(jaxpr, "cuda") == products * 2 * (2 * 3 * 5 * 7 * 8)


COMPILED = """HloModule jit_step
%fused (p: f32[8]) -> f32[8] {
  ROOT %copy.9 = f32[8]{0} copy(%p)
}

ENTRY %main {
  %p0 = f32[3,3,64,64]{3,2,1,0} parameter(0)
  %all-reduce-start = (f32[64,64]{1,0}, bf16[10]{0}) all-reduce-start(%p0, %p1), channel_id=1
  %all-reduce-done = (f32[64,64]{1,0}, bf16[10]{0}) all-reduce-done(%all-reduce-start)
  %fusion.1 = f32[8]{0} fusion(%p0), kind=kLoop, calls=%fused
  %cudnn = (bf16[8,8]{1,0}, u8[0]{0}) custom-call(%a, %b), custom_call_target="__cudnn$convForward"
  %conv = f32[1,2]{1,0} convolution(%a, %b), window={size=3x3}
  %gather = (f32[4]{0}, f32[32]{0}) all-gather-start(%p0), dimensions={0}
  ROOT %copy.1 = pred[8]{0} copy(%fusion.1)
}
"""


class Program:
    """What jax returns of a compiled step, as far as it is read."""

    def as_text(self):
        return COMPILED

    def memory_analysis(self):
        names = ("argument", "temp", "output", "alias")
        return types.SimpleNamespace(
            **{f"{name}_size_in_bytes": size for name, size in zip(names, (100, 50, 30, 20), strict=True)}
        )


def test_what_a_compiled_program_says():
    assert compiled.describe(Program()) == {
        "argument_bytes": 100,
        "temporary_bytes": 50,
        "total_bytes": 160,
        "collectives": {
            "all-reduce": {"count": 1, "bytes": 4 * 64 * 64 + 2 * 10},
            "all-gather": {"count": 1, "bytes": 4 * 32},
        },
        "kernels": {"fusions": 1, "library calls": 1, "copies": 1},
        "convolutions": {"bf16": 1, "f32": 1},
    }


def test_a_step_compiled_for_processors(capsys):
    arguments = ("--config", DIGITS, "--target=cpu:8", "--format=json")
    assert plan.main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    (phase,) = found["phases"]
    said = phase["compiled"]
    held = ("params", "opt_state", "objective_state", "batch")
    assert said["argument_bytes"] == pytest.approx(sum(phase[f"{name}_bytes"] for name in held), rel=0.01)
    assert said["total_bytes"] > said["argument_bytes"] and said["fits"] is None
    assert found["devices"] == 8
    assert said["collectives"]["all-reduce"]["bytes"] == pytest.approx(phase["gradient_bytes"], rel=0.01)


@pytest.mark.parametrize("most", [0, 7, 8, 9, 100, 1000])
def test_the_largest_batch_is_searched(most):
    tried = []

    def fits(batch_size):
        tried.append(batch_size)
        return batch_size <= most

    found = plan.largest_batch(fits, 64, 8)
    assert found % 8 == 0 and found <= most and most - found < max(16, 8 + most / 16)
    assert len(tried) < 14


@pytest.mark.parametrize(
    "text", ["h100", "h100:0", "h100:12", "h100:4x4", "v5e:two", "cpu:0", "tpu:8", "b200:8"]
)
def test_a_target_that_is_none_is_refused(text, capsys):
    with pytest.raises(SystemExit) as ended:
        plan.main(["--config", DIGITS, f"--target={text}"])
    assert ended.value.code == 2 and f"got {text!r}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "target, extra, module", [("h100:8", "cuda12", "jax_plugins.xla_cuda12"), ("v5e:2x2", "tpu", "libtpu")]
)
def test_a_compiler_that_is_absent_is_named(target, extra, module, capsys):
    if importlib.util.find_spec(module.partition(".")[0]):
        pytest.skip(f"{module} is installed")
    assert f"pip install 'imgcls-jax[{extra}]'" in mistake(capsys, "--config", DIGITS, f"--target={target}")


def test_images_on_the_device_are_planned_unread(capsys, monkeypatch):
    monkeypatch.setattr(PlannedData, "train_images", None)
    (phase,) = planned(capsys, "--config", DIGITS, "--config.data.on_device=True")["phases"]
    assert phase["beside_bytes"] == 1438 * 8 * 8


def test_other_errors_of_the_compiler_are_its_own():
    class Lowered:
        def compile(self, compiler_options):
            raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: the compiler exceeded its time")

    with pytest.raises(jax.errors.JaxRuntimeError, match="DEADLINE"):
        compiled.compile_for(targets.Target("v5e:4x4", None, None, {}), Lowered())


def test_what_does_not_fit_is_said(capsys, monkeypatch):
    planned = {"chip": "NVIDIA H100", "chip_memory_bytes": 80e9, "chip_source": "its data sheet"}
    lines = plan._said({"fits": False, "refused": "Used 15.99G of 15.75G", "seconds": 1.0}, planned)
    assert lines[0] == "DOES NOT FIT the 74.5 GiB of NVIDIA H100 (its data sheet): Used 15.99G of 15.75G"

    class Lowered:
        def compile(self, compiler_options):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm")

    with pytest.raises(MemoryError, match="Ran out of memory"):
        compiled.compile_for(targets.Target("v5e:4x4", None, None, {}), Lowered())


# One GPU and eight: python -m pytest -n0 -m slow -s -k compiled_for_gpus tests/tools/test_plan.py
CONFIGURATIONS = sorted(file.stem for file in (ROOT / "configs").glob("*.py"))
# Batches of papers that had 16 devices and more.
TOO_LARGE = ("captions_clip", "captions_siglip", "imagenet_convnext", "imagenet_mae", "imagenet_simclr")
NEEDS = {
    "cub_attributes": "the attributes of CUB-200-2011",
    "cub_clip": "CLIP's vocabulary",
    "cub_zero_shot": "the attributes of CUB-200-2011",
    "digits_distillation": "a teacher that was trained",
}


@pytest.mark.slow
@pytest.mark.parametrize("target", ["h100:1", "h100:8"])
@pytest.mark.parametrize("stem", CONFIGURATIONS)
def test_every_configuration_is_compiled_for_gpus(stem, target):
    """As a command does it; a batch that eight devices do not divide is the nearest that it names. With -s
    the figures are shown."""
    pytest.importorskip("jax_plugins.xla_cuda12", reason="XLA's compiler for CUDA is not installed")
    if stem in NEEDS:
        pytest.skip(f"{stem} needs {NEEDS[stem]}")
    found = compiled_by_the_command(stem, target)
    for phase in found["phases"]:
        said = phase["compiled"]
        print(f"{stem} {phase['name']} on {target}: {plan.size(said['total_bytes'])}, {said['kernels']}")
        assert said["fits"] == (target == "h100:8" or stem not in TOO_LARGE)


# The scheduler that XLA takes on several GPUs keeps what the gradients of weights read.
@pytest.mark.slow
def test_what_is_computed_again_takes_no_more_memory_on_two_gpus():
    pytest.importorskip("jax_plugins.xla_cuda12", reason="XLA's compiler for CUDA is not installed")
    shrunk = ["--config.model.remat=True", "--config.model.depth=4"]
    alone = compiled_by_the_command("imagenet_vit", "h100:1", *shrunk, "--config.train.batch_size=256")
    both = compiled_by_the_command("imagenet_vit", "h100:2", *shrunk, "--config.train.batch_size=512")
    one, two = (found["phases"][0]["compiled"]["temporary_bytes"] for found in (alone, both))
    print(f"temporaries of one GPU {plan.size(one)}, of each of two {plan.size(two)}")
    assert two < 1.2 * one


# Slow on two cores: some minutes each.
OF_TPUS = (
    "cub_bcnn",
    "digits_simpleconv3",
    "imagenet_convnext",
    "imagenet_deit",
    "imagenet_mae",
    "imagenet_resnet50",
    "imagenet_simclr",
    "imagenet_vit",
    "cifar10_fast",
    "cifar10_mixmatch",
)


@pytest.mark.slow
@pytest.mark.parametrize("stem", OF_TPUS)
def test_ten_configurations_are_compiled_for_tpus(stem):
    pytest.importorskip("libtpu", reason="XLA's compiler for TPUs is not installed")
    for phase in compiled_by_the_command(stem, "v5e:4x4")["phases"]:
        print(f"{stem} {phase['name']} on v5e:4x4: {phase['compiled']}")
        assert phase["compiled"]["fits"]


def compiled_by_the_command(stem, target, *extra):
    command = [sys.executable, "-m", "imgcls_jax.tools.plan", "--config", f"configs/{stem}.py", *extra]
    command += [f"--target={target}", "--format=json"]
    hidden = ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    for _ in range(3):
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode == 0:
            return json.loads(done.stdout)
        if nearest := re.search(r"the nearest is (\d+)", done.stderr):
            command.append(f"--config.train.batch_size={nearest[1]}")
        elif "give --num_examples" in done.stderr:
            command += ["--num_examples=1281167", "--num_classes=1000"]
        else:
            break
    raise AssertionError(done.stderr)


def test_checkpoint_is_what_a_run_writes(tmp_path):
    config = configuration("digits_simpleconv3", "test")
    found = plan.plan(resolve(config), None)
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
