"""Files that cannot be loaded as an encoder -> format and remedy, by first bytes and names; nothing is executed."""

import io
import itertools
import json
import pickletools
import re
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MOST_NAMES, MOST_BYTES = 200_000, 1 << 26
"""Names looked at, and bytes of pickle read, at most."""
AGAIN = "download it again"
FOLDER = "give a transformers folder or hub id"
STARTS: dict[bytes, str] = {
    b"version https://git-lfs": "is a git-lfs pointer, not the file itself; run `git lfs pull` where it came from",
    **dict.fromkeys((b"<!doctype html", b"<html"), f"is a web page saved in the place of the file; {AGAIN}"),
    b"<?xml": f"is XML, an error message of a download?; {AGAIN}",
    b"gguf": f"is a GGUF file (llama.cpp, whisper.cpp), which cannot be trained on; {FOLDER}, as openai/whisper-base",
    b"lmgg": f"is a GGML file (whisper.cpp), which cannot be trained on; {FOLDER}, as openai/whisper-base",
    b"\x89hdf": f"is an HDF5 file of TensorFlow or Keras; {FOLDER} with PyTorch weights (model.safetensors)",
    b"riff": "is a recording or another RIFF file, no model",
    b"flac": "is a recording, no model",
    b"7z\xbc\xaf": "is a 7z archive; unpack it and give what is inside",
    b"rar!": "is a RAR archive; unpack it and give what is inside",
}
NEMO = f"is a NeMo model, whose encoders are of other families; {FOLDER}, as microsoft/wavlm-base"
SUFFIXES = {
    ".onnx": f"is an ONNX graph, which cannot be trained on or pruned; {FOLDER} that it was made from",
    ".msgpack": f"holds Flax weights; {FOLDER} with PyTorch weights (model.safetensors)",
    ".pb": f"is a TensorFlow graph; {FOLDER} with PyTorch weights (model.safetensors)",
    ".tflite": f"is a TensorFlow Lite graph; {FOLDER} with PyTorch weights (model.safetensors)",
}
HUB_IDS = {  # part of the name of a public release, in small letters, - as _ -> its id on the hub
    "xlsr_53": "facebook/wav2vec2-large-xlsr-53",
    "xlsr2_300m": "facebook/wav2vec2-xls-r-300m",
    "xlsr2_960m": "facebook/wav2vec2-xls-r-1b",
    "xlsr2_1b": "facebook/wav2vec2-xls-r-1b",
    "xlsr2_2b": "facebook/wav2vec2-xls-r-2b",
    "xlsr2_2160m": "facebook/wav2vec2-xls-r-2b",
    "wav2vec_small": "facebook/wav2vec2-base",
    "wav2vec_vox": "facebook/wav2vec2-large-lv60",
    "wav2vec2_vox": "facebook/wav2vec2-large-lv60",
    "libri960_big": "facebook/wav2vec2-large",
    "wavlm_base+": "microsoft/wavlm-base-plus",
    "wavlm_base_plus": "microsoft/wavlm-base-plus",
    "wavlm_base": "microsoft/wavlm-base",
    "wavlm_large": "microsoft/wavlm-large",
    "hubert_base": "facebook/hubert-base-ls960",
    "hubert_large": "facebook/hubert-large-ll60k",
    "hubert_xtralarge": "facebook/hubert-xlarge-ll60k",
}
PLAIN = re.compile(r"(torch|collections)[\w.]* .*|_codecs encode|__builtin__ set|builtins set")
"""Globals of pickles that hold tensors and plain values alone."""
UNREADABLE = (OSError, ValueError, LookupError, EOFError, RecursionError, zipfile.BadZipFile, tarfile.TarError)


def describe_file(file: Path) -> str | None:
    """Return a file's format and the remedy, as the rest of a line that begins with its name; None where unknown."""
    try:
        return next(_describe(file), None)
    except UNREADABLE:
        return None


def describe_folder(folder: Path) -> str | None:
    """Return the first file of a folder whose format is known, and `describe_file` of it."""
    if not folder.is_dir():
        return None
    files = (path for path in sorted(folder.iterdir())[:50] if path.is_file() and path.suffix != ".json")
    return next((f"{path.name} {found}" for path in files if (found := describe_file(path)) is not None), None)


def _describe(file: Path) -> Iterator[str]:
    with file.open("rb") as handle:
        head = handle.read(1024)
    if not head:
        yield f"is empty; {AGAIN}"
    start, suffix = head.lstrip().lower(), file.suffix.lower()
    yield from (text for begin, text in STARTS.items() if start.startswith(begin))
    if suffix in SUFFIXES:
        yield SUFFIXES[suffix]
    if head[8:9] == b"{":  # of safetensors
        size = min(int.from_bytes(head[:8], "little"), MOST_BYTES)
        with file.open("rb") as handle:
            names = [name for name in json.loads(handle.read(8 + size)[8:]) if name != "__metadata__"]
        yield from _describe_names(file, names, [])
    if head[:2] == b"PK":
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            if any("/code/" in name for name in names):
                yield f"is a TorchScript program, which is never run; {FOLDER}"
            data = next((name for name in names if name.endswith("/data.pkl") or name == "data.pkl"), None)
            if data is None:
                yield "is a .zip archive; unpack it and give the folder inside"
            else:
                with archive.open(data) as handle:
                    yield from _describe_names(file, *_pickled_names(io.BytesIO(handle.read(MOST_BYTES))))
    if head[257:262] == b"ustar" or head[:2] == b"\x1f\x8b":
        with tarfile.open(file) as archive:
            names = [member.name for _, member in zip(range(100), archive, strict=False)]
        if any(name.endswith(("model_config.yaml", "model_weights.ckpt")) for name in names):
            yield NEMO
        yield "is a tar archive; unpack it and give the folder inside"
    if head[:1] == b"\x80":
        with file.open("rb") as handle:
            yield from _describe_names(file, *_pickled_names(handle))


def _pickled_names(handle: Any) -> tuple[list[str], list[str]]:
    """Return the texts in a stream's pickles (five, before torch 1.6) and the globals that they import."""
    texts: list[str] = []
    imported: list[str] = []
    opcodes = itertools.chain.from_iterable(map(pickletools.genops, itertools.repeat(handle, 5)))
    try:
        for opcode, value, _ in itertools.islice(opcodes, MOST_NAMES):
            if opcode.name == "GLOBAL":
                imported.append(str(value))
            elif opcode.name == "STACK_GLOBAL":
                imported.append(" ".join(texts[-2:]))
            elif isinstance(value, str):
                texts.append(value)
    except ValueError:
        pass
    return texts, imported


def _describe_names(file: Path, texts: list[str], imported: list[str]) -> Iterator[str]:
    """Yield the formats that have such names of tensors and keys, the surest first."""
    names, lines = set(texts), "\n".join(texts)

    def some(pattern: str) -> bool:
        return re.search(rf"^(?:{pattern})", lines, re.MULTILINE) is not None

    unknown = next((name for name in imported if not PLAIN.fullmatch(name)), "").replace(" ", ".")[:80]
    objects = (
        f"holds an object of {unknown}, and objects are never run; where it was written, save tensors and plain values "
        "alone, as {'state_dict': ..., 'config': ...}"
    )
    if unknown and {"state_dict", "config"} <= names:
        yield objects
    if {"dims", "model_state_dict"} <= names:
        yield f"is OpenAI's own Whisper; {FOLDER}, as openai/whisper-base"
    if {"Downstream", "Featurizer"} & names and {"Args", "Config", "Optimizer"} & names:
        yield f"is a downstream checkpoint of s3prl, without its encoder; {FOLDER} of the upstream"
    if some(r"wavlm_model\."):
        yield "is a whole network of DiariZen; give its pruned encoder, a file with {'state_dict', 'config'}"
    if some(r"(.*\.)?feature_extractor\.conv_layers\.0\.0\.weight$"):
        yield _describe_fairseq(file, names, lines)
    if some(r"encoder\.encoders\.0\.|frontend\.upstream\.upstream\."):
        yield f"is an ESPnet model; {FOLDER} of the encoder that it was built on"
    if some(r"(.*\.)?encoder\.layers\.0\.(attention|self_attn)\.k_proj\.weight$"):
        yield "holds weights under transformers' names; give the folder they lie in, with config.json"
    if some(r"(.*\.)?layers\.0\.norm_feed_forward1\."):
        yield NEMO
    if unknown:
        yield objects
    if file.suffix == ".safetensors" and texts:
        yield f"holds tensors of an unknown layout ({', '.join(texts[:2])[:80]}); {FOLDER}"


def _describe_fairseq(file: Path, names: set[str], lines: str) -> str:
    """Name a checkpoint of fairseq, or one released in its form, and the same model on the hub."""
    stem = file.stem.lower().replace("-", "_")
    if "data2vec" in lines or "regression_head" in lines:
        return "is fairseq's data2vec, a family that is not supported; use e.g. facebook/wav2vec2-base"
    if "unispeech" in lines.lower() or "unispeech" in stem:
        return "is UniSpeech(-SAT), a family that is not supported; use e.g. microsoft/wavlm-base-plus"
    microsofts = "cfg" in names and "args" not in names  # fairseq writes both
    if microsofts or ".grep_" in lines or "relative_attention_bias" in lines or "wavlm" in stem:
        kind, base, large = "Microsoft's own WavLM", "microsoft/wavlm-base", "microsoft/wavlm-large"
    elif "label_embs_concat" in names or "hubert" in lines.lower() or "hubert" in stem:
        kind, base, large = "a fairseq HuBERT", "facebook/hubert-base-ls960", "facebook/hubert-large-ll60k"
    else:
        kind, base, large = "a fairseq wav2vec 2.0", "facebook/wav2vec2-base", "facebook/wav2vec2-xls-r-300m"
    layers = 1 + max(map(int, re.findall(r"encoder\.layers\.(\d+)\.", lines)), default=0)
    by_size = large if layers > 12 else base if layers > 1 else f"{base} or {large}"
    hub_id = next((hub_id for part, hub_id in HUB_IDS.items() if part in stem), by_size)
    form = " in s3prl's form" if "model_weight" in names else ""
    return f"is {kind} checkpoint{form}, which is not read here; the same model on the hub: {hub_id}"
