"""Declares the cffi extension; everything else stands in pyproject.toml."""

from setuptools import setup

setup(cffi_modules=["c_ext/build.py:ffibuilder"])
