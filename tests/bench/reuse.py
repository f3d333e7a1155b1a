"""Time to the first token with and without what was computed before.

Two things are measured: the turns of a conversation, and a request behind a long system message that was
computed at start. "Without" is the same prompt after all caches were closed, which is what a runner does that
reads the whole conversation each time.
"""

import argparse
from pathlib import Path

import edgephi.runtime
from edgephi.runtime.session import Answer, Generation, Options, Session
from tests.bench.measure import report

QUESTION = "And what else can you tell me about that, in a few words?"
SENTENCE = "You are the control panel of a house: answer briefly, and say what you have done. "


def main() -> None:
    """Measure, print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("bundle", type=Path)
    arguments.add_argument("--turns", type=int, default=10)
    arguments.add_argument("--tokens", type=int, default=16, help="tokens of each answer")
    arguments.add_argument("--system-tokens", type=int, default=500)
    arguments.add_argument("--provider", help="another provider than the bundle's own")
    options = arguments.parse_args()
    session = edgephi.runtime.load(options.bundle, provider=options.provider)
    session.generate(QUESTION, Options(max_tokens=2))  # the first answer of all also warms up the engine
    _conversation(session, options.turns, options.tokens)
    _behind_system(session, options.system_tokens)


def _conversation(session: Session, turns: int, tokens: int) -> None:
    """The turns of one conversation, each asked twice: as it goes on, and read anew."""
    answer_options = Options(max_tokens=tokens)
    kept, read_anew = session.chat(), session.chat()
    rows, seconds = [], []
    for turn in range(1, turns + 1):
        with_reuse = _finished(kept.say(QUESTION, answer_options))
        seconds.append(with_reuse.first_token_seconds)
        rows.append(_row(f"turn {turn}", with_reuse))
    for turn in range(1, turns + 1):
        session.caches.close()
        without = _finished(read_anew.say(QUESTION, answer_options))
        rows[turn - 1] = (*rows[turn - 1], f"{without.first_token_seconds:.3f} s")
    report(("", "prompt", "computed", "first token", "without reuse"), rows)
    if turns > 2:
        print(f"turn {turns} / turn 2: {seconds[-1] / seconds[1]:.2f}")


def _behind_system(session: Session, tokens: int) -> None:
    """A request behind a system message of about so many tokens, computed before and not."""
    system = SENTENCE
    while len(session.engine.encode(system)) < tokens:
        system += SENTENCE
    one_token = Options(max_tokens=1, system=system)
    session.caches.close()
    without = session.generate(QUESTION, one_token)
    session.caches.close()
    session.keep_ready(system)
    ready = session.generate(QUESTION, one_token)
    rows = [_row("computed at start", ready), _row("without reuse", without)]
    report(("system message", "prompt", "computed", "first token"), rows)
    print(f"sooner by {without.first_token_seconds / ready.first_token_seconds:.1f} times")


def _finished(answer: Answer) -> Generation:
    for _ in answer:
        pass
    return answer.generation


def _row(name: str, generation: Generation) -> tuple[str, ...]:
    computed = generation.prompt_tokens - generation.reused_tokens
    return (name, str(generation.prompt_tokens), str(computed), f"{generation.first_token_seconds:.3f} s")


if __name__ == "__main__":
    main()
