"""How often a second a chip can move a call's bytes: the bound of whatever waits for memory, as decoding a token does.

An upper bound, not a measurement: it knows of no arithmetic, no overhead of a call, no change from one unit to another.
Compute time is not given: there are no figures of Core ML's for enough chips to stand on.
"""

from dataclasses import dataclass

GPU, NEURAL_ENGINE = "GPU", "Neural Engine"
# What programs that stream weights through a GPU get of its peak (locara.dev). A copy alone has been measured at 92 to 93 %.
SHARE = (0.70, 0.85)
PEAK = "70 to 85 % of Apple's peak figure"
BENCH = "anemll-bench, Results.MD (llama_lm_head): one author's measurement"
HEARSAY = "70 to 85 % of a peak for which no primary source was found"


@dataclass(frozen=True)
class Bandwidth:
    """What a unit gets of a chip's memory, in GB (1e9 bytes) a second: the lowest and the highest that may be expected."""

    chip: str
    unit: str
    low: float
    high: float
    confidence: str
    source: str

    def calls(self, moved: int) -> tuple[float, float]:
        """Calls a second of `moved` bytes each, at most."""
        return 1e9 * self.low / moved, 1e9 * self.high / moved


def _gpu(chip: str, peak: float, confidence: str = "medium", source: str = PEAK) -> Bandwidth:
    return Bandwidth(chip, GPU, round(SHARE[0] * peak, 1), round(SHARE[1] * peak, 1), confidence, source)


def _neural_engine(chip: str, measured: float) -> Bandwidth:
    return Bandwidth(chip, NEURAL_ENGINE, measured, measured, "medium", BENCH)


# The Neural Engine's does not follow the bus: a Max has that of the chip without a name, or twice as much.
TABLE = (
    _gpu("M1", 68.25),
    _neural_engine("M1", 60.9),
    _gpu("M1 Max", 400),
    _neural_engine("M1 Max", 54.6),
    _gpu("M2", 100),
    _neural_engine("M2", 60.5),
    _gpu("M4", 120),
    _neural_engine("M4", 64.2),
    _gpu("M4 Pro", 273),
    _neural_engine("M4 Pro", 126.4),
    _gpu("M4 Max", 546),
    _neural_engine("M4 Max", 118.9),
    _gpu("A17 Pro", 51.2, "hearsay", HEARSAY),
    _gpu("A18", 60, "hearsay", HEARSAY),
)
