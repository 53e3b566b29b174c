"""What is in a saved package, whoever built it; what a call of it costs; how two differ; a graph of its functions.

A package is only read. It must not be called inspect: that is the public function.
"""

from milbuild.inspection.comparison import Comparison, compare
from milbuild.inspection.report import FunctionInfo, Inspection, inspect

__all__ = ["Comparison", "FunctionInfo", "Inspection", "compare", "inspect"]
