"""The packages; everything else is in setup.cfg, which cannot add a mapped package to ``find:``."""

from setuptools import find_packages, setup

# Browser assets and templates are at the top of the repository and become packages of fastlane.
ASSETS = {"fastlane.static": "static", "fastlane.templates": "templates"}

setup(packages=[*find_packages(include=["fastlane", "fastlane.*"]), *ASSETS], package_dir=ASSETS)
