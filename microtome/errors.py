"""Every error a user can cause, with the way out in its text. Exit code 2 on the command line.

One class a cause. `super().__init__` gets what `__init__` got, or the error cannot be
unpickled from a worker.
"""


class MicrotomeError(Exception):
    """A mistake in the input or the options: what, where, and what to do about it."""


class MissingExtra(MicrotomeError):
    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(feature, extra)
        self.feature, self.extra = feature, extra

    def __str__(self) -> str:
        return f"{self.feature} needs more packages; install them: pip install 'microtome[{self.extra}]'"


class OptionError(MicrotomeError):
    def __init__(self, option: str, value: object, expected: str) -> None:
        super().__init__(option, value, expected)
        self.option, self.value, self.expected = option, value, expected

    def __str__(self) -> str:
        return f"{self.option} is {self.value}, but must be {self.expected}"
