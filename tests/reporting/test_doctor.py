"""Findings of `doctor`: versions, devices, instructions, optional parts, problems."""

import re

import torch

from hybrid_pruning import extras
from hybrid_pruning.reporting import doctor


def test_doctor(capsys, monkeypatch):
    doctor.print_doctor()
    text = capsys.readouterr().out
    for name in ("python", "torch", "transformers", "cpu", "cuda", "mps", "bfloat16", "pyworld", "G722", "dpkg-deb"):
        assert re.search(rf"^{name} ", text, re.MULTILINE), name
    monkeypatch.setattr(doctor, "PARTS", {"no_such_module": ("no-such-package", "a feature")})
    monkeypatch.setitem(extras.EXTRAS, "no_such_module", "extra")
    monkeypatch.setattr(doctor, "TOOLS", {"no-such-tool": "another feature"})
    doctor.print_doctor()
    text = " ".join(capsys.readouterr().out.split())
    assert 'no_such_module absent a feature: pip install "hybrid-pruning[extra]"' in text
    assert "no-such-tool absent another feature: part of Debian and Ubuntu" in text


def test_instructions_of_processors(tmp_path):
    found = {}
    for name, line in {
        "old": "flags : fpu avx2",
        "new": "flags\t\t: fpu avx2 avx512f avx512_vnni avx_vnni avx512_bf16 amx_bf16",
        "arm": "Features\t: fp asimd asimddp i8mm bf16",
    }.items():
        (tmp_path / name).write_text(f"processor : 0\n{line}\nprocessor : 1\n{line}\n")
        found[name] = [text.partition(": ")[2] for text in doctor.find_fast(tmp_path / name).values()]
    assert found["new"] == ["avx512f", "avx512_vnni", "amx_bf16"]
    assert found["arm"] == ["asimd", "i8mm", "bf16"]
    assert found["old"][0] == "avx2"
    assert "float32 is faster" in found["old"][2]
    assert "not known" in doctor.find_fast(tmp_path / "nowhere")["float32"]


def test_doctor_names_the_failing_import_and_torchaudio(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(doctor, "ENCODERS", ("no_such_family",))
    monkeypatch.setattr(doctor, "_version", lambda name: "2.9.0" if name == "torchaudio" else None)
    broken, torchaudio = doctor.find_problems()
    assert "no_such_family" in broken
    assert re.match("torchaudio 2.9.0 .*pip uninstall torchaudio", torchaudio)
