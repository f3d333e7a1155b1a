"""Conversations in Phi-3's chat form, for tests that need some form and not a checkpoint's."""

from functools import partial

from edgephi.chat.formats import PHI_3_CHAT
from edgephi.chat.rendering import render_chat

as_phi_3 = partial(render_chat, PHI_3_CHAT.template, answer_follows=False)
"""A conversation as text."""
