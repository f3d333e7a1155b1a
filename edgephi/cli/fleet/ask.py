"""Asking stores for one thing, here or on boxes: one with its steps and its error, several in lines."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from edgephi.cli.fleet.stores import Store
from edgephi.cli.fleet.summary import said_error, said_store, summary
from edgephi.cli.show.boxes import BoxLine, BoxSteps, drawn
from edgephi.cli.show.progress import transfer
from edgephi.cli.show.say import say, say_document
from edgephi.errors import EdgephiError, TransportError
from edgephi.flash.destination import Box
from edgephi.steps import Step, silent

if TYPE_CHECKING:
    from edgephi.flash.ssh.transfer import Watcher

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class StoreAnswer(Generic[Answer]):
    """What a store said: there is either an answer or an error."""

    store: Store
    answer: Answer | None
    error: EdgephiError | None


def ask_stores(
    stores: Sequence[Store],
    here: Callable[[Path, Step], Answer],
    there: "Callable[[Box, Watcher], Awaitable[Answer]]",
    *,
    parallel: int,
) -> tuple[StoreAnswer[Answer], ...]:
    """Have `here` ask the stores of this machine, one by one, and then `there` those of boxes, together.

    The error of a single store is raised; of several it is in the answer, and all others are asked.
    """
    if len(stores) == 1 and isinstance(stores[0].place, Path):
        return (StoreAnswer(stores[0], here(stores[0].place, transfer), None),)
    answers = {
        store: _answered(store, store.place, here) for store in stores if isinstance(store.place, Path)
    }
    boxes = {store.place: store for store in stores if isinstance(store.place, Box)}
    if boxes:
        from edgephi.flash.ssh.many import ask_all

        if len(stores) == 1:
            with BoxSteps() as steps:
                asked = ask_all(list(boxes), there, lambda _box: steps, parallel=1)
                if asked[0].error is not None:
                    raise asked[0].error
        else:
            lines = {box: BoxLine(store.name, ended="done") for box, store in boxes.items()}
            with drawn(list(lines.values())):
                asked = ask_all(list(boxes), there, lambda box: lines[box], parallel=parallel)
        for each in asked:
            store = boxes[each.box]
            answers[store] = StoreAnswer(store, each.answer, each.error)
    return tuple(answers[store] for store in stores)


def say_answers(
    answers: Sequence[StoreAnswer[Answer]],
    header: Sequence[str],
    row: Callable[[Answer], Sequence[str]],
    document: Callable[[Answer], dict[str, Any]],
    *,
    as_json: bool,
    right: Sequence[int] = (),
) -> int:
    """Print what several stores said: `row` of each below `header`, or `document` of each in one document.

    Returns the exit code: 6 if any failed.
    """
    errors = {each.store: each.error for each in answers if each.error is not None}
    if as_json:
        documents = [
            {
                **said_store(each.store),
                **(document(each.answer) if each.answer is not None else {}),
                "error": said_error(each.error),
            }
            for each in answers
        ]
        say_document({"boxes": documents})
    else:
        rows = [(each.store, row(each.answer) if each.answer is not None else None) for each in answers]
        say(summary(rows, errors, header, right=right))
    return TransportError.exit_code if errors else 0


def _answered(store: Store, place: Path, here: Callable[[Path, Step], Answer]) -> StoreAnswer[Answer]:
    try:
        return StoreAnswer(store, here(place, silent), None)
    except EdgephiError as error:
        return StoreAnswer(store, None, error)
