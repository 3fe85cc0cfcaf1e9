"""Run as a program: what transformers, without this package, gives of folders of `convert --to transformers`.

The argument is the folder of them, with waveforms in its `waves.npz`; the results go beside them, as NAME.npz.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification, pipeline


@torch.no_grad()
def try_folder(folder: Path, waves: list[np.ndarray]) -> dict[str, Any]:
    extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)
    options: dict[str, Any] = {"sampling_rate": 16_000, "return_tensors": "pt"}
    inputs = {"alone": extractor(waves[0], **options), "padded": extractor(waves, padding=True, **options)}
    encoder = AutoModel.from_pretrained(folder, trust_remote_code=True)
    found: dict[str, Any] = {"class": type(encoder).__name__}
    for name, values in inputs.items():
        output = encoder(**values, output_hidden_states=True)
        found |= {name: torch.stack(output.hidden_states), f"last {name}": output.last_hidden_state}
    if "AutoModelForAudioClassification" not in encoder.config.auto_map:
        return found
    detector, info = AutoModelForAudioClassification.from_pretrained(
        folder, trust_remote_code=True, output_loading_info=True
    )
    found["faults"] = np.array([*info["missing_keys"], *info["unexpected_keys"]], dtype=str)
    for name, values in inputs.items():
        found[f"scores {name}"] = detector(**values).logits
    labels = pipeline("audio-classification", model=str(folder), trust_remote_code=True)(waves[0])
    return {**found, "labels": [one["label"] for one in labels], "shares": [one["score"] for one in labels]}


if __name__ == "__main__":
    sys.modules["hybrid_pruning"] = None  # type: ignore[assignment]  # whoever imports it fails
    root = Path(sys.argv[1])
    with np.load(root / "waves.npz") as content:
        recordings = [content[name] for name in content.files]
    torch.set_num_threads(1)
    for place in sorted(root.iterdir()):
        if (place / "config.json").exists():
            np.savez(root / f"{place.name}.npz", **try_folder(place, recordings))
