"""Rotary angles, computed in float64 so that far positions are exact, and stored as float32."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from game_agent.errors import ModelError
from game_agent.model.spec import RopeSpec

Floats = npt.NDArray[np.float32]


class Rope:
    """cos and sin of position · inverse frequency for one model.

    ``attention_scaling`` is yarn's factor on both; rows of a frame carry it, distances between
    frames do not (R(Δ) is a pure rotation, see ``docs/architecture.md``).
    """

    def __init__(self, spec: RopeSpec) -> None:
        self.inv_freq, self.attention_scaling = inverse_frequencies(spec)
        self._cos = np.empty((0, len(self.inv_freq)), np.float32)
        self._sin = self._cos
        self._scaled = (self._cos, self._sin)

    def rotation(self, positions: npt.NDArray[np.integer]) -> tuple[Floats, Floats]:
        """cos, sin [n, rotary_dim / 2] of a pure rotation by ``positions`` [n], negative: back."""
        if not len(positions):
            return self._cos[positions], self._sin[positions]
        if int(positions.min()) < 0:
            cos, sin = self.rotation(np.abs(positions))
            return cos, np.where(positions[:, None] < 0, -sin, sin)
        self._grow(int(positions.max()) + 1)
        return self._cos[positions], self._sin[positions]

    def encoding(self, positions: npt.NDArray[np.integer]) -> tuple[Floats, Floats]:
        """cos, sin [n, rotary_dim / 2] for rows at frame ``positions``, scaled as the type asks."""
        cos, sin = self.rotation(positions)
        if self.attention_scaling != 1.0:
            scale = np.float32(self.attention_scaling)
            return cos * scale, sin * scale
        return cos, sin

    def table(self, length: int) -> tuple[Floats, Floats]:
        """:meth:`encoding` of all positions below ``length``, and of more: [n, rotary_dim / 2]."""
        self._grow(length)
        if self.attention_scaling == 1.0:
            return self._cos, self._sin
        if len(self._scaled[0]) != len(self._cos):
            scale = np.float32(self.attention_scaling)
            self._scaled = (self._cos * scale, self._sin * scale)
        return self._scaled

    def _grow(self, length: int) -> None:
        """Extend the table to at least ``length`` positions, doubling, so that growth is rare."""
        if length <= len(self._cos):
            return
        angles = np.arange(max(length, 2 * len(self._cos), 1024))[:, None] * self.inv_freq
        self._cos = np.cos(angles).astype(np.float32)
        self._sin = np.sin(angles).astype(np.float32)


def inverse_frequencies(spec: RopeSpec) -> tuple[npt.NDArray[np.float64], float]:
    """(inverse frequencies [rotary_dim / 2], attention scaling) of a rope type.

    The frequencies are the model's float32 ones, widened: that is what it was trained with.
    Formulas: RoFormer (arXiv 2104.09864) for default; position interpolation (2306.15595) for
    linear; the Llama 3.1 report's wavelength rule for llama3; YaRN (2309.00071) for yarn.
    """
    half = np.arange(0, spec.rotary_dim, 2, dtype=np.float32) / np.float32(spec.rotary_dim)
    plain = (np.float32(1.0) / np.float32(spec.theta) ** half).astype(np.float32)
    try:
        if spec.rope_type == "linear":
            plain = plain / np.float32(spec.parameters["factor"])
        elif spec.rope_type == "llama3":
            plain = _llama3(spec, plain)
        elif spec.rope_type == "yarn":
            return _yarn(spec, plain).astype(np.float64), _yarn_scaling(spec)
    except KeyError as error:
        raise ModelError(f"rope type {spec.rope_type!r} needs the parameter {error}") from None
    return plain.astype(np.float64), 1.0


def _llama3(spec: RopeSpec, plain: Floats) -> Floats:
    """Keep short wavelengths, divide long ones by the factor, interpolate smoothly between."""
    p = spec.parameters
    wavelength = 2 * math.pi / plain
    length = p["original_max_position_embeddings"]
    low, high = p["low_freq_factor"], p["high_freq_factor"]
    smooth = np.clip((length / wavelength - low) / (high - low), 0, 1)
    scaled: Floats = ((1 - smooth) * plain / p["factor"] + smooth * plain).astype(np.float32)
    return scaled


def _yarn(spec: RopeSpec, plain: Floats) -> Floats:
    """NTK-by-parts: between the dimensions that turn beta_fast and beta_slow times, ramp."""
    p = spec.parameters
    low, high = (_turning_dim(spec, p.get(key) or default) for key, default in _BETAS)
    if p.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, spec.rotary_dim - 1)
    span = high - low if high != low else 0.001
    ramp = np.clip((np.arange(len(plain), dtype=np.float32) - low) / span, 0, 1)
    far = plain / np.float32(_yarn_factor(spec))
    scaled: Floats = (far * ramp + plain * (1 - ramp)).astype(np.float32)
    return scaled


_BETAS = (("beta_fast", 32.0), ("beta_slow", 1.0))


def _turning_dim(spec: RopeSpec, turns: float) -> float:
    """The dimension index that turns ``turns`` times over the original context."""
    length = spec.parameters["original_max_position_embeddings"]
    return spec.rotary_dim * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(spec.theta))


def _yarn_factor(spec: RopeSpec) -> float:
    return float(spec.parameters["factor"])


def _yarn_scaling(spec: RopeSpec) -> float:
    """The attention temperature of YaRN: 0.1 · mscale · ln(factor) + 1, or what the config says."""
    p = spec.parameters
    if p.get("attention_factor") is not None:
        return float(p["attention_factor"])
    factor = _yarn_factor(spec)

    def temperature(mscale: float) -> float:
        return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0

    mscale, all_dim = p.get("mscale"), p.get("mscale_all_dim")
    if mscale and all_dim:
        return temperature(mscale) / temperature(all_dim)
    return temperature(1.0)
