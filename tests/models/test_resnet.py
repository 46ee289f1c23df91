"""Residual networks: counts of the papers and releases, sizes of maps, what each variant changes."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.layers import attention, heads
from imgcls_jax.models import resnet

COUNTS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x4d": 44_177_704,
    "resnext101_32x8d": 88_791_336,
    "resnext101_64x4d": 83_455_272,
    "wide_resnet50_2": 68_883_240,
    "se_resnet50": 28_088_024,
    "se_resnet101": 49_326_872,
    "se_resnet152": 66_821_848,
    "se_resnext50_32x4d": 27_559_896,
    "se_resnext101_32x4d": 48_955_416,
    "resnet18_bam": 11_712_503,
    "resnet50_bam": 25_915_099,
    "resnet18_cifar": 11_681_832,
}
KEY = jax.random.key(0)


def shapes(backbone, size=224):
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    return jax.eval_shape(lambda x: backbone.init_with_output(KEY, x, train=False), image)


def size_of(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def params_of(backbone, size=224, num_classes=1000):
    features, variables = shapes(backbone, size)
    head = heads.Linear(num_classes)
    head_params = jax.eval_shape(lambda x: head.init(KEY, x, train=False), features.embedding)["params"]
    return size_of((variables["params"], head_params))


@pytest.mark.parametrize("variant, params", COUNTS.items(), ids=COUNTS)
def test_parameter_count(variant, params):
    assert params_of(resnet.build(variant)) == params


@pytest.mark.parametrize("variant, blocks", [("resnet18_cbam", (2, 64)), ("resnet50_cbam", (0, 256))])
def test_cbam_adds_its_gates_to_every_block(variant, blocks):
    sizes, width = (2, 2, 2, 2) if blocks[0] else (3, 4, 6, 3), blocks[1]
    widths = [width * 2**stage for stage, size in enumerate(sizes) for _ in range(size)]
    gates = sum(2 * c * (c // 16) + c // 16 + c + 2 * 49 + 2 for c in widths)
    assert params_of(resnet.build(variant)) == COUNTS[variant.removesuffix("_cbam")] + gates


def test_cifar_stem_keeps_the_size():
    features, variables = shapes(resnet.build("resnet18_cifar"), 32)
    assert size_of(variables["params"]) + 512 * 10 + 10 == 11_173_962
    assert features.map.shape == (1, 4, 4, 512)


def test_the_network_of_iic():
    features, variables = shapes(resnet.build("resnet34_iic"), 32)
    assert features.map.shape == (1, 3, 3, 512)  # 32 is pooled to 17, then 9, 5, 3
    stem = 3 * 3 * 3 * 64 - 7 * 7 * 3 * 64  # in place of ResNet-34's
    assert size_of(variables["params"]) == COUNTS["resnet34"] - 1000 * 513 + stem


def test_initial_convolutions_of_tensorflow():
    backbone = resnet.ResNet((1,), resnet.basic, stem=resnet.cifar_stem, begins_as="tensorflow")
    kernel = backbone.init(KEY, jnp.zeros((1, 8, 8, 3)), train=False)["params"]["layer1.0"]["conv1"]["kernel"]
    assert float(jnp.std(kernel)) == pytest.approx((3 * 3 * 64) ** -0.5, rel=0.02)
    assert float(jnp.abs(kernel).max()) < 2.3 * (3 * 3 * 64) ** -0.5  # cut off at two standard deviations
    with pytest.raises(ValueError, match="begins_as of ResNet is one of .*; got 'x'"):
        shapes(resnet.ResNet((1,), resnet.basic, begins_as="x"))


@pytest.mark.parametrize(
    "variant, size, side, width",
    [("resnet18", 224, 7, 512), ("resnet50", 224, 7, 2048), ("se_resnet50", 193, 7, 2048)],
)
def test_sizes(variant, size, side, width):
    features, _ = shapes(resnet.build(variant), size)
    assert features.map.shape == (1, side, side, width) and features.embedding.shape == (1, width)
    assert features.aux == ()


def test_names_are_those_of_pytorch():
    params = shapes(resnet.build("se_resnext50_32x4d"))[1]["params"]
    assert set(params["layer1.0"]) == {
        *("conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "downsample.0", "downsample.1", "se")
    }
    assert "downsample.0" not in params["layer1.1"] and "downsample.0" in params["layer2.0"]
    assert params["layer4.2"]["conv2"]["kernel"].shape == (3, 3, 32, 1024)
    assert "bias" not in params["conv1"] and "bias" in params["layer1.0"]["se"]["fc1"]
    assert "downsample.0" not in shapes(resnet.build("resnet18"))[1]["params"]["layer1.0"]
    assert resnet.torch_head("resnet50") == "fc"


def test_stem_pools():
    norm = lambda name: lambda x: x  # noqa: E731
    conv = lambda *shape, **options: lambda x: x  # noqa: E731
    x = jnp.arange(1.0, 65.0).reshape(1, 8, 8, 1)
    padded = resnet.image_stem(x, conv, norm)[0, :, :, 0]
    ceiled = resnet.image_stem(x, conv, norm, ceil_mode=True)[0, :, :, 0]
    assert padded.shape == ceiled.shape == (4, 4)
    np.testing.assert_array_equal(padded[0], [10, 12, 14, 16])
    np.testing.assert_array_equal(ceiled[0], [19, 21, 23, 24])
    assert resnet.image_stem(x[:, :7, :7], conv, norm, ceil_mode=True).shape == (1, 3, 3, 1)


def test_v1_reads_a_quarter_of_the_positions():
    # The second stage's block alone sees an input that is zero except at odd rows and columns.
    x = jnp.zeros((1, 8, 8, 256)).at[:, 1::2, 1::2].set(1.0)
    constructors = dict(
        conv=functools.partial(nn.Conv, use_bias=False),
        norm=functools.partial(resnet.batch_norm, use_running_average=True),
        last_norm=functools.partial(resnet.batch_norm, use_running_average=True),
    )
    for stride_in_3x3, is_zero in ((False, True), (True, False)):
        block = resnet.Block(
            128,
            2,
            branch=resnet.bottleneck,
            skip=lambda block, x, features: 0.0,
            attention=None,
            stride_in_3x3=stride_in_3x3,
            **constructors,
        )
        y = jax.jit(lambda x: block.init_with_output(KEY, x)[0])(x)  # noqa: B023
        assert y.shape == (1, 4, 4, 512) and (jnp.max(jnp.abs(y)) == 0) == is_zero


def test_zero_init_gamma_makes_a_block_the_identity():
    backbone = resnet.build("resnet18", stage_sizes=(3,), zero_init_gamma=True)
    x = jax.random.normal(KEY, (1, 16, 16, 3))

    def outputs(x):
        return backbone.init_with_output(KEY, x, train=False, capture_intermediates=True)[1]["intermediates"]

    taps = jax.jit(outputs)(x)
    first, last = (taps[f"layer1.{i}"]["__call__"][0] for i in (0, 2))
    assert jnp.max(first) > 0
    np.testing.assert_array_equal(first, last)


def test_squeeze_excitation_gates():
    module = attention.SqueezeExcitation()
    x = jax.random.normal(KEY, (3, 5, 4, 32))
    params = module.init(KEY, x)["params"]
    zero = jax.tree.map(jnp.zeros_like, params)
    np.testing.assert_allclose(module.apply({"params": zero}, x), x / 2, rtol=1e-6)
    zero["fc2"]["bias"] = jnp.full((32,), 50.0)
    np.testing.assert_allclose(module.apply({"params": zero}, x), x, rtol=1e-6)
    gate = module.apply({"params": params}, x) / x
    np.testing.assert_allclose(gate, jnp.broadcast_to(gate[:, :1, :1], gate.shape), rtol=1e-3)
    assert jnp.min(jnp.std(gate[:, 0, 0], axis=0)) > 0


def test_bam_combines():
    x = jax.random.normal(KEY, (2, 9, 7, 32))
    norm = lambda dtype, name: lambda x: x  # noqa: E731
    modules = {way: attention.BAM(combine=way, norm=norm) for way in ("mul", "add")}
    params = jax.jit(modules["mul"].init)(KEY, x)["params"]
    final = "channel_att.gate_c.gate_c_fc_final", "spatial_att.gate_s.gate_s_conv_final"
    silent = dict(params)
    silent[final[1]] = jax.tree.map(jnp.zeros_like, params[final[1]])
    outputs = {way: jax.jit(module.apply)({"params": silent}, x) for way, module in modules.items()}
    np.testing.assert_allclose(outputs["mul"], 1.5 * x, rtol=1e-6)
    assert jnp.max(jnp.abs(outputs["add"] - 1.5 * x)) > 0.01
    silent[final[0]] = jax.tree.map(jnp.zeros_like, params[final[0]])
    np.testing.assert_allclose(jax.jit(modules["add"].apply)({"params": silent}, x), 1.5 * x, rtol=1e-6)
    with pytest.raises(ValueError, match="'mul' or 'add'"):
        attention.BAM(combine="max", norm=norm).init(KEY, x)


def test_bam_stands_after_three_stages():
    params = shapes(resnet.build("resnet18_bam"))[1]["params"]
    assert [size_of(params[f"bam{i}"]) for i in (1, 2, 3)] == [1_173, 4_457, 17_361] and "bam4" not in params


@pytest.mark.parametrize("variant", ["resnet50_cbam", "resnet50_bam"])
def test_bfloat16_and_remat_keep_the_params(variant):
    plain, half = (shapes(resnet.build(variant, **fields), 64) for fields in ({}, {"dtype": jnp.bfloat16}))
    again = shapes(resnet.build(variant, remat=True), 64)
    assert half[0].embedding.dtype == jnp.bfloat16
    assert plain[1] == half[1] == again[1]


def test_remat_wraps_each_block():
    x = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    for remat in (False, True):
        backbone = resnet.build("resnet18_cifar", stage_sizes=(2,), remat=remat)
        variables = jax.eval_shape(lambda x: backbone.init(KEY, x, train=False), x)  # noqa: B023
        equations = jax.make_jaxpr(lambda v, x: backbone.apply(v, x, train=False))(variables, x).eqns  # noqa: B023
        names = [equation.primitive.name for equation in equations]
        assert sum(name in ("checkpoint", "remat", "remat2") for name in names) == 2 * remat


def test_unknown_variant():
    with pytest.raises(ValueError, match="resnext50_32x4d"):
        resnet.build("resnet20")


def test_stochastic_depth_drops_the_last_branch_in_training_alone():
    build = lambda rate: resnet.ResNet((1, 1), resnet.basic, stem=resnet.cifar_stem, stochastic_depth=rate)  # noqa: E731
    images = jax.random.normal(KEY, (4, 8, 8, 3))
    variables = build(0.0).init(KEY, images, train=False)
    same = [build(rate).apply(variables, images, train=False).embedding for rate in (0.0, 1.0)]
    np.testing.assert_array_equal(*same)
    run = functools.partial(build(1.0).apply, train=True, mutable=["batch_stats"], rngs={"dropout": KEY})
    dropped, _ = run(variables, images)
    branch = variables["params"]["layer2.0"]
    louder = branch | {"bn2": jax.tree.map(lambda leaf: 3 * leaf + 1, branch["bn2"])}
    again, _ = run({**variables, "params": variables["params"] | {"layer2.0": louder}}, images)
    np.testing.assert_array_equal(dropped.map, again.map)
    first = variables["params"]["layer1.0"]
    louder = first | {"bn2": jax.tree.map(lambda leaf: 3 * leaf + 1, first["bn2"])}
    other, _ = run({**variables, "params": variables["params"] | {"layer1.0": louder}}, images)
    assert (other.map != dropped.map).any()  # the rate of the first block is 0
