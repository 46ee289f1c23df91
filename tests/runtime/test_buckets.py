"""Paths of object stores: what is written whole, what grows, and the lock, against a stand-in."""

import threading
from pathlib import Path

import pytest

from imgcls_jax.runtime import bucket_lock, buckets
from imgcls_jax.runtime.files import read_json, whole, write_json


@pytest.fixture
def folder(store):
    store.clear()
    return buckets.as_path(f"{store.address}/run")


@pytest.mark.parametrize(
    "text, told",
    [
        ("https://host/run", "is an address"),
        ("gs://", "names no bucket"),
        ("az://bucket/run", "is an address; name a folder, or one of gs:// or s3://"),
    ],
)
def test_other_addresses_are_refused(text, told):
    with pytest.raises(ValueError, match=told):
        buckets.as_path(text)


def test_paths_of_this_machine_stay_what_they_are(tmp_path):
    assert buckets.as_path(tmp_path / "a") == tmp_path / "a" and not buckets.is_bucket("gs:/bucket")
    assert type(buckets.as_path("runs/a")) is type(Path("runs/a"))


def test_an_object_is_written_whole_or_not_at_all(store, folder):
    write_json(folder / "a.json", {"a": 1})
    assert read_json(folder / "a.json") == {"a": 1} and (folder / "a.json").exists()
    with pytest.raises(RuntimeError), whole(folder / "a.json") as file:
        file.write(b"half")
        raise RuntimeError
    assert read_json(folder / "a.json") == {"a": 1} and list(store.objects) == ["run/a.json"]
    with pytest.raises(ValueError, match="run/none.json is absent: ..://bucket-one/run is not the workdir"):
        read_json(folder / "none.json")
    with pytest.raises(ValueError, match="has 13 bytes; a file of its kind has at most 5"):
        buckets.read_bytes(folder / "a.json", 5)


@pytest.mark.parametrize("content", [b"", b"\r", b"\n\n--\r\n", bytes(range(256)) * 9])
def test_bytes_come_back_as_they_were(folder, content):
    buckets.write(folder / "b", content)
    assert buckets.read_bytes(folder / "b", 10**6) == content and buckets.bytes_in(folder) == len(content)


def test_a_store_that_refuses_is_told_in_a_line(store, folder):
    store.fault = lambda method, path: 403
    with pytest.raises(OSError, match=r"://bucket-one/run/a.json cannot be written: .*(Forbid|Denied)"):
        write_json(folder / "a.json", {})


def test_what_grows_is_written_when_it_is_due(store, folder):
    log = buckets.Growing(folder / "log", 100, seconds=1000)
    log.write("one\n")
    log.flush()
    assert store.objects["run/log"][1] == b""
    log.save()
    assert store.objects["run/log"][1] == b"one\n"
    again = buckets.Growing(folder / "log", 100, seconds=1000)
    again.write("two\n")
    again.save()
    assert store.objects["run/log"][1] == b"one\ntwo\n"
    log.write("three\n")
    with pytest.raises(OSError, match="another file has taken its place"):
        log.save()


@pytest.fixture
def quick(monkeypatch):
    for name, seconds in {"RENEW": 0.05, "STALE": 0.4, "POLL": 0.1, "SETTLE": 0.05}.items():
        monkeypatch.setattr(bucket_lock, f"{name}_SECONDS", seconds)


def test_a_living_holder_keeps_the_lock(store, folder, quick):
    with bucket_lock.hold(folder / "lock"):
        with pytest.raises(ValueError, match=r"://bucket-one/run is in use by process \d+ on .* since"):
            with bucket_lock.hold(folder / "lock"):
                pass
        assert "run/lock" in store.objects
    assert "run/lock" not in store.objects


def test_the_lock_of_a_killed_holder_is_taken_over(store, folder, quick):
    buckets.write(folder / "lock", b"process 1 on elsewhere since then\nelsewhere 1 x\n7\n")
    with bucket_lock.hold(folder / "lock"):
        assert b"elsewhere" not in store.objects["run/lock"][1]


def test_a_process_of_this_machine_that_is_gone_is_not_waited_for(folder, monkeypatch):
    monkeypatch.setattr(bucket_lock, "STALE_SECONDS", 1000)
    monkeypatch.setattr(bucket_lock, "_runs", lambda process: process != 123)
    buckets.write(folder / "lock", f"process 123\n{bucket_lock._place()} 123 x\n7\n".encode())
    with bucket_lock.hold(folder / "lock"):
        pass


def test_of_two_that_come_at_once_one_gets_the_lock(folder, quick):
    held, refused, start = [], [], threading.Barrier(4)
    leave = threading.Event()

    def come(number):
        start.wait()
        try:
            with bucket_lock.hold(folder / "lock"):
                held.append(number)
                leave.wait(5)
        except ValueError:
            refused.append(number)
        if len(refused) == 3:
            leave.set()

    threads = [threading.Thread(target=come, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(held) == 1 and len(refused) == 3
