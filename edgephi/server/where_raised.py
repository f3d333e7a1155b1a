"""How an exception that should not have happened is told: the log and the engine's process do it alike."""


def where_raised(cause: BaseException) -> str:
    """The kind of an exception and the line that raised it. Its text is left out: it may quote a prompt."""
    trace = cause.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "" if trace is None else f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
    return f"{type(cause).__name__}{place}"
