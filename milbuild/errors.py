"""The one exception of milbuild for what a user can mend: it says what was wrong, what is known, and a hint. And the
warnings, of what a build may live with."""


class Error(Exception):
    """A mistake in what milbuild was given (a checkpoint, a package, an option), in words for the person who gave it.

    The command line prints it without a traceback and exits with 2. `hint` is a full sentence without the word "hint".
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n\nhint: {self.hint}"


class BuildWarning(UserWarning):
    """What a build does otherwise than its checkpoint says, because it was asked to, or what will surprise its users."""


class LintWarning(UserWarning):
    """What lint warns of in a program that was built: rules and how often, in one line. `Model.lint_report` has the rest."""


def missing_torch(what: str) -> Error:
    """The error for `what`, which needs PyTorch, on a machine that has none."""
    return Error(
        f"{what} needs PyTorch, which is not installed",
        "Install the extra that brings it: pip install 'milbuild[validate]'",
    )
