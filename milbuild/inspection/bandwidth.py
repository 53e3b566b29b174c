"""How many calls a second a chip's memory bandwidth and arithmetic allow: two bounds, of which the lower one counts.

Decoding one token is bound by memory; a call with many tokens, or an image, by arithmetic. Upper bounds, not measurements: they
leave out the overhead of a call and of moving between compute units, and no unit reaches its peak.
"""

from dataclasses import dataclass

GPU, NEURAL_ENGINE = "GPU", "Neural Engine"
# The share of a GPU's peak that programs which stream weights through it reach (locara.dev). A copy alone reaches 92 to 93 %.
SHARE = (0.70, 0.85)
PEAK = "70 to 85 % of Apple's peak figure"
BENCH = "anemll-bench, Results.MD (llama_lm_head): one author's measurement"
HEARSAY = "70 to 85 % of a peak for which no primary source was found"
# Peaks of arithmetic, in float16.
METAL = "philipturner/metal-benchmarks: cores, their operations a clock, and clock; in float16 as in float32"
LISTED = "listed by third parties, no primary source (Sidekick, GPU.swift)"
ENGINE = "Apple's figure, as hollance/neural-engine lists it"
ENGINE_HALF = "half of Apple's 38, which count int8 (maderix/ANE measured 18.6 in float16)"


@dataclass(frozen=True)
class Bandwidth:
    """The memory bandwidth of a compute unit, in GB (1e9 bytes) a second: the lowest and the highest to be expected; and its peak
    arithmetic in `tflops`, 1e12 additions and multiplications a second in float16, where it is known."""

    chip: str
    unit: str
    low: float
    high: float
    confidence: str
    source: str
    tflops: float | None = None
    tflops_source: str | None = None

    def calls(self, moved: int) -> tuple[float, float]:
        """At most so many calls a second that move `moved` bytes each: (low, high)."""
        return 1e9 * self.low / moved, 1e9 * self.high / moved

    def computed(self, macs: int) -> float | None:
        """At most so many calls a second of `macs` multiply-accumulates each; None where the peak is not known, or nothing is
        multiplied."""
        return None if self.tflops is None or not macs else 1e12 * self.tflops / (2 * macs)


def _gpu(chip: str, peak: float, tflops: float | None, listed: str | None, confidence: str = "medium") -> Bandwidth:
    source = HEARSAY if confidence == "hearsay" else PEAK
    return Bandwidth(
        chip, GPU, round(SHARE[0] * peak, 1), round(SHARE[1] * peak, 1), confidence, source, tflops, listed
    )


def _neural_engine(chip: str, measured: float, tflops: float, listed: str) -> Bandwidth:
    return Bandwidth(chip, NEURAL_ENGINE, measured, measured, "medium", BENCH, tflops, listed)


# The Neural Engine's bandwidth does not follow the memory bus: a Max has that of the base chip, or twice as much.
TABLE = (
    _gpu("M1", 68.25, 2.6, METAL),
    _neural_engine("M1", 60.9, 11, ENGINE),
    _gpu("M1 Max", 400, 10.6, METAL),
    _neural_engine("M1 Max", 54.6, 11, ENGINE),
    _gpu("M2", 100, 3.6, METAL),
    _neural_engine("M2", 60.5, 15.8, ENGINE),
    _gpu("M4", 120, 4.6, LISTED),
    _neural_engine("M4", 64.2, 19, ENGINE_HALF),
    _gpu("M4 Pro", 273, 9.2, LISTED),
    _neural_engine("M4 Pro", 126.4, 19, ENGINE_HALF),
    _gpu("M4 Max", 546, 18.4, LISTED),
    _neural_engine("M4 Max", 118.9, 19, ENGINE_HALF),
    _gpu("A17 Pro", 51.2, None, None, "hearsay"),
    _gpu("A18", 60, None, None, "hearsay"),
)
