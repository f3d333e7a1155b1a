"""OpenVINO GenAI: OpenVINO's graphs on CPUs and Intel's GPUs."""

import dataclasses

from edgephi.engines.facts.engine import EngineFacts, Prefill, Provider
from edgephi.engines.facts.footprint import Footprint
from edgephi.engines.facts.processors import MeasuredProcessor

GRAPH_FILE = "openvino_model.xml"
DATA_FILE = "openvino_model.bin"

# In the place of these two, of a model that sees: as `VLMPipeline` of openvino-genai looks for them.
LANGUAGE_GRAPH_FILE = "openvino_language_model.xml"
TEXT_EMBEDDINGS_GRAPH_FILE = "openvino_text_embeddings_model.xml"
IMAGE_ENCODER_GRAPH_FILE = "openvino_vision_embeddings_model.xml"
IMAGE_PROJECTION_GRAPH_FILE = "openvino_vision_projection_model.xml"

CONFIG_FILE = "config.json"
LINE_END_KEY, SEPARATOR_KEY = "sub_GN", "glb_GN"
"""What `config.json` holds of such a model besides: the two vectors that are no part of an image's tiles."""

SPARSE_MASK = "sparse_attention_mask"
"""The layer of a graph that says what each head sees, where some layers attend to a part of the tokens."""
CHOSEN_EXPERTS_KERNEL = "GatherMatmul"
"""What OpenVINO calls the product of tokens with those of a stack of matrices that were chosen for them."""

_GPU = Provider(
    package="openvino-genai",
    extra="openvino",
    # On a CPU 64 take a fifth longer, 512 are no faster.
    prefill=Prefill(256),
    footprint=Footprint(
        # The process and, for 32 layers, 42 MB of graph: 172 MB measured with a vocabulary of 32,000, 233
        # with 200,000.
        engine_bytes=190_000_000,
        token_bytes=400,
        cache_bytes_per_number=2,
        activation_bytes=4,
        # The codes lie in the mapped file and in memory, packed for the kernels. The scales are in memory
        # only, 8 bytes a group (measured in groups of 32 and 128), of which the two copies count 4.
        weight_copies=2.0,
        packed_bytes_per_group=4,
        # 163 MB measured with one layer of Phi-3.5-MoE in groups of 32. Single matrices take 1 byte each.
        expert_zero_point_bytes=4,
        # CLIP ViT-L/14-336 in float16, 605 MB: 1,350 MB in memory beside the mapped file.
        unpacked_half_bytes=2,
        # Our runtime cuts off the head's input but for the last token.
        logits_copies=0,
        # Each thread has the scores of 32 tokens: all of them from eight threads on. A layer's keys and
        # values are unpacked to float32, into memory that is taken anew as they grow: 57 kB a token measured
        # with Phi-3-mini's 32 key heads, 18 with Phi-4-mini's 8.
        unpacked_layer_caches=2,
    ),
    stand_in="cpu",
)
_CPU = dataclasses.replace(
    _GPU,
    stand_in="",
    opens_device=False,
    own_memory=False,
    makes_code=True,
    decode_shares={MeasuredProcessor.WITH_AMX: 0.65, MeasuredProcessor.PLAIN: 0.24},
)

FACTS = EngineFacts(
    name="openvino-genai",
    exporter="openvino",
    artifact_format="openvino",
    providers={"cpu": _CPU, "gpu": _GPU, "npu": _GPU},
    native_groups="zero points",
)
