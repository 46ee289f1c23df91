"""The devices that a run can be compiled for on a machine without them.

XLA's own compilers for CUDA and for TPUs need no device: they take a description of it. So what they say of
memory, collectives and layouts is what a user of those devices will see; time is not known.
"""

from __future__ import annotations

import dataclasses
import os
import re
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

GPUS_OF_A_HOST = 8
# Without the device nothing can be tried, so cuDNN's and the products' forms are XLA's first choice.
UNTRIED = {"xla_gpu_autotune_level": "0"}
WITHOUT_TRITON = {"xla_gpu_enable_triton_gemm": "False"}


@dataclasses.dataclass(frozen=True)
class Chip:
    """A device.

    Attributes:
      title: as its maker calls it.
      platform: of XLA: "cpu", "cuda" or "tpu".
      memory: bytes of a device.
      peak: multiplications and additions of bfloat16 a second, dense.
      bandwidth: of its memory, bytes a second.
      source: of the figures.
      gpu: for CUDA, the description that XLA's compiler reads, beside what all have alike.
    """

    title: str
    platform: str
    memory: float
    peak: float
    bandwidth: float
    source: str
    gpu: str = ""


HOPPER = """
  shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448 core_count: 132 fpus_per_core: 128
  l2_cache_size: 52428800 clock_rate_ghz: 1.98 cuda_compute_capability { major: 9 }
"""
AMPERE = """
  shared_memory_per_core: 167936 shared_memory_per_block_optin: 166912 core_count: 108 fpus_per_core: 64
  l2_cache_size: 41943040 clock_rate_ghz: 1.41 cuda_compute_capability { major: 8 }
"""
CHIPS = {
    "h100": Chip(
        "NVIDIA H100 80GB HBM3", "cuda", 80e9, 989e12, 3.35e12, "NVIDIA H100 data sheet, SXM", HOPPER
    ),
    "h200": Chip("NVIDIA H200", "cuda", 141e9, 989e12, 4.8e12, "NVIDIA H200 data sheet, SXM", HOPPER),
    "a100": Chip(
        "NVIDIA A100-SXM4-80GB", "cuda", 80e9, 312e12, 2.039e12, "NVIDIA A100 data sheet, SXM 80 GB", AMPERE
    ),
    "v4": Chip("TPU v4", "tpu", 32 * 2**30, 275e12, 1.228e12, "Google Cloud TPU documentation"),
    "v5e": Chip("TPU v5e", "tpu", 16 * 2**30, 197e12, 0.819e12, "Google Cloud TPU documentation"),
    "v5p": Chip("TPU v5p", "tpu", 95 * 2**30, 459e12, 2.765e12, "Google Cloud TPU documentation"),
    "v6e": Chip("TPU v6e", "tpu", 32 * 2**30, 918e12, 1.64e12, "Google Cloud TPU documentation"),
}


@dataclasses.dataclass(frozen=True)
class Target:
    """What to compile for.

    Attributes:
      name: as the user wrote it, such as "h100:8".
      chip: None for this machine's processor.
      mesh: of all devices, one axis "data".
      options: of the compiler.
    """

    name: str
    chip: Chip | None
    mesh: Mesh
    options: dict[str, Any]

    @property
    def platform(self) -> str:
        """Of XLA."""
        return "cpu" if self.chip is None else self.chip.platform

    @property
    def memory(self) -> float | None:
        """Bytes that a program may take on a device of the target; None where that is not known.

        A CUDA context, cuDNN and NCCL take about a GiB of a GPU; XLA knows a TPU's own share.
        """
        if self.chip is None or self.chip.platform != "cuda":
            return None
        return self.chip.memory - 2**30


def parse(text: str) -> tuple[str, str]:
    """Returns (kind, size) of a target: ("h100", "8"), ("v5e", "4x4"), ("cpu", "2").

    Raises:
      ValueError: it is none.
    """
    kind, colon, size = text.partition(":")
    sizes = r"\d+(x\d+)*" if kind in CHIPS and CHIPS[kind].platform == "tpu" else r"[1-9]\d*"
    if kind not in (*CHIPS, "cpu") or not colon or not re.fullmatch(sizes, size):
        raise ValueError(
            f"--target is cpu:N, one of {', '.join(name for name in CHIPS if name[0] != 'v')} with a number "
            f"of GPUs (h100:8), or one of {', '.join(name for name in CHIPS if name[0] == 'v')} with a "
            f"topology of TPU chips (v5e:4x4, v4:2x2x1); got {text!r}"
        )
    is_gpu = kind in CHIPS and CHIPS[kind].platform == "cuda"
    if is_gpu and int(size) > GPUS_OF_A_HOST and int(size) % GPUS_OF_A_HOST:
        raise ValueError(
            f"--target: above {GPUS_OF_A_HOST} GPUs whole hosts of {GPUS_OF_A_HOST} are planned; got {text!r}"
        )
    return kind, size


def open_target(text: str, here: Mesh) -> Target:
    """Returns the target that a text names.

    Args:
      text: of `parse`.
      here: the mesh of this machine's devices, for "cpu".

    Raises:
      ValueError: the text names none, its compiler is not installed, or it has no such topology.
    """
    kind, size = parse(text)
    if kind == "cpu":
        return Target(text, None, here, {})
    chip = CHIPS[kind]
    try:
        topology = _gpus(chip, int(size)) if chip.platform == "cuda" else _tpus(text)
    except Exception as error:  # of XLA's plugin, whatever it finds
        extra = "cuda12" if chip.platform == "cuda" else "tpu"
        raise ValueError(
            f"--target={text}: XLA's compiler for {chip.title} cannot be opened ({_first_line(error)}): "
            f"install it by pip install 'imgcls-jax[{extra}]', and check that there is such a topology"
        ) from error
    mesh = Mesh(np.array(topology.devices), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    return Target(text, chip, mesh, UNTRIED if chip.platform == "cuda" else {})


def _gpus(chip: Chip, count: int) -> Any:
    hosts = count // GPUS_OF_A_HOST
    shape = f"1x{hosts}x{GPUS_OF_A_HOST}" if hosts else f"1x1x{count}"
    return topologies.get_topology_desc(
        platform="cuda", topology_name=chip.title, topology=shape, target_config=_description(chip)
    )


def _description(chip: Chip) -> str:
    """Returns XLA's GpuTargetConfigProto as text."""
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 registers_per_core_limit: 65536 registers_per_block_limit: 65536
  memory_bandwidth: {int(chip.bandwidth)} device_memory_size: {int(chip.memory)} {chip.gpu}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 2 }}
runtime_version {{ major: 12 minor: 9 }}
device_description_str: "{chip.title}"
"""


def _tpus(text: str) -> Any:
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
    return topologies.get_topology_desc(platform="tpu", topology_name=text)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
