"""Packaging for geproxy: the dependencies and their reasons stand in README.md."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r'^VERSION = "(.+)"$', (HERE / "geproxy/__init__.py").read_text(), re.M)
assert VERSION is not None

setup(
    name="geproxy",
    version=VERSION.group(1),
    description="A prefork proxy server of gevent workers: SOCKS5 in, straight or sealed out",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    packages=find_packages(include=["geproxy", "geproxy.*"]),
    package_data={"geproxy": ["py.typed"]},
    python_requires=">=3.11",
    install_requires=[
        "gevent>=25.9",
        "cryptography>=47",  # the first with encrypt_into
        "pycryptodome>=3.20",
        "docopt-ng>=0.9",
        "setproctitle>=1.3.3",
        "segno>=1.6",
        "idna>=3.15",  # before that, a hostile name could cost seconds (CVE-2026-45409)
    ],
    extras_require={
        "test": [
            "pytest>=8",
            "pytest-timeout>=2.3",
            "pytest-cov>=5",
            "hypothesis>=6.100",
            "ruff>=0.8",
            "mypy>=1.13",
            "types-docopt",
            "types-gevent",
            "types-greenlet",
        ],
    },
    entry_points={"console_scripts": ["geproxy = geproxy.cli:main"]},
)
