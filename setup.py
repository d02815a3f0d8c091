"""Metadata of the package. Every dependency says why it is there; bounds are the oldest releases known to serve."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def files_below(folder: str) -> list[str]:
    """The files of a top-level folder as package data of hpc_yolo.<folder>."""
    return [str(path.relative_to(ROOT / folder)) for path in sorted((ROOT / folder).rglob("*")) if path.is_file()]


setup(
    name="hpc-yolo",
    version="0.1.0",
    description="One YAML spec goes in; Slurm jobs train a YOLOv5-family detector on any number of nodes",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    # configs/ and slurm/ live at the top of the repository, where people look for them, and travel inside the package.
    packages=[*find_packages(include=["hpc_yolo", "hpc_yolo.*"]), "hpc_yolo.configs", "hpc_yolo.slurm"],
    package_dir={"hpc_yolo.configs": "configs", "hpc_yolo.slurm": "slurm"},
    package_data={
        "hpc_yolo": ["py.typed"],
        "hpc_yolo.configs": files_below("configs"),
        "hpc_yolo.slurm": files_below("slurm"),
    },
    install_requires=[
        "torch>=2.6",  # training; 2.6 is the first whose tensors-only loading can be trusted
        "torchvision>=0.21",  # non-maximum suppression as one kernel
        "numpy>=1.24",  # labels, metrics, counter-based random numbers
        "opencv-python>=4.8",  # decoding, resizing and warping images; 5 and newer write names in any script on them
        "matplotlib>=3.8",  # a font for them, DejaVu Sans; only that file is used
        "arabic-reshaper>=3.0",  # letters of Arabic in the forms that join
        "python-bidi>=0.6",  # names that run from right to left
        "submitit>=1.5",  # jobs to Slurm or to local processes
        "safetensors>=0.4",  # checkpoints without pickle
        "pyyaml>=6.0",  # specs, with the position of every value
        "msgspec>=0.19",  # typed specs and events; starts ten times faster than its rivals
        "nvidia-ml-py>=12.535",  # how busy GPUs are
        "click>=8.1",  # the command line and its completion
        "rich>=13.0",  # progress and tables
    ],
    extras_require={
        "export": [
            "onnx>=1.15",  # writes what was traced, with the names of classes
            "onnxruntime>=1.17",  # runs it, to compare
        ],
        "coco": [
            "pycocotools>=2.0.7",  # the official COCO numbers, by COCO's own code
        ],
        "tensorboard": [
            "tensorboard>=2.14",  # event files for train.tensorboard
        ],
        "test": [
            "tensorboard>=2.14",
            "onnx>=1.15",
            "onnxruntime>=1.17",
            "pycocotools>=2.0.7",  # our own metric is held to it
            "pytest>=8.0",
            "pytest-xdist>=3.5",  # divides the tests over the cores
            "pytest-cov>=5.0",  # the floor of 95 % under spec, cluster, sbatch and runs
            "pillow>=11.3",  # writes image files of kinds that OpenCV does not
            "hypothesis>=6.100",  # specs that nobody would write by hand
            "jsonschema>=4.20",  # checks the schema that editors use
            "mypy>=1.11",
            "ruff>=0.6",
            "types-PyYAML",
            "setuptools>=77",  # the wheel test builds with it
        ],
    },
    entry_points={"console_scripts": ["hpc-yolo = hpc_yolo.cli.main:main"]},
)
