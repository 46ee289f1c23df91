"""Airbench's small network and recipe on CIFAR-10, to learn it in minutes: two CPU cores or a GPU.

  python -m imgcls_jax.main --config configs/cifar10_fast.py

Unpack the official binary version into data/cifar10, or name its folder by `--config.data.root`. Published,
airbench94_muon.py of KellerJordan/cifar10-airbench: 94.01 % of the test images after 8 epochs of all 50,000.
`:95` and `:96` are the wider networks for 95 and 96 % (airbench95.py, airbench96.py: 95.01 and 96.05 %;
arXiv:2404.00498), 2 and 20 times the work; `:96` is not run.

Measured on a development split, 45,000 training images and 5,000 others of them, with ten views, on two cores
with a matrix unit for bfloat16: 93.91 ± 0.23 % (seeds 0 to 2, `results/cifar10_01_fast.json`; 27 minutes,
seed 2 elsewhere); `:95` 94.27 ± 0.03 % (seeds 0 to 2, `results/cifar10_01_fast95.json`; 23 minutes by newer
code). The standard error of 5,000 is 0.3 points. After eleven epochs, on two cores of Zen 3, 93.6 % (62
minutes).
`:95` in PyTorch, `benchmarks/cifar10_torch.py`: as accurate, 29 minutes (docs/performance.md).

Differences: kernels decay in place of being normalized at each step, Adam moves the head and the biases in
place of SGD, the head and the whitening layer keep a bias to the end, twenty epochs of 45,000 images for
eight of 50,000, bfloat16, and an evaluation averages ten views (center and four corners of a border of one
pixel, each mirrored), there six. `:95` learns by muon too, theirs by SGD. `:96` besides: an average of the
params in place of look-ahead, cutout may cross the border, and the rate rises from 0 and falls in a straight
line. All images lie on the device.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections

MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:95`, `:96` for wider networks, `:test` shrinks it to seconds."""
    config, options = sections(arg, goal=("94", "95", "96"), test=False)
    wide = options.goal == "96"
    config.data.source = "cifar10"
    config.data.root = "data/cifar10"
    config.data.on_device = True
    shift = 4 if wide else 2
    moved = f'alternating_flip | pad_and_crop({shift}, "reflect") | normalize({MEAN}, {DEVIATION})'
    config.data.train_transforms = f"{moved} | cutout(12)" if wide else moved
    config.data.eval_transforms = f"normalize({MEAN}, {DEVIATION})"
    config.model.update(name="airbench", variant=f"airbench{options.goal}", dtype="bfloat16")
    config.objective.update(name="supervised", label_smoothing=0.2)
    still, biases = "backbone/whiten/kernel", r"backbone/.*/norm\d/bias"
    if wide:
        config.objective.update(ema_decay=0.98, ema_statistics=8)
        config.optimizer.update(name="sgd", momentum=0.85, nesterov=True, learning_rate=0.573)
        config.optimizer.update(schedule="polynomial", warmup_epochs=9.2, final_learning_rate=0.05)
        config.optimizer.update(weight_decay=0.012 / 9, groups=((still, None), (biases, 64.0)))
        config.train.update(batch_size=500, total_epochs=40)
    else:
        config.optimizer.update(name="muon", beta=0.6, ns_steps=3, learning_rate=0.24, schedule="polynomial")
        config.optimizer.weight_decay = 0.12  # holds each kernel at about a norm of 1 an output
        config.optimizer.groups = ((still, None), (f"{biases}|backbone/whiten/bias|head/.*", 0.05))
        config.train.update(batch_size=2000, total_epochs=20 if options.goal == "94" else 15)
    config.train.eval_batch_size = 250
    views = {"crop": 32, "pad": 1}
    config.evals.test = {"evaluator": "classification", "split": "test", "views": views}
    config.evals.one_view = {"evaluator": "classification", "split": "test"}
    if options.test:
        config.train.update(batch_size=8, total_steps=2, log_every_steps=1, eval_batch_size=100)
        del config.train.total_epochs
        del config.evals.one_view
    return config
