"""Metadata of the package: each dependency with the reason for it, and the oldest release known to work."""

import ast
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def files_below(directory: str) -> list[str]:
    """Return the files of a top-level directory as package data of hpc_yolo.<directory>."""
    return [str(path.relative_to(ROOT / directory)) for path in sorted((ROOT / directory).rglob("*")) if path.is_file()]


def version() -> str:
    """Return `hpc_yolo.__version__`, read without importing the package."""
    for statement in ast.parse((ROOT / "hpc_yolo" / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__version__":
            return str(ast.literal_eval(statement.value))
    raise RuntimeError("hpc_yolo/__init__.py sets no __version__")


setup(
    name="hpc-yolo",
    version=version(),
    description="One YAML spec goes in; Slurm jobs train a YOLOv5-family detector on any number of nodes",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    keywords=["slurm", "hpc", "object detection", "yolov5", "pytorch", "distributed training", "preemption"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Environment :: Console",
        "Environment :: GPU :: NVIDIA CUDA",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Topic :: System :: Clustering",
        "Topic :: System :: Distributed Computing",
        "Typing :: Typed",
    ],
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    # configs/ and slurm/ live at the top of the repository, where people look for them, and travel inside the package.
    packages=[*find_packages(include=["hpc_yolo", "hpc_yolo.*"]), "hpc_yolo.configs", "hpc_yolo.slurm"],
    package_dir={"hpc_yolo.configs": "configs", "hpc_yolo.slurm": "slurm"},
    package_data={
        "hpc_yolo": ["py.typed"],
        "hpc_yolo.report": ["templates/*"],
        "hpc_yolo.configs": files_below("configs"),
        "hpc_yolo.slurm": files_below("slurm"),
    },
    install_requires=[
        "torch>=2.8",  # training; 2.8 is the first whose stores ranks can connect to a second time
        "torchvision>=0.23",  # non-maximum suppression as one kernel
        "numpy>=1.24",  # labels, metrics, counter-based random numbers
        "opencv-python>=4.10",  # decoding, resizing and warping images; 5 and newer write names in any script on them
        "matplotlib>=3.8",  # charts as PNG and SVG; its font DejaVu Sans, for names on images
        "arabic-reshaper>=3.0",  # letters of Arabic in the forms that join
        "python-bidi>=0.6",  # names that run from right to left
        "submitit>=1.5.4",  # jobs to Slurm or to local processes; before, it needs the pkg_resources of old setuptools
        "safetensors>=0.4",  # checkpoints without pickle
        "pyyaml>=6.0",  # specs, with the position of every value
        "msgspec>=0.21",  # typed specs and events; starts ten times faster than its rivals; errors are ValueErrors
        "nvidia-ml-py>=12.535",  # how busy GPUs are
        "jinja2>=3.1",  # the page of a report, every value from data escaped
        "click>=8.1",  # the command line and its completion
        "rich>=13.0",  # progress and tables
    ],
    extras_require={
        "export": [
            "onnx>=1.15",  # writes what was traced, with the names of classes
            "onnxruntime>=1.17",  # runs it, to compare
        ],
        "squashfs": [
            "lz4>=4.0",  # with zstandard: images of data that are compressed in other ways than gzip and xz
            "zstandard>=0.18",
        ],
        "coco": [
            "pycocotools>=2.0.7",  # the official COCO numbers, by COCO's own code
        ],
        "tensorboard": [
            "tensorboard>=2.14",  # event files for train.tensorboard and for tracking
        ],
        "wandb": [
            "wandb>=0.20",  # the first whose settings of this use are stable
        ],
        "mlflow": [
            "mlflow-skinny>=3.0",  # the client, a tenth of mlflow; with mlflow itself it is there already
            "sqlalchemy>=2.0",  # for a database as the tracking URI
            "alembic>=1.10",  # makes its tables
        ],
        "trackio": [
            "trackio>=0.40",  # rows with identifiers
        ],
        "sweep": [
            "optuna>=4.0",  # proposes the values of trials, sweep.search.method: tpe
        ],
        "test": [
            "wandb>=0.20",
            "mlflow-skinny>=3.0",
            "sqlalchemy>=2.0",
            "alembic>=1.10",
            "trackio>=0.40",
            "optuna>=4.0",
            "tensorboard>=2.14",
            "onnx>=1.15",
            "onnxruntime>=1.17",
            "lz4>=4.0",
            "zstandard>=0.18",
            "pycocotools>=2.0.7",  # our own metric is held to it
            "globox>=2.5",  # reads what is converted; so does supervision, where it is installed
            "pytest>=8.0",
            "pytest-xdist>=3.5",  # divides the tests over the cores
            "pytest-cov>=7.0",  # the coverage that `make test` asks for
            "coverage>=7.10",  # measures subprocesses
            "pillow>=11.3",  # writes image files of kinds that OpenCV does not
            "hypothesis>=6.100",  # specs that nobody would write by hand
            "jsonschema>=4.20",  # checks the schema that editors use
            "mypy>=2.4",
            "ruff>=0.6",
            "types-PyYAML",
            "setuptools>=77",  # the wheel test builds with it
        ],
    },
    entry_points={"console_scripts": ["hpc-yolo = hpc_yolo.cli.main:main"]},
)
