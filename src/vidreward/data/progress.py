"""What the data layer tells the user, on standard error: bars, on a terminal only and gone when done, and lines."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn


def progress_bar() -> Progress:
    """Make a bar that shows what is done, how many are left and for how long."""
    console = Console(stderr=True)
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def say(text: str) -> None:
    """Tell the user a line on standard error."""
    Console(stderr=True, highlight=False).print(text, markup=False, soft_wrap=True)
