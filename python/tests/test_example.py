"""examples/repdistiller: few lines make a live teacher a cached one; the losses are the same."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

import pytest
from conftest import ROOT

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

EXAMPLE = ROOT / "examples" / "repdistiller"
LINES = 30


def test_fewer_than_thirty_lines_differ(capsys: pytest.CaptureFixture[str]) -> None:
    live, cached = (
        (EXAMPLE / f"train_{name}.py").read_text().splitlines() for name in ("live", "cached")
    )
    changed = [line for line in difflib.ndiff(live, cached) if line[:2] in ("- ", "+ ")]
    with capsys.disabled():
        print(f"\ntrain_live.py to train_cached.py: {len(changed)} lines removed or added")
    assert 0 < len(changed) < LINES


def test_a_step_from_the_cache_is_the_step_with_the_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(EXAMPLE), *sys.path])
    import train_cached
    import train_live
    import train_teacher
    from helper import parse_option
    from models import model_dict

    torch.manual_seed(5)
    teacher = model_dict["resnet8"]()
    # statistics of batch norm that are not its defaults
    teacher(torch.randn(32, 1, 28, 28))
    path = tmp_path / "teacher.pt"
    torch.save({"model": teacher.state_dict()}, path)
    train_teacher.export(teacher, path.with_suffix(".onnx"))
    options = ["--model_t=resnet8", "--model_s=resnet8", "--epochs=1"]
    opt = parse_option([*options, f"--path_t={path}", f"--cache={tmp_path}/c"])
    live, cached = train_live.Distiller(opt), train_cached.Distiller(opt)
    assert len(live.train_loader) == len(cached.train_loader) == 12_000 // 64
    for name, value in live.model_s.state_dict().items():
        assert torch.equal(value, cached.model_s.state_dict()[name]), name
    batch = next(iter(cached.train_loader))
    assert batch["taps"]["stage3"].shape == (64, 7, 7)
    images = cached.normalize(batch["input"])
    losses = live.step((images, batch["label"], batch["row"])), cached.step(batch)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
