"""Vision Transformers against the published counts, and the token list that masked training reads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.layers import heads
from imgcls_jax.layers.rotary import rotary_angles, rotate
from imgcls_jax.layers.transformer import EncoderLayer, SelfAttention, sincos_positions
from imgcls_jax.models import vit
from imgcls_jax.tools import convert
from imgcls_jax.weights import pretrained


def shapes_of(backbone, size=224):
    image = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    return jax.eval_shape(lambda x: backbone.init_with_output(jax.random.key(0), x, train=False), image)


def params_of(backbone, num_classes=1000):
    features, variables = shapes_of(backbone)
    head = heads.Linear(num_classes)
    head_variables = jax.eval_shape(
        lambda x: head.init(jax.random.key(0), x, train=False), features.embedding
    )
    return sum(leaf.size for leaf in jax.tree.leaves((variables["params"], head_variables["params"])))


@pytest.mark.parametrize(
    "variant, params",
    [
        ("vit_ti16", 5_717_416),
        ("vit_s16", 22_050_664),
        ("vit_b16", 86_567_656),
        ("vit_b32", 88_224_232),
        ("vit_l16", 304_326_632),
        ("vit_h14", 632_045_800),
    ],
)
def test_parameter_count(variant, params):
    assert params_of(vit.build(variant)) == params


@pytest.mark.parametrize(
    "variant, params",
    [  # as timm counts them, without a classifier; four registers of 384 beside DINOv2
        ("vit_s14_dinov2", 21_628_800),
        ("vit_s14_dinov2_reg4", 21_628_800 + 4 * 384),
        ("vit_b16_siglip", 92_884_224),
        ("vit_so400m14_siglip", 427_680_704),
        # Three biases more in each attention, those of the keys among them.
        ("vit_s16_dinov3", 21_586_944 + 12 * 3 * 384),
        ("vit_s16plus_dinov3", 28_683_264 + 12 * 3 * 384),
        ("vit_b16_dinov3", 85_641_216 + 12 * 3 * 768),
        ("vit_h16plus_dinov3", 840_509_440 + 32 * 3 * 1280),
    ],
)
def test_parameter_count_of_the_backbone(variant, params):
    _, variables = shapes_of(vit.build(variant))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == params


@pytest.fixture(scope="module")
def tiny():
    backbone = vit.build("vit_tiny", depth=2)
    images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    variables = jax.jit(lambda x: backbone.init(jax.random.key(1), x, train=False))(images)
    return backbone, variables, images


def test_map_and_embedding_are_the_tokens(tiny):
    backbone, variables, images = tiny

    @jax.jit
    def run(images):
        return (
            backbone.apply(variables, images, train=False, method="tokens"),
            backbone.apply(variables, images, train=False),
            backbone.clone(pool="mean").apply(variables, images, train=False).embedding,
        )

    tokens, features, mean = run(images)
    assert tokens.shape == (2, 17, 64) and features.aux == ()
    np.testing.assert_allclose(features.embedding, tokens[:, 0], atol=1e-6)
    np.testing.assert_allclose(features.map, tokens[:, 1:].reshape(2, 4, 4, 64), atol=1e-6)
    np.testing.assert_allclose(mean, jnp.mean(features.map, axis=(1, 2)), atol=1e-5)


@pytest.mark.parametrize("fields", [{}, {"position": "rotary", "registers": 2, "remat": True}])
def test_tokens_of_kept_patches(tiny, fields):
    backbone, variables, images = tiny
    if fields:
        backbone = backbone.clone(**fields)
        variables = jax.jit(lambda x: backbone.init(jax.random.key(1), x, train=False))(images)
    encode = jax.jit(
        lambda images, keep: backbone.apply(variables, images, train=False, keep=keep, method="tokens")
    )
    whole = encode(images, jnp.tile(jnp.arange(16), (2, 1)))
    order = jax.random.permutation(jax.random.key(2), jnp.arange(16))
    shuffled = encode(images, jnp.stack([order, order]))
    np.testing.assert_allclose(shuffled[:, 1:], whole[:, 1:][:, order], atol=1e-5)
    keep = jnp.array([[0, 5, 15], [2, 5, 7]])
    some = encode(images, keep)
    assert some.shape == (2, 4, 64)
    unseen = images.at[:, 4:8, :4].add(1.0)  # patch 4 of both images
    np.testing.assert_array_equal(encode(unseen, keep), some)
    seen = images.at[:, 4:8, 4:8].add(1.0)  # patch 5
    assert jnp.all(jnp.any(encode(seen, keep) != some, axis=(1, 2)))


FORMS = [
    {"layer_scale": 0.1, "registers": 3},
    {"class_token": False, "pool": "map", "tanh_gelu": True, "mlp_width": 24},
    {"class_token": False, "pool": "mean", "position": "sincos", "registers": 1},
    {"position": "rotary", "registers": 2, "gated_mlp": True, "remat": True},
]


@pytest.mark.parametrize("fields", FORMS)
def test_the_tokens_are_the_same_in_number_and_all_params_learn(tiny, fields):
    backbone, images = vit.build("vit_tiny", depth=2, **fields), tiny[2]

    @jax.jit
    def run(images):
        variables = backbone.init(jax.random.key(1), images, train=False)

        def loss(params):
            features = backbone.apply({"params": params}, images, train=False)
            return jnp.sum(features.embedding * jnp.arange(64.0)), features

        gradients, features = jax.grad(loss, has_aux=True)(variables["params"])
        return gradients, features, backbone.apply(variables, images, train=False, method="tokens")

    gradients, features, tokens = run(images)
    first = 1 if fields.get("class_token", True) else 0
    assert tokens.shape == (2, first + 16, 64)
    np.testing.assert_allclose(features.map, tokens[:, first:].reshape(2, 4, 4, 64), atol=1e-6)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.all(np.isfinite(leaf)) and np.any(leaf != 0), path


@pytest.mark.parametrize("fields", FORMS)
def test_every_form_is_exported_for_any_number_of_images(fields):
    backbone = vit.build("vit_tiny", depth=1, **fields)
    _, variables = shapes_of(backbone, 16)
    (batch,) = jax.export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, 16, 16, 3), jnp.float32)
    run = jax.jit(lambda variables, images: backbone.apply(variables, images, train=False).embedding)
    exported = jax.export.export(run)(variables, images)
    assert [str(size) for size in exported.out_avals[0].shape] == ["b", "64"]


def test_rotary_angles_by_hand():
    """Three patches in a row lie at 0 vertically and at -2/3, 0, 2/3; the periods of 8 channels are 1, 10."""
    found = rotary_angles((1, 3), 8)
    turn = 2 * np.pi * 2 / 3
    np.testing.assert_allclose(found[:, :2], 0, atol=1e-6)
    np.testing.assert_allclose(found[:, 2:], [[-turn, -turn / 10], [0, 0], [turn, turn / 10]], atol=1e-5)
    with pytest.raises(ValueError, match="multiple of 4; got 6"):
        rotary_angles((1, 3), 6)


def test_rotation_turns_pairs_and_leaves_what_has_no_angle():
    x = jnp.arange(1.0, 9.0).reshape(1, 2, 1, 4)
    found = rotate(x, jnp.array([[[np.pi / 2, 0.0], [0.0, 0.0]]]))
    np.testing.assert_allclose(found[0, 0, 0], [-3, 2, 1, 4], atol=1e-6)
    np.testing.assert_array_equal(found[0, 1, 0], x[0, 1, 0])
    assert rotate(x.astype(jnp.bfloat16), jnp.zeros((1, 2, 2))).dtype == jnp.bfloat16


def test_rotary_positions_take_images_of_any_size_and_see_where_a_patch_lies():
    backbone = vit.build("vit_tiny", depth=1, position="rotary")
    images = jax.random.normal(jax.random.key(0), (1, 12, 20, 3))
    variables = jax.jit(lambda x: backbone.init(jax.random.key(1), x, train=False))(images[:, :8, :8])
    run = jax.jit(lambda x: backbone.apply(variables, x, train=False))
    found, moved = run(images), run(jnp.roll(images, 4, axis=2))  # by a patch
    assert found.map.shape == (1, 3, 5, 64)
    assert np.abs(found.embedding - moved.embedding).max() < 1e-5  # the class token has no place
    assert np.abs(jnp.roll(found.map, 1, axis=2) - moved.map).max() > 1e-3


def test_layer_scale_multiplies_both_branches():
    x = jax.random.normal(jax.random.key(0), (1, 3, 8))
    plain, scaled = EncoderLayer(2), EncoderLayer(2, layer_scale=1.0)
    variables = scaled.init(jax.random.key(1), x, False)
    params = dict(variables["params"])
    assert np.all(params["ls_1"] == 1) and params["ls_2"].shape == (8,)
    np.testing.assert_allclose(scaled.apply(variables, x, False), plain.apply({"params": params}, x, False))
    none = params | {"ls_1": jnp.zeros(8), "ls_2": jnp.zeros(8)}
    np.testing.assert_array_equal(scaled.apply({"params": none}, x, False), x)
    half = params | {"ls_2": jnp.zeros(8), "ls_1": jnp.full(8, 0.5)}
    whole = half | {"ls_1": jnp.ones(8)}
    found, full = (scaled.apply({"params": own}, x, False) for own in (half, whole))
    np.testing.assert_allclose(found - x, (full - x) / 2, atol=1e-6)


def test_registers_shift_no_token_and_positions_of_a_file_go_to_them():
    """timm may keep positions of class token and registers with those of the patches, DINOv2 none of them."""
    backbone = vit.build("vit_tiny", registers=2, depth=1)
    target = pretrained.target_shapes(backbone, (8, 8, 3), 3)
    del target["params"]["head"]
    values = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), target)
    arrays = pretrained.to_torch(values["params"], {}, vit, "vit_tiny")
    positions = np.arange(1 + 2 + 4, dtype=np.float32)[None, :, None] * np.ones((1, 1, 64), np.float32)
    arrays["encoder.pos_embedding"] = positions
    params, _, _ = pretrained.load_torch(arrays, vit, "vit_tiny", target)
    found = params["backbone"]
    assert found["encoder.pos_embedding"][0, :, 0].tolist() == [0, 3, 4, 5, 6]
    assert found["registers"][0, :, 0].tolist() == [2, 3]
    arrays["encoder.pos_embedding"] = positions[:, 3:]
    params, _, _ = pretrained.load_torch(arrays, vit, "vit_tiny", target)
    assert params["backbone"]["encoder.pos_embedding"][0, :, 0].tolist() == [0, 3, 4, 5, 6]


def test_decoder_puts_each_token_at_its_patch():
    """Without layers the decoder treats each patch alone: kept ones by their token, the others all alike."""
    decoder = vit.build("vit_tiny", patch=2).decoder(channels=3, width=8, depth=0, heads=2)
    tokens = jax.random.normal(jax.random.key(0), (1, 4, 5))  # class token and three patches
    order = jnp.array([[4, 0, 3, 1, 2, 5]])  # of which the first three are kept
    variables = decoder.init(jax.random.key(1), tokens, jnp.argsort(order), (2, 3))
    out = decoder.apply(variables, tokens, jnp.argsort(order), (2, 3))
    assert out.shape == (1, 6, 12) and out.dtype == jnp.float32
    params = variables["params"]
    x = tokens[0, 1:] @ params["embed"]["kernel"]
    x = jnp.concatenate([x, jnp.tile(params["mask_token"][0], (3, 1))])
    x = x[jnp.argsort(order[0])] + sincos_positions((2, 3), 8)
    x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(out[0], x @ params["pixels"]["kernel"], atol=1e-5)


def test_attention_splits_its_projection_into_queries_keys_and_values():
    attention = SelfAttention(heads=2)
    x = jax.random.normal(jax.random.key(0), (1, 3, 8))
    out, variables = jax.jit(lambda x: attention.init_with_output(jax.random.key(1), x))(x)
    params = variables["params"]
    query, key, value = (
        (x[0] @ rows.T).reshape(3, 2, 4) for rows in np.split(params["in_proj_weight"], 3, axis=0)
    )
    weights = jax.nn.softmax(jnp.einsum("qhd,khd->hqk", query, key) / 2.0, axis=-1)
    mixed = jnp.einsum("hqk,khd->qhd", weights, value).reshape(3, 8)
    np.testing.assert_allclose(out[0], mixed @ params["out_proj"]["kernel"], atol=1e-5)


def test_sincos_positions():
    positions = sincos_positions((2, 2), 8)
    expected = [0.8415, 0.0100, 0.5403, 0.99995, 0, 0, 1, 1]  # row 0, column 1
    np.testing.assert_allclose(positions[1], expected, atol=5e-5)
    _, variables = shapes_of(vit.build("vit_tiny", depth=1, position="sincos"), 16)
    assert "encoder.pos_embedding" not in variables["params"]


def test_stochastic_depth_of_one_leaves_the_input():
    layer = EncoderLayer(heads=2, stochastic_depth=1.0)
    x = jax.random.normal(jax.random.key(0), (2, 3, 8))

    @jax.jit
    def run(x):
        variables = layer.init(jax.random.key(1), x, False)
        return layer.apply(variables, x, True, rngs={"dropout": jax.random.key(2)})

    np.testing.assert_array_equal(run(x), x)


def test_remat_changes_no_param_and_bfloat16_keeps_them_whole():
    _, plain = shapes_of(vit.build("vit_tiny"), 16)
    features, variables = shapes_of(vit.build("vit_tiny", remat=True, dtype="bfloat16"), 16)
    assert variables == plain
    assert features.embedding.dtype == features.map.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def test_errors():
    with pytest.raises(ValueError, match="vit_b16"):
        vit.build("vit_g14")
    with pytest.raises(ValueError, match="model.class_token is False"):
        vit.build("vit_tiny", class_token=False).decoder(channels=3, width=8, depth=1, heads=2)
    with pytest.raises(ValueError, match="set one of them"):
        shapes_of(vit.build("vit_tiny", quick_gelu=True, tanh_gelu=True), 16)
    with pytest.raises(ValueError, match="'mean' or 'map' where class_token is False"):
        shapes_of(vit.build("vit_tiny", class_token=False), 16)
    for fields, size in [({"pool": "max"}, 16), ({"position": "round"}, 16), ({}, 18)]:
        with pytest.raises(ValueError, match="pool|position|patches"):
            shapes_of(vit.build("vit_tiny", **fields), size)


CLIP_TINY = dict(patch=4, width=8, depth=2, heads=2)


def clip_arrays():
    """Returns random weights of a small image tower, named as CLIP's releases name them."""
    layer = {
        "ln_1.weight": (8,),
        "ln_1.bias": (8,),
        "attn.in_proj_weight": (24, 8),
        "attn.in_proj_bias": (24,),
        "attn.out_proj.weight": (8, 8),
        "attn.out_proj.bias": (8,),
        "ln_2.weight": (8,),
        "ln_2.bias": (8,),
        "mlp.c_fc.weight": (32, 8),
        "mlp.c_fc.bias": (32,),
        "mlp.c_proj.weight": (8, 32),
        "mlp.c_proj.bias": (8,),
    }
    shapes = {
        "class_embedding": (8,),
        "positional_embedding": (5, 8),
        "proj": (8, 6),
        "conv1.weight": (8, 3, 4, 4),
    }
    shapes |= {f"ln_{place}.{leaf}": (8,) for place in ("pre", "post") for leaf in ("weight", "bias")}
    shapes |= {f"transformer.resblocks.{i}.{name}": shape for i in range(2) for name, shape in layer.items()}
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def clip_by_hand(arrays, images):
    """Returns CLIP's embedding of images, as its paper and release define it."""

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * arrays[f"{name}.weight"] + arrays[f"{name}.bias"]

    def attend(x, name):
        queries, keys, values = np.split(
            x @ arrays[f"{name}.in_proj_weight"].T + arrays[f"{name}.in_proj_bias"], 3, -1
        )
        mixed = []
        for part in (slice(0, 4), slice(4, 8)):  # two heads of four channels
            scores = np.exp(queries[:, part] @ keys[:, part].T / 2)
            mixed.append(scores / scores.sum(-1, keepdims=True) @ values[:, part])
        return (
            np.concatenate(mixed, -1) @ arrays[f"{name}.out_proj.weight"].T + arrays[f"{name}.out_proj.bias"]
        )

    def embed(image):
        patches = [image[y : y + 4, x : x + 4] for y in (0, 4) for x in (0, 4)]
        tokens = [np.einsum("hwc,dchw->d", patch, arrays["conv1.weight"]) for patch in patches]
        x = np.stack([arrays["class_embedding"], *tokens]) + arrays["positional_embedding"]
        x = norm(x, "ln_pre")
        for name in ("transformer.resblocks.0", "transformer.resblocks.1"):
            x = x + attend(norm(x, f"{name}.ln_1"), f"{name}.attn")
            y = (
                norm(x, f"{name}.ln_2") @ arrays[f"{name}.mlp.c_fc.weight"].T
                + arrays[f"{name}.mlp.c_fc.bias"]
            )
            y = y / (1 + np.exp(-1.702 * y))
            x = x + y @ arrays[f"{name}.mlp.c_proj.weight"].T + arrays[f"{name}.mlp.c_proj.bias"]
        return norm(x[0], "ln_post") @ arrays["proj"]

    return np.stack([embed(image) for image in images])


def test_clips_image_tower_under_its_own_names():
    arrays = clip_arrays()
    text_tower = {
        "token_embedding.weight": np.ones((3, 8)),
        "transformer.resblocks.0.ln_1.weight": np.ones(8),
    }
    whole = {f"visual.{name}": array for name, array in arrays.items()} | text_tower
    backbone = vit.build("vit_b32_clip", **CLIP_TINY)
    target = pretrained.target_shapes(backbone, (8, 8, 3), 6)
    params, _, report = pretrained.load_torch(whole, vit, "vit_b32_clip", target)
    assert report.loaded == len(arrays) + 1 and not report.notes  # the projection gets a bias of zeros
    images = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype(np.float32)
    head = params["head"]["classifier"]

    @jax.jit
    def embed(images):
        features = backbone.apply({"params": params["backbone"]}, images, train=False)
        return features.embedding @ head["kernel"] + head["bias"]

    np.testing.assert_allclose(embed(images), clip_by_hand(arrays, images), rtol=1e-3, atol=1e-3)
    alone, _, _ = pretrained.load_torch(arrays, vit, "vit_b32_clip", target)
    jax.tree.map(np.testing.assert_array_equal, alone, params)
    other = pretrained.target_shapes(backbone, (8, 8, 3), 10)
    params, _, report = pretrained.load_torch(whole, vit, "vit_b32_clip", other)
    assert set(params) == {"backbone"} and "left out for its 6 classes" in report.notes[0]


@pytest.mark.parametrize(
    "variant, params",
    [("vit_b32_clip", 87_849_216), ("vit_b16_clip", 86_192_640), ("vit_l14_clip", 303_966_208)],
)
def test_parameter_count_of_clips_towers(variant, params):
    projection = 768 if "l14" in variant else 512
    assert params_of(vit.build(variant), projection) == params + projection  # the head has a bias


def test_maes_checkpoint_is_of_timms_names_and_its_decoder_is_left_out(tmp_path):
    target = pretrained.target_shapes(vit.build("vit_tiny"), (8, 8, 3), 3)
    names = {
        "class_token": "cls_token",
        "encoder.pos_embedding": "pos_embed",
        "conv_proj": "patch_embed.proj",
        "encoder.ln": "norm",
        "heads.head": "head",
        "encoder.layers.encoder_layer_0.ln_2": "blocks.0.norm2",
    }
    rng = np.random.default_rng(0)
    values = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), target)
    arrays = pretrained.to_torch(values["params"], {}, vit, "vit_tiny")
    foreign = {}
    for name, array in arrays.items():
        module, _, leaf = name.rpartition(".")
        foreign[names.get(name) or (f"{names[module]}.{leaf}" if module in names else name)] = array
    assert {"cls_token", "head.bias", "norm.weight", "blocks.0.norm2.bias"} <= set(foreign)
    foreign |= {"mask_token": np.ones((1, 1, 8)), "decoder_pos_embed": np.ones((1, 5, 8))}
    params, _, report = pretrained.load_torch(foreign, vit, "vit_tiny", target)
    jax.tree.map(np.testing.assert_array_equal, params, values["params"])
    assert report.loaded == len(arrays) and not report.notes
    np.savez(tmp_path / "foreign.npz", **foreign)
    options = dict(family="vit", variant="vit_tiny", image_shape=(8, 8, 3))
    convert.convert(tmp_path / "foreign.npz", tmp_path / "own.safetensors", **options)
    assert pretrained.read_state_dict(tmp_path / "own.safetensors")["head/classifier/bias"].shape == (3,)


def test_it_begins_as_maes_authors_have_it():
    """Xavier: U(-a, a) with a^2 = 6 / (fan-in + fan-out), standard deviation a / sqrt(3); every bias 0."""
    backbone = vit.build("vit_tiny", begins_as="mae")
    params = backbone.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)), train=False)["params"]
    patches = params["conv_proj"]["kernel"]  # [4, 4, 3, 64]
    assert np.std(patches) == pytest.approx(np.sqrt(2 / (48 + 64)), rel=0.05)
    layer = params["encoder.layers.encoder_layer_0"]
    out = layer["self_attention"]["out_proj"]["kernel"]  # [64, 64]
    assert np.std(out) == pytest.approx(np.sqrt(2 / 128), rel=0.05)
    assert np.all(layer["mlp.0"]["bias"] == 0) and np.std(params["class_token"]) > 0.01
    usual = vit.build("vit_tiny").init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)), train=False)["params"]
    assert np.std(usual["encoder.layers.encoder_layer_0"]["self_attention"]["out_proj"]["kernel"]) < 0.08
    assert jax.tree.map(jnp.shape, usual) == jax.tree.map(jnp.shape, params)
    for field in ("begins_as", "resize_positions"):
        with pytest.raises(ValueError, match=f"{field} of VisionTransformer is one of"):
            vit.build("vit_tiny", **{field: "x"}).init(
                jax.random.key(0), jnp.zeros((1, 16, 16, 3)), train=False
            )
