"""The package: what is in it, what it needs, and its one command. Tool settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "ganformer_cli/__init__.py").read_text(encoding="utf-8"), re.M)
if VERSION is None:
    raise RuntimeError("ganformer_cli/__init__.py does not say its __version__")

setup(
    name="ganformer",
    version=VERSION[1],
    author="The ganformer developers",
    description="GANsformer: generate pictures with a few latents that attend to regions and objects",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Operating System :: Microsoft :: Windows",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.10",
    # Only names below ganformer_cli: top-level packages called `ops` or `datasets` would overwrite other people's.
    packages=find_packages(include=["ganformer_cli", "ganformer_cli.*"])
    + ["ganformer_cli.ops", "ganformer_cli.datasets"],
    package_dir={"ganformer_cli.ops": "ops", "ganformer_cli.datasets": "datasets"},
    package_data={
        "ganformer_cli": ["py.typed"],
        # The server of `ganformer watch` is http.server: one user on loopback needs no more, and nothing to install.
        # Charts are uPlot 1.6.32: MIT, 51 KB, no dependencies, and still quick with 100,000 points.
        "ganformer_cli.web": ["static/*"],
        "ganformer_cli.ops": ["*.cpp", "*.cu", "*.h", "built/*"],
        "ganformer_cli.datasets": ["*.toml"],
    },
    include_package_data=False,
    # Ranges that may work; requirements.txt pins what is tested.
    install_requires=[
        "torch>=2.10,<3",  # the networks; 2.10 is the first with the stable interface that ops/ builds against
        "numpy>=2.0,<3",  # pictures and metrics as arrays
        "scipy>=1.11",  # image filters of metrics, connected regions, optimal assignment
        "pillow>=10.1",  # reads and writes every kind of picture
        "safetensors>=0.4.3",  # model files that hold weights and can run no code
        "click>=8.2,<9",  # the command line
        "rich>=13.4",  # the progress bar
        "requests>=2.28",  # downloads
        "urllib3>=1.26",  # what requests is made of: when downloads try again, and deadlines for slow servers
        "platformdirs>=4.0",  # where this system keeps caches
        "ninja>=1.11",  # compiles the native operators in parallel
        "filelock>=3.12",  # two processes must not write one download, nor build the same operators
        'tomli>=2.0; python_version < "3.11"',  # reads datasets/*.toml; newer Pythons have tomllib
    ],
    extras_require={
        "heif": ["pillow-heif>=0.18"],  # reads HEIC and HEIF, as phones write them
        "hdf5": ["h5py>=3.8"],  # reads pictures in HDF5 files
        "lmdb": ["lmdb>=1.4"],  # reads LSUN's databases
        "tfrecords": ["google-crc32c>=1.5"],  # reads TFRecords faster: its checksums take a tenth of the time
        "plots": ["matplotlib>=3.8"],  # draws the charts of eval --all and compare --plot
        "film": ["imageio-ffmpeg>=0.5"],  # makes MP4 where no ffmpeg is installed
        "tensorboard": ["tensorboard>=2.14"],  # train --tensorboard: curves and images of a run
        "hub": ["huggingface_hub>=0.26"],  # push: models on the Hugging Face Hub
        "wandb": ["wandb>=0.16"],  # train --wandb: the same at Weights & Biases
        "onnx": [  # export --to onnx
            "onnx>=1.16",  # the file
            "onnxscript>=0.3",  # torch's exporter is written in it
            "onnxruntime>=1.18",  # runs the file, which is compared with torch before it is declared done
        ],
        "compiler": ["ziglang>=0.13"],  # builds the native operators where no other compiler is
        "wheels": [  # what .ci/wheels.py needs
            "ziglang==0.17.1",  # exact, because the bytes of the libraries follow from it
            "setuptools>=77",
            "wheel>=0.45",  # unpacks, packs and tags wheels
        ],
        "test": [
            "pytest>=9.0",  # ends a test that hangs
            "pytest-xdist>=3.5",  # halves the suite's time on two cores
            "setuptools>=77",  # a test builds the wheel, without a network
            "h5py>=3.8",  # sources of pictures that tests write and read
            "lmdb>=1.4",
            "matplotlib>=3.8",
            "imageio-ffmpeg>=0.5",
            "tensorboard>=2.14",  # event files are read back
            "huggingface_hub>=0.26",  # pushes to a stand-in of the Hub; reads model cards
            "nbformat>=5.9",  # whether the notebook is one
            "onnxscript>=0.3",  # exported files are run
            "onnxruntime>=1.18",
            "pytest-cov>=5",  # which lines no test runs
            "torch-fidelity==0.4.0",  # the metrics are compared with it; exact, since its numbers are what counts
        ],
        "docs": [  # the documentation site: mkdocs build --strict
            "mkdocs>=1.6,<2",
            "mkdocs-material>=9.5,<10",
            "mkdocstrings[python]>=0.26",  # the page of what Python users import
        ],
        "dev": [  # exact, because what a linter finds changes with its version
            "mypy==2.4.1",
            "pytest>=9.0",  # mypy reads its types
            "pre-commit>=3.5",  # runs the linters before a commit, for those who like that
            "ruff==0.17.6",
            "types-requests==2.33.0.20261030",
        ],
    },
    entry_points={"console_scripts": ["ganformer = ganformer_cli.cli.main:main"]},
)
