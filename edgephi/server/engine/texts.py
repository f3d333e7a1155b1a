"""Raw texts, which are continued, scored, or both: one after the other, a choice for each."""

import dataclasses
import itertools
import time

from edgephi.runtime.session import Generation, Scoring, Session, StopReason
from edgephi.server.engine.channel import Channel
from edgephi.server.engine.messages import Ask, Echo, Finished, Prompt
from edgephi.server.engine.said import end_of, given_score, send_answer, token_score, told_to

_SCORES_AT_ONCE = 64  # in one message


def answer_texts(session: Session, request: Ask, channel: Channel) -> None:
    """Answer a request of raw texts. Raises what a session does; for any of them before one is computed."""
    start = time.monotonic()
    texts = [
        session.raw.encode(prompt.tokens if prompt.text is None else prompt.text)
        for prompt in request.prompts
    ]
    for tokens in texts:
        session.check_room(len(tokens), answer_follows=not request.only_echo)
    numbers: list[Generation] = []
    for choice, (prompt, tokens) in enumerate(zip(request.prompts, texts, strict=True)):
        if channel.is_cancelled(request.id):
            break
        found = _Choice(session, request, channel, choice).answer(prompt, tokens)
        numbers.append(found)
        stop = None if found.stop_score is None else token_score(found.stop_score)
        channel.send(Finished(request.id, choice, found.stop_reason, stop))
    together = dataclasses.replace(
        numbers[-1] if numbers else _nothing(0, "closed"),
        prompt_tokens=sum(each.prompt_tokens for each in numbers),
        reused_tokens=sum(each.reused_tokens for each in numbers),
        generated_tokens=sum(each.generated_tokens for each in numbers),
    )
    channel.send(end_of(request.id, together, start))


@dataclasses.dataclass(frozen=True)
class _Choice:
    """One text of a request."""

    session: Session
    request: Ask
    channel: Channel
    choice: int

    def answer(self, prompt: Prompt, tokens: list[int]) -> Generation:
        """Echo the text where that is asked for, then go on from it. Returns the numbers."""
        session, request, channel = self.session, self.request, self.channel
        scored: Scoring | None = None
        if request.echo:
            # Tokens alone would not do: special ones take the white space behind them.
            text = prompt.text or b"".join(session.raw.spell(tokens)).decode(errors="replace")
            channel.send(Echo(request.id, self.choice, text))
            if request.options.logprobs is not None:
                scored = self._score(tokens, request.options.logprobs)
        if channel.is_cancelled(request.id):
            return _nothing(len(tokens), "closed")
        if request.only_echo:
            return _nothing(len(tokens), "length")
        progress = told_to(channel, request.id)
        answer = session.complete(tokens, request.options, on_prefill=progress, scored=scored)
        send_answer(answer, request.id, channel, self.choice)
        return answer.generation

    def _score(self, tokens: list[int], alternatives: int) -> Scoring:
        """Tell the scores of the text's tokens, as they come."""
        request, channel = self.request, self.channel
        scoring = self.session.score(
            tokens,
            alternatives=alternatives,
            adapter=request.options.adapter,
            on_progress=told_to(channel, request.id),
        )
        with channel.cancelling(request.id, scoring):
            while scores := tuple(itertools.islice(scoring, _SCORES_AT_ONCE)):
                channel.send(Echo(request.id, self.choice, "", tuple(map(given_score, scores))))
        return scoring


def _nothing(prompt_tokens: int, stop_reason: StopReason) -> Generation:
    """The numbers of a text that is not continued."""
    return Generation(
        text="",
        stop_reason=stop_reason,
        prompt_tokens=prompt_tokens,
        generated_tokens=0,
        first_token_seconds=0.0,
        prefill_tokens_per_second=0.0,
        decode_tokens_per_second=0.0,
    )
