"""What `headrace doctor` says of the device that prepares pixels."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker import device
from worker.cli import checks
from worker.cli.checks import Verdict
from worker.device import Gpu, Sight
from worker.settings import GpuSettings, Settings

HERE = Gpu(0, "GPU-1", "H200")


def findings(monkeypatch: pytest.MonkeyPatch, sight: Sight, **keys: object) -> dict[str, checks.Finding]:
    monkeypatch.setattr(device, "look", lambda settings: sight)
    return {finding.name: finding for finding in checks.gpu(Settings(**keys))}  # type: ignore[arg-type]


def test_no_gpu_is_fine_unless_it_is_demanded(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = Sight(trouble="there is no NVIDIA driver here")
    found = findings(monkeypatch, nothing)
    assert list(found) == ["device"]
    assert found["device"].verdict is Verdict.OK
    assert "on the CPU: there is no NVIDIA driver" in found["device"].detail
    demanded = findings(monkeypatch, nothing, device="gpu")["device"]
    assert (demanded.verdict, demanded.exit_code) == (Verdict.FAIL, 3)


def test_a_gpu_that_is_there_and_not_used_is_a_warning_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    found = findings(monkeypatch, Sight((HERE,), has_package=False))["device"]
    assert found.verdict is Verdict.WARN
    assert "headrace[gpu]" in found.remedy
    apart = findings(monkeypatch, Sight((HERE,), tritons=frozenset({"GPU-2"})))["device"]
    assert apart.verdict is Verdict.WARN
    assert "GPU-2" in apart.detail


def test_a_gpu_in_use_tells_how_it_is_shared_and_warns_of_its_decoder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    both = Sight((HERE,), tritons=frozenset({HERE.uuid}))
    found = findings(monkeypatch, both)
    assert found["device"].verdict is Verdict.OK
    assert "H200" in found["device"].detail
    assert "take turns" in found["gpu sharing"].detail
    assert "gpu decode" not in found
    (tmp_path / "control").touch()
    found = findings(monkeypatch, both, gpu=GpuSettings(decode="gpu"))
    assert "a fault of either ends both" in found["gpu sharing"].detail
    assert found["gpu decode"].verdict is Verdict.WARN
