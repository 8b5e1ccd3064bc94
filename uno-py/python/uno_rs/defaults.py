"""The settings that a model was made for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Defaults:
    """What a call of the pipeline does not give; 512x512 pixels and guidance 4 for UNO on FLUX.1."""

    #: Width of a picture in pixels.
    width: int
    #: Height of a picture in pixels.
    height: int
    #: How closely the prompt is followed.
    guidance_scale: float
    #: Longer side that a single reference is scaled to, and each of several, in pixels.
    ref_sizes: tuple[int, int]

    def ref_size(self, references: int) -> int:
        """Longer side that so many references are scaled to, in pixels."""
        single, several = self.ref_sizes
        return several if references > 1 else single
