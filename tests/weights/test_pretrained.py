"""Weights from elsewhere: names and layouts, what is dropped or fitted and said so, and what is refused."""

import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.models import simpleconv3, squeezenet, vgg, vit
from imgcls_jax.tools import convert
from imgcls_jax.weights import pretrained
from imgcls_jax.weights.positions import resize_positions

SHARED = Path(__file__).parents[3] / "shared" / "data"


def shaped(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), tree)


def torch_arrays(family, variant, size, num_classes=4, channels=3):
    """Returns a state dict of random values for a network of this package."""
    target = pretrained.target_shapes(family.build(variant), (size, size, channels), num_classes)
    rng = np.random.default_rng(0)
    values = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), target)
    return pretrained.to_torch(values["params"], values["batch_stats"], family, variant), target


@pytest.fixture(scope="module")
def simple():
    return torch_arrays(simpleconv3, "simpleconv3", 48)


def load(arrays, target, family=simpleconv3, variant="simpleconv3"):
    return pretrained.load_torch(arrays, family, variant, target)


def without_head(target):
    return {**target, "params": {"backbone": target["params"]["backbone"]}}


@jax.jit
def feature_map(variables, images):
    return simpleconv3.build().apply(variables, images, train=False).map


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_names_and_layouts_by_hand(simple):
    arrays, target = simple
    params, batch_stats, report = load(arrays, target)
    backbone = params["backbone"]
    assert report.loaded == len(arrays) == 24 and report.notes == () and str(report) == "24 arrays loaded"
    np.testing.assert_array_equal(backbone["conv2"]["kernel"][0, 2, 5, 7], arrays["conv2.weight"][7, 5, 0, 2])
    np.testing.assert_array_equal(backbone["bn2"]["scale"], arrays["bn2.weight"])
    np.testing.assert_array_equal(batch_stats["bn2"]["mean"], arrays["bn2.running_mean"])
    np.testing.assert_array_equal(batch_stats["bn2"]["var"], arrays["bn2.running_var"])
    np.testing.assert_array_equal(backbone["fc2"]["kernel"], arrays["fc2.weight"].T)
    np.testing.assert_array_equal(params["head"]["classifier"]["kernel"], arrays["fc3.weight"].T)
    row, column, channel = 4, 1, 30  # of the map of 6x6x48 that fc1 reads
    np.testing.assert_array_equal(
        backbone["fc1"]["kernel"][(row * 6 + column) * 48 + channel],
        arrays["fc1.weight"][:, (channel * 6 + row) * 6 + column],
    )
    assert all(leaf.flags.c_contiguous for leaf in jax.tree.leaves((params, batch_stats)))


def test_a_flattened_map_that_is_not_square():
    family = types.SimpleNamespace(
        __name__="toy",
        build=lambda variant: None,
        torch_head=lambda variant: "last",
        torch_flatten=lambda variant: {"fc": (3, 5)},
    )
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, 3, 5, 4)).astype(np.float32)
    weight = rng.normal(size=(7, 60)).astype(np.float32)
    leaf = jax.ShapeDtypeStruct((60, 7), jnp.float32)
    params, _, _ = load(
        {"fc.weight": weight}, {"params": {"backbone": {"fc": {"kernel": leaf}}}}, family, "x"
    )
    expected = images.transpose(0, 3, 1, 2).reshape(2, -1) @ weight.T
    np.testing.assert_allclose(
        images.reshape(2, -1) @ params["backbone"]["fc"]["kernel"], expected, rtol=1e-5
    )
    np.testing.assert_array_equal(pretrained.to_torch(params, {}, family, "x")["fc.weight"], weight)


def test_the_classifier_by_convolution():
    arrays, target = torch_arrays(squeezenet, "squeezenet1_1", 64)
    assert arrays["classifier.1.weight"].shape == (4, 512, 1, 1)
    assert target["params"]["head"]["classifier"]["kernel"].shape == (512, 4)
    params, batch_stats, report = load(arrays, target, squeezenet, "squeezenet1_1")
    assert report.loaded == len(arrays) and batch_stats == {}
    back = pretrained.to_torch(params, batch_stats, squeezenet, "squeezenet1_1")
    same(back, arrays)


def test_another_class_count_drops_the_head_and_says_so(simple):
    arrays, _ = simple
    target = pretrained.target_shapes(simpleconv3.build(), (48, 48, 3), 10)
    params, batch_stats, report = load(arrays, target)
    assert set(params) == {"backbone"} and set(batch_stats) == {"bn1", "bn2", "bn3"}
    assert report.loaded == 22 and report.notes == (
        "fc3: left out for its 4 classes; the head of 10 starts afresh",
    )


def test_other_heads(simple):
    arrays, target = simple
    params, _, report = load(arrays, without_head(target))
    assert set(params) == {"backbone"} and report.notes == ("fc3: left out, nothing here uses it",)
    headless = {name: array for name, array in arrays.items() if not name.startswith("fc3.")}
    params, _, report = load(headless, target)
    assert set(params) == {"backbone"} and report.notes == ("fc3: not in the file, starts afresh",)
    projector = {"layer": {"kernel": jax.ShapeDtypeStruct((128, 4), jnp.float32)}}
    other = {**target, "params": {"backbone": target["params"]["backbone"], "head": projector}}
    params, _, report = load(arrays, other)
    assert set(params) == {"backbone"} and "of another kind" in report.notes[0]
    beside = {**target, "params": {**target["params"], "projector": projector}}
    assert set(load(arrays, beside)[0]) == {"backbone", "head"}


def test_what_does_not_fit_is_listed_once_and_all(simple):
    arrays, target = simple
    wrong = {name: array for name, array in arrays.items() if not name.startswith("bn2.")}
    wrong |= {"conv9.weight": np.ones(1), "conv3.weight": np.ones((48, 24, 5, 5), np.float32)}
    with pytest.raises(ValueError) as caught:
        load(wrong, target)
    assert str(caught.value) == (
        "the weights do not fit simpleconv3 simpleconv3; "
        "4 missing: bn2.bias, bn2.scale, bn2.running_mean, bn2.running_var; 1 left over: conv9.weight; "
        "1 of another shape: conv3.weight is (5, 5, 24, 48), not (3, 3, 24, 48)"
    ).replace("bn2.scale", "bn2.weight")
    with pytest.raises(ValueError, match="22 missing: .*, ...; 24 left over: other_bn1.bias, .*, ..."):
        load({f"other_{name}": array for name, array in arrays.items()}, without_head(target))


def test_another_image_size_is_refused_where_a_map_is_flattened(simple):
    target = pretrained.target_shapes(simpleconv3.build(), (64, 64, 3), 4)
    with pytest.raises(ValueError, match=r"fc1.weight is \(1728, 512\), not \(3072, 512\) \(a flattened map"):
        load(simple[0], target)
    values = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), target)
    with pytest.raises(ValueError, match="flattens a map of 6x6 before fc1; .* reads 3072 inputs"):
        pretrained.to_torch(values["params"], values["batch_stats"], simpleconv3, "simpleconv3")


def test_grey_images_from_rgb_weights(simple):
    arrays, target = simple
    grey_target = pretrained.target_shapes(simpleconv3.build(), (48, 48, 1), 4)
    colour, stats, _ = load(arrays, target)
    grey, _, report = load(arrays, grey_target)
    assert report.notes == ("conv1.weight: summed over R, G and B for gray images",)
    image = np.random.default_rng(0).normal(size=(1, 48, 48, 1)).astype(np.float32)
    outputs = [
        feature_map({"params": params["backbone"], "batch_stats": stats}, images)
        for params, images in ((colour, np.repeat(image, 3, axis=3)), (grey, image))
    ]
    scale = np.abs(outputs[0]).max()
    np.testing.assert_allclose(outputs[1] / scale, outputs[0] / scale, atol=1e-5)


def test_positions_of_another_grid(simple):
    arrays, small = torch_arrays(vit, "vit_tiny", 32)
    large = pretrained.target_shapes(vit.build("vit_tiny"), (64, 64, 3), 4)
    ramp = np.zeros((1, 1 + 8 * 8, 64), np.float32)
    ramp[:, 0] = 7.0
    ramp[:, 1:] = np.repeat(np.arange(8, dtype=np.float32), 8)[None, :, None]  # grows with the row
    arrays["encoder.pos_embedding"] = ramp
    same(load(arrays, small, vit, "vit_tiny")[0]["backbone"]["encoder.pos_embedding"], ramp)
    params, _, report = load(arrays, large, vit, "vit_tiny")
    assert report.notes == ("encoder.pos_embedding: interpolated in timm's way from a grid of 8x8 to 16x16",)
    found = params["backbone"]["encoder.pos_embedding"]
    assert found.shape == (1, 257, 64) and np.all(found[:, 0] == 7.0)
    grid = found[0, 1:, 0].reshape(16, 16)
    np.testing.assert_allclose(grid, np.repeat(grid[:, :1], 16, axis=1), atol=1e-5)
    np.testing.assert_allclose(grid[4:12, 0], (np.arange(4, 12) + 0.5) / 2 - 0.5, atol=1e-5)
    oblong = pretrained.target_shapes(vit.build("vit_tiny"), (32, 64, 3), 4)
    with pytest.raises(ValueError, match=r"pos_embedding is \(1, 65, 64\), not \(1, 129, 64\)"):
        load(arrays, oblong, vit, "vit_tiny")


def test_positions_resized_as_torchvision_and_mae_do():
    """By hand, a row 0, 0, 1, 0 brought to 7 and to 8.

    The cubic with a = -3/4 is 0.59375 at 1/2 and -0.09375 at 3/2, 0.87890625 at 1/4, -0.03515625 at 7/4,
    0.26171875 at 3/4 and -0.10546875 at 5/4.
    """
    row = np.array([0.0, 0, 1, 0])
    square = np.broadcast_to(row[None, None, :, None], (1, 4, 4, 1)).astype(np.float32)
    # Corners stay: every second one is an old one, and the others lie halfway.
    found = resize_positions(square, 7, "torchvision")
    np.testing.assert_allclose(found[0, 3, :, 0], [0, -0.09375, 0, 0.59375, 1, 0.59375, 0], atol=1e-6)
    # Edges stay: the places are -1/4, 1/4, 3/4, ... of the old grid.
    found = resize_positions(square, 8, "mae")
    expected = [-0.03515625, -0.10546875, 0.26171875, 0.87890625, 0.87890625, 0.26171875]
    np.testing.assert_allclose(found[0, 3, 1:7, 0], expected, atol=1e-6)
    constant = np.ones((1, 3, 3, 2), np.float32)
    for like in ("timm", "torchvision", "mae"):
        np.testing.assert_allclose(resize_positions(constant, 5, like), 1, atol=1e-6)
    with pytest.raises(ValueError, match="resize_positions is one of timm, torchvision, mae, dinov2"):
        resize_positions(constant, 5, "nearest")


def test_a_family_may_bring_foreign_names_to_the_rule(simple):
    arrays, target = simple
    family = types.SimpleNamespace(
        **{key: value for key, value in vars(simpleconv3).items() if not key.startswith("__")},
        __name__="simpleconv3",
        import_weights=lambda arrays, variant: {name.replace("/", "."): a for name, a in arrays.items()},
        export_weights=lambda arrays, variant: {name.replace(".", "/"): a for name, a in arrays.items()},
    )
    foreign = {name.replace(".", "/"): array for name, array in arrays.items()}
    params, batch_stats, _ = load(foreign, target, family)
    same(params, load(arrays, target)[0])
    same(pretrained.to_torch(params, batch_stats, family, "simpleconv3"), foreign)


def test_own_names_there_and_back(simple, tmp_path):
    arrays, target = simple
    params, batch_stats, _ = load(arrays, target)
    named = pretrained.export_names(params, batch_stats)
    assert {"backbone/conv1/kernel", "head/classifier/bias", "batch_stats/bn1/mean"} <= set(named)
    same(pretrained.import_names(named), (params, batch_stats))
    named["projector/layer/kernel"] = np.ones((2, 2), np.float32)
    pretrained.write_safetensors(tmp_path / "own.safetensors", named)
    found = pretrained.load(tmp_path / "own.safetensors", simpleconv3, "simpleconv3", target)
    same(found[:2], (params, batch_stats))
    assert found[2].loaded == 24 and "projector" in str(found[2])
    with pytest.raises(ValueError, match="own.safetensors: the weights do not fit .* backbone/fc1/kernel is"):
        other = pretrained.target_shapes(simpleconv3.build(), (40, 40, 3), 4)
        pretrained.load(tmp_path / "own.safetensors", simpleconv3, "simpleconv3", other)
    with pytest.raises(ValueError, match="expected names such as"):
        pretrained.import_names(arrays)
    with pytest.raises(ValueError, match="no counterpart of projector/layer/kernel"):
        pretrained.to_torch(
            {**params, "projector": {"layer": {"kernel": np.ones(2)}}},
            batch_stats,
            simpleconv3,
            "simpleconv3",
        )


def test_auxiliary_classifiers_are_loaded_or_left_out():
    from imgcls_jax.models import googlenet

    backbone = googlenet.build("googlenet", aux=True)
    target = pretrained.target_shapes(backbone, (64, 64, 3), 5, aux=True)
    assert set(target["params"]) == {"backbone", "head", "aux_head_0", "aux_head_1"}
    values = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), target)
    arrays = pretrained.to_torch(values["params"], values["batch_stats"], googlenet, "googlenet")
    assert {"aux1.fc2.weight", "aux2.fc2.bias", "aux1.conv.bn.running_var"} <= set(arrays)
    params, _, report = load(arrays, target, googlenet, "googlenet")
    assert report.loaded == len(arrays) and not report.notes and set(params) == set(target["params"])
    bare = pretrained.target_shapes(googlenet.build("googlenet"), (64, 64, 3), 5)
    for source in (arrays, pretrained.export_names(values["params"], values["batch_stats"])):
        load_names = pretrained.load_own if pretrained.is_own(source) else pretrained.load_torch
        params, _, report = load_names(source, googlenet, "googlenet", bare)
        assert set(params) == {"backbone", "head"} and "aux1: left out" in str(report)


@pytest.mark.parametrize("classes", [5, 7])
def test_a_trunk_without_its_fully_connected_layers_leaves_them_in_the_file(classes):
    whole = pretrained.target_shapes(vgg.build("vgg11", hidden=(6, 6)), (224, 224, 3), 7)
    values = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), whole)
    arrays = pretrained.to_torch(values["params"], {}, vgg, "vgg11")
    trunk = vgg.build("vgg11", top=False, last_pool=False)
    target = pretrained.target_shapes(trunk, (64, 64, 3), classes)
    params, _, report = pretrained.load_torch(arrays, vgg, "vgg11", target)
    assert set(params) == {"backbone"} and len(params["backbone"]) == 8
    assert "classifier: left out, the network here is built without it" in report.notes
    assert any(note.startswith("classifier.6: left out") for note in report.notes)


def test_convert_writes_both_namings(simple, tmp_path, capsys):
    arrays, _ = simple
    np.savez(tmp_path / "in.npz", **arrays)
    options = ["--family=simpleconv3", "--variant=simpleconv3", "--image_size=48"]
    own, back = str(tmp_path / "own.safetensors"), str(tmp_path / "back.safetensors")
    assert convert.main([str(tmp_path / "in.npz"), own, *options]) == 0
    assert capsys.readouterr().out == f"{own}: 24 arrays loaded\n"
    assert "backbone/fc1/kernel" in pretrained.read_state_dict(own)
    assert convert.main([own, back, *options, "--to=torch"]) == 0
    same(pretrained.read_state_dict(back), arrays)
    assert convert.main([str(tmp_path / "in.npz"), own, *options, "--num_classes=7"]) == 0
    assert "head/classifier/kernel" not in pretrained.read_state_dict(own)
    assert "left out for its 4 classes" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["absent.pth", "a.safetensors", "--family=simpleconv3", "--variant=simpleconv3"], "no such file"),
        (["in.npz", "a.pth", "--family=simpleconv3", "--variant=simpleconv3"], "written as .safetensors"),
        (["in.npz", "a.safetensors", "--family=nonsense", "--variant=x"], "no family 'nonsense'"),
        (["in.npz", "a.safetensors", "--family=layers", "--variant=x"], "no family 'layers'"),
        (["in.npz", "a.safetensors", "--family=simpleconv3", "--variant=x"], "simpleconv3_caffe"),
        (
            ["in.npz", "a.safetensors", "--family=simpleconv3", "--variant=simpleconv3"],
            "24 missing|22 missing",
        ),
    ],
)
def test_convert_says_what_is_wrong(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    np.savez("in.npz", w=np.ones(2))
    assert convert.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and any(part in error for part in message.split("|"))
    assert not Path("a.safetensors").exists()


def test_the_books_own_network_on_mouth_crops():
    """On the 100 crops of the val list: class 0 for "none" and class 2 for "smile"."""
    weights, folder = SHARED / "weights" / "simpleconv3_4class.pt", SHARED / "mouth"
    if not (weights.exists() and folder.exists()):
        pytest.skip(f"{SHARED} is not here")
    from PIL import Image

    backbone = simpleconv3.build()
    target = pretrained.target_shapes(backbone, (48, 48, 3), 4)
    params, batch_stats, report = pretrained.load(weights, simpleconv3, "simpleconv3", target)
    assert report.loaded == 24 and not report.notes
    lines = [line.split() for line in (folder / "val.txt").read_text().splitlines()]
    crops = [Image.open(folder / path).convert("RGB") for path, _ in lines]
    images = np.stack([np.asarray(crop.resize((48, 48), Image.Resampling.BILINEAR)) for crop in crops])
    variables = {"params": params["backbone"], "batch_stats": batch_stats}
    apply = jax.jit(lambda variables, images: backbone.apply(variables, images, train=False).embedding)
    embedding = apply(variables, images / np.float32(127.5) - 1)
    head = params["head"]["classifier"]
    found = np.argmax(embedding @ head["kernel"] + head["bias"], axis=1)
    labels = np.array([int(label) for _, label in lines])
    assert np.sum(found[labels == 0] == 0) >= 48 and np.sum(found[labels == 1] == 2) >= 47


def test_the_weights_of_an_export_of_version_0_1_are_read(tmp_path):
    """Its names began with "params/", but those of batch_stats."""
    target = pretrained.target_shapes(simpleconv3.build(), (24, 24, 3), 4)
    rng = np.random.default_rng(0)
    full = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), target)
    arrays = {f"params/{name}": a for name, a in pretrained.export_names(full["params"], {}).items()}
    arrays |= pretrained.export_names({}, full["batch_stats"])
    pretrained.write_safetensors(tmp_path / "weights.safetensors", arrays)
    params, batch_stats, report = pretrained.load(
        tmp_path / "weights.safetensors", simpleconv3, "simpleconv3", target
    )
    assert not report.notes and report.loaded == len(arrays)
    same(
        pretrained.export_names(params, batch_stats),
        pretrained.export_names(full["params"], full["batch_stats"]),
    )
