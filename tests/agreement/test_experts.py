"""The trained mixture of experts on every engine that computes it: the same weights, the same answers."""

import pytest

from edgephi.runtime import load
from edgephi.runtime.session import Options, Session
from tests.agreement.conftest import PROVIDER, RECIPE
from tests.demo.commands import Command
from tests.demo.moe_demo import build_moe_demo, some_held_out_commands

TARGETS = ("cpu", "openvino", "mlx")
FEW, MANY = 20, 300


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Session]:
    folder = tmp_path_factory.mktemp("experts")
    for target in TARGETS:
        build_moe_demo(target, folder / target, recipe=RECIPE, verify="off")
    return {target: load(folder / target, provider=PROVIDER) for target in TARGETS}


def answer(session: Session, command: Command) -> str:
    return session.generate(command.prompt, Options(max_tokens=48, temperature=0, system=command.system)).text


@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
def test_greedy_answers_are_the_same(sessions: dict[str, Session], count: int) -> None:
    commands = [command for command in some_held_out_commands(count) if not command.history]
    assert len(commands) > count // 3
    for command in commands:
        answers: dict[str, list[str]] = {}
        for target, session in sessions.items():
            answers.setdefault(answer(session, command), []).append(target)
        assert len(answers) == 1, (command.prompt, answers)
        assert "" not in answers
