"""The tasks a model is trained for, and the two classes of anti-spoofing."""

from enum import StrEnum
from typing import Literal

TaskName = Literal["anti-spoofing", "speaker-verification"]


class Label(StrEnum):
    """Human speech or a fake; the strings are those of the corpora's own key files."""

    BONAFIDE = "bonafide"
    SPOOF = "spoof"
