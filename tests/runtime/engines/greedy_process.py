"""A far end of `limited_process` that takes memory, under a service manager that forbids it to set limits."""

import errno
import resource
import time

from edgephi.processes.limited_process import Answer, answer_questions


def _forbidden(*_: object) -> None:
    raise PermissionError(errno.EPERM, "Operation not permitted")  # what a filter of system calls says


def _prepare(_arguments: list[str]) -> Answer:
    resource.setrlimit = _forbidden

    def answer(question: bytes) -> bytes:
        taken = [bytearray(b"x" * (1 << 20)) for _ in range(int(question))]
        time.sleep(0.2)
        return str(len(taken)).encode()

    return answer


if __name__ == "__main__":
    answer_questions(_prepare)
