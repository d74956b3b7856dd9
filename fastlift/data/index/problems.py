"""One message for all that is wrong with the input: the first ten and the total."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from fastlift.errors import UserError
from fastlift.system.printing import printable

SHOWN = 10


class UnusableData(UserError):
    """Data with problems; the message shows the first ten, ``problems`` holds all of them."""

    def __init__(self, problems: "Problems") -> None:
        super().__init__(problems.message())
        self.problems = problems


@dataclass
class Problems:
    """Collects problems of one input, to be raised together: those of its lists, then those of single files."""

    subject: str
    hint: str = ""
    of_lists: list[str] = field(default_factory=list)
    of_files: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # worth knowing, and no problem

    @property
    def entries(self) -> list[str]:
        """All of them, those of lists first."""
        return self.of_lists + self.of_files

    @property
    def total(self) -> int:
        """How many there are."""
        return len(self.of_lists) + len(self.of_files)

    def add(self, entry: str) -> None:
        """Add one of a list."""
        self.of_lists.append(entry)

    def add_files(self, entries: Iterable[str]) -> None:
        """Add those of single files."""
        self.of_files.extend(entries)

    def message(self) -> str:
        """The first of them, the total, and the hint."""
        count = f"{self.total:,} problem" + ("s" if self.total != 1 else "")
        shown = f", the first {SHOWN}" if self.total > SHOWN else ""
        lines = [f"{self.subject}: {count}{shown}:", *(f"  {printable(entry)}" for entry in self.entries[:SHOWN])]
        return "\n".join([*lines, self.hint] if self.hint else lines)

    def raise_if_any(self) -> None:
        """Raise UnusableData where there are any."""
        if self.total:
            raise UnusableData(self)
