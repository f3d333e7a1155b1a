"""A class's name stands for one thing in the whole of edgephi."""

import ast
from collections import defaultdict

from tests.house import modules

# Named alike because they are of the same kind.
SAME_KIND = {
    "ArtifactImageWeights": "each exporter's reader of its own artifact's image encoder",
    "ArtifactWeights": "each exporter's reader of its own artifact",
    "Alternative": "the runtime's, and how the engine's process tells it to the server",
    "Job": "what waits for its turn, at the server and in the stream",
    "PromptScore": "the runtime's, and how the engine's process tells it to the server",
    "Piece": "the runtime's, and how the engine's process tells it to the server",
    "Ready": "what a process of ours says when it can be asked, in two protocols",
}


def test_no_two_classes_have_the_same_name() -> None:
    places = defaultdict(list)
    for module, path in modules().items():
        for node in ast.parse(path.read_bytes()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(module)
    said_twice = {name: found for name, found in places.items() if len(found) > 1}
    assert set(said_twice) == set(SAME_KIND), said_twice
