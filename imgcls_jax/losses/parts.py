"""Part attention of MA-CNN and the losses that make parts compact and diverse (Zheng, Fu, Mei, Luo 2017,
"Learning Multi-Attention Convolutional Neural Network for Fine-Grained Image Recognition", ICCV).

A part is a weighting of the channels of a feature map. Channels of one part peak at the same place, so their
sum is a map of where the part is. Maps here have the part before the position: [..., N, h, w].

Differences: the paper's attention is a sigmoid of the sum; that of the authors' released networks is another
function. `part_attention` has both. The authors released no training code, so the losses are from the paper's
equations.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

FORMS = ("release", "paper")
# Of the released networks: the response is tanh(0.1 mean), the attention softmax(4 log softplus(response)).
RESPONSE_SCALE = 0.1
SHARPNESS = 4.0


def part_response(
    feature_map: jax.Array, channel_weights: jax.Array, *, scale: float = RESPONSE_SCALE
) -> jax.Array:
    """Returns where each part is likely to be: the weighted mean of the channels, squashed.

    Eq.: m_i = tanh(s mean_c(d_ic F_c)). The largest entry is the place of the part; multiplying all weights
    of a part by one positive number does not move it.

    Args:
      feature_map: float [B, h, w, D], at least 0 after a ReLU; then the response lies in [0, 1).
      channel_weights: float [B, N, D], d, usually in [0, 1].
      scale: s; 0.1 suits VGG's last map. Where activations are smaller, as those of ReLU6, a larger one keeps
        the map from being flat.

    Returns:
      float32 [B, N, h, w].

    Raises:
      ValueError: the shapes do not agree.
    """
    return jnp.tanh(scale * _weighted_sum(feature_map, channel_weights) / feature_map.shape[-1])


def part_attention(
    feature_map: jax.Array,
    channel_weights: jax.Array,
    *,
    form: str = "release",
    scale: float = RESPONSE_SCALE,
) -> jax.Array:
    """Returns the attention map of each part.

    Eq. 2 of the paper: A_i = sigmoid(sum_c d_ic F_c). The authors' release: A_i = softmax over positions of 4
    log softplus(m_i), with m_i of `part_response`; it sums to 1, and its largest entry is at most 12.89 times
    its least.

    Args:
      feature_map: float [B, h, w, D].
      channel_weights: float [B, N, D].
      form: "release" or "paper".
      scale: of `part_response`, which the paper's form does not read.

    Returns:
      float32 [B, N, h, w].

    Raises:
      ValueError: the shapes do not agree, or an unknown form.
    """
    if form == "paper":
        return jax.nn.sigmoid(_weighted_sum(feature_map, channel_weights))
    if form != "release":
        raise ValueError(f"the form of part attention is one of {', '.join(FORMS)}; got {form!r}")
    response = part_response(feature_map, channel_weights, scale=scale)
    logits = SHARPNESS * jnp.log(jax.nn.softplus(response))
    return jax.nn.softmax(logits, axis=(-2, -1))


def part_distance(maps: jax.Array) -> jax.Array:
    """The distance loss: how far the mass of a map lies from its peak.

    Eq. 7: Dis(M) = sum_xy M(x, y) [(x - t_x)^2 + (y - t_y)^2], t the place of the largest entry (of equal
    ones the first), which counts as a constant.

    Args:
      maps: float [..., h, w], at least 0.

    Returns:
      float32 [...], at least 0, in squared positions of the map; 0 where all mass is in one place.
    """
    maps = jnp.asarray(maps, jnp.float32)
    return jnp.sum(maps * _squared_distance_to_peak(maps), axis=(-2, -1))


def part_target_distance(maps: jax.Array, *, width: float = 1.0) -> jax.Array:
    """The distance loss in the form that the authors' readme recommends: a Euclidean loss to a bump.

    Eq.: 1/2 sum_xy (M(x, y) / max M - k / (k + r^2))^2, r the distance to the place of the largest entry,
    which counts as a constant.

    Args:
      maps: float [..., h, w], at least 0.
      width: k, positive; at k = 1 the bump is 1, 1/2 and 1/5 at 0, 1 and 2 positions.

    Returns:
      float32 [...], at least 0; 0 where a map has the form of the bump, and for a map that is 0.
    """
    maps = jnp.asarray(maps, jnp.float32)
    target = width / (width + _squared_distance_to_peak(maps))
    peak = jax.lax.stop_gradient(jnp.max(maps, axis=(-2, -1), keepdims=True))
    scaled = jnp.where(peak > 0, maps / jnp.where(peak > 0, peak, 1.0), target)
    return 0.5 * jnp.sum((scaled - target) ** 2, axis=(-2, -1))


def part_diversity(maps: jax.Array, *, margin: float = 0.02) -> jax.Array:
    """The diversity loss: how much of a part's map lies where another part's is high.

    Eq. 8: Div(M_i) = sum_xy M_i(x, y) [max_{k != i} M_k(x, y) - mrg]. Both factors have gradients.

    Args:
      maps: float [..., N, h, w], at least 0; of one part alone the maximum over the others is 0.
      margin: mrg, below which an overlap is rewarded, not punished.

    Returns:
      float32 [..., N].
    """
    maps = jnp.asarray(maps, jnp.float32)
    num_parts = maps.shape[-3]
    if num_parts == 1:
        return -margin * jnp.sum(maps, axis=(-2, -1))
    own = jnp.eye(num_parts, dtype=bool)[:, :, None, None]
    others = jnp.max(jnp.where(own, -jnp.inf, maps[..., None, :, :, :]), axis=-3)  # [..., N, h, w]
    return jnp.sum(maps * (others - margin), axis=(-2, -1))


def peak_positions(maps: jax.Array) -> jax.Array:
    """Returns where each map is largest, of equal places the first in reading order.

    Args:
      maps: float [..., h, w].

    Returns:
      int32 [..., 2], (row, column).
    """
    height, width = maps.shape[-2:]
    flat = jnp.argmax(maps.reshape(*maps.shape[:-2], height * width), axis=-1).astype(jnp.int32)
    return jnp.stack([flat // width, flat % width], axis=-1)


def _weighted_sum(feature_map: jax.Array, channel_weights: jax.Array) -> jax.Array:
    """Returns the sum over channels of weight times map, float32 [B, N, h, w]."""
    batch, channels = feature_map.shape[0], feature_map.shape[-1]
    if channel_weights.ndim != 3 or channel_weights.shape[::2] != (batch, channels):
        raise ValueError(
            "parts need a feature map [B, h, w, D] and channel weights [B, N, D]; got "
            f"{feature_map.shape} and {channel_weights.shape}"
        )
    return jnp.einsum(
        "bhwd,bnd->bnhw", feature_map, channel_weights, preferred_element_type=jnp.float32
    ).astype(jnp.float32)


def _squared_distance_to_peak(maps: jax.Array) -> jax.Array:
    """Returns the squared distance of each position to that of the map's peak, float32 [..., h, w]."""
    height, width = maps.shape[-2:]
    peaks = jax.lax.stop_gradient(peak_positions(maps)).astype(jnp.float32)[..., None, None]
    rows, columns = jnp.arange(height, dtype=jnp.float32)[:, None], jnp.arange(width, dtype=jnp.float32)
    return (rows - peaks[..., 0, :, :]) ** 2 + (columns - peaks[..., 1, :, :]) ** 2
