"""What all sections of a recipe have in common, and the kinds of their values."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A part of the configuration; keys it does not know are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _rising(ends: tuple[Any, Any]) -> tuple[Any, Any]:
    if ends[0] > ends[1]:
        raise PydanticCustomError("range", "a range is [lowest, highest]")
    return ends


def _other_speeds(speeds: tuple[float, ...]) -> tuple[float, ...]:
    if 1 in speeds or len(set(speeds)) < len(speeds):
        raise PydanticCustomError("speeds", "speeds are different from each other and from 1")
    return speeds


Speeds = Annotated[tuple[Annotated[float, Field(ge=0.5, le=2)], ...], AfterValidator(_other_speeds)]
Range = Annotated[tuple[float, float], AfterValidator(_rising)]
PositiveRange = Annotated[tuple[Positive, Positive], AfterValidator(_rising)]
Counts = Annotated[tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]], AfterValidator(_rising)]
