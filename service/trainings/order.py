"""What a training is asked to do: the options of `flawscribe train` that can be given over HTTP."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from service.bundle.manifest import AUTO, NAME_PATTERN
from service.types import LayoutChoice, LightingChoice

RESERVED = "teachers"  # a folder beside the models
_EMPTY_IS_UNSET = BeforeValidator(lambda value: None if value == "" else value)  # as forms send it
Text = Annotated[str | None, _EMPTY_IS_UNSET]
Number = Annotated[float | None, _EMPTY_IS_UNSET]
Whole = Annotated[int | None, _EMPTY_IS_UNSET]


class Order(BaseModel):
    """A training's name and options; an unknown one is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(pattern=NAME_PATTERN, description="Name of the model; a further training is its next version.")
    folder: Text = Field(None, description="Folder of good pictures on the server, below FLAWSCRIBE_TRAINING_DATA_DIR.")
    teacher: str = Field(
        AUTO,
        pattern=NAME_PATTERN,
        description="Teacher in models/teachers/; auto: the small one that suits the product.",
    )
    recipe: Literal["default", "paper", "matlab"] = Field("default", description="`paper`: 70,000 steps.")
    steps: Whole = Field(None, ge=20, le=1_000_000, description="Steps in place of the recipe's own.")
    global_map: bool = Field(True, description="Learn logical flaws too (the autoencoder).")
    group_by: Text = Field(
        None, max_length=200, description="Regular expression that names the part in a picture's path."
    )
    working_size: Whole = Field(None, ge=64, le=16384, description="Longer side in px that the network works at.")
    lighting: LightingChoice = Field(
        "as_is",
        description="`even`: local flaws where light changes between or within pictures, not wide shades; `auto`: as painted "
        "flaws say.",
    )
    layout: LayoutChoice = Field(
        "auto",
        description="`fixed`: parts always lie alike, what is normal is learned place by place; `free`: they do not; `auto`: as "
        "seen.",
    )
    min_flaw_px: Number = Field(None, ge=1, description="Smallest flaw that counts, in picture px.")
    min_flaw_mm: Number = Field(None, gt=0, description="The same in mm; needs mm_per_pixel.")
    mm_per_pixel: Number = Field(None, gt=0, description="Scale of the pictures.")
    false_reject_rate: float = Field(0.01, gt=0, lt=0.5, description="Share of good parts that may be rejected.")
    seed: int = Field(0, ge=0, le=2**31, description="Seed of splits and training.")

    @field_validator("name")
    @classmethod
    def _free(cls, value: str) -> str:
        if value == RESERVED:
            raise ValueError(f"{RESERVED!r} is the folder of the teachers; take another name")
        return value

    @field_validator("group_by")
    @classmethod
    def _regular(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"is not a regular expression: {error}") from error
        return value

    @model_validator(mode="after")
    def _scaled(self) -> Order:
        if self.min_flaw_mm is not None and self.mm_per_pixel is None:
            raise ValueError("min_flaw_mm needs mm_per_pixel")
        return self

    def options(self) -> list[str]:
        """The options as `flawscribe train` takes them, without the pictures."""
        given: dict[str, Any] = self.model_dump(exclude={"folder", "global_map"}, exclude_none=True)
        named = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
        return [*named, "--global-map" if self.global_map else "--no-global-map"]
