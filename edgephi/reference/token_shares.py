"""A number of tokens, shared among passages: few and long ones rather than many short ones.

The first tokens after the start of a context behave like no others (the attention rests on them, with huge
activations), so that a passage says more the longer it is; and passages of many kinds say more than one.
"""

from collections.abc import Sequence

from edgephi.reference.passages import Encode, Render, StoredPassage, TokenPassage, evenly_spaced, in_tokens


def divide(
    candidates: Sequence[StoredPassage],
    encode: Encode,
    render: Render,
    *,
    tokens: int,
    context: int,
    passage_tokens: int,
) -> list[TokenPassage]:
    """The beginnings of some of the `candidates`, `tokens` tokens in all, or as many as there are.

    As many passages are taken as can have `passage_tokens` tokens each, evenly spaced in the order given, and
    more only where these are too short. All give equally many tokens, as far as they have them; none more
    than `context`. Only those taken are encoded. The same arguments give the same passages.
    """
    known: dict[int, TokenPassage] = {}
    count = max(1, tokens // min(passage_tokens, context))
    while True:
        count = min(count, len(candidates))
        places = evenly_spaced(count, len(candidates))
        for place in places:
            if place not in known:
                known[place] = in_tokens(candidates[place], encode, render, most=min(context, tokens))
        taken = [known[place] for place in places]
        if count == len(candidates) or sum(len(passage.ids) for passage in taken) >= tokens:
            break
        count += -(-count // 8)
    sizes = slice_sizes([len(passage.ids) for passage in taken], tokens)
    return [
        TokenPassage(passage.name, passage.language, passage.domain, passage.ids[:size])
        for passage, size in zip(taken, sizes, strict=True)
        if size
    ]


def slice_sizes(lengths: Sequence[int], budget: int) -> list[int]:
    """Share `budget` as evenly as `lengths` allow: 10 among (2, 9, 9) is (2, 4, 4)."""
    sizes = [0] * len(lengths)
    # From the shortest to the longest, each takes an equal share of what is left: none gets less than before.
    for done, index in enumerate(sorted(range(len(lengths)), key=lambda i: lengths[i])):
        sizes[index] = min(lengths[index], budget // (len(lengths) - done))
        budget -= sizes[index]
    return sizes
