"""Builds gpt_neox checkpoints. Written by `python -m tests.docs.stubs`."""

import os
from typing import Unpack

from milbuild.model import Model
from milbuild.program.options import BuildOptions

def build(source: str | os.PathLike[str], **options: Unpack[BuildOptions]) -> Model: ...
