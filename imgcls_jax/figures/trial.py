"""A network tried on one image at a time: its classes, what the answer rests on, and its neighbours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from imgcls_jax.data.image_files import decoded, operations_for_files
from imgcls_jax.figures import attribution, drawing, named_layers
from imgcls_jax.figures.neighbours import thumbnail
from imgcls_jax.figures.network_input import unnormalized
from imgcls_jax.figures.network_pictures import logits, names_of
from imgcls_jax.inference import index as indices
from imgcls_jax.inference.export import Exported
from imgcls_jax.inference.trained import Trained, probabilities, unlike_training

SIDE = 360  # pixels of a picture
NO_NUMBER = "the network gives no number for it (NaN or infinity)"


class Answer(NamedTuple):
    """What a network says of one image.

    Attributes:
      probabilities: float32 [K].
      evidence: Grad-CAM of the likeliest class, laid over the image as the network sees it; None where
        `notes` says why.
      neighbours: (picture, caption) each, the most alike first.
      notes: what is missing, and why, and what to beware of.
    """

    probabilities: np.ndarray
    evidence: Image.Image | None = None
    neighbours: Sequence[tuple[Image.Image, str]] = ()
    notes: Sequence[str] = ()


class Trial(Protocol):
    """A network to try: `class_names`, K of them, `multi_label`, and `answer`, of an image file's bytes,
    which raises ValueError where they are no image."""

    class_names: Sequence[str]
    multi_label: bool

    def answer(self, content: bytes) -> Answer: ...


class OfExport:
    """An exported network: an answer is its probabilities alone."""

    def __init__(self, network: Exported):
        self.network, self.class_names, self.multi_label = network, network.class_names, network.multi_label
        self._operations = operations_for_files(network.eval_transforms, network.image_shape)

    def answer(self, content: bytes) -> Answer:
        image = decoded(content, self._operations, tuple(self.network.image_shape))
        found = np.asarray(self.network.function(image[None])["probabilities"])[0]
        if not np.isfinite(found).all():
            raise ValueError(NO_NUMBER)
        return Answer(found, notes=("an export has no layers to look into, and no index: give --workdir",))


class OfRun:
    """A run's network.

    Args:
      trained: of `with_named_layers`.
      index: of its embeddings, made by tools.index; None for no neighbours.
      class_names: K names; None for those of the run.
      k: neighbours.
    """

    def __init__(
        self,
        trained: Trained,
        index: indices.Index | None = None,
        *,
        class_names: Sequence[str] | None = None,
        k: int = 6,
    ):
        self.trained, self.index, self._k = trained, index, k
        self.multi_label = trained.objective.multi_label
        self._line = trained.data.settings.eval_transforms
        self._operations = operations_for_files(self._line, trained.source_shape)
        self._gradients: Callable[..., tuple[jax.Array, jax.Array]] | None = None

        def asked(image: jax.Array) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
            prepared = trained.data.prepare({"image": image})["image"]
            outputs = self._predict(prepared)
            return prepared, probabilities(outputs), {k: v for k, v in outputs.items() if k == "embedding"}

        self._asked = jax.jit(asked)
        shape = jax.ShapeDtypeStruct((1, *trained.source_shape), np.uint8)
        count = jax.eval_shape(self._asked, shape)[1].shape[1]  # raises where there are no classes
        self.class_names = names_of(trained, count) if class_names is None else class_names

    def answer(self, content: bytes) -> Answer:
        """Returns the answer. The first one compiles the network."""
        image = decoded(content, self._operations, tuple(self.trained.source_shape))
        prepared, found, outputs = self._asked(image[None])
        row, notes = np.asarray(found[0], np.float32), []
        if not np.isfinite(row).all():
            raise ValueError(NO_NUMBER)
        if warning := unlike_training([float(image.mean() / 255)], self.trained.brightness):
            notes.append(warning)
        evidence = None
        try:
            evidence = self._evidence(prepared, int(row.argmax()))
        except ValueError as error:
            notes.append(f"no Grad-CAM: {error}")
        neighbours: Sequence[tuple[Image.Image, str]] = ()
        if self.index is None:
            notes.append("no neighbours: the workdir has no index, which imgcls_jax.tools.index makes")
        elif "embedding" not in outputs:
            notes.append("no neighbours: this run's objective predicts no embedding")
        else:
            neighbours = self._neighbours(self.index, np.asarray(outputs["embedding"], np.float32))
        return Answer(row, evidence, neighbours, tuple(notes))

    def _predict(self, prepared: jax.Array) -> dict[str, jax.Array]:
        trained = self.trained
        return trained.objective.predict(trained.params, trained.objective_state, {"image": prepared})

    def _evidence(self, prepared: jax.Array, number: int) -> Image.Image:
        classes = jnp.array([number])
        if self._gradients is None:
            self._gradients = self._of_the_last_layer(prepared, classes)
        activation, gradient = self._gradients(prepared, classes)
        values = np.asarray(attribution.grad_cam(activation, gradient), np.float32)[0]
        seen = unnormalized(self._line, np.asarray(prepared, np.float32))[0]
        return drawing.to_image(drawing.overlaid(seen, drawing.stretched(values, 0.0)), SIDE)

    def _of_the_last_layer(self, prepared: jax.Array, classes: jax.Array) -> Any:
        """Returns the compiled activation and gradient of the last layer that the scores depend on."""

        def scores(images: jax.Array) -> jax.Array:
            return logits(self._predict(images))

        def of_layer(layer: str) -> Any:
            return jax.jit(
                lambda images, classes: attribution.activation_and_gradient(scores, images, classes, layer)
            )

        for layer in reversed(named_layers.layers(scores, prepared)):
            compiled = of_layer(layer)
            if np.asarray(compiled(prepared, classes)[1]).any():
                return compiled
        raise ValueError("the scores do not change with any map of this network")

    def _neighbours(self, index: indices.Index, query: np.ndarray) -> list[tuple[Image.Image, str]]:
        similarity, position = indices.search(index, query, self._k)
        return [
            (thumbnail(str(index.path[row])), f"{index.label[row]}  {cosine:.3f}")
            for cosine, row in zip(similarity[0], position[0], strict=True)
        ]
