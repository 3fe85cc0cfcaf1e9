"""The licences of a model's backbone and training data, from the hub or as given, and the doubts that they leave."""

from collections.abc import Mapping
from dataclasses import dataclass

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError as NetworkError  # type: ignore[attr-defined]  # httpx's, or httpx2's

from hybrid_pruning.errors import InputError
from hybrid_pruning.models import hub

UNCLEAR = ("other", "unknown", "")
HUB_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Origin:
    """A backbone or data set that a model was made from: its hub id or name, and its licence, empty where unknown."""

    kind: str
    name: str
    licence: str = ""
    on_hub: bool = True

    @property
    def doubt(self) -> str:
        """A sentence on a licence that is unclear or not for commercial use; empty where it is neither."""
        if self.licence.lower() in UNCLEAR:
            return f"the licence of the {self.kind} {self.name} is not clear: look before you pass the weights on"
        if "nc" in self.licence.lower().replace("_", "-").split("-") or "non-commercial" in self.licence.lower():
            return f"the {self.kind} {self.name} ({self.licence}) is not for commercial use, nor may the weights be"
        return ""


def find_origins(base: str, base_licence: str | None, datasets: Mapping[str, str]) -> list[Origin]:
    """Return the origins of a model; a licence that is not given is asked of the hub, and empty without an answer."""
    given = [("backbone", base, base_licence or "")] if base else []
    given += [("data set", name, licence) for name, licence in datasets.items()]
    found = []
    for kind, name, licence in given:
        on_hub = name.count("/") == 1 and hub.is_repo_id(name)
        found.append(Origin(kind, name, licence or (_ask(kind, name) if on_hub else ""), on_hub))
    return found


def read_datasets(texts: list[str]) -> dict[str, str]:
    """Return hub id -> licence of texts `ID` or `ID=LICENCE`; empty where it is not given."""
    found = {}
    for text in texts:
        name, _, licence = text.partition("=")
        if not hub.is_repo_id(name):
            raise InputError(f"card: --dataset {text}, expected the id of a data set on the hub, or ID=LICENCE")
        found[name] = licence
    return found


def _ask(kind: str, name: str) -> str:
    """Return the licence in the hub's metadata of a model or data set; empty where it has none, or there is no hub."""
    api = HfApi(library_name="hybrid-pruning")
    try:
        ask = api.model_info if kind == "backbone" else api.dataset_info
        card = ask(name, timeout=HUB_SECONDS).card_data
    except (NetworkError, OSError, ValueError):
        return ""
    licence = card.get("license") if card else ""
    return ", ".join(map(str, licence)) if isinstance(licence, list) else str(licence or "")
