"""Beam search finds what transformers finds, with the weights of the bundle."""

import dataclasses
from pathlib import Path

import pytest
import torch

import edgephi.runtime
from edgephi.build.build import find_checkpoint
from edgephi.bundle.manifest import ARTIFACT_FOLDER
from edgephi.declared.target import read_target
from edgephi.runtime.session import Options
from tests.agreement.conftest import PROVIDER, RECIPE
from tests.build.demo import build_demo
from tests.export.oracle import transformers_model

MOST = 16  # tokens


def test_beams_are_those_of_transformers(tmp_path: Path) -> None:
    target = read_target("cpu")
    exact = dataclasses.replace(target, kernels=dataclasses.replace(target.kernels, accuracy_level=0))
    bundle = build_demo(exact, tmp_path / "bundle", recipe=RECIPE, verify="off").folder
    folder = find_checkpoint("demo", RECIPE, None, progress=False).folder
    model = transformers_model(folder, bundle / ARTIFACT_FOLDER)
    session = edgephi.runtime.load(bundle, provider=PROVIDER)
    stops = list(session.manifest.chat.stop_token_ids)
    for prompt in ("turn on the kitchen light", "tell me a story", "who are you?"):
        ids = session.encode_chat([{"role": "user", "content": prompt}])
        found = model.generate(
            torch.tensor([ids]),
            num_beams=4,
            num_return_sequences=4,
            do_sample=False,
            max_new_tokens=MOST,
            eos_token_id=stops,
            pad_token_id=stops[0],
            return_dict_in_generate=True,
            output_scores=True,
        )
        rows = [row[len(ids) :] for row in found.sequences.tolist()]
        beams = session.beams(prompt, 4, Options(max_tokens=MOST))
        assert [list(beam.token_ids) for beam in beams] == [
            [token for token in row if token not in stops] for row in rows
        ]
        assert [beam.score for beam in beams] == pytest.approx(found.sequences_scores.tolist(), abs=1e-3)
