"""Local response normalization across channels, the contrast norm of AlexNet, ZFNet and GoogLeNet.

Krizhevsky, Sutskever, Hinton 2012, section 3.3. The paper's formula does not divide alpha by the window's
size; here, as in Caffe, it is divided, so the paper's setting (n 5, alpha 1e-4, k 2) is
`local_response_norm(x, size=5, alpha=5e-4, beta=0.75, k=2.0)`, and Caffe's reference models (alpha 1e-4, k 1)
keep their own numbers.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from imgcls_jax.layers.windows import widened


def local_response_norm(x: jax.Array, *, size: int, alpha: float, beta: float, k: float) -> jax.Array:
    """Divides each channel by a power of the mean square of its neighbors.

    y_c = x_c / (k + alpha / size * sum_j x_j^2)^beta, with j from c - size // 2 to c + (size - 1) // 2.
    Neighbors outside the range of channels count as zeros, and the divisor stays `size`.

    Args:
      x: float [..., C].
      size: number of channels in the window, >= 1; an even window reaches one channel further down than up.
      alpha: weight of the mean square, >= 0.
      beta: the exponent.
      k: what the mean square is added to, > 0.

    Returns:
      float [..., C], of x's dtype. The quotient is computed in float32 at least: alpha is small beside k.

    Raises:
      ValueError: size below 1.
    """
    if size < 1:
        raise ValueError(f"local_response_norm needs a window of size >= 1; got {size}")
    wide = widened(x)
    channels = x.shape[-1]
    edges = [(0, 0)] * (x.ndim - 1) + [(size // 2, (size - 1) // 2)]
    squares = jnp.pad(jnp.square(wide), edges)  # [..., size - 1 + C]
    window_sum = sum(squares[..., offset : offset + channels] for offset in range(size))
    return (wide * (k + alpha / size * window_sum) ** -beta).astype(x.dtype)
