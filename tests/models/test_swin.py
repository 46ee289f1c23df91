"""Swin: windows, the mask of shifted ones, relative positions, and the names of its authors' files."""

import jax
import jax.numpy as jnp
import numpy as np

from imgcls_jax.models import swin


def test_windows_and_back():
    x = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    windows = swin.windows_of(x, 2)
    assert windows.shape == (2, 6, 4, 3)
    np.testing.assert_array_equal(windows[1, 4], x[1, 2:4, 2:4].reshape(4, 3))  # second row, second column
    np.testing.assert_array_equal(swin.map_of(windows, (4, 6), 2), x)


def test_mask_of_a_shift_of_one_in_windows_of_two():
    mask = swin.mask_of((4, 4), 2, (1, 1)) == 0  # [4, 4, 4]
    assert mask[0].all()  # no edge in the first window
    columns = np.array([[1, 0, 1, 0], [0, 1, 0, 1]] * 2, bool)
    np.testing.assert_array_equal(mask[1], columns)  # its right column came from the left side
    np.testing.assert_array_equal(mask[2], np.kron(np.eye(2), np.ones((2, 2))))  # its lower row from above
    np.testing.assert_array_equal(mask[3], np.eye(4))


def test_a_shift_of_rows_alone_parts_rows_alone():
    mask = swin.mask_of((4, 2), 2, (1, 0)) == 0
    assert mask[0].all()
    np.testing.assert_array_equal(mask[1], np.kron(np.eye(2), np.ones((2, 2))))


def test_tokens_attend_within_their_window_alone():
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 4))
    for shift, reach in ((0, (slice(0, 2), slice(0, 2))), (1, (slice(0, 1), slice(0, 1)))):
        attention = swin.WindowAttention(heads=2, window=2, shift=shift)
        variables = jax.jit(attention.init)(jax.random.key(1), x)
        one, other = (jax.jit(attention.apply)(variables, y) for y in (x, x.at[0, 0, 0].add(1.0)))
        change = one - other
        moved = np.abs(np.asarray(change[0])).max(-1) > 1e-6
        expected = np.zeros((4, 4), bool)
        expected[reach] = True  # a shifted window holds the corner alone
        np.testing.assert_array_equal(moved, expected)


def test_bias_depends_on_the_offset_alone():
    bias = swin.bias_of(jnp.arange(25.0)[:, None], window=3)[0]  # [9, 9]
    assert bias.shape == (9, 9) and (jnp.diag(bias) == 12).all()  # offset 0, the middle of the table
    assert bias[0, 1] == 11 and bias[1, 0] == 13 and bias[0, 3] == 7 and bias[8, 0] == 24


def test_names_of_the_authors_and_of_timm():
    here = {
        "features.0.0.weight": ("patch_embed.proj.weight",) * 2,
        "features.0.2.bias": ("patch_embed.norm.bias",) * 2,
        "features.2.reduction.weight": (
            "layers.0.downsample.reduction.weight",
            "layers.1.downsample.reduction.weight",
        ),
        "features.3.1.attn.qkv.bias": ("layers.1.blocks.1.attn.qkv.bias",) * 2,
        "features.3.1.mlp.3.bias": ("layers.1.blocks.1.mlp.fc2.bias",) * 2,
        "norm.bias": ("norm.bias",) * 2,
        "head.bias": ("head.bias", "head.fc.bias"),
    }
    buffers = ("layers.0.blocks.1.attn_mask", "layers.0.blocks.1.attn.relative_position_index")
    for names in zip(*here.values(), strict=True):
        found = swin.import_weights(dict.fromkeys((*names, *buffers)), "swin_t")
        assert list(found) == list(here)
    assert list(swin.import_weights(dict.fromkeys(here), "swin_t")) == list(here)


def test_sizes_that_do_not_divide():
    backbone = swin.build("swin_t", depths=(2, 2), width=4, heads=(1, 2), window=2)
    image = jax.ShapeDtypeStruct((1, 31, 22, 3), jnp.float32)
    features, _ = jax.eval_shape(
        lambda x: backbone.init_with_output(jax.random.key(0), x, train=False), image
    )
    assert features.map.shape == (1, 4, 3, 8)  # 7 x 5 patches, merged


def test_a_batch_of_any_size_as_exports_have_it():
    backbone = swin.build("swin_t", depths=(2, 2), width=4, heads=(1, 2), window=2)
    variables = jax.eval_shape(
        lambda key: backbone.init(key, jnp.zeros((1, 30, 22, 3)), train=False), jax.random.key(0)
    )
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, 30, 22, 3), jnp.float32)
    features = jax.eval_shape(lambda v, x: backbone.apply(v, x, train=False), variables, images)
    assert features.embedding.shape == (batch, 8)
