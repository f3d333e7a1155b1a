"""The order in which connections make room for others."""

from edgephi.server.http.room import Awaited, Room


class Silent:
    """A connection that notes what happens to it."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def make_room(self) -> None:
        self.heard.append("make room")

    def abort(self) -> None:
        self.heard.append("abort")


def test_who_makes_room_first() -> None:
    told: list[str] = []
    room = Room(4, told.append)
    members = [Silent() for _ in range(4)]
    for member, awaited in zip(members, (Awaited.READING, Awaited.BODY, Awaited.HEAD, None), strict=True):
        assert room.enter(member)
        room.awaits(member, awaited)
    newest = [Silent() for _ in range(4)]
    left = []
    for new in newest:
        left.append(room.enter(new))
        room.awaits(new, None)
    assert left == [True, True, True, False]
    assert [member.heard for member in members] == [["make room"]] * 3 + [[]]
    assert len(told) == 4
    room.leave(members[3])
    assert room.enter(Silent())


def test_those_that_read_why_they_were_refused_are_few() -> None:
    room = Room(1)
    members = [Silent() for _ in range(100)]
    for member in members:
        room.refuse(member)
    assert [member.heard for member in members].count(["abort"]) == 36
    assert members[0].heard == ["abort"] and members[-1].heard == []


def test_who_goes_when_files_are_short() -> None:
    """One that has been told to go already, and lingers; else the next one to make room, and at once."""

    class Lingering(Silent):
        def make_room(self) -> None:
            super().make_room()
            room.refuse(self)

    room = Room(4)
    members = [Lingering() for _ in range(3)]
    for member in members:
        assert room.enter(member)
        room.awaits(member, Awaited.HEAD)
    room.make_room()
    room.free_file()
    room.free_file()
    assert [member.heard for member in members] == [["make room", "abort"], ["make room", "abort"], []]
