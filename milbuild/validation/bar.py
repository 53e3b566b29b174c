"""What every output of a package must reach."""

import math
from dataclasses import dataclass

from milbuild.errors import Error
from milbuild.program.plan import Plan
from milbuild.validation.backend import CORE_ML
from milbuild.validation.figures import MIN_PSNR, Row

# The bar for a package, by its precision. float32: rounding of another order of summation; float16: figures.MIN_PSNR.
# Keys and values in a state are float16 whatever the rest is: they are compared with a model that rounds them. Apple's own
# bar for a compiled model is 40 dB (docs/core-ml.md, bars).
MAX_ERROR = 1e-5
MIN_PSNR_COMPILED = 40.0


@dataclass(frozen=True)
class Bar:
    """What every output must reach: a largest error over its range (`figures.scale`), a least PSNR in dB, or both; `compiled`
    is the PSNR on Core ML itself. None: the default of the package's precision, or where others are given, none.

    Raises `Error` for what is not a number above 0."""

    max_error: float | None = None
    min_psnr: float | None = None
    compiled: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("max_error", self.max_error), ("min_psnr", self.min_psnr)):
            if value is not None and not (isinstance(value, int | float) and value > 0):
                raise Error(f"{name} is {value!r}; it must be a number above 0")

    def filled(self, plan: Plan) -> "Bar":
        """With defaults where nothing was given."""
        if self.max_error is not None or self.min_psnr is not None:
            return self
        if plan.precision == "float16":
            return Bar(None, MIN_PSNR, MIN_PSNR_COMPILED)
        return Bar(MAX_ERROR, None, MIN_PSNR_COMPILED)

    def holds(self, row: Row) -> bool:
        if row.backend.startswith(CORE_ML) and self.compiled is not None:
            return row.psnr >= self.compiled
        if self.compiled is not None and self.max_error is not None:
            # Sums in another order round some keys to the next number: that is less than all of the rounding.
            return row.max_rel <= max(self.max_error, row.rounding)
        small = self.max_error is None or row.max_rel <= self.max_error
        return small and (self.min_psnr is None or row.psnr >= self.min_psnr)

    def missed(self, row: Row) -> str | None:
        """By how much a row misses the bar; None where it does not."""
        if self.holds(row):
            return None
        if row.backend.startswith(CORE_ML) and self.compiled is not None:
            return f"PSNR {row.psnr:.1f} dB, {self.compiled:g} required"
        said = []
        if self.max_error is not None and not row.max_rel <= self.max_error:
            bound = max(self.max_error, row.rounding) if self.compiled is not None else self.max_error
            times = f", {row.max_rel / bound:.3g} times the bound" if math.isfinite(row.max_rel) else ""
            said.append(f"error {row.max_rel:.2e} of the range, {bound:.2g} allowed{times}")
        if self.min_psnr is not None and not row.psnr >= self.min_psnr:
            times = (
                f", {10 ** ((self.min_psnr - row.psnr) / 20):.3g} times the error" if math.isfinite(row.psnr) else ""
            )
            said.append(f"PSNR {row.psnr:.1f} dB, {self.min_psnr:g} required{times}")
        return " and ".join(said)

    def __str__(self) -> str:
        said = [] if self.min_psnr is None else [f"PSNR of at least {self.min_psnr:g} dB"]
        said += [] if self.max_error is None else [f"error of at most {self.max_error:g} of the output's range"]
        return " and ".join(said)
