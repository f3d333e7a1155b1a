"""What several stores came to: a row for each, an error said once, and the command for those that failed."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edgephi.cli.fleet.again import again
from edgephi.cli.fleet.stores import Store
from edgephi.cli.show.table import table
from edgephi.guards.visible import visible

if TYPE_CHECKING:
    from edgephi.errors import EdgephiError

FAILED = "failed"
_NOTHING = "-"


def summary(
    rows: Sequence[tuple[Store, Sequence[str] | None]],
    errors: "Mapping[Store, EdgephiError]",
    header: Sequence[str],
    *,
    right: Sequence[int] = (),
) -> str:
    """A table of all stores, with "failed" where there is no row, then what went wrong and what to do.

    `header` and `right` are those of the rows, without the store's name.
    """
    nothing = (FAILED, *[_NOTHING] * (len(header) - 1))
    lines = [
        table(
            [(store.name, *(nothing if row is None else row)) for store, row in rows],
            ("box", *header),
            right=[1 + column for column in right],
        )
    ]
    return "\n".join([*lines, *failures(errors)])


def failures(errors: "Mapping[Store, EdgephiError]") -> list[str]:
    """Lines that say each error once, with the names of all who had it, and the command for these stores."""
    alike: dict[str, list[Store]] = {}
    for store, error in errors.items():
        alike.setdefault(_in_short(store, error), []).append(store)
    lines = []
    for message, stores in alike.items():
        names = ", ".join(visible(store.name) for store in stores)
        lines += [f"{FAILED}: {names}: {visible(message)}", f"  hint: {visible(errors[stores[0]].hint)}"]
    if errors:
        count = "one" if len(errors) == 1 else str(len(errors))
        lines.append(f"run again for the {count} that failed: `{again([each.word for each in errors])}`")
    return lines


def _in_short(store: Store, error: "EdgephiError") -> str:
    """An error without the name of its store before it."""
    return error.message.removeprefix(f"{store.place}: ")


def said_error(error: "EdgephiError | None") -> dict[str, object] | None:
    """An error as `--json` tells it."""
    if error is None:
        return None
    return {"message": error.message, "hint": error.hint, "exit_code": error.exit_code}


def said_store(store: Store) -> dict[str, object]:
    """Which store it is, as `--json` tells it: its name too, where a file of boxes gave it one."""
    named = {"box": store.word} if store.word != store.destination else {}
    return {"destination": store.destination, **named}
