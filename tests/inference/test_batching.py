"""The batcher without HTTP: who gets which answer, how batches form, what is refused, and how it ends."""

import threading

import numpy as np
import pytest

from imgcls_jax.inference.batching import Batcher, Closed, Full, sizes_up_to

SHAPE = (2, 2, 1)


def image(value):
    return np.full(SHAPE, value, np.uint8)


class Network:
    """Says an image's mean, and notes the batches; holds each from the second call on until let go."""

    def __init__(self, held=False):
        self.batches, self.begun, self.go = [], threading.Semaphore(0), threading.Event()
        if not held:
            self.go.set()

    def __call__(self, images):
        if images.any():
            self.batches.append(images[:, 0, 0, 0].tolist())
            self.begun.release()
            assert self.go.wait(20)
        if (images == 13).any():
            raise RuntimeError("out of memory")
        mean = images.mean((1, 2, 3))[:, None]
        return np.where(mean == 7, np.nan, mean).astype(np.float32)


@pytest.fixture
def started(request):
    made = []

    def start(network, **options):
        batcher = Batcher(network, SHAPE, **{"batch_size": 4, "most_waiting": 8} | options)
        batcher.start()
        made.append((network, batcher))
        return batcher

    yield start
    for network, batcher in made:
        network.go.set()
        batcher.close()


def held_at(started, **options):
    """A batcher whose network is at the image 1, and holds it."""
    network = Network(held=True)
    batcher = started(network, **options)
    first = batcher.submit(image(1))
    assert network.begun.acquire(timeout=20)
    return network, batcher, first


def test_the_sizes():
    assert [sizes_up_to(n) for n in (1, 2, 5, 8)] == [(1,), (1, 2), (1, 2, 4, 5), (1, 2, 4, 8)]


def test_all_sizes_are_compiled_before_the_first_image():
    seen = []
    batcher = Batcher(
        lambda images: seen.append(images.shape) or np.zeros((len(images), 1)),
        SHAPE, batch_size=6, most_waiting=1,
    )  # fmt: skip
    batcher.start()
    batcher.close()
    assert seen == [(n, *SHAPE) for n in (1, 2, 4, 6)]


def test_what_waits_becomes_the_next_batch_and_each_gets_its_own_answer(started):
    counts = []
    network, batcher, first = held_at(started, observe=counts.append)
    others = [batcher.submit(image(value)) for value in (2, 3, 4, 5, 6, 8, 9)]
    assert batcher.num_waiting == 7
    network.go.set()
    assert [float(answer.result(20)[0]) for answer in (first, *others)] == [1, 2, 3, 4, 5, 6, 8, 9]
    assert network.batches == [[1], [2, 3, 4, 5], [6, 8, 9, 0]]  # the last is filled up to a compiled size
    assert counts == [1, 4, 3]


def test_too_many_are_refused_at_once(started):
    network, batcher, first = held_at(started, most_waiting=3)
    waiting = [batcher.submit(image(value)) for value in (2, 3, 4)]
    with pytest.raises(Full, match="3 images are waiting"):
        batcher.submit(image(5))
    network.go.set()
    assert [float(answer.result(20)[0]) for answer in waiting] == [2, 3, 4]
    assert float(batcher.submit(image(6)).result(20)[0]) == 6


def test_an_image_whose_asker_has_gone_is_left_out(started):
    network, batcher, first = held_at(started)
    gone, kept = batcher.submit(image(2)), batcher.submit(image(3))
    assert gone.cancel() and not first.cancel()
    network.go.set()
    assert float(kept.result(20)[0]) == 3 and network.batches == [[1], [3]]


def test_a_batch_that_fails_ends_its_own_images_alone(started):
    batcher = started(Network())
    with pytest.raises(RuntimeError, match="out of memory"):
        batcher.submit(image(13)).result(20)
    assert float(batcher.submit(image(4)).result(20)[0]) == 4 and batcher.alive


def test_no_number_is_an_error_of_that_image_alone(started):
    network, batcher, _ = held_at(started)
    bad, good = batcher.submit(image(7)), batcher.submit(image(8))
    network.go.set()
    assert float(good.result(20)[0]) == 8
    with pytest.raises(ValueError, match="no number"):
        bad.result(20)


@pytest.mark.parametrize("wrong", [np.zeros((2, 2, 3), np.uint8), np.zeros(SHAPE, np.float32)])
def test_another_image_is_refused(started, wrong):
    with pytest.raises(ValueError, match="expected uint8"):
        started(Network()).submit(wrong)


def test_the_end_answers_what_waits(started):
    network, batcher, first = held_at(started, most_waiting=5)
    waiting = [batcher.submit(image(value)) for value in (2, 3, 4, 5, 6)]  # full: the end has to wait
    ending = threading.Thread(target=batcher.close)
    ending.start()
    while batcher.alive:
        pass
    with pytest.raises(Closed):
        batcher.submit(image(9))
    network.go.set()
    ending.join(20)
    assert not ending.is_alive()
    assert [float(answer.result(0)[0]) for answer in (first, *waiting)] == [1, 2, 3, 4, 5, 6]
    batcher.close()


def test_from_many_threads_every_image_gets_its_own_answer(started):
    batcher, wrong = started(Network(), most_waiting=1000), []

    def ask(start):
        for value in range(start, start + 25):
            if float(batcher.submit(image(value)).result(30)[0]) != value:
                wrong.append(value)

    threads = [threading.Thread(target=ask, args=(start,)) for start in (20, 60, 100, 140, 180, 220)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert wrong == []
