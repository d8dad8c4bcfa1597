"""What every test stands on: no network, one thread per library, and GPU tests only where there is a GPU."""

import os
import sys
from pathlib import Path

import pytest

# Before anything imports torch, transformers or huggingface_hub; child processes inherit it.
os.environ.update(
    {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),  # small tensors: threads cost more than they give
        "TOKENIZERS_PARALLELISM": "false",
        "MPLBACKEND": "agg",
    }
)
# A tool that downloads all the same meets a closed door at once, instead of a time-out.
for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
    os.environ[name] = "http://127.0.0.1:9"
os.environ["no_proxy"] = os.environ["NO_PROXY"] = "localhost,127.0.0.1"

# A helper beside the tests is imported by its bare name: `from slurm_cluster import slurm_cluster`.
sys.path[:0] = [str(folder) for folder in sorted(Path(__file__).parent.iterdir()) if folder.is_dir()]


def has_gpu() -> bool:
    """Whether torch sees a GPU; torch is only asked when a GPU test was chosen."""
    import torch

    return torch.cuda.is_available()


def pytest_collection_modifyitems(items):
    """Skip the GPU tests, with the reason, where there is no GPU."""
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if gpu and not has_gpu():
        for item in gpu:
            item.add_marker(pytest.mark.skip(reason="torch sees no GPU; `make test-gpu` runs it where there is one"))


@pytest.fixture(autouse=True)
def _torch_threads():
    """A test that changes the number of threads does not change it for the next one."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else None
    yield
    if before is not None:
        torch.set_num_threads(before)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parent.parent
