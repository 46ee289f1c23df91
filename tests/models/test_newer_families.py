"""ConvNeXt, EfficientNetV2, MobileNetV3, RegNet, Swin, BiT and ResNet-D: the published counts of parameters,
which are torchvision's and timm's with 1000 classes, and the laws of every backbone."""

import importlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.layers.stochastic_depth import drop_branch, rising_rates

KEY = jax.random.key(0)
# Tracing a deep network takes a second, so that one of each kind is traced by default.
QUICK = {
    "convnext": {"convnext_tiny": 28_589_128, "convnextv2_atto": 3_708_400},
    "efficientnet_v2": {"efficientnet_v2_s": 21_458_488},
    "mobilenet_v3": {"mobilenet_v3_small": 2_542_856},
    "regnet": {"regnet_x_800mf": 7_259_656, "regnet_y_800mf": 6_432_512, "regnety_008": 6_263_168},
    "resnet": {"resnet18d": 11_708_744, "resnet50d": 25_576_264},
    "resnetv2": {"resnetv2_50x3_bit": 217_319_080},
    "swin": {"swin_t": 28_288_354},
}
SLOW = {
    "convnext": {
        "convnext_small": 50_223_688,
        "convnext_base": 88_591_464,
        "convnext_large": 197_767_336,
        "convnext_xlarge": 350_196_968,
        "convnextv2_femto": 5_233_240,
        "convnextv2_pico": 9_066_280,
        "convnextv2_nano": 15_623_800,
        "convnextv2_tiny": 28_635_496,
        "convnextv2_base": 88_717_800,
        "convnextv2_large": 197_956_840,
        "convnextv2_huge": 660_289_640,
    },
    "efficientnet_v2": {
        "efficientnet_v2_m": 54_139_356,
        "efficientnet_v2_l": 118_515_272,
        "efficientnet_v2_xl": 208_119_808,
    },
    "mobilenet_v3": {
        "mobilenet_v3_large": 5_483_032,
        "mobilenetv3_small_100": 2_542_856,
        "mobilenetv3_large_100": 5_483_032,
    },
    "regnet": {
        "regnet_x_400mf": 5_495_976,
        "regnet_x_1_6gf": 9_190_136,
        "regnet_x_3_2gf": 15_296_552,
        "regnet_x_8gf": 39_572_648,
        "regnet_x_16gf": 54_278_536,
        "regnet_x_32gf": 107_811_560,
        "regnet_y_400mf": 4_344_144,
        "regnet_y_1_6gf": 11_202_430,
        "regnet_y_3_2gf": 19_436_338,
        "regnet_y_8gf": 39_381_472,
        "regnet_y_16gf": 83_590_140,
        "regnet_y_32gf": 145_046_770,
        "regnet_y_128gf": 644_812_894,
        "regnetx_002": 2_684_792,
        "regnetx_004": 5_157_512,
        "regnetx_006": 6_196_040,
        "regnetx_040": 22_118_248,
        "regnetx_064": 26_209_256,
        "regnetx_120": 46_106_056,
        "regnety_002": 3_162_996,
        "regnety_006": 6_055_160,
        "regnety_040": 20_646_656,
        "regnety_064": 30_583_252,
        "regnety_080": 39_180_068,
        "regnety_120": 51_822_544,
    },
    "resnet": {
        "resnet26d": 16_014_408,
        "resnet34d": 21_816_904,
        "resnet101d": 44_568_392,
        "resnet152d": 60_212_040,
        "resnet200d": 64_693_064,
    },
    "resnetv2": {
        "resnetv2_50x1_bit": 25_549_352,
        "resnetv2_101x1_bit": 44_541_480,
        "resnetv2_101x3_bit": 387_934_888,
        "resnetv2_152x2_bit": 236_335_208,
        "resnetv2_152x4_bit": 936_533_224,
    },
    "swin": {"swin_s": 49_606_258, "swin_b": 87_768_224, "swin_l": 196_532_476},
}
TABLE = [
    pytest.param(family, variant, count, id=variant, marks=marks)
    for table, marks in ((QUICK, ()), (SLOW, pytest.mark.slow))
    for family, counts in table.items()
    for variant, count in counts.items()
]
SMALL = {
    "convnext_tiny": ("convnext", dict(depths=(1, 2), widths=(4, 8))),
    "convnextv2_atto": ("convnext", dict(depths=(1, 2), widths=(4, 8))),
    "efficientnet_v2_s": (
        "efficientnet_v2",
        dict(stages=(("fused", 1, 1, 8, 1), ("fused", 4, 2, 8, 2), ("gated", 4, 2, 16, 2))),
    ),
    "mobilenet_v3_small": ("mobilenet_v3", dict(width=0.25)),
    "regnet_y_400mf": ("regnet", dict(depth=2, first_width=8, slope=8.0, step=2.0, group=8)),
    "resnet50d": ("resnet", dict(stage_sizes=(1,))),
    "resnetv2_50x1_bit": ("resnetv2", dict(depths=(1, 0, 0, 0))),
    "swin_t": ("swin", dict(depths=(2, 2), width=4, heads=(1, 2), window=2)),
}
DROPS = ("convnext_tiny", "efficientnet_v2_s", "swin_t")  # stochastic depth, in training alone


def module_of(family):
    return importlib.import_module(f"imgcls_jax.models.{family}")


def small(variant, **more):
    family, fields = SMALL[variant]
    return module_of(family).build(variant, **fields, **more)


def shapes(backbone, size=224):
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    return jax.eval_shape(lambda x: backbone.init_with_output(KEY, x, train=False), image)


@pytest.mark.parametrize("family, variant, count", TABLE)
def test_parameter_count(family, variant, count):
    features, variables = shapes(module_of(family).build(variant))
    found = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert found + 1000 * (features.embedding.shape[-1] + 1) == count
    assert features.map.shape[:3] == (1, 7, 7) and features.aux == ()


def test_every_variant_has_its_count():
    for family in QUICK:
        counted = {*QUICK[family], *SLOW[family]}
        assert all(name in module_of(family).VARIANTS for name in counted)
        left = module_of(family).VARIANTS.keys() - counted
        assert family == "resnet" or all(name.startswith("tf_") for name in left)  # the same but for padding


@pytest.mark.parametrize("variant", SMALL)
def test_bfloat16_and_remat_keep_the_params(variant):
    plain = shapes(small(variant), 33)
    half, again = shapes(small(variant, dtype=jnp.bfloat16), 33), shapes(small(variant, remat=True), 33)
    assert plain[1] == half[1] == again[1]
    assert half[0].embedding.dtype == half[0].map.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(half[1])} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("variant", SMALL)
def test_unknown_variant(variant):
    family = SMALL[variant][0]
    with pytest.raises(ValueError, match=f"models/{family}.py has the variants .*{variant}.*; got 'x'"):
        module_of(family).build("x")


@pytest.mark.parametrize("variant", DROPS)
def test_stochastic_depth_is_on_in_training_alone(variant):
    backbone = small(variant, stochastic_depth=1.0)
    x = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: backbone.init(KEY, x, train=False), x)

    def draws(train):
        def apply(variables, x, key):
            return backbone.apply(variables, x, train=train, rngs={"dropout": key}, mutable=["batch_stats"])

        return str(jax.make_jaxpr(apply)(variables, x, KEY)).count("random_bits")

    assert draws(train=True) > 0 and draws(train=False) == 0


def test_branches_of_whole_images_are_dropped_and_the_rest_scaled():
    class Branch(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            return drop_branch(x, 0.25, train=train)

    x = jnp.ones((400, 2, 3))
    found = Branch().apply({}, x, train=True, rngs={"dropout": KEY})
    np.testing.assert_array_equal(found, jnp.broadcast_to(found[:, :1, :1], x.shape))
    kept = found[:, 0, 0] != 0
    assert 260 < jnp.sum(kept) < 340
    np.testing.assert_allclose(found[kept], 4 / 3, rtol=1e-6)
    np.testing.assert_array_equal(Branch().apply({}, x, train=False), x)
    assert rising_rates(0.3, 4) == pytest.approx((0, 0.1, 0.2, 0.3)) and rising_rates(0.3, 1) == (0,)


@pytest.mark.parametrize("variant", ["efficientnet_v2_s", "mobilenet_v3_small"])
def test_unknown_padding(variant):
    with pytest.raises(ValueError, match="padding of .* is one of torch, tf; got 'same'"):
        shapes(small(variant, padding="same"), 33)


def test_widths_of_regnet():
    regnet = module_of("regnet")
    # Table of appendix B: regnety_008 has widths 64, 128, 320, 768 and depths 1, 3, 8, 2.
    found = regnet.build("regnety_008").stages()
    assert [(width, depth) for width, _, depth in found] == [(64, 1), (128, 3), (320, 8), (768, 2)]
    assert [width for width, _, _ in regnet.build("regnet_y_800mf").stages()] == [64, 144, 320, 784]
