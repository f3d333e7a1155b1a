"""`edgephi serve`: the OpenAI API over HTTP, with the engine in a process of its own.

A request's way: its endpoint, a file of `endpoints` (`app` puts them together), reads it as a type of the
API's folder (such as `openai.chat.request`), `admission` lets it wait in a bounded queue, `engine.supervisor`
hands it to the engine's process (`engine.process`, and `engine.worker` inside it; `engine.messages` are what
those two say to each other), and `answers` sends what comes back as that folder's `writer` puts it. Around
all of it stands `guard`. The packages of the extra `serve` are needed for everything in here.
"""
