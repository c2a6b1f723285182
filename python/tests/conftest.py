"""Caches that the program makes: `NST_CACHE_BINARY` names it, pytest's folder holds them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import nst_cache

ROOT = Path(__file__).resolve().parents[2]
TEACHER = ROOT / "models" / "teacher.onnx"
# the last segment, and its last chunks, are not full
ROWS = 300

FORMS = {
    "plain": {},
    "raw": {"compress": "none"},
    "views": {"views": 3, "augment": "crop-flip", "mixup": 0.2, "color_jitter": "0.2"},
    "raw-views": {"views": 2, "augment": "crop-flip", "mixup": 0.2, "compress": "none"},
    "statistics": {
        "tap": ["layer3", "flatten"],
        "keep": "features,gram,mean,attention,vector,sign",
        "store": "f32",
    },
    "sparse": {"logits_keep": "topk:3", "compress": "zstd"},
}

Make = Callable[[str], Path]


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """The folder of the cache of a form, made when it is first asked for."""
    if not os.environ.get("NST_CACHE_BINARY"):
        pytest.fail("NST_CACHE_BINARY: expected the path of the program")
    folder = tmp_path_factory.mktemp("caches")

    def make(form: str) -> Path:
        path = folder / form
        if not path.exists():
            nst_cache.run(
                "extract",
                TEACHER,
                data="fashion-mnist",
                limit=ROWS,
                output=path,
                quiet=True,
                **FORMS[form],
            )
        return path

    return make


@pytest.fixture
def copy(make: Make, tmp_path: Path) -> Make:
    """A copy of the cache of a form, to be damaged."""

    def copy(form: str) -> Path:
        target = tmp_path / form
        shutil.copytree(make(form), target)
        return target

    return copy
