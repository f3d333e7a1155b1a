"""`edgephi serve`: the OpenAI API over HTTP, with the engine in a process of its own.

A request's way, one file each: `app` (routes) reads it as a type of `openai.requests`, `admission` lets it
wait in a bounded queue, `engine.supervisor` hands it to the engine's process (`engine.process`, and
`engine.worker` inside it; `engine.messages` are what those two say to each other), and `answers` writes what
comes back as `openai.responses`. Around all of it stands `guard`. The packages of the extra `serve` are
needed for everything in here.
"""
