"""Tables of names, read in both directions."""

import pytest

from imgcls_jax.layers.renaming import inside, renamed

TABLE = (
    ("stages.{s}.downsample.", "features.{2s}."),
    *inside("stages.{s}.blocks.{b}.", "features.{2s+1}.{b}.", (("norm.", "block.2."), ("gamma", "scale"))),
    ("s{s}.b{b+1}.", "trunk.block{s}.block{s}-{b}."),
    ("old.{g}.{i}.", "layer{i}."),
    ("new.{i}.", "layer{i}."),
)


@pytest.mark.parametrize(
    "theirs, ours",
    [
        ("stages.2.downsample.0.weight", "features.4.0.weight"),
        ("stages.2.blocks.11.norm.weight", "features.5.11.block.2.weight"),
        ("stages.0.blocks.0.gamma", "features.1.0.scale"),
        ("s3.b1.x", "trunk.block3.block3-0.x"),
        ("new.7.x", "layer7.x"),
        ("head.weight", "head.weight"),
    ],
)
def test_both_directions(theirs, ours):
    assert renamed(theirs, TABLE) == ours
    assert renamed(ours, TABLE, back=True) == theirs


def test_a_row_that_loses_a_number_is_read_and_not_written():
    assert renamed("old.3.7.x", TABLE) == "layer7.x"
    assert renamed("layer7.x", TABLE, back=True) == "new.7.x"


def test_numbers_that_do_not_come_out_match_nothing():
    assert renamed("features.x.", TABLE, back=True) == "features.x."
    assert renamed("s3.b0.x", TABLE) == "s3.b0.x"  # {b+1} of no b from 0 on
    assert renamed("trunk.block3.block2-0.x", TABLE, back=True) == "trunk.block3.block2-0.x"
    assert renamed("stages.12345678901.downsample.", TABLE) == "stages.12345678901.downsample."
