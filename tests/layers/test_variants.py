"""What a family says of a variant that it does not have."""

import pytest

from imgcls_jax.layers.variants import choose_variant


def test_a_variant_is_found_or_the_file_and_its_variants_are_named():
    assert choose_variant("imgcls_jax.models.new", {"one": 1, "two": 2}, "two") == 2
    with pytest.raises(ValueError, match=r"^models/new\.py has the variants one, two; got 'three'$"):
        choose_variant("imgcls_jax.models.new", {"one": 1, "two": 2}, "three")
    with pytest.raises(ValueError, match=r"^models/new\.py has the one variant one; got ''$"):
        choose_variant("imgcls_jax.models.new", {"one": 1}, "")
