"""A run with signatures: digits of which two are never learned, from the configuration to the workdir."""

import pytest

from imgcls_jax.inference import trained
from imgcls_jax.train.run import run

LINE = "upsample(16) | normalize(0.5, 0.5)"
SEGMENTS = dict(
    zip("0123456789", (119, 36, 93, 109, 46, 107, 123, 37, 127, 111), strict=True)
)  # of a display


def config(folder):
    rows = [",".join([name, *f"{bits:07b}"]) for name, bits in SEGMENTS.items()]
    (folder / "segments.csv").write_text("\n".join(["class,a,b,c,d,e,f,g", *rows]))
    data = dict(source="digits", train_transforms=LINE, eval_transforms=LINE, known_classes=8)
    return {
        "data": data | {"signatures": str(folder / "segments.csv")},
        "model": {"name": "simpleconv3", "channels": (4, 4, 4), "hidden": (8,)},
        "objective": {"name": "compatibility", "loss": "ale"},
        "optimizer": {"name": "sgd", "learning_rate": 0.01},
        "train": {"batch_size": 64, "total_steps": 2, "eval_batch_size": 128},
        "evals": {"new": {"evaluator": "zero_shot", "split": "test", "unseen_split": "unknown:test"}},
    }


def test_from_the_configuration_to_the_workdir(tmp_path):
    own = config(tmp_path)
    result = run(own, tmp_path / "run")["metrics"]
    assert result["new"]["num_examples"] > 50 and result["new"]["num_seen"] > 200
    assert 0 <= result["new"]["ausuc"] <= 1

    # The signatures are in the workdir: prediction needs their file no more, and names digits never learned.
    (tmp_path / "segments.csv").rename(tmp_path / "moved.csv")
    found = trained.load(tmp_path / "run")
    assert found.class_names == tuple(SEGMENTS)
    assert found.task.signatures[2] == (1, 0, 1, 1, 1, 0, 1)  # 93
    assert trained.evaluate(tmp_path / "run")["new"] == result["new"]

    # A longer run takes the file from elsewhere, but no other signatures.
    own["data"]["signatures"] = str(tmp_path / "moved.csv")
    own["train"]["total_steps"] = 3
    text = (tmp_path / "moved.csv").read_text()
    (tmp_path / "moved.csv").write_text(text.replace("9,1,1,0", "9,1,0,0"))
    with pytest.raises(ValueError, match="belongs to a run with other signatures of the classes"):
        run(own, tmp_path / "run")
    (tmp_path / "moved.csv").write_text(text)
    assert run(own, tmp_path / "run")["resumed_from_step"] == 2
