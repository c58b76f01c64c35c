"""Which devices are found: tables of what `nvidia-smi -L` lists and CUDA_VISIBLE_DEVICES selects."""

from __future__ import annotations

import pytest

from kubooth_cli.devices import Devices, NotEnoughDevicesError, choose, visible_gpus

TWO = """\
GPU 0: NVIDIA H200 (UUID: GPU-aaaa1111-0000)
GPU 1: NVIDIA H200 (UUID: GPU-bbbb2222-0000)
"""
SLICED = """\
GPU 0: NVIDIA A100 (UUID: GPU-aaaa1111-0000)
  MIG 3g.20gb     Device  0: (UUID: MIG-cccc)
  MIG 3g.20gb     Device  1: (UUID: MIG-dddd)
"""


@pytest.mark.parametrize(
    ("listing", "selection", "count"),
    [
        ("", None, 0),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", None, 0),
        (TWO, None, 2),
        (TWO, "", 0),
        (TWO, "-1", 0),
        (TWO, "NoDevFiles", 0),
        (TWO, "0", 1),
        (TWO, "1, 0", 2),
        (TWO, "0,-1,1", 1),
        (TWO, "0,7", 1),
        (TWO, "GPU-bbbb", 1),
        (TWO, "GPU-ffff", 0),
        ("", "0,1", 0),
        (SLICED, None, 1),
        (SLICED, "MIG-cccc", 1),
        (SLICED, "MIG-cccc,MIG-dddd", 2),
    ],
)
def test_visible_gpus(listing: str, selection: str | None, count: int) -> None:
    assert visible_gpus(listing, selection) == count


@pytest.mark.parametrize(
    ("asked", "gpus", "cores", "threads_set", "devices", "text"),
    [
        (None, 0, 8, False, Devices("CPU", 1, 8), "CPU, 1 rank, 8 threads each"),
        (2, 0, 8, False, Devices("CPU", 2, 4), "CPU, 2 ranks, 4 threads each"),
        (4, 0, 2, False, Devices("CPU", 4, 1), "CPU, 4 ranks, 1 thread each"),
        (2, 0, 8, True, Devices("CPU", 2, None), "CPU, 2 ranks"),
        (None, 4, 8, False, Devices("GPU", 4, None), "4 GPUs"),
        (1, 4, 8, False, Devices("GPU", 1, None), "1 GPU"),
    ],
)
def test_choose(asked: int | None, gpus: int, cores: int, threads_set: bool, devices: Devices, text: str) -> None:
    chosen = choose(asked, gpus=gpus, cores=cores, threads_set=threads_set)
    assert chosen == devices
    assert str(chosen) == text


def test_more_than_there_are() -> None:
    with pytest.raises(NotEnoughDevicesError, match=r"--devices 3: this machine shows 2 GPUs; ask for at most 2"):
        choose(3, gpus=2, cores=8, threads_set=False)
