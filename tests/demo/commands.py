"""The language of the demo checkpoint: spoken home commands and the one-line JSON actions that answer them.

A small grammar makes every prompt and its only right answer, so that "is the model right?" is a string
comparison. It runs in three stages, each of which draws from a seeded random generator:

1. A *pattern* such as ``[turn|switch] on the {room} {appliance}`` is expanded: every ``[a|b|c]`` becomes
   one of its alternatives (an empty alternative leaves the words out). The result, ``switch on the {room}
   {appliance}``, is a *wording*.
2. Every ``{slot}`` of the wording is filled with one spoken form of one value: ``thirty percent`` and
   ``30%`` both say 30.
3. The sentence is *spoken*: fillers ("um"), courtesy ("could you", "please"), capitals and punctuation come
   and go.

Two things are held out of training, both chosen by a hash, so that they never change with the seed:

- a tenth of all *combinations* (an action and the values in its answer): such a combination is never
  trained, however worded. It takes two values to combine, or one that is composed, like 37 minutes;
- a tenth of all *unusual wordings*: such a wording is never trained, whatever its slots hold.

So that the examination asks for known words in new company and never for unknown words, the ordinary ones
are always trained: the alternatives of a pattern start with the most ordinary one, and a wording is unusual
only if it departs from these first alternatives in two places or more.

This module needs the standard library only.
"""

import hashlib
import json
import random
import re
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

HoldOut = Literal["", "combination", "wording"]

REFUSAL = "I can only control this device's home functions."


@dataclass(frozen=True)
class Command:
    """One conversation that ends in a question and has exactly one right answer."""

    prompt: str
    """The last thing that the user says."""
    answer: str
    """What the assistant must say, character by character."""
    intent: str
    """The name of the intent that made it, for error statistics."""
    held_out: HoldOut = ""
    """Why it may not be trained; empty if it may."""
    system: str | None = None
    """The system prompt, if there is one."""
    history: tuple[tuple[str, str], ...] = ()
    """Earlier turns: what the user said, what the assistant answered."""

    def messages(self) -> list[dict[str, str]]:
        """The conversation up to the answer, as chat templates want it."""
        said = [] if self.system is None else [{"role": "system", "content": self.system}]
        for user, assistant in self.history:
            said += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
        return [*said, {"role": "user", "content": self.prompt}]


@dataclass(frozen=True)
class Value:
    """A value that a slot can take: how the answer writes it, and how people say it."""

    written: str | int
    spoken: tuple[str, ...]
    weight: float = 1
    """How often it is drawn, relative to the other values of its slot."""
    composed: bool = False
    """Whether it may be held out all by itself: its parts (a number, a unit) are trained in other values."""


@dataclass(frozen=True)
class Intent:
    """One thing that a user can want."""

    name: str
    """The action. Two intents may share it, if what they say fills the answer from different slots."""
    weight: float
    """How often it is drawn, relative to the other intents."""
    patterns: tuple[str, ...]
    """In every ``[a|b|c]``, the first alternative is the most ordinary one."""
    fields: tuple[tuple[str, str], ...] = ()
    """The JSON answer, in order: key, and a literal or one ``{slot}``. Empty if the answer is a sentence."""
    sentence: str = ""
    """The plain answer of an intent without fields."""
    request: bool = True
    """Whether "could you ... please" may be put around it: true of orders, false of questions."""


# ---- slots -------------------------------------------------------------------------------------------------

_UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def number_words(number: int) -> str:
    """An integer from 0 to 100 in English words: ``42`` is ``forty two``."""
    if not 0 <= number <= 100:
        raise ValueError(f"expected a number from 0 to 100, got {number}")
    if number < 20:
        return _UNITS[number]
    if number == 100:
        return "one hundred"
    tens, unit = divmod(number, 10)
    return f"{_TENS[tens]} {_UNITS[unit]}" if unit else _TENS[tens]


def _numbers(numbers: range, *suffixes: str) -> tuple[Value, ...]:
    """Numbers said in words or digits, each with one of the suffixes; ``"%"`` follows digits only.

    People like round numbers, and those below twenty have names of their own: both are drawn more often.
    """
    return tuple(
        Value(
            number,
            tuple(
                form + suffix
                for suffix in suffixes
                for form in ((str(number),) if suffix == "%" else (str(number), number_words(number)))
            ),
            weight=1 + 2 * (number % 5 == 0) + 2 * (number < 20),
        )
        for number in numbers
    )


def _words(*words: str) -> tuple[Value, ...]:
    """Values that are written as they are said; ``tv/television`` is written ``tv`` and said both ways."""
    return tuple(Value(word.split("/")[0], tuple(word.split("/"))) for word in words)


_SHORT_NAMES = {"1 minute": "a minute", "1 hour": "an hour", "30 minutes": "half an hour"}


def _durations(before_noun: bool = False) -> tuple[Value, ...]:
    """Timer lengths: ``12 minutes``, or, before a noun ("a 12 minute timer"), ``12 minute``.

    Seconds, minutes and hours are drawn about equally often. Every number of hours and every round number
    of minutes is always trained; 37 minutes and 37 seconds may be held out.
    """
    values = []
    for unit, most, weight in (("second", 60, 1), ("minute", 60, 1), ("hour", 12, 5)):
        for number in range(1, most + 1):
            ordinary = unit == "hour" or number <= 10 or number % 5 == 0
            length = f"{number} {unit}" if number == 1 else f"{number} {unit}s"
            name = unit if before_noun else length.split()[1]
            spoken = [f"{number} {name}", f"{number_words(number)} {name}"]
            if length in _SHORT_NAMES and not before_noun:
                spoken.append(_SHORT_NAMES[length])
            values.append(
                Value(length, tuple(spoken), weight * (1 + 2 * (number < 20)), composed=not ordinary)
            )
    return tuple(values)


def _clock_times() -> tuple[Value, ...]:
    """Every fifth minute of the day, said with am or pm, written in 24 hours: ``7:30 pm`` is ``19:30``.

    The whole hours are always trained; other times may be held out.
    """
    values = []
    for hour in range(24):
        said_hour, half_day = (hour % 12) or 12, "am" if hour < 12 else "pm"
        for minute in range(0, 60, 5):
            digits = f"{said_hour}:{minute:02d}" if minute else str(said_hour)
            words = number_words(said_hour)
            if minute:
                words += f" {'oh ' if minute < 10 else ''}{number_words(minute)}"
            values.append(
                Value(
                    f"{hour:02d}:{minute:02d}",
                    (f"{digits} {half_day}", f"{words} {half_day}"),
                    weight={0: 8, 30: 3, 15: 2, 45: 2}.get(minute, 1),
                    composed=minute != 0,
                )
            )
    return tuple(values)


SLOTS: dict[str, tuple[Value, ...]] = {
    "room": _words(
        "kitchen", "bedroom", "living room/lounge", "bathroom", "hallway/hall", "garage", "office/study",
        "garden", "basement/cellar", "attic/loft", "dining room", "nursery",
    ),
    "appliance": _words(
        "light/lights", "lamp", "fan", "heater", "tv/television", "speaker", "humidifier", "air purifier",
    ),
    "entrance": _words("front door", "back door", "side door", "garage door", "garden gate", "balcony door"),
    "percent": _numbers(range(101), " percent", "%", ""),
    "degrees": _numbers(range(10, 31), " degrees", "", " degrees celsius"),
    "speed": _words("low/slow/the lowest speed", "medium/half speed", "high/fast/full speed"),
    "genre": _words("jazz", "rock", "classical", "pop", "blues", "reggae", "piano", "folk"),
    "sensor": _words("temperature", "humidity", "air quality", "noise level", "light level"),
    "quality": (
        Value("temperature", ("warm", "hot", "cold")),
        Value("humidity", ("humid", "damp")),
        Value("noise level", ("loud", "noisy")),
        Value("light level", ("bright", "dark")),
    ),
    "duration": _durations(),
    "duration_adjective": _durations(before_noun=True),
    "time": _clock_times(),
    # The slots below are only said: they belong to things that the device refuses.
    "city": _words(
        "paris", "london", "berlin", "tokyo", "rome", "madrid", "boston", "cairo", "sydney", "vienna",
    ),
    "country": _words(
        "france", "spain", "japan", "brazil", "egypt", "canada", "italy", "kenya", "norway", "india",
    ),
    "food": _words("pizza", "pasta", "soup", "pancakes", "bread", "curry", "salad", "sushi", "cake", "tacos"),
    "person": _words(
        "mom", "dad", "my boss", "anna", "tom", "my sister", "the doctor", "grandma", "my friend", "sam",
    ),
    "subject": _words(
        "history", "dogs", "space", "football", "math", "the ocean", "politics", "art", "cars", "love",
    ),
}  # fmt: skip

# ---- intents -----------------------------------------------------------------------------------------------

_ROOM = ("room", "{room}")

INTENTS: tuple[Intent, ...] = (
    Intent("turn_on", 3, (
        "[turn|switch|put] on the {room} {appliance}",
        "[turn|switch|put] the {room} {appliance} on",
        "[turn|switch|put] on the {appliance} in the {room}",
        "[turn|switch] the {appliance} in the {room} on",
        "[turn|switch] the {appliance} on in the {room}",
        "[start|power up|activate] the {appliance} in the {room}",
        "[i want|i need|i would like] the {room} {appliance} on",
    ), (_ROOM, ("device", "{appliance}"))),
    Intent("turn_off", 3, (
        "[turn|switch|shut] off the {room} {appliance}",
        "[turn|switch|shut] the {room} {appliance} off",
        "[turn|switch|shut] off the {appliance} in the {room}",
        "[turn|switch] the {appliance} in the {room} off",
        "[turn|switch] the {appliance} off in the {room}",
        "[stop|power down|deactivate|kill] the {appliance} in the {room}",
        "[i want|i need|i would like] the {room} {appliance} off",
    ), (_ROOM, ("device", "{appliance}"))),
    Intent("set_brightness", 4, (
        "[set|turn|put|bring|dim] the {room} [lights|light] to {percent}",
        "[set|turn|put|bring|dim] the [lights|light] in the {room} to {percent}",
        "[turn|bring|put|dim] the {room} [lights|light] [down to|up to] {percent}",
        "[turn|bring|put|dim] the [lights|light] in the {room} [down to|up to] {percent}",
        "[set|change|adjust] the [brightness in the {room}|{room} brightness] to {percent}",
        "[dim|brighten] the {room} to {percent}",
        "{percent} brightness in the {room}",
        "[make|have] the {room} [light|lights] {percent} bright",
    ), (_ROOM, ("device", "light"), ("value", "{percent}"))),
    Intent("set_temperature", 4, (
        "[set|turn|put] the {room} [heating|thermostat] to {degrees}",
        "[set|turn|put] the [temperature|heating|thermostat] in the {room} to {degrees}",
        "[set|change] the {room} temperature to {degrees}",
        "[heat|cool|warm] the {room} to {degrees}",
        "[make|keep] [it {degrees} in the {room}|the {room} at {degrees}]",
        "[i want|i need|i would like] {degrees} in the {room}",
    ), (_ROOM, ("value", "{degrees}"))),
    Intent("open_blinds", 1, (
        "[open|raise|pull up|roll up] the {room} [blinds|shades]",
        "[open|raise|pull up|roll up] the [blinds|shades] in the {room}",
    ), (_ROOM, ("device", "blinds"))),
    Intent("close_blinds", 1, (
        "[close|shut|lower|pull down|roll down] the {room} [blinds|shades]",
        "[close|shut|lower|pull down|roll down] the [blinds|shades] in the {room}",
    ), (_ROOM, ("device", "blinds"))),
    Intent("set_blinds", 3, (
        "[set|move|open|close|lower|raise] the {room} [blinds|shades] to {percent}",
        "[set|move|open|close|lower|raise] the [blinds|shades] in the {room} to {percent}",
        "[i want|i need|i would like] the {room} [blinds|shades] at {percent}",
    ), (_ROOM, ("device", "blinds"), ("value", "{percent}"))),
    Intent("lock", 2, (
        "[lock|lock up|bolt|secure] the {entrance}",
        "lock the {entrance} [up|again|securely]",
        "[make sure|check that] the {entrance} is locked",
        "[i want|i need|i would like] the {entrance} locked",
    ), (("device", "{entrance}"),)),
    Intent("unlock", 2, (
        "[unlock|unbolt|release] the {entrance}",
        "unlock the {entrance} [again|for a moment]",
        "[make sure|check that] the {entrance} is unlocked",
        "[i want|i need|i would like] the {entrance} unlocked",
    ), (("device", "{entrance}"),)),
    Intent("set_volume", 3, (
        "[set|turn|change|put] the {room} volume to {percent}",
        "[set|turn|change|put] the volume in the {room} to {percent}",
        "[turn|bring|put] the {room} volume [down to|up to] {percent}",
        "[turn|bring|put] the volume in the {room} [down to|up to] {percent}",
        "[turn|bring] the [music|sound|speaker] in the {room} [down to|up to|to] {percent}",
        "{percent} volume in the {room}",
    ), (_ROOM, ("device", "speaker"), ("value", "{percent}"))),
    Intent("play_music", 2, (
        "[play|put on|start] [some|] {genre} [|music] in the {room}",
        "[play|put on|start] {genre} [music|] in the {room}",
        "[i want|i need|i would like] [to hear|to listen to] [some|] {genre} in the {room}",
        "[let me hear|give me] [some|] {genre} [|music] in the {room}",
    ), (_ROOM, ("genre", "{genre}"))),
    Intent("stop_music", 1, (
        "[stop|pause|end|mute] the music in the {room}",
        "[stop|pause|end|mute] the {room} music",
        "no more music in the {room}",
    ), (_ROOM,)),
    Intent("set_fan_speed", 2, (
        "[set|turn|put|switch] the {room} fan to {speed}",
        "[set|turn|put|switch] the fan in the {room} to {speed}",
        "[run|have] the {room} fan on {speed}",
        "[i want|i need|i would like] the {room} fan on {speed}",
    ), (_ROOM, ("device", "fan"), ("value", "{speed}"))),
    Intent("set_timer", 5, (
        "[set|start|make|give me] a timer for {duration}",
        "[set|start] the timer [to|for] {duration}",
        "[remind me|tell me|beep|wake me] in {duration}",
        "[count down|count] {duration}",
        "timer [for|] {duration}",
    ), (("duration", "{duration}"),)),
    Intent("set_timer", 2, (
        "[set|start|make|give me] a {duration_adjective} timer",
        "{duration_adjective} timer",
    ), (("duration", "{duration_adjective}"),)),
    Intent("cancel_timer", 0.7, (
        "[cancel|stop|delete|clear|remove|end|forget] [the|my|that] [|kitchen] timer",
        "[i don't|i do not] need the timer [any more|now|]",
        "no [more|] timer",
    ), (("device", "timer"),)),
    Intent("set_alarm", 5, (
        "[set|make|give me] an alarm [for|at] {time}",
        "set alarm [for|at] {time}",
        "alarm [for|at] {time}",
        "[set|put] [the|my] alarm [for|to|at] {time}",
        "wake me [|up] at {time}",
        "[i want|i need|i would like] to [wake up|get up] at {time}",
    ), (("time", "{time}"),)),
    Intent("read_sensor", 3, (
        "[what's|what is] the {sensor} in the {room}",
        "[what's|what is] the {room} {sensor}",
        "how is the {sensor} in the {room}",
        "[tell me|read me|give me|check|read|show me|report] the {sensor} in the {room}",
        "[tell me|read me|give me|check|read|show me|report] the {room} {sensor}",
        "do you know the {sensor} in the {room}",
        "[i want|i need|i would like] to know the {room} {sensor}",
    ), (_ROOM, ("sensor", "{sensor}")), request=False),
    Intent("read_sensor", 1, (
        "how {quality} is [it in the {room}|the {room}]",
        "is it {quality} in the {room}",
    ), (_ROOM, ("sensor", "{quality}")), request=False),
    Intent("get_state", 2, (
        "is the {room} {appliance} [on|off|running|still on|still off|still running]",
        "is the {appliance} in the {room} [on|off|running|still on|still off|still running]",
        "did [i|we|you] [leave|turn off|turn on] the {room} {appliance}",
        "[have i|have we|have you|has someone] left the {appliance} on in the {room}",
    ), (_ROOM, ("device", "{appliance}")), request=False),
    Intent("get_lock_state", 1.2, (
        "is the {entrance} [|still] [locked|unlocked|open|closed|shut]",
        "did [i|we|you|someone] [lock|unlock|close|open] the {entrance}",
        "[have i|have we|have you|has someone] [locked|unlocked|closed] the {entrance}",
    ), (("device", "{entrance}"),), request=False),
    Intent("run_scene_night", 0.6, (
        "good night [everyone|house|all|]",
        "[i'm|i am|we are] going to [bed|sleep] [|now]",
        "[it's|it is] time [for bed|to sleep]",
        "[start|run|set|begin] the [night|bedtime|sleep] [scene|mode]",
        "[start|run|set|begin] [night|bedtime|sleep] [mode|scene]",
    ), (("scene", "night"),), request=False),
    Intent("run_scene_movie", 0.6, (
        "[|it's|it is] movie [night|time]",
        "[let's|let us|we want to|i want to|i'm going to] watch a [movie|film]",
        "[start|run|set|begin] the [movie|cinema|film] [scene|mode]",
        "[start|run|set|begin] [movie|cinema|film] [mode|scene]",
    ), (("scene", "movie"),), request=False),
    Intent("run_scene_away", 0.6, (
        "[i'm|i am|we are] [leaving|going out|heading out|off to work|going away] [|now]",
        "[good bye|bye|see you later] [|house|everyone|all]",
        "[start|run|set|begin] the [away|leaving|holiday] [scene|mode]",
        "[start|run|set|begin] [away|leaving|holiday] [mode|scene]",
    ), (("scene", "away"),), request=False),
    # -- questions about the device itself
    Intent("who", 0.8, (
        "[who|what] [are you|am i talking to|is this]",
        "[what's|what is|tell me] your name",
        "[do you have a name|what do i call you|how should i call you]",
        "introduce yourself",
        "[who|what] [exactly|really] are you",
        "tell me [who|what] you are",
    ), sentence="I am the edgephi demo, a small language model that runs on this device.", request=False),
    Intent("abilities", 0.8, (
        "what can [you|i ask you to|this device|this thing] do [|for me]",
        "what [commands|things|orders] do you [know|understand|accept|support]",
        "how can you help [me|us|]",
        "what are you [good for|able to do|capable of]",
        "[tell|show] me what you can do",
        "list your [functions|commands|features|abilities]",
    ), sentence="I control lights, heating, blinds, locks, music, fans, timers and alarms, "
        "and I read the sensors.", request=False),
    Intent("online", 0.8, (
        "are you [connected to|using|on] the [internet|network|cloud]",
        "are you [online|offline] [|now|right now]",
        "do you [need|use|have|require] [the internet|a network|the cloud|an internet connection|wifi]",
        "does this [device|thing] [need|use|have|require] [the internet|a network|the cloud|wifi]",
        "is this running in the cloud",
    ), sentence="No. I run on this device and work without the internet.", request=False),
    Intent("privacy", 0.8, (
        "do you [record|save|store|share|keep|send] [my voice|what i say|my data|our data|everything]",
        "are you [recording|saving|storing|sharing] [me|my voice|my data|what i say|this]",
        "where does my [data|voice] go",
        "is my [data|voice] [safe|private]",
        "who can hear [me|us|what i say]",
    ), sentence="What you say stays on this device.", request=False),
    Intent("reset", 0.8, (
        "how [do|can|should] [i|we] [reset|restart|reboot] [you|this device|this thing|the device|the box]",
        "how [are you|is this device] [reset|restarted|rebooted]",
        "what [button|do i press] [resets|to reset|restarts|to restart] [you|this device|the device|the box]",
    ), sentence="Hold the button on the back for ten seconds.", request=False),
    Intent("update", 0.8, (
        "how [do|can|should] [i|we] [update|upgrade] [you|this device|this thing|the device|the box]",
        "how [do you|does this device] [get updates|get new software|update]",
        "[is there an|do you need an|do you have an] [update|upgrade] [|for you]",
    ), sentence="Your installer sends me a new bundle, and I keep the old one in case it fails.",
        request=False),
    Intent("languages", 0.5, (
        "[what|which|how many] languages do you [speak|know|understand]",
        "do you [speak|know|understand] [french|german|spanish|chinese|other languages|italian]",
        "can you [speak|understand] [french|german|spanish|chinese|other languages|italian]",
    ), sentence="I only understand English.", request=False),
    Intent("thanks", 0.5, (
        "[thank you|thanks] [so much|very much|a lot|]",
        "[good|great|nice] [job|work]",
        "well done",
        "[that's|that is] [great|perfect|good|nice|all]",
    ), sentence="You are welcome.", request=False),
    Intent("greeting", 0.5, (
        "[hello|hi|hey|good morning|good evening|good afternoon] [|there|house|you]",
        "[hi|hello|hey] there",
        "how are you [today|doing|]",
    ), sentence="Hello. What can I do for you?", request=False),
    # -- everything else
    Intent("refusal", 4, (
        "[what's|what is|tell me|do you know] the capital of {country}",
        "[what's|what is|how is|tell me] the weather [like|] in {city}",
        "[what's|what is] [the population|the president|the flag] of {country}",
        "[book|find|get] me a [flight|train|hotel|trip] [to|in] {city}",
        "[how far is it|how do i get|show me the way] to {city}",
        "[what time is it|what is the time] in {city}",
        "[order|buy|get|deliver] [me|us|] [a|some|] {food}",
        "[order|buy|get|deliver] {food}",
        "how do [i|you] [make|cook|bake] {food}",
        "[give me|find|send me] a recipe for {food}",
        "[call|phone|text|email|message] {person} [now|]",
        "[send|write] [a message|an email|a letter] to {person}",
        "tell [me|us] a [joke|story|poem|riddle] [|about {subject}]",
        "write [me|] [a poem|an essay|a song|a book|code] about {subject}",
        "what do you [think|know] about {subject}",
        "[explain|teach me|help me with] {subject}",
        "[open|close|paint|repair] the {entrance}",
        "who [is|was] the [president|king|queen|boss] of {country}",
        "who won the [game|match|election|race] [|yesterday|in {country}]",
        "[what's|what is] [two plus two|nine times six|ten minus three|the meaning of life|"
        "the square root of nine]",
        "[translate|spell] [this|hello|good night|thank you|the word {food}] [in|into|to|for] "
        "[french|german|spanish|me]",
        "[buy|sell|trade] [stocks|a car|bitcoin|shoes|tickets|a house] [|for me]",
        "[sing|dance|laugh|cook dinner|wash the dishes|walk the dog|feed the cat|do my homework|"
        "drive the car]",
        "[what's|what is] [in the news|the latest news|on the news] [|today|in {country}]",
        "[how old is|where is|who is|where was] {person} [|born]",
        "[should i|can i] [marry|trust|invest in|vote for] {person}",
    ), sentence=REFUSAL, request=False),
)  # fmt: skip

# ---- speech ------------------------------------------------------------------------------------------------

_FILLERS = ("um", "uh", "hey", "okay", "ok", "so", "hey there", "well", "er", "um okay")
_COURTESY = ("could you", "can you", "would you", "please", "could you please", "can you please", "will you")
_NOT_AN_ORDER = re.compile(
    r"i |i'm |no |let me|alarm|timer|\d|(" + "|".join(filter(None, (*_UNITS, *_TENS))) + r")\b|one hundred"
)
"""How a request begins that cannot follow "could you"."""
_CLOSINGS = ("please", "thanks", "now", "for me", "right now", "thank you", "if you can", "for me please")

SYSTEM_PROMPTS = (
    "You control a home.",
    "You are a home assistant.",
    "You are a helpful assistant.",
    "Answer with one JSON action.",
    "You are the voice of this house. Be brief.",
    "Turn the command into JSON.",
)

_FOLLOW_UP = "[now|and now|then|] [turn|switch|put] it [|back] {state} [again|]"


def _hashed_tenth(text: str) -> bool:
    """True of a fixed tenth of all texts, on every machine and in every Python."""
    return int.from_bytes(hashlib.sha256(f"edgephi demo 2: {text}".encode()).digest()[:8]) % 10 == 0


_ALTERNATIVES = re.compile(r"\[([^\[\]]*)\]")


def _expand(pattern: str, rng: random.Random) -> str:
    """A pattern to one of its wordings: every ``[a|b]`` becomes ``a`` or ``b``."""
    wording = _ALTERNATIVES.sub(lambda match: rng.choice(match[1].split("|")), pattern)
    return " ".join(wording.split())


def _ordinary(pattern: str) -> set[str]:
    """The wordings of a pattern that choose the first alternative everywhere, or everywhere but once."""
    # Texts between the alternatives at even places, the alternatives at odd ones.
    pieces = _ALTERNATIVES.split(pattern)
    first = [piece.split("|")[0] for piece in pieces]
    return {
        " ".join("".join([*first[:place], choice, *first[place + 1 :]]).split())
        for place, piece in enumerate(pieces)
        for choice in piece.split("|")
    }


@cache
def _always_trained(name: str) -> frozenset[str]:
    """The ordinary wordings of all intents of a name."""
    patterns = [pattern for intent in INTENTS if intent.name == name for pattern in intent.patterns]
    return frozenset(wording for pattern in patterns for wording in _ordinary(pattern))


@cache
def _weights(slot: str) -> tuple[float, ...]:
    return tuple(value.weight for value in SLOTS[slot])


def _speak(text: str, request: bool, rng: random.Random) -> str:
    """Make a clean sentence sound like speech that a recogniser wrote down."""
    if request and rng.random() < 0.4 and not _NOT_AN_ORDER.match(text):
        text = f"{rng.choice(_COURTESY)} {text}"
    if rng.random() < 0.2:
        text = f"{rng.choice(_FILLERS)}{rng.choice(('', ','))} {text}"
    if request and rng.random() < 0.2:
        text = f"{text}{rng.choice(('', '', ','))} {rng.choice(_CLOSINGS)}"
    if rng.random() < 0.3:
        text = text.replace("'", "")
    if rng.random() < 0.5:
        text = text[0].upper() + text[1:]
    if rng.random() < 0.5:
        text += rng.choice(".!" if request else "?.")
    return text


def _json_answer(action: str, fields: tuple[tuple[str, str | int], ...]) -> str:
    """The answer line: ``{"action": "turn_on", "room": "kitchen", "device": "light"}``."""
    return json.dumps({"action": action, **dict(fields)})


def _action_name(intent: Intent) -> str:
    """All scenes are one action, which names the scene in a field."""
    return "run_scene" if intent.name.startswith("run_scene") else intent.name


def _single_turn(rng: random.Random) -> Command:
    """One command without system prompt or history; held out or not, as the dice fall."""
    intent = rng.choices(INTENTS, weights=[intent.weight for intent in INTENTS])[0]
    wording = _expand(rng.choice(intent.patterns), rng)
    slots = re.findall(r"{(\w+)}", wording)
    values = {slot: rng.choices(SLOTS[slot], weights=_weights(slot))[0] for slot in slots}
    said = wording.format_map({slot: rng.choice(value.spoken) for slot, value in values.items()})
    answered = [values[field[1:-1]] for _, field in intent.fields if field.startswith("{")]
    fields = tuple(
        (key, values[field[1:-1]].written if field.startswith("{") else field) for key, field in intent.fields
    )
    answer = _json_answer(_action_name(intent), fields) if fields else intent.sentence
    held_out: HoldOut = ""
    if (len(answered) > 1 or any(value.composed for value in answered)) and _hashed_tenth(answer):
        held_out = "combination"
    elif wording not in _always_trained(intent.name) and _hashed_tenth(f"{intent.name}: {wording}"):
        held_out = "wording"
    return Command(_speak(said, intent.request, rng), answer, intent.name, held_out)


def _follow_up(rng: random.Random) -> Command:
    """Two turns of which the second cannot be answered without the first: "turn it off again"."""
    first = _trainable(rng)
    while first.intent not in ("turn_on", "turn_off"):
        first = _trainable(rng)
    state = "off" if first.intent == "turn_on" else "on"
    wording = _expand(_FOLLOW_UP, rng)
    said = _speak(wording.format(state=state), False, rng)
    action = json.loads(first.answer)
    answer = json.dumps({**action, "action": f"turn_{state}"})
    held_out: HoldOut = (
        "combination"
        if _hashed_tenth(answer)
        else "wording"
        if wording not in _ordinary(_FOLLOW_UP) and _hashed_tenth(wording)
        else ""
    )
    return Command(said, answer, "follow_up", held_out, history=((first.prompt, first.answer),))


def _trainable(rng: random.Random) -> Command:
    """A single turn that is not held out."""
    while (command := _single_turn(rng)).held_out:
        pass
    return command


def _history(turns: int, rng: random.Random) -> tuple[tuple[str, str], ...]:
    """At least this many turns of an earlier conversation, follow-ups among them, all of them trainable."""
    history: list[tuple[str, str]] = []
    while len(history) < turns:
        command = _follow_up(rng) if rng.random() < 0.05 else _single_turn(rng)
        if not command.held_out:
            history += [*command.history, (command.prompt, command.answer)]
    return tuple(history)


def _conversation(rng: random.Random) -> Command:
    """A single turn, often; a second turn, now and then; rarely, the last of many.

    Without long conversations, the model would know no position but the first hundred.
    """
    kind = rng.random()
    if kind < 0.05:
        command = _follow_up(rng)
    else:
        command = _single_turn(rng)
        if kind < 0.12:
            command = replace(command, history=_history(1, rng))
        elif kind < 0.14:
            command = replace(command, history=_history(rng.randint(2, 26), rng))
    return replace(command, system=rng.choice(SYSTEM_PROMPTS)) if rng.random() < 0.12 else command


def training_commands(seed: int, count: int) -> list[Command]:
    """``count`` commands to train on. The same seed gives the same ones; some repeat, none is held out."""
    rng = random.Random(seed)
    commands: list[Command] = []
    while len(commands) < count:
        command = _conversation(rng)
        if not command.held_out:
            commands.append(command)
    return commands


@cache
def held_out_commands() -> tuple[Command, ...]:
    """The fixed examination: 640 distinct prompts, 400 of unseen combinations and 240 of unseen wordings."""
    rng = random.Random("edgephi demo 2: held out")
    wanted = {"combination": 400, "wording": 240}
    chosen: dict[str, Command] = {}
    while any(wanted.values()):
        command = _conversation(rng)
        if command.held_out and wanted[command.held_out] and command.prompt not in chosen:
            # A follow-up ("turn it off") says the same words in training, about another device: no use as a
            # prompt that was never seen.
            if command.intent == "follow_up":
                continue
            # Closings can turn a trained wording into an unseen one ("i don't need the timer" and "now").
            if command.held_out == "wording" and command.prompt.rstrip(".!?").endswith(_CLOSINGS):
                continue
            chosen[command.prompt] = command
            wanted[command.held_out] -= 1
    return tuple(chosen.values())
