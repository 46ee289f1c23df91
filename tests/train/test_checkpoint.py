"""Checkpoints: what stays, what damage is noticed, and what a foreign one says."""

import errno
import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from imgcls_jax.runtime import files
from imgcls_jax.runtime.buckets import as_path
from imgcls_jax.train import checkpoint, checkpoint_tree, sharding
from imgcls_jax.train.checkpoint import Checkpoints
from imgcls_jax.train.state import TrainState, checksum, first_nonfinite, state_digest

REPLICATED = sharding.replicated(sharding.data_mesh())
TX = optax.adam(0.1)


def state_at(step, seed=0, width=500):
    def make(rng):
        params = {"backbone": {"kernel": jax.random.normal(rng, (4, width))}, "head": {"bias": jnp.ones(3)}}
        return TrainState(
            jnp.int32(step), params, {"batch_stats": {}, "seen": jnp.arange(4)}, TX.init(params), rng
        )

    return jax.jit(make, out_shardings=REPLICATED)(jax.random.key(seed))


def target(**options):
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=REPLICATED), state_at(0, **options)
    )


def save(directory, accuracies, **options):
    with Checkpoints(directory, **options) as checkpoints:
        for step, accuracy in accuracies.items():
            checkpoints.save(state_at(step, seed=step), wait=True)
            if accuracy is not None:
                checkpoints.record(step, {"acc": accuracy})
    return directory


def damage(directory, step, how):
    """Changes the file that holds most of a checkpoint."""
    path = max(
        (directory / str(step) / "state").rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else 0
    )
    content = bytearray(path.read_bytes())
    if how == "truncated":
        content = content[: len(content) // 2]
    elif how == "flipped":
        middle = len(content) // 2
        content[middle : middle + 64] = bytes(byte ^ 0xFF for byte in content[middle : middle + 64])
    else:  # one bit, at a fraction of the file
        content[int(how * len(content))] ^= 0x10
    path.write_bytes(content)


def test_round_trip(tmp_path):
    save(tmp_path, {5: None})
    with Checkpoints(tmp_path) as checkpoints:
        restored, order = checkpoints.restore_latest(lambda step: target())
    assert order is None and int(restored.step) == 5
    assert state_digest(restored) == state_digest(state_at(5, seed=5))
    assert jax.tree.structure(restored) == jax.tree.structure(state_at(5))


def test_in_an_object_store_what_is_not_committed_or_damaged_does_not_count(store):
    folder = as_path(f"{store.address}/checkpoints")
    save(folder, {1: 0.9, 2: 0.1, 3: None}, keep_last=3, best_metric="acc")
    store.remove("checkpoints/3/commit_success.txt")  # as a kill leaves it
    largest = max(
        (name for name in store.objects if name.startswith("checkpoints/2/state/")),
        key=lambda name: len(store.objects[name][1]),
    )
    store.put(largest, bytes(byte ^ 1 for byte in store.objects[largest][1]))
    with Checkpoints(folder, keep_last=3, best_metric="acc", read_only=True) as checkpoints:
        assert checkpoints.steps() == [1, 2]
        restored, _ = checkpoints.restore_latest(lambda step: target())
    assert state_digest(restored) == state_digest(state_at(1, seed=1))


def test_the_order_comes_back(tmp_path):
    order = np.random.default_rng(0).permutation(9)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state_at(3), order=order, wait=True)
        _, restored = checkpoints.restore_latest(lambda step: target(), np.zeros(9, np.int64))
    np.testing.assert_array_equal(restored, order)


def test_an_empty_folder_has_nothing_to_restore(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore_latest(lambda step: target()) is None
        with pytest.raises(ValueError, match="holds no checkpoint yet"):
            checkpoints.restore_for_prediction("latest", REPLICATED)


@pytest.mark.parametrize("mode, best", [("max", 2), ("min", 3)])
def test_the_newest_and_the_best_stay(tmp_path, mode, best):
    accuracies = {1: 0.5, 2: 0.9, 3: 0.1, 4: None, 5: 0.4, 6: 0.3}
    save(tmp_path, accuracies, keep_last=2, best_metric="acc", best_mode=mode)
    with Checkpoints(tmp_path, best_metric="acc", best_mode=mode) as checkpoints:
        assert checkpoints.steps() == [best, 5, 6]
        assert checkpoints.restore_for_prediction("best", REPLICATED)[0] == best
        assert checkpoints.restore_for_prediction("latest", REPLICATED)[0] == 6
        step, params, objective_state = checkpoints.restore_for_prediction("5", REPLICATED)
        np.testing.assert_array_equal(
            params["backbone"]["kernel"], state_at(5, seed=5).params["backbone"]["kernel"]
        )
        np.testing.assert_array_equal(objective_state["seen"], np.arange(4))
        with pytest.raises(ValueError, match="'7' is not in"):
            checkpoints.restore_for_prediction("7", REPLICATED)


@pytest.mark.parametrize("how", ["truncated", "flipped", 0.0, 0.25, 0.75])
def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_used(tmp_path, how, caplog):
    save(tmp_path, {1: None, 2: None})
    damage(tmp_path, 2, how)
    with Checkpoints(tmp_path) as checkpoints:
        restored, _ = checkpoints.restore_latest(lambda step: target())
        assert int(restored.step) == 1 and "2 CANNOT BE READ" in caplog.text
        assert state_digest(restored) == state_digest(state_at(1, seed=1))
        assert checkpoints.steps() == [1] and (tmp_path / "2.unreadable").is_dir()
        checkpoints.save(state_at(2, seed=2), wait=True)
        restored, _ = checkpoints.restore_latest(lambda step: target())
    assert int(restored.step) == 2


def test_a_half_written_save_is_no_checkpoint(tmp_path):
    save(tmp_path, {1: None, 2: None})
    (tmp_path / "2").rename(tmp_path / "2.orbax-checkpoint-tmp")
    with Checkpoints(tmp_path) as checkpoints:
        restored, _ = checkpoints.restore_latest(lambda step: target())
    assert int(restored.step) == 1


def test_a_full_disk_is_told_and_the_checkpoint_before_stays(tmp_path):
    """The limit on a file's size stands for the full disk: writing beyond it fails in the same place."""
    save(tmp_path, {1: None})
    code = f"""
import importlib.util, pathlib, resource
spec = importlib.util.spec_from_file_location("saving", {__file__!r})
saving = importlib.util.module_from_spec(spec)
spec.loader.exec_module(saving)
state = saving.state_at(2)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    with saving.Checkpoints(pathlib.Path({str(tmp_path)!r})) as checkpoints:
        checkpoints.save(state)
        checkpoints.save(state._replace(step=state.step + 1), wait=True)
except OSError as error:
    print("NOT SAVED", error)
"""
    environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}  # whose files the limit would cut
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert "NOT SAVED a checkpoint could not be written" in done.stdout, done.stderr
    assert "File too large" in done.stdout and done.returncode == 0, done.stdout
    with Checkpoints(tmp_path) as checkpoints:
        restored, _ = checkpoints.restore_latest(lambda step: target())
        assert checkpoints.steps() == [1]
    assert state_digest(restored) == state_digest(state_at(1, seed=1))


def test_nothing_is_renamed_where_none_can_be_read(tmp_path):
    save(tmp_path, {1: None})
    damage(tmp_path, 1, "truncated")
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(ValueError, match="none of the checkpoints"):
        checkpoints.restore_latest(lambda step: target())
    assert (tmp_path / "1").is_dir()


def test_another_structure_is_no_damage(tmp_path):
    save(tmp_path, {1: None})
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(ValueError, match=r"kernel: saved \(4, 500\), wanted \(4, 7\)"),
    ):
        checkpoints.restore_latest(lambda step: target(width=7))
    assert (tmp_path / "1").is_dir()


def test_checksum_sees_any_flip_and_any_swap():
    tree = {"a": jnp.arange(6.0), "b": jnp.array([True, False]), "c": jnp.ones(3, jnp.bfloat16)}
    base = int(checksum(tree))
    assert int(checksum(jax.tree.map(jnp.copy, tree))) == base
    for index in range(6):
        assert int(checksum(tree | {"a": tree["a"].at[index].add(1e-3 + tree["a"][index] * 1e-6)})) != base
    assert int(checksum(tree | {"a": tree["a"][::-1]})) != base
    assert int(checksum(tree | {"b": jnp.array([False, True])})) != base


def test_digest_covers_every_field_but_not_the_step():
    state = state_at(3)
    base = state_digest(state)
    assert base == state_digest(state._replace(step=jnp.int32(9)))
    assert base != state_digest(state._replace(rng=jax.random.key(1)))
    assert base != state_digest(
        state._replace(objective_state=state.objective_state | {"seen": jnp.arange(4) + 1})
    )
    assert base != state_digest(state._replace(opt_state=TX.init({"other": jnp.ones(2)})))


def test_first_nonfinite_names_params_first():
    state = state_at(0)
    assert first_nonfinite(state) is None
    bad = state._replace(
        params=state.params | {"head": {"bias": jnp.array([1.0, jnp.inf])}},
        objective_state={"m": jnp.array(jnp.nan)},
    )
    assert first_nonfinite(bad) == "params/head/bias"
    assert first_nonfinite(state._replace(objective_state={"m": jnp.array(jnp.nan)})) == "objective_state/m"


def flipped(directory, seed):
    """Flips one bit of one file of a checkpoint; returns the file."""
    rng = np.random.default_rng(seed)
    found = [path for path in directory.rglob("*") if path.is_file() and path.stat().st_size]
    files = sorted(found, key=lambda path: path.stat().st_size)  # their names are random, their sizes are not
    path = files[rng.integers(len(files))]
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    path.write_bytes(content)
    return path


def older(directory):
    """Makes a checkpoint one of before its parts had checksums."""
    path = directory / "meta" / "metadata"
    meta = json.loads(path.read_text())
    path.write_text(json.dumps({name: meta[name] for name in ("step", "checksum")}))


@pytest.mark.parametrize("old", [False, True])
def test_no_flipped_bit_comes_out_as_another_number(tmp_path, old):
    save(tmp_path / "whole", {1: None})
    if old:
        older(tmp_path / "whole" / "1")
    refused = 0
    for seed in range(24):
        directory = shutil.copytree(tmp_path / "whole", tmp_path / "flipped")
        file = flipped(directory / "1", seed)
        with Checkpoints(directory, read_only=True) as checkpoints:
            try:
                step, params, objective_state = checkpoints.restore_for_prediction("latest", REPLICATED)
            except ValueError as error:
                assert f"{directory / '1'} cannot be read" in str(error)
                refused += 1
            else:
                expected = state_at(1, seed=1)
                for got, wanted in ((params, expected.params), (objective_state, expected.objective_state)):
                    assert jax.tree.structure(got) == jax.tree.structure(wanted) or "batch_stats" in wanted
                    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
                        assert a.dtype == b.dtype and np.array_equal(a, b), file
        shutil.rmtree(directory)
    assert refused >= 5


@pytest.mark.parametrize("tx", [optax.adafactor(0.1), optax.apply_if_finite(optax.adam(0.1), 3)])
def test_an_older_checkpoint_is_verified_whatever_its_optimizer(tmp_path, tx):
    state = state_at(1)
    state = state._replace(opt_state=tx.init(state.params))
    leaves, structure = jax.tree.flatten(state.opt_state)
    distinct = [(leaf + number).astype(leaf.dtype) for number, leaf in enumerate(leaves)]
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state._replace(opt_state=jax.tree.unflatten(structure, distinct)), wait=True)
    older(tmp_path / "1")
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.restore_for_prediction("latest", REPLICATED)[0] == 1


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"acc": "x"}', '{"acc": NaN}', "\0", '{"acc": 1e5'])
def test_damaged_metrics_block_nothing(tmp_path, content, caplog):
    save(tmp_path, {1: 0.5, 2: 0.4, 3: 0.3}, best_metric="acc")
    (tmp_path / "1" / "metrics" / "metrics").write_text(content)
    with Checkpoints(tmp_path, best_metric="acc", read_only=True) as checkpoints:
        assert checkpoints.restore_for_prediction("best", REPLICATED)[0] == 2
    assert str(tmp_path / "1" / "metrics" / "metrics") in caplog.text
    with Checkpoints(tmp_path, best_metric="acc") as checkpoints:
        checkpoints.restore_latest(lambda step: target())
        checkpoints.save(state_at(4, seed=4), wait=True)
        checkpoints.record(4, {"acc": 0.1})
        assert checkpoints.restore_for_prediction("best", REPLICATED)[0] == 2
    assert 4 in Checkpoints(tmp_path, best_metric="acc").steps()


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, os.strerror(errno.EACCES)),
        OSError(errno.EIO, os.strerror(errno.EIO)),
        OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
        ValueError("PERMISSION_DENIED: Error opening local file: Permission denied [OS error: EACCES]"),
        MemoryError("no room"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_passing_error_condemns_no_checkpoint(tmp_path, monkeypatch, error):
    save(tmp_path, {1: None, 2: None})

    def failing(self, step, wanted):
        raise error

    with Checkpoints(tmp_path) as checkpoints:
        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "_restore", failing)
            with pytest.raises(OSError, match=f"{tmp_path}/2 cannot be read now: .*It stays as it is"):
                checkpoints.restore_latest(lambda step: target())
        assert (
            checkpoints.steps() == [1, 2] and int(checkpoints.restore_latest(lambda s: target())[0].step) == 2
        )


def test_metrics_that_cannot_be_read_now_cost_no_best_checkpoint(tmp_path, monkeypatch):
    save(tmp_path, {1: 0.5, 2: 0.4, 3: 0.3}, best_metric="acc")

    def failing(path, limit):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(files, "read_bytes", failing)
        with pytest.raises(ValueError, match="metrics cannot be read: Input/output error"):
            Checkpoints(tmp_path, best_metric="acc")
    with Checkpoints(tmp_path, best_metric="acc") as checkpoints:
        assert checkpoints.steps() == [1, 2, 3]


def test_an_error_of_the_setup_condemns_no_checkpoint(tmp_path):
    save(tmp_path, {1: None, 2: None})

    def no_phase(step):
        return next(iter(()))

    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(StopIteration):
            checkpoints.restore_latest(no_phase)
        assert checkpoints.steps() == [1, 2]


def test_a_checkpoint_that_another_run_removes_meanwhile(tmp_path):
    save(tmp_path, {1: None, 2: None})
    with Checkpoints(tmp_path, read_only=True) as reader:
        save(tmp_path, {3: None, 4: None}, keep_last=1)
        assert reader.restore_for_prediction("latest", REPLICATED)[0] == 4
        with pytest.raises(ValueError, match=r"'2' is not in"):
            reader.restore_for_prediction("2", REPLICATED)


def test_a_checkpoint_that_is_removed_as_they_are_listed(tmp_path, monkeypatch):
    save(tmp_path, {1: None, 2: None})
    found, failures = checkpoint.Manager._load_checkpoint_infos, iter([FileNotFoundError(2, "1")])

    def listing(self, *arguments, **options):
        for error in failures:
            raise error
        return found(self, *arguments, **options)

    monkeypatch.setattr(checkpoint.Manager, "_load_checkpoint_infos", listing)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.restore_for_prediction("latest", REPLICATED)[0] == 2


def test_a_small_checkpoint_claims_no_large_arrays(tmp_path, monkeypatch):
    save(tmp_path, {1: None})
    monkeypatch.setattr(checkpoint_tree, "FREE_BYTES", 0)
    monkeypatch.setattr(checkpoint_tree, "MAX_BYTES_PER_FILE_BYTE", 0.1)
    with (
        Checkpoints(tmp_path, read_only=True) as checkpoints,
        pytest.raises(ValueError, match="its arrays claim .* bytes, far more than the"),
    ):
        checkpoints.restore_for_prediction("latest", REPLICATED)


def test_a_save_that_failed_keeps_no_process(tmp_path):
    """Where the folder is gone, Orbax's threads would wait 300 s for it."""
    code = f"""
import importlib.util, pathlib, shutil
spec = importlib.util.spec_from_file_location("saving", {__file__!r})
saving = importlib.util.module_from_spec(spec)
spec.loader.exec_module(saving)
folder = pathlib.Path({str(tmp_path)!r}) / "checkpoints"
try:
    with saving.Checkpoints(folder) as checkpoints:
        shutil.rmtree(folder)
        folder.write_text("a file")
        checkpoints.save(saving.state_at(2), wait=True)
except OSError as error:
    print("NOT SAVED", error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "NOT SAVED a checkpoint could not be written" in done.stdout, done.stderr


def test_the_best_by_another_metric_stays(tmp_path):
    """A run that goes on with another best_metric deletes no checkpoint that was chosen before."""
    save(tmp_path, {1: 0.9, 4: 0.2}, keep_last=1, best_metric="acc")
    with Checkpoints(tmp_path, keep_last=1, best_metric="other") as checkpoints:
        checkpoints.record(4, {"other": 0.5})
        assert checkpoints.steps() == [1, 4]
