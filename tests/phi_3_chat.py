"""Conversations in Phi-3's chat form, for tests that need some form and not a checkpoint's."""

from functools import partial

from edgephi.bundle.chat_formats import PHI_3_CHAT
from edgephi.checkpoint.conversation import render_conversation

as_phi_3 = partial(render_conversation, PHI_3_CHAT.template)
"""A conversation as text."""
