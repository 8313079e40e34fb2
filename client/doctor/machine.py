"""What the machine has: GPU, memory, room on the disk, shared memory."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from client.doctor.findings import Said, failed, passed, warned
from client.doctor.subject import Subject

GB = 1e9
MEMORY_FAIL_GB, MEMORY_WARN_GB = 1.5, 4.0
DISK_FAIL_GB, DISK_WARN_GB = 1.0, 10.0
GPU_WARN_GB = 6.0
SHARED_WARN_GB = 0.06
SHARED = Path("/dev/shm")
MEMORY_FILE = Path("/proc/meminfo")
LIMIT_FILES = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def check_gpu(subject: Subject) -> Iterator[Said]:
    """Is there a GPU, may it be used, and how much memory has it?"""
    import torch

    if subject.site.policy and subject.site.policy.gpu == "forbid":
        yield passed("the policy forbids the GPU; training runs on the processor")
    elif not torch.cuda.is_available():
        driver = Path("/proc/driver/nvidia/version").exists()
        why = "there is a driver, but torch cannot use it" if driver else "there is none, or no driver"
        yield warned(
            f"no GPU ({why}): training runs on the processor, hours where a GPU takes minutes",
            "nvidia-smi, then install the driver that torch needs; else agree on a plan with a small preset",
        )
    else:
        gb = torch.cuda.get_device_properties(0).total_memory / GB
        words = f"{torch.cuda.get_device_name(0)}, {gb:.0f} GB"
        little = "agree with the coordinator on small patches: adaptation.patch in the plan"
        yield passed(words) if gb >= GPU_WARN_GB else warned(f"{words}: little for large patches", little)


def check_memory(subject: Subject) -> Iterator[Said]:
    """Is there memory for training, and does the policy allow more than there is?"""
    total, free = _memory_gb()
    words = f"{free:.1f} of {total:.1f} GB memory are free"
    if free < MEMORY_FAIL_GB:
        yield failed(
            f"{words}; training needs {MEMORY_WARN_GB:g} GB", "end other programs, or give the machine more"
        )
    elif free < MEMORY_WARN_GB:
        yield warned(f"{words}; that is little for training", "end other programs, or give the machine more")
    else:
        yield passed(words)
    policy = subject.site.policy
    if policy and policy.max_memory_gb > total:
        yield warned(
            f"max_memory_gb is {policy.max_memory_gb:g}, but there are {total:.1f} GB: it limits nothing",
            f"set max_memory_gb = {max(round(total * 0.8, 1), 1)} in [policy] of site.toml",
        )


def check_disk(subject: Subject) -> Iterator[Said]:
    """Can the site folder be written, and is there room for prepared cases and models?"""
    try:
        with tempfile.TemporaryFile(dir=subject.folder) as draft:
            draft.write(b"x" * 4096)
    except OSError as error:
        yield failed(
            f"the site folder cannot be written ({error.strerror})",
            f"make room, or: sudo chown -R $USER {subject.folder}",
        )
        return
    free = shutil.disk_usage(subject.folder).free / GB
    words, mend = f"{free:.1f} GB are free in the site folder", f"df -h {subject.folder}; make room"
    if free < DISK_FAIL_GB:
        yield failed(f"{words}: an update might not be kept", mend)
    elif free < DISK_WARN_GB:
        yield warned(f"{words}; prepared cases take about as much as the scans", mend)
    else:
        yield passed(words)


def check_shared_memory(subject: Subject) -> Iterator[Said]:
    """Is there shared memory? Containers are given 64 MB."""
    mend = "docker run --shm-size=1g, or shm_size in the compose file"
    if not SHARED.is_dir():
        yield warned(f"there is no {SHARED}", mend)
        return
    free = shutil.disk_usage(SHARED).free / GB
    words = f"{free:.2f} GB of shared memory"
    yield passed(words) if free >= SHARED_WARN_GB else warned(f"{words} is little", mend)


def check_cores(subject: Subject) -> Iterator[Said]:
    """How many processor cores may training use?"""
    yield passed(f"{len(os.sched_getaffinity(0))} processor core(s)")


def _memory_gb() -> tuple[float, float]:
    """Total and free memory, within the container's limit where there is one."""
    table = dict(line.split(":", 1) for line in MEMORY_FILE.read_text().splitlines() if ":" in line)
    total, free = (int(table[key].split()[0]) * 1024 / GB for key in ("MemTotal", "MemAvailable"))
    for file in LIMIT_FILES:
        text = file.read_text().strip() if file.is_file() else ""
        if text.isdigit():
            total = min(total, int(text) / GB)
    return total, min(free, total)
